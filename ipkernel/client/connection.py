"""The connection of a client: a door and a channel, in the reactor's thread, again and again."""

from __future__ import annotations

import getpass
import logging
import os
import platform
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from foolscap.referenceable import Referenceable
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from ipkernel._version import __version__
from ipkernel.client.courier import Courier
from ipkernel.client.engines import Engines
from ipkernel.client.inside import here
from ipkernel.client.session import Session
from ipkernel.client.stores import Stores
from ipkernel.errors import ConnectError, ControllerLost, KernelError, SecurityError
from ipkernel.wire.backoff import EAGER, Backoff
from ipkernel.wire.connect import call, connect, is_connected, open_channel
from ipkernel.wire.doors import RIClient
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import PROTOCOL, Closing
from ipkernel.wire.outage import notice_outage
from ipkernel.wire.records import ClientHello, Resume, SessionGrant, pack, unpack
from ipkernel.wire.tub import SecureTub, make_tub

if TYPE_CHECKING:
    from ipkernel.wire.furl import Furl

logger = logging.getLogger(__name__)

#: Seconds that the first attempt to reach it again may take, and any.
ATTEMPT: Final = 3.0
LONGEST_ATTEMPT: Final = 10.0
#: Seconds after which a connection ends whose other machine does not answer any more.
OUTAGE: Final = 10
#: Seconds that a channel may live on without its door.
LAST_WORDS: Final = 0.3
#: Seconds without progress after which a client that is closed gives up sending, and between looks.
SETTLE_TIME: Final = 2.0
SETTLE_LOOK: Final = 0.002
#: Methods that are not called again when the connection is lost before their answer is there.
_ONCE: Final = frozenset({"signal_engines", "restart_engines"})


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


class _Line:
    """One connection: what belongs to it, and whether it has ended.

    Each has a Tub of its own, with the same identity: a controller that still believes in an
    earlier one takes this for another run of the same peer, and lets go of that.
    """

    def __init__(self, tub: SecureTub) -> None:
        self.tub = tub
        self.door: Any = None
        self.ended = False
        self.last_words: Any = None

    def end(self) -> Deferred[None]:
        """Let go of everything; fires when that is done."""
        self.ended = True
        if self.last_words is not None and self.last_words.active():
            self.last_words.cancel()
        gone: Deferred[None] = self.tub.stopService().addCallback(lambda _: None)
        return gone


class Connection:
    """An open session with a controller; everything runs in the reactor's thread.

    Args:
        reactor: Twisted's reactor.
        find: Returns the FURL of the client door; is asked again before each attempt.
        reconnect: For so many seconds a controller that was lost is tried for; 0 for not at all.

    Attributes:
        session: What is submitted goes here.
        cluster: The cluster's name.
    """

    def __init__(self, reactor: Any, find: Callable[[], Furl], reconnect: float) -> None:
        self._reactor = reactor
        self._find = find
        self._reconnect = reconnect
        self._identity = Identity.create()
        self._line: _Line | None = None
        self._courier: Courier | None = None
        self._stores: Stores | None = None
        self._life = 0
        self._abandoned = ""
        self._closed = False
        self._trying: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self.session: Session
        self.cluster = ""

    @classmethod
    async def open(
        cls, reactor: Any, find: Callable[[], Furl], timeout: float, reconnect: float
    ) -> Connection:
        """Connect to the controller of a client FURL and open a session.

        Args:
            reactor, find, reconnect: As for the class.
            timeout: Seconds that it may take.

        Raises:
            ConnectError: It cannot be reached, or does not want us.
        """
        connection = cls(reactor, find, reconnect)
        await connection._connect(timeout)
        return connection

    async def _connect(self, timeout: float) -> None:
        """Make a connection, with a new session or for the one that there is."""
        furl = self._find()
        line = _Line(make_tub(self._identity, self._reactor))
        try:
            line.door = await connect(line.tub, furl, timeout)
            line.door.notifyOnDisconnect(self._door_lost, line)
            hello = pack(_hello(self._resume()))
            opened = call(line.door, "open", Presence(self._closing), hello)
            grant = unpack(SessionGrant, await self._within(timeout, opened, "open"))
            courier = self._take(grant, furl)
            channel = await open_channel(
                line.tub,
                line.door,
                grant.ticket,
                lambda: courier.make_channel(lambda why: self._ended(line, why)),
                timeout,
                grant.local,
            )
            if line.ended:
                raise ConnectError("the controller closed the connection at once; its log says why")
        except BaseException:
            if self._courier is not None:
                self._courier.disconnect()
            await line.end()
            raise
        notice_outage(channel.transport, OUTAGE)
        channel.watch()
        self._line = line
        courier.drain()

    def _resume(self) -> Resume | None:
        if self._courier is None:
            return None
        number = self.session.number
        return Resume(number=number, life=self._life, received=self._courier.received)

    def _take(self, grant: SessionGrant, furl: Furl) -> Courier:
        """Take what the controller grants: a new session, or that the one there is goes on."""
        if grant.protocol != PROTOCOL:
            raise ConnectError(
                f"the controller speaks protocol {grant.protocol} (ipkernel {grant.version}), this "
                f"client {PROTOCOL} (ipkernel {__version__}): install the same version on both sides"
            )
        self.cluster = grant.cluster
        courier = self._courier
        if courier is None or self._stores is None:
            self._life = grant.life
            self._stores = Stores(self._identity, furl.hints, self._ask_relay)
            engines = Engines(grant.engines)
            self.session = Session(grant.session, self._wake, engines, self._stores)
            courier = self._courier = Courier(self._reactor, self.session)
            return courier
        resumed = grant.resumed
        if resumed is None:
            again = "was started again and" if grant.life != self._life else "still runs, but"
            raise ControllerLost(
                f"the controller {again} knows nothing of this session: what was submitted and has "
                "not ended is lost; make a new Client"
            )
        self._stores.hints = furl.hints
        try:
            if resumed.same:
                courier.resume(resumed.taken)
            else:
                courier.renew(resumed.taken)
                self.session.engines.renew(grant.engines)
        except ValueError as problem:
            raise ControllerLost(
                f"the controller remembers this session otherwise than it was: {problem}"
            ) from None
        self._life = grant.life
        return courier

    def _ask_relay(self, host: int) -> bytes:
        return self.session.objects.relay(host)

    def _wake(self) -> None:
        assert self._courier is not None
        self._reactor.callFromThread(self._courier.drain)

    def _closing(self, reason: str) -> None:
        if self._courier is not None:
            self.session.engines.closing = reason

    # ------------------------------------------------- loss, and what follows

    def _door_lost(self, line: _Line) -> None:
        """What the channel has still to say, such as why, may come a little later."""
        why = "the connection to the controller was lost"
        if line.ended or line is not self._line:
            self._ended(line, why)
        elif line.last_words is None:
            line.last_words = self._reactor.callLater(LAST_WORDS, self._ended, line, why)

    def _ended(self, line: _Line, why: str) -> None:
        """Either the door or the channel is gone; neither is of use without the other."""
        if line.ended:
            return
        line.ended = True
        if line is not self._line:
            return  # whoever makes it will notice
        self._line = None
        line.end()
        assert self._courier is not None
        self._courier.disconnect()
        session = self.session
        ended = session.engines.closing or self._abandoned
        if ended or self._reconnect <= 0:
            self._give_up(f"the controller is lost: {ended or why}")
            return
        logger.info("session %d: the controller is lost: %s; trying again", session.number, why)
        session.contact.lose(why)
        self._trying = ensureDeferred(self._try(why))

    async def _try(self, why: str) -> None:
        try:
            await self._reach(why)
        except CancelledError:
            pass
        finally:
            self._trying = None

    async def _reach(self, why: str) -> None:
        """Try to reach the controller again until that succeeds, is refused or takes too long."""
        seconds = self._reactor.seconds
        began = seconds()
        backoff = Backoff()
        patience, problem, told = ATTEMPT, "there was no time to try", False
        while (since := seconds() - began) < self._reconnect:
            if since >= EAGER and not told:
                told = True
                logger.warning("%s: %s", self.session.contact, problem)
            left = self._reconnect - since
            await deferLater(self._reactor, min(backoff.pause(since), left))
            try:
                await self._connect(min(patience, left))
            except (ConnectError, SecurityError, TimeoutError, OSError) as error:
                problem = str(error) or type(error).__name__
                patience = min(patience + ATTEMPT, LONGEST_ATTEMPT)
            except KernelError as refusal:
                text = str(refusal)
                if not isinstance(refusal, ControllerLost):
                    text = f"the controller does not let this client in again: {text}"
                self._give_up(text)
                return
            except Exception as error:  # whatever it is must not leave everybody waiting
                logger.exception("an attempt to reach the controller failed")
                problem = f"internal error: {type(error).__name__}: {error}"
            else:
                since = seconds() - began
                log = logger.warning if told else logger.info
                log("the controller is there again after %.1f s", since)
                self.session.contact.find()
                self._tell_waiting()
                return
        self._give_up(
            f"the controller is lost: {why}; in {self._reconnect:g} s it could not be reached "
            f"again: {problem}"
        )

    def _give_up(self, text: str) -> None:
        """End the session: the controller is lost for good."""
        if self._courier is not None:
            self._courier.stop()
        self.session.lost(lambda: ControllerLost(text))
        self._tell_waiting()

    def abandon(self, why: str) -> None:
        """Try no more to reach the controller, for it will not come back.

        Args:
            why: In a sentence.
        """
        self._reconnect = 0.0
        self._abandoned = why
        if self._trying is not None:
            self._give_up(f"the controller is lost: {why}")
            self._trying.cancel()

    # ------------------------------------------------- calls

    async def call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        """Call a method of the client door; returns the answer's bytes.

        While there is no connection, and when it is lost, this waits for the next one.

        Raises:
            ControllerLost: The connection is gone for good.
            TimeoutError: There was no answer in time.
            KernelError: The controller refused.
        """
        deadline = self._reactor.seconds() + timeout
        while True:
            line = await self._find_line(deadline, timeout, method)
            left = max(0.0, deadline - self._reactor.seconds())
            try:
                answer: bytes = await self._within(
                    left, call(line.door, method, request), method, timeout
                )
            except ConnectError:
                if is_connected(line.door) or method in _ONCE:
                    raise
                self._door_lost(line)
            else:
                return answer

    async def _find_line(self, deadline: float, timeout: float, what: str) -> _Line:
        """Return the connection, when there is one that can be used."""
        while True:
            failure = self.session.failure
            if failure is not None:
                raise failure
            line = self._line
            if line is not None and is_connected(line.door):
                return line
            if line is not None:
                self._door_lost(line)
            changed: Deferred[None] = Deferred()
            self._waiting.append(changed)
            await self._within(deadline - self._reactor.seconds(), changed, what, timeout)

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.called:
                one.callback(None)

    async def _within(
        self, timeout: float, answer: Deferred[Any], what: str, said: float | None = None
    ) -> Any:
        from twisted.internet.defer import TimeoutError as DeferredTimeout

        answer.addTimeout(max(0.0, timeout), self._reactor)
        try:
            return await answer
        except DeferredTimeout:
            trouble = str(self.session.contact) if self._courier is not None else ""
            raise TimeoutError(
                f"the controller did not answer {what!r} within {timeout if said is None else said:g} s"
                + (f": {trouble}" if trouble else "")
            ) from None

    async def call_admin(
        self, furl: Furl, method: str, request: bytes, timeout: float = 30.0
    ) -> bytes | None:
        """Call a method of the admin door behind ``furl``.

        Raises:
            As :meth:`call`.
        """
        line = await self._find_line(self._reactor.seconds() + timeout, timeout, method)
        door = await connect(line.tub, furl, 10.0)
        try:
            answer: bytes | None = await self._within(timeout, call(door, method, request), method)
        except ConnectError:
            failure = self.session.failure
            if failure is not None:
                raise failure from None
            raise
        return answer

    # ------------------------------------------------- the end

    async def settle(self) -> None:
        """Wait until all that was submitted is sent, as long as that gets on."""
        courier = self._courier
        if courier is None:
            return
        left = courier.left
        since = self._reactor.seconds()
        while any(left) and not self._closed and self.session.failure is None:
            courier.drain()
            await deferLater(self._reactor, SETTLE_LOOK)
            before, left = left, courier.left
            if left != before:
                since = self._reactor.seconds()
            elif self._reactor.seconds() - since > SETTLE_TIME:
                return

    async def close(self) -> None:
        """Send what is queued, end the session, close the connection."""
        if self._closed:
            return
        if self._courier is not None and self.session.failure is None:
            # Tasks of the session go on; only this client hears no more of them.
            self.session.tell(Closing("the client was closed"))
            self._courier.drain()
        self._closed = True
        self._reconnect = 0.0
        line, self._line = self._line, None
        if line is not None:
            await line.end()
        self._give_up("this client is closed")
        if self._trying is not None:
            self._trying.cancel()


def _hello(resume: Resume | None) -> ClientHello:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this uid
        user = ""
    engine, within = here()
    return ClientHello(
        version=__version__,
        python=".".join(platform.python_version_tuple()[:2]),
        host=socket.gethostname(),
        pid=os.getpid(),
        user=user,
        resume=resume,
        engine=engine,
        within=within,
    )
