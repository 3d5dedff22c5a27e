"""The store of a host for the processes of its machine: local sockets without Twisted transports.

Answers go into the socket at once, not a turn of the reactor later, and no bytes of objects are copied:
who asks gets the memory itself, and is told where in it an object is.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from zope.interface import implementer

from ipkernel.objects.localsession import Answer, LocalSession, Subjects
from ipkernel.objects.localwire import LIMIT, WireError, encode, requests
from ipkernel.objects.store import HostStore
from ipkernel.wire.accepting import Acceptor
from ipkernel.wire.addresses import LocalAddress, listen
from ipkernel.wire.peers import peer_user

__all__ = ["LocalServer"]

logger = logging.getLogger(__name__)

#: Seconds in which a new connection must show a ticket.
HELLO_TIMEOUT: Final = 5.0
#: Connections that have not done so yet; one more costs the oldest of them its life.
STRANGERS: Final = 64
#: Bytes read at a time.
READ: Final = 1 << 16


@implementer(IReadDescriptor)
class _Peer:
    """One connection.

    Args:
        reactor: Twisted's reactor.
        sock: The socket, which becomes this object's.
        make_session: Makes its session, given how to answer.
        ended: Is called once it is over.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        make_session: Callable[[Callable[[Answer], None]], LocalSession],
        ended: Callable[[_Peer], None],
    ) -> None:
        self.alive = True
        self._reactor = reactor
        self._socket = sock
        self._ended = ended
        self._session = make_session(self._answer)
        self._incoming = requests()
        self._pumping = False
        self._patience = reactor.callLater(HELLO_TIMEOUT, self._late)
        sock.setblocking(False)
        reactor.addReader(self)

    @property
    def stranger(self) -> bool:
        """Whether it has not shown a ticket."""
        return not self._session.subject

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "local store"

    def doRead(self) -> Any:
        """There is something to read, says the reactor."""
        try:
            data = self._socket.recv(READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._incoming.feed(data)
        self._pump()
        return None

    def _pump(self) -> None:
        """Take in whatever messages there are, unless one is not answered yet."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.alive and not self._session.busy:
                message = self._incoming.next()
                if message is None:
                    break
                self._session.ask(message)
                self._incoming.limit = LIMIT
                if self._patience.active():  # that was the ticket
                    self._patience.cancel()
            if self._session.busy and self._incoming.full:
                raise WireError("it asks on without waiting for an answer")
        except WireError as error:
            logger.warning("a connection to the store is closed: %s", error)
            self.close()
        finally:
            self._pumping = False

    def _answer(self, answer: Answer) -> None:
        """Send an answer. It fits, for whoever asks takes an answer before he asks again."""
        message, descriptor = answer if isinstance(answer, tuple) else (answer, None)
        data = encode(message)
        try:
            if descriptor is None:
                count = self._socket.send(data)
            else:
                count = socket.send_fds(self._socket, [data], [descriptor])
        except OSError as error:
            logger.warning("a process cannot be given its answer: %s", error)
            count = 0
        if count < len(data):
            self.close()
        else:
            self._pump()

    def _late(self) -> None:
        """It should have shown a ticket by now; perhaps it has, and this process was slow."""
        if self.doRead() is not None or self.stranger:
            self.close()

    def close(self) -> None:
        """End it."""
        if not self.alive:
            return
        self.alive = False
        if self._patience.active():
            self._patience.cancel()
        self._reactor.removeReader(self)
        self._socket.close()
        self._session.end()
        self._ended(self)

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped watching: the process has closed its end."""
        self.close()


class LocalServer:
    """Listens, and lets in who may use the store.

    Args:
        reactor: Twisted's reactor.
        store: The host's.
        key: The secret that tickets are made with.
        native: Whether to listen on an abstract UNIX socket, which passes descriptors and knows
            the users of its peers, or on the loopback interface; None takes what is native here.
        listening: What :func:`~ipkernel.wire.addresses.listen` has returned, if it listens
            already; it becomes this object's.
        left: Is called with a subject when its last connection has ended; by default the
            store drops all leases of it then.

    Attributes:
        address: Where it listens, for :class:`~ipkernel.objects.local.LocalStore`.

    Raises:
        OSError: It cannot listen.
    """

    def __init__(
        self,
        reactor: Any,
        store: HostStore,
        key: bytes,
        *,
        native: bool | None = None,
        listening: tuple[socket.socket, LocalAddress] | None = None,
        left: Callable[[str], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._key = key
        self._subjects = Subjects(store, left)
        #: All connections, oldest first.
        self._peers: dict[_Peer, None] = {}
        sock, address = listen(native) if listening is None else listening
        self._native = bool(address.name)
        self.address = str(address)
        self._acceptor = Acceptor(reactor, sock, self._accept, "local store")

    def _accept(self, sock: socket.socket) -> None:
        if self._native and (user := peer_user(sock)) != os.geteuid():
            logger.warning("user %s may not connect to the store of another one", user)
            sock.close()
            return
        if not self._native:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        strangers = [peer for peer in self._peers if peer.stranger]
        if len(strangers) >= STRANGERS:
            strangers[0].close()
        self._peers[_Peer(self._reactor, sock, self._session, self._ended)] = None

    def _session(self, answer: Callable[[Answer], None]) -> LocalSession:
        return LocalSession(self._store, self._key, self._subjects, answer)

    def _ended(self, peer: _Peer) -> None:
        self._peers.pop(peer, None)

    def close(self) -> None:
        """Listen no more and end all connections; what is mapped stays valid."""
        self._acceptor.close()
        for peer in list(self._peers):
            peer.close()
