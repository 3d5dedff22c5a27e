"""Two real Tubs on the loopback interface: references, calls, tickets and channels."""

from __future__ import annotations

from foolscap.api import Referenceable
from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred

from ipkernel.wire.channel import Channel
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import Cancel, Kind, Submit
from ipkernel.wire.tub import call, connect, make_tub, open_channel, peer_tub_id
from tests.support.reactor import inreactor


tcp._reservedFD.reserve()  # Twisted opens it once, when the first port is opened


class Door(Referenceable):
    """Hands out tickets for channels that send everything back."""

    def __init__(self, tub):
        self.tub = tub
        self.channels = []
        self.losses = []

    def remote_ticket(self, tub_id):
        return self.tub.issue_ticket(tub_id.decode(), self.channels.append, self.make)

    def make(self):
        return Channel(reactor, received=self.echo, lost=lambda c, why: self.losses.append(why))

    @staticmethod
    def echo(channel, messages):
        for message, payload in messages:
            channel.send(message, payload)


class Inbox:
    """The client's end: keeps what arrives."""

    def __init__(self):
        self.messages = []
        self.losses = []
        self._waiting = []

    def make(self):
        return Channel(reactor, received=self._received, lost=self._lost)

    def _received(self, channel, messages):
        self.messages += messages
        self._check()

    def _lost(self, channel, why):
        self.losses.append(why)
        self._check()

    def _check(self):
        for item in list(self._waiting):
            condition, deferred = item
            if condition():
                self._waiting.remove(item)
                deferred.callback(None)

    def until(self, condition):
        deferred = Deferred()
        self._waiting.append((condition, deferred))
        self._check()
        return deferred


@inreactor
async def test_channel_by_ticket_echoes():
    server = make_tub(Identity.create(), reactor)
    client = make_tub(Identity.create(), reactor)
    await server.listen("127.0.0.1")
    door = Door(server)
    furl = server.register(door)
    reference = await connect(client, furl)
    assert peer_tub_id(reference) == server.tubID
    ticket = await call(reference, "ticket", client.tubID.encode())
    inbox = Inbox()
    channel = await open_channel(client, reference, ticket, inbox.make)
    big = bytes(range(256)) * 4096
    channel.send(Cancel([1, 2]))
    channel.send(Submit(7, Kind.APPLY, 5), b"hello")
    channel.send(Submit(8, Kind.APPLY, len(big)), big)
    await inbox.until(lambda: len(inbox.messages) == 3)
    assert inbox.messages[0] == (Cancel([1, 2]), b"")
    assert inbox.messages[1] == (Submit(7, Kind.APPLY, 5), b"hello")
    assert inbox.messages[2][1] == big
    assert door.channels[0].peer == client.tubID
    channel.close("enough")
    await inbox.until(lambda: inbox.losses)
    assert inbox.losses == ["enough"]
    await client.stopService()
    await server.stopService()
    assert door.losses == ["closed by the other side"]
