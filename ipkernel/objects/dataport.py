"""Where other hosts and clients reach the store of a host: a TLS port, one thread per connection."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from ipkernel.objects.digests import PieceDigests
from ipkernel.objects.serving import Conversation, Resources
from ipkernel.objects.tlsstream import FROZEN_AFTER, TlsStream
from ipkernel.objects.uploads import GRACE, Store, Uploads
from ipkernel.wire.furl import local_location
from ipkernel.wire.identity import Identity
from ipkernel.wire.security import TubTLS

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["CONNECTIONS", "DataPort"]

logger = logging.getLogger(__name__)

#: Connections at a time; for one more, the one that has been idle for longest is closed.
CONNECTIONS: Final = 64
#: Those among them whose peers have not shown a ticket yet.
STRANGERS: Final = 16
#: Seconds in which a new connection must show one.
HELLO_TIMEOUT: Final = 10.0
#: Seconds for which no connection is accepted after it has failed, for want of descriptors mostly.
_PAUSE: Final = 0.5
#: Connections that are accepted at a time.
_TURN: Final = 16
_BACKLOG: Final = 128


@implementer(IReadDescriptor)
class _Listener:
    """The port, watched by the reactor."""

    def __init__(self, port: DataPort, sock: socket.socket) -> None:
        self._port = port
        self.socket = sock

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "data port"

    def doRead(self) -> None:
        """Somebody connects, says the reactor."""
        for _ in range(_TURN):
            try:
                sock, _ = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._port._pause(error)
                return
            self._port._admit(sock)

    def connectionLost(self, reason: Any) -> None:
        """The reactor ends."""
        self.socket.close()


@define(eq=False)
class _Guest:
    """A connection with its thread."""

    thread: threading.Thread
    patience: IDelayedCall | None


class DataPort:
    """Serves the store of this host to others. For the reactor's thread, where nothing else is said.

    Args:
        reactor: Twisted's reactor.
        identity: Whose certificate is shown: the host daemon's.
        store: The store.
        key: The store's key, which makes tickets valid.
        interface: Address to listen on; ``0.0.0.0`` or ``::`` for all.
        port: The port; 0 for any that is free.
        location: Addresses to be told others instead of those that are found here.
        connections: How many there may be at a time.
        timeout: Seconds without progress after which one is given up.
        grace: Seconds for which an upload that was cut off can be gone on with.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        store: Store,
        key: bytes,
        *,
        interface: str = "127.0.0.1",
        port: int = 0,
        location: Sequence[str] = (),
        connections: int = CONNECTIONS,
        timeout: float = FROZEN_AFTER,
        grace: float = GRACE,
    ) -> None:
        self._reactor = reactor
        self._tls = TubTLS(identity)
        self._store = store
        self._uploads = Uploads(reactor, store, grace)
        self._resources = Resources(reactor, store, self._uploads, PieceDigests(), key, timeout)
        self._interface = interface
        self._wanted_port = port
        self._location = list(location)
        self._connections = connections
        self._listener: _Listener | None = None
        self._resuming: IDelayedCall | None = None
        self._guests: dict[Conversation, _Guest] = {}
        self._count = 0
        self._stopping: list[Deferred[None]] = []

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address is not to be had.
        """
        if ":" in self._interface:
            sock = socket.create_server(
                (self._interface, self._wanted_port),
                family=socket.AF_INET6,
                backlog=_BACKLOG,
                dualstack_ipv6=self._interface == "::" and socket.has_dualstack_ipv6(),
            )
        else:
            sock = socket.create_server((self._interface, self._wanted_port), backlog=_BACKLOG)
        sock.setblocking(False)
        self._listener = _Listener(self, sock)
        self._reactor.addReader(self._listener)

    @property
    def port(self) -> int:
        """The port that is listened on, or 0."""
        if self._listener is None:
            return 0
        return int(self._listener.socket.getsockname()[1])

    @property
    def hints(self) -> list[str]:
        """The addresses to tell others, such as ``tcp:192.168.1.2:4711``; empty if there are none."""
        if self._listener is None:
            return self._location
        return self._location or local_location(self._interface, self.port)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._guests)

    def accept_socket(self, sock: socket.socket) -> None:
        """Serve a connection that was made otherwise, such as through a relay; from any thread.

        Args:
            sock: Connected to the peer, who is the TLS client; it becomes this object's.
        """
        self._reactor.callFromThread(self._admit, sock)

    def session_gone(self, session: int) -> None:
        """Give up what the client of this session has not completed: it is gone."""
        self._uploads.session_gone(session)

    def stop(self) -> Deferred[None]:
        """Listen no more and end all connections; fires when their threads have ended."""
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._listener is not None:
            self._reactor.removeReader(self._listener)
            self._listener.socket.close()
            self._listener = None
        for conversation in self._guests:
            conversation.cut()
        self._uploads.close()
        self._see_whether_over()
        return stopped

    def _see_whether_over(self) -> None:
        if self._stopping and not self._guests:
            for stopped in self._stopping:
                if not stopped.called:
                    stopped.callback(None)

    # ---------------------------------------------------------------- connections

    def _admit(self, sock: socket.socket) -> None:
        if self._stopping or not self._has_room():
            sock.close()
            return
        self._count += 1
        try:
            stream = TlsStream(sock, self._tls, server=True, timeout=HELLO_TIMEOUT)
            conversation = Conversation(self._count, stream, self._resources, self._welcomed)
            thread = threading.Thread(
                target=self._run,
                args=(conversation,),
                name=f"ipkernel-data-{self._count}",
                daemon=True,
            )
            thread.start()
        except (OSError, RuntimeError) as error:  # no more threads
            logger.warning("a data connection cannot be served: %s", error)
            sock.close()
            return
        patience = self._reactor.callLater(HELLO_TIMEOUT, conversation.cut)
        self._guests[conversation] = _Guest(thread, patience)

    def _has_room(self) -> bool:
        strangers = sum(guest.patience is not None for guest in self._guests.values())
        if strangers >= STRANGERS:
            logger.warning("a data connection is refused: %d others are not let in yet", strangers)
            return False
        if len(self._guests) < self._connections:
            return True
        idle = [c for c, g in self._guests.items() if g.patience is None and c.is_idle]
        if not idle:
            logger.warning("a data connection is refused: there are %d others", len(self._guests))
            return False
        min(idle, key=lambda conversation: conversation.idle_since or 0.0).cut()
        return True

    def _run(self, conversation: Conversation) -> None:
        """Live as the thread of a conversation."""
        try:
            conversation.run()
        finally:
            with contextlib.suppress(Exception):  # the reactor may be gone
                self._reactor.callFromThread(self._gone, conversation)

    def _welcomed(self, conversation: Conversation) -> None:
        self._reactor.callFromThread(self._let_in, conversation)

    def _let_in(self, conversation: Conversation) -> None:
        guest = self._guests.get(conversation)
        if guest is not None and guest.patience is not None:
            if guest.patience.active():
                guest.patience.cancel()
            guest.patience = None

    def _gone(self, conversation: Conversation) -> None:
        self._let_in(conversation)
        self._guests.pop(conversation).thread.join()  # to say so was the last that it did
        self._uploads.leave(conversation)
        self._store.drop(conversation.holder)
        self._see_whether_over()

    # ---------------------------------------------------------------- accepting

    def _pause(self, error: OSError) -> None:
        logger.warning("data connections cannot be accepted: %s", error.strerror or error)
        if self._listener is not None:
            self._reactor.removeReader(self._listener)
            self._resuming = self._reactor.callLater(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        if self._listener is not None:
            self._reactor.addReader(self._listener)
