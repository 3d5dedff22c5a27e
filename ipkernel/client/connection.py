"""The connection of a client: a door and a channel, in the reactor's thread."""

from __future__ import annotations

import getpass
import logging
import os
import platform
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from foolscap.referenceable import Referenceable
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from ipkernel._version import __version__
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.client.stores import Stores
from ipkernel.client.submission import TASK_COST
from ipkernel.errors import ConnectError, ControllerLost
from ipkernel.wire.channel import Channel
from ipkernel.wire.connect import call, connect, open_channel
from ipkernel.wire.doors import RIClient
from ipkernel.wire.identity import Identity
from ipkernel.wire.link import Received
from ipkernel.wire.messages import PROTOCOL, Submit
from ipkernel.wire.records import ClientHello, SessionGrant, pack, unpack
from ipkernel.wire.tub import make_tub

if TYPE_CHECKING:
    from ipkernel.wire.furl import Furl

logger = logging.getLogger(__name__)

#: Messages taken from the queue between two writes, and in one turn of the reactor.
BATCH: Final = 128
TURN: Final = 1024
#: Seconds between looks at how much has left, while somebody waits for it.
LOOK: Final = 0.01
#: Seconds that a channel may live on without its door.
LAST_WORDS: Final = 0.3
#: Seconds without progress after which a client that is closed gives up sending, and between looks.
SETTLE_TIME: Final = 2.0
SETTLE_LOOK: Final = 0.002
#: Seconds after which references that were dropped are given back, if nothing is sent anyway.
TIDY: Final = 0.2


class Courier:
    """Carries messages between a session and a channel.

    Args:
        reactor: Twisted's reactor, or a Clock.
        session: Whose messages.
    """

    def __init__(self, reactor: Any, session: Session) -> None:
        self.session = session
        self.channel: Channel | None = None
        self._reactor = reactor
        self._taken = 0
        self._looking = False
        self._tidying: Any = None

    def make_channel(self, lost: Callable[[str], None]) -> Channel:
        """Return the channel, to be connected.

        Args:
            lost: Called once, when it has ended, with the reason.
        """
        self.channel = Channel(
            self._reactor,
            received=lambda _, messages: self._received(messages),
            lost=lambda _, why: lost(why),
        )
        return self.channel

    def _received(self, messages: list[Received]) -> None:
        self.session.received(messages)
        if self._tidying is None and len(self.session.objects.references):
            self._tidy_later()

    def drain(self) -> None:
        """Send what is queued; what is too much for one turn goes in the next."""
        channel = self.channel
        if channel is None:
            return  # the channel calls for it when it is there
        send = channel.queue
        taken = 0
        for count, (message, payload) in enumerate(self.session.take(), 1):
            send(message, payload)
            taken += message.size
            if type(message) is Submit:
                taken += TASK_COST
            if not count % BATCH:
                channel.flush_now()
                if count >= TURN:
                    self.session._awake = True  # nobody needs to wake us
                    self._reactor.callLater(0, self.drain)
                    break
        channel.flush_now()
        self._taken += taken
        self._account()
        if self._tidying is None and len(self.session.objects.references):
            self._tidy_later()

    def _tidy_later(self) -> None:
        self._tidying = self._reactor.callLater(TIDY, self._tidy)

    def _tidy(self) -> None:
        """Give back what was dropped; the garbage collector cannot wake anybody."""
        self._tidying = None
        references = self.session.objects.references
        if references.waiting:
            self.drain()
        if self._tidying is None and len(references):
            self._tidy_later()

    def stop(self) -> None:
        """Send nothing more."""
        if self._tidying is not None:
            self._tidying.cancel()
        self._tidying = False

    def _account(self) -> None:
        assert self.channel is not None
        self.session.sent(self._taken - self.channel.backlog[1])
        if self.session.blocked and not self._looking:
            self._looking = True
            self._reactor.callLater(LOOK, self._look)

    def _look(self) -> None:
        self._looking = False
        self._account()


@implementer(RIClient)  # type: ignore[misc]
class Presence(Referenceable):
    """What the controller holds of a client.

    Args:
        closing: Called with a text when the controller is about to stop.
    """

    def __init__(self, closing: Callable[[str], None]) -> None:
        self._closing = closing

    def remote_closing(self, reason: bytes) -> None:
        """The controller is about to stop."""
        self._closing(reason.decode("utf-8", "replace"))


class Connection:
    """An open session with a controller; everything runs in the reactor's thread.

    Attributes:
        session: What is submitted goes here.
        cluster: The cluster's name.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._identity = Identity.create()
        self._tub = make_tub(self._identity, reactor)
        self._door: Any = None
        self._courier: Courier | None = None
        self._closed: Deferred[None] | None = None
        self._lost = False
        self._last_words: Any = None
        self.session: Session
        self.cluster = ""
        self.controller_version = ""

    @classmethod
    async def open(cls, reactor: Any, furl: Furl, timeout: float) -> Connection:
        """Connect to the controller of a client FURL and open a session.

        Raises:
            ConnectError: It cannot be reached, or does not want us.
        """
        connection = cls(reactor)
        try:
            await connection._open(furl, timeout)
        except BaseException:
            await connection._tub.stopService()
            raise
        return connection

    async def _open(self, furl: Furl, timeout: float) -> None:
        self._door = await connect(self._tub, furl, timeout)
        self._door.notifyOnDisconnect(self._door_lost)
        answer = await self._call_within(timeout, "open", Presence(self._closing), pack(_hello()))
        grant = unpack(SessionGrant, answer)
        if grant.protocol != PROTOCOL:
            raise ConnectError(
                f"the controller speaks protocol {grant.protocol} (ipkernel {grant.version}), this "
                f"client {PROTOCOL} (ipkernel {__version__}): install the same version on both sides"
            )
        self.cluster = grant.cluster
        self.controller_version = grant.version
        stores = Stores(self._identity, furl.hints, self._ask_relay)
        self.session = Session(grant.session, self._wake, Engines(grant.engines), stores)
        courier = self._courier = Courier(self._reactor, self.session)
        await open_channel(
            self._tub,
            self._door,
            grant.ticket,
            lambda: courier.make_channel(self._ended),
            timeout,
        )
        if self._lost:
            raise ConnectError("the controller closed the connection at once; its log says why")

    def _ask_relay(self, host: int) -> bytes:
        return self.session.objects.relay(host)

    def _wake(self) -> None:
        assert self._courier is not None
        self._reactor.callFromThread(self._courier.drain)

    def _closing(self, reason: str) -> None:
        if self._courier is not None:
            self.session.engines.closing = reason

    def _door_lost(self) -> None:
        """What the channel has still to say, such as why, may come a little later."""
        why = "the connection to the controller was lost"
        if self._lost or self._courier is None or self._closed is not None:
            self._ended(why)
        else:
            self._last_words = self._reactor.callLater(LAST_WORDS, self._ended, why)

    def _ended(self, why: str) -> None:
        """Either the door or the channel is gone; neither is of use without the other."""
        if self._last_words is not None and self._last_words.active():
            self._last_words.cancel()
        if self._lost:
            return
        self._lost = True
        if self._courier is None:
            return
        self._courier.stop()
        why = self.session.engines.closing or why
        text = (
            "this client is closed"
            if self._closed is not None
            else f"the controller is lost: {why}"
        )
        self.session.lost(lambda: ControllerLost(text))
        if self._closed is None:
            self._closed = self._tub.stopService()

    async def call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        """Call a method of the client door; returns the answer's bytes.

        Raises:
            ControllerLost: The connection is gone.
            TimeoutError: There was no answer in time.
            KernelError: The controller refused.
        """
        failure = self.session.failure
        if failure is not None:
            raise failure
        return await self._call_within(timeout, method, request)

    async def _call_within(self, timeout: float, method: str, *args: Any) -> bytes:
        answer: bytes = await self._within(timeout, call(self._door, method, *args), method)
        return answer

    async def _within(self, timeout: float, answer: Deferred[Any], what: str) -> Any:
        from twisted.internet.defer import TimeoutError as DeferredTimeout

        answer.addTimeout(timeout, self._reactor)
        try:
            return await answer
        except DeferredTimeout:
            raise TimeoutError(
                f"the controller did not answer {what!r} within {timeout:g} s"
            ) from None
        except ConnectError:
            if self._lost and self._courier is not None:
                failure = self.session.failure
                if failure is not None:
                    raise failure from None
            raise

    async def call_admin(
        self, furl: Furl, method: str, request: bytes, timeout: float = 30.0
    ) -> bytes | None:
        """Call a method of the admin door behind ``furl``.

        Raises:
            As :meth:`call`.
        """
        door = await connect(self._tub, furl, 10.0)
        answer: bytes | None = await self._within(timeout, call(door, method, request), method)
        return answer

    async def settle(self) -> None:
        """Wait until all that was submitted is sent, as long as that gets on."""
        courier = self._courier
        if courier is None or courier.channel is None:
            return
        left = (len(self.session.queue), *courier.channel.backlog)
        since = self._reactor.seconds()
        while any(left) and self._closed is None and not self._lost:
            courier.drain()
            await deferLater(self._reactor, SETTLE_LOOK)
            before, left = left, (len(self.session.queue), *courier.channel.backlog)
            if left != before:
                since = self._reactor.seconds()
            elif self._reactor.seconds() - since > SETTLE_TIME:
                return

    async def close(self) -> None:
        """Send what is queued, end the session, close the connection."""
        if self._closed is not None:
            return
        if self._courier is not None:
            self._courier.drain()
        # Tasks of the session go on; only this client hears no more of them.
        self._closed = self._tub.stopService()
        await self._closed
        self._ended("closed")


def _hello() -> ClientHello:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this uid
        user = ""
    return ClientHello(
        version=__version__,
        python=".".join(platform.python_version_tuple()[:2]),
        host=socket.gethostname(),
        pid=os.getpid(),
        user=user,
    )
