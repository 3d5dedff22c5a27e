"""Accepting connections, for those that are driven without a Twisted transport of their own kind."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

__all__ = ["Acceptor"]

logger = logging.getLogger(__name__)

#: Connections that are accepted at a time.
TURN: Final = 16
#: Seconds for which none is accepted after that has failed, for want of descriptors mostly.
PAUSE: Final = 0.5


@implementer(IReadDescriptor)
class Acceptor:
    """Accepts connections and hands them on.

    Args:
        reactor: Twisted's reactor.
        sock: A socket that listens and does not block; it becomes this object's.
        accepted: Is given each connection, as a blocking socket.
        name: What it is, for the log.

    Attributes:
        sockname: Where it listens, as :meth:`socket.socket.getsockname` has it.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        accepted: Callable[[socket.socket], object],
        name: str,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._accepted = accepted
        self._name = name
        self._resuming: Any = None
        self._closed = False
        self.sockname: Any = sock.getsockname()
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return self._name

    def doRead(self) -> None:
        """Somebody connects, says the reactor."""
        for _ in range(TURN):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("no further connections to the %s for a while: %s", self._name, error)
                self._reactor.removeReader(self)
                self._resuming = self._reactor.callLater(PAUSE, self._resume)
                return
            sock.setblocking(True)
            self._accepted(sock)

    def _resume(self) -> None:
        self._resuming = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Any) -> None:
        """The reactor does not watch this any more."""
        self.close()

    def close(self) -> None:
        """Accept no more."""
        if self._closed:
            return
        self._closed = True
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        else:
            self._reactor.removeReader(self)
        self._socket.close()
