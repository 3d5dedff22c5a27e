# mypy: allow-untyped-calls
"""Channels between processes of one user on one machine: a UNIX socket instead of TCP and TLS.

There, TLS protects nothing: who could read the bytes in the kernel, or take a process's place,
could also read its key. It costs a quarter of the time of a small call. So a server with a
:class:`LocalPort` tells the port's name along with a ticket, over the TLS connection that Foolscap has. Both
sides ask the kernel for the other's user. Whoever cannot find the socket, being in another network name
space or on another machine, or finds somebody else's user there, uses TLS.

The name is of the kernel's own name space for sockets; no file is left behind. It is no secret: all users of the
machine can see it in ``/proc/net/unix``.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Any, Final

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from ipkernel.wire.accepting import Acceptor
from ipkernel.wire.addresses import listen, native_sockets, parse_address
from ipkernel.wire.atonce import can_send_at_once, send_at_once
from ipkernel.wire.channel import READ_SIZE, Channel
from ipkernel.wire.negotiation import TicketGate
from ipkernel.wire.peers import can_tell_users, peer_user

if TYPE_CHECKING:
    from ipkernel.wire.tub import SecureTub

__all__ = ["LocalPort", "LocalTransport", "dial", "supported"]

logger = logging.getLogger(__name__)

#: So many users that may not come in are named in the log, once each.
_NAMED: Final = 16


class LocalTransport(tcp.Connection):
    """A connected UNIX socket that carries a channel.

    Args:
        reactor: Twisted's reactor.
        sock: The socket; it becomes this object's.
        protocol: What is at this end.
    """

    logstr = "local channel"

    def __init__(self, reactor: Any, sock: socket.socket, protocol: Any) -> None:
        super().__init__(sock, protocol, reactor)
        self.bufferSize = READ_SIZE
        self.connected = 1
        self._direct = can_send_at_once(self)

    def start(self) -> None:
        """Read, from the reactor's next turn on, and tell the protocol that it is connected."""
        self.startReading()
        self.protocol.makeConnection(self)

    def doRead(self) -> Any:
        """There is something to read, or the end, says the reactor."""
        why = super().doRead()
        if why is CONNECTION_DONE and not self._writeDisconnecting and self._deserted():
            return CONNECTION_LOST
        return why

    def _deserted(self) -> bool:
        """Tell whether the other end is closed both ways: it did not wait for this one to take all."""
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def write(self, data: bytes) -> None:
        """Send, or keep what the socket does not take now."""
        rest = send_at_once(self, data) if self._direct else data
        if rest:
            super().write(rest)

    def loseConnection(self, _connDone: object = None) -> None:
        """End it once all is sent and the other side has ended it too, so that it has taken all.

        TLS does the same with its farewells. What else comes from the same process, by its Foolscap
        connection, could be taken in before.
        """
        self.loseWriteConnection()

    def getHost(self) -> UNIXAddress:
        """This end, which has no name."""
        return UNIXAddress(None)

    def getPeer(self) -> UNIXAddress:
        """The other end, which has no name."""
        return UNIXAddress(None)


class LocalPort:
    """Accepts local connections, each for a channel, from this process's user.

    Args:
        tub: Whose tickets are good here.

    Attributes:
        address: Where it listens, for :func:`dial`.

    Raises:
        OSError: It cannot listen.
    """

    def __init__(self, tub: SecureTub) -> None:
        self._tub = tub
        self._refused: set[int] = set()
        sock, address = listen(native=True)
        self.address = str(address)
        self._acceptor = Acceptor(tub.reactor, sock, self._accepted, "local port")

    def _accepted(self, sock: socket.socket) -> None:
        if (user := peer_user(sock)) != os.geteuid():
            sock.close()
            if user not in self._refused and len(self._refused) < _NAMED:
                self._refused.add(user)
                logger.warning(
                    "user %s may not open local channels to the process of another one", user
                )
            return
        LocalTransport(self._tub.reactor, sock, _LocalGate(self._tub)).start()

    def close(self) -> None:
        """Accept no more; channels that are open stay so."""
        self._acceptor.close()


class _LocalGate(TicketGate):
    """The server's side of a local channel until the ticket has been seen.

    Tickets are told to their owner only, over his TLS connection: whoever shows one is the owner.
    """

    def _peer_tub_id(self, shown: bytes) -> str:
        return self._tub.tickets.owner(shown)

    def _hand_over(self, channel: Channel) -> None:
        self.transport.protocol = channel


def supported() -> bool:
    """Tell whether there are such ports here, and both ends can be sure of each other's user."""
    return native_sockets() and can_tell_users()


def dial(address: str) -> socket.socket | None:
    """Connect to a :class:`LocalPort`.

    Args:
        address: Of the port, as its server says; empty if it has none.

    Returns:
        The socket; None if there is no such port here, or it is not one of our own user's.
    """
    if not address or not supported():
        return None
    sock = None
    try:
        place = parse_address(address)
        if not place.name:
            return None
        sock = socket.socket(place.family)
        sock.setblocking(False)  # either it is connected at once, or it is not to be had now
        sock.connect(place.sockaddr)
        if (user := peer_user(sock)) == os.geteuid():
            return sock
        logger.warning("the local port of the other side is one of user %s: TLS is used", user)
    except (OSError, ValueError) as error:
        logger.debug("no local channel to %.100s: %s", address, error)
    if sock is not None:
        sock.close()
    return None
