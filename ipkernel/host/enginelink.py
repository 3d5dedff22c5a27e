"""The daemon's end of the link to an engine: a local socket driven without a Twisted transport.

What is sent goes into the socket at once, not a turn of the reactor later; for one small task
that halves the daemon's share of the time. Only what does not fit waits for the reactor to say
that there is room.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from zope.interface import implementer

from ipkernel.wire.link import Link, Payload, ProtocolViolation, Received
from ipkernel.wire.messages import Message

__all__ = ["EngineLink"]

logger = logging.getLogger(__name__)

#: Bytes read at a time, where much comes and where little does.
READ: Final = 1 << 18
SMALL_READ: Final = 1 << 14


@implementer(IReadWriteDescriptor)
class EngineLink:
    """One engine's link. Its owner may change, as a process first has to say which engine it is.

    Args:
        reactor: Twisted's reactor.
        sock: A connected stream socket, which becomes this object's.

    Attributes:
        on_messages: Is called with this link and what has arrived.
        on_lost: Is called once, with this link, when the engine has closed its end.
        alive: False once it is over.
    """

    def __init__(self, reactor: Any, sock: socket.socket) -> None:
        self.on_messages: Callable[[EngineLink, list[Received]], None] | None = None
        self.on_lost: Callable[[EngineLink], None] | None = None
        self.alive = True
        self._reactor = reactor
        self._socket = sock
        self._link = Link()
        self._unsent: deque[memoryview] = deque()
        self._reading = True
        self._size = SMALL_READ
        self._finishing = False
        sock.setblocking(False)
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "engine"

    # ------------------------------------------------------------- sending

    def send(self, message: Message, payload: Payload = b"") -> None:
        """Queue a message; :meth:`flush` sends it. On a link that is over it goes nowhere."""
        if self.alive and not self._finishing:
            self._link.send(message, payload)

    def flush(self) -> None:
        """Send what is queued, as far as window and socket take it."""
        if self._unsent or not self.alive:
            return
        link = self._link
        send = self._socket.send
        while pieces := link.data_to_send():
            data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
            try:
                count = send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError:
                return  # reading will tell
            if count < len(data):
                self._unsent.append(memoryview(data)[count:])
                self._reactor.addWriter(self)
                return
        if self._finishing:
            self._shut_down()

    def doWrite(self) -> Any:
        """There is room, says the reactor."""
        while self._unsent:
            data = self._unsent[0]
            try:
                count = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError:
                return CONNECTION_LOST
            if count < len(data):
                self._unsent[0] = data[count:]
                return None
            self._unsent.popleft()
        self._reactor.removeWriter(self)
        self.flush()
        return None

    @property
    def open(self) -> bool:
        """Whether the engine still takes work."""
        return self.alive and not self._finishing

    # ----------------------------------------------------------- receiving

    def doRead(self) -> Any:
        """There is something to read, says the reactor."""
        try:
            data = self._socket.recv(self._size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._size = READ if len(data) == self._size else SMALL_READ
        link = self._link
        try:
            batch = link.receive(data)
        except ProtocolViolation as violation:
            logger.error("an engine broke the protocol: %s", violation)
            return CONNECTION_LOST
        if batch and self.on_messages is not None:
            self.on_messages(self, batch)
        link.acknowledge()
        if not link.idle:
            self.flush()
        return None

    def pause(self) -> None:
        """Take in nothing until :meth:`resume`; the engine blocks when the socket is full."""
        if self._reading and self.alive:
            self._reading = False
            self._reactor.removeReader(self)

    def resume(self) -> None:
        """Go on."""
        if not self._reading and self.alive:
            self._reading = True
            self._reactor.addReader(self)

    # -------------------------------------------------------------- ending

    def finish(self) -> None:
        """Send what is queued and close this direction: the engine then ends by itself."""
        if self.alive and not self._finishing:
            self._finishing = True
            self.flush()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """End it at once; nobody is told."""
        if self.alive:
            self.alive = False
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._unsent.clear()
            self._socket.close()

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped watching: the engine has closed its end."""
        if self.alive:
            self.close()
            if self.on_lost is not None:
                self.on_lost(self)

    def readConnectionLost(self, reason: Any) -> None:
        """As :meth:`connectionLost`; a link of one direction is of no use."""
        self.connectionLost(reason)

    def writeConnectionLost(self, reason: Any) -> None:
        """As :meth:`connectionLost`."""
        self.connectionLost(reason)
