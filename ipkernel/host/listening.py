"""Sockets that listen for a store which is not there yet."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from ipkernel.errors import ConnectError

__all__ = ["Trigger", "listen_tcp"]

#: Connections that wait to be accepted, at most.
BACKLOG: Final = 128


@implementer(IReadDescriptor)
class Trigger:
    """Calls a function when somebody connects, and leaves the connection to it.

    Args:
        reactor: Twisted's reactor.
        sock: A socket that listens; it stays the caller's.
        call: The function; it is called again and again until :meth:`stop`.
    """

    def __init__(self, reactor: Any, sock: socket.socket, call: Callable[[], object]) -> None:
        self._reactor = reactor
        self._socket = sock
        self._call = call
        self._watching = True
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "store"

    def doRead(self) -> None:
        """Somebody connects, says the reactor."""
        self._call()

    def connectionLost(self, reason: Any) -> None:
        """The reactor does not watch the socket any more."""
        self._watching = False

    def stop(self) -> None:
        """Watch the socket no more."""
        if self._watching:
            self._watching = False
            self._reactor.removeReader(self)


def listen_tcp(interface: str, port: int) -> socket.socket:
    """Return a TCP socket that listens and does not block.

    Args:
        interface: An address of this machine.
        port: The port, 0 for any.

    Raises:
        ConnectError: That is not possible; the text says why.
    """
    where = f"port {port} of {interface}" if port else interface
    try:
        sock = socket.create_server(
            (interface, port),
            family=socket.AF_INET6 if ":" in interface else socket.AF_INET,
            backlog=BACKLOG,
        )
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise ConnectError(f"{where} is in use: another process listens there") from None
        if number == errno.EADDRNOTAVAIL or not number or number < 0:
            raise ConnectError(f"{interface} is not an address of this machine") from None
        raise ConnectError(f"cannot listen on {where}: {os.strerror(number)}") from None
    sock.setblocking(False)
    return sock
