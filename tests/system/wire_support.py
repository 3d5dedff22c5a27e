"""What the system tests of the wire share: a door that hands out tickets, an inbox, a quiet log."""

from __future__ import annotations

from contextlib import asynccontextmanager

from foolscap.api import Referenceable
from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol

from ipkernel.errors import SecurityError
from ipkernel.wire.channel import Channel
from ipkernel.wire.identity import Identity
from ipkernel.wire.tub import make_tub

tcp._reservedFD.reserve()  # Twisted opens it once, when the first port is opened


class Conditions:
    """Lets a test wait for something to become true, without a clock."""

    def __init__(self):
        self._waiting = []

    def changed(self):
        for item in list(self._waiting):
            condition, deferred = item
            if condition():
                self._waiting.remove(item)
                deferred.callback(None)

    def until(self, condition):
        deferred = Deferred()
        self._waiting.append((condition, deferred))
        self.changed()
        return deferred


class Door(Referenceable, Conditions):
    """Hands out tickets for channels that send everything back."""

    def __init__(self, tub, **options):
        Conditions.__init__(self)
        self.tub = tub
        self.options = options
        self.channels = []
        self.losses = []

    def remote_ticket(self, tub_id, lifetime=30):
        return self.tub.issue_ticket(tub_id.decode(), self.opened, self.make, lifetime)

    def remote_length(self, data):
        return len(data)

    def remote_blob(self, size):
        return bytes(size)

    def remote_fail(self):
        raise KeyError("no\nsuch thing")

    def remote_forbid(self):
        raise SecurityError("you may not")

    def remote_never(self):
        return Deferred()

    def opened(self, channel):
        self.channels.append(channel)
        self.changed()

    def make(self):
        return Channel(reactor, received=self.echo, lost=self.lost, **self.options)

    def lost(self, channel, why):
        self.losses.append(why)
        self.changed()

    @staticmethod
    def echo(channel, messages):
        for message, payload in messages:
            channel.send(message, payload)


class Inbox(Conditions):
    """The client's end of a channel: keeps what arrives."""

    def __init__(self):
        super().__init__()
        self.messages = []
        self.losses = []

    def make(self):
        return Channel(reactor, received=self._received, lost=self._lost)

    def _received(self, channel, messages):
        self.messages += messages
        self.changed()

    def _lost(self, channel, why):
        self.losses.append(why)
        self.changed()


class Raw(Protocol, Conditions):
    """A plain TCP client that says what it is told to."""

    def __init__(self):
        Conditions.__init__(self)
        self.data = b""
        self.gone = False
        self.up = False

    def connectionMade(self):
        self.up = True
        self.changed()

    def dataReceived(self, data):
        self.data += data
        self.changed()

    def connectionLost(self, reason):
        self.gone = True
        self.changed()

    @classmethod
    async def connect(cls, port, wrap=lambda factory: factory):
        factory = ClientFactory()
        factory.noisy = False
        raw = cls()
        factory.buildProtocol = lambda address: raw
        reactor.connectTCP("127.0.0.1", port, wrap(factory))
        await raw.until(lambda: raw.up)
        return raw

    async def close(self):
        if not self.gone:
            self.transport.abortConnection()
            await self.until(lambda: self.gone)


@asynccontextmanager
async def tubs(count=2):
    """Running Tubs, the first of which listens on the loopback interface."""
    made = [make_tub(Identity.create(), reactor) for _ in range(count)]
    try:
        await made[0].listen("127.0.0.1")
        yield made
    finally:
        for tub in reversed(made):
            if tub.running:
                await tub.stopService()


def port_of(tub):
    return int(tub.locationHints[0].rpartition(":")[2])


def in_turn():
    """Fires after the reactor has gone round once."""
    deferred = Deferred()
    reactor.callLater(0, deferred.callback, None)
    return deferred


def pause(seconds):
    """Fires after a while; only for giving something forbidden the chance to happen."""
    deferred = Deferred()
    reactor.callLater(seconds, deferred.callback, None)
    return deferred
