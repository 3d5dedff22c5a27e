"""Passing bytes between two connections where the kernel cannot do it: in the reactor.

Each connection is the producer of the other one. So a receiver that is slow stops the sender, and no
more than two buffers are ever full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ipkernel.wire.relay import RelayGate

#: Bytes that are read at a time, and that may wait to be sent.
BUFFER: Final = 1 << 18


@implementer(IHalfCloseableProtocol)
class _End(Protocol):
    """One of two connections.

    Attributes:
        other: The other one.
        sent: Bytes that were passed on to it.
        gone: Whether this one has ended.
    """

    transport: Any
    other: _End

    def __init__(self, ended: Callable[[], None]) -> None:
        self.sent = 0
        self.gone = False
        self._ended = ended
        self._nothing_to_read = self._nothing_to_write = False

    def begin(self, early: bytes) -> None:
        """Pass on what was read already, and then what comes."""
        self.other.transport.registerProducer(self.transport, True)
        if early:
            self.dataReceived(early)
        if not self.gone:
            self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on."""
        self.sent += len(data)
        self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        """This side sends no more: tell the other one, when it has got everything."""
        self._nothing_to_read = True
        if not self.other.gone:
            self.other.transport.unregisterProducer()
            self.other.transport.loseWriteConnection()
        self._close_when_done()

    def writeConnectionLost(self) -> None:
        """This side has been told that the other one sends no more."""
        self._nothing_to_write = True
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._nothing_to_read and self._nothing_to_write and not self.gone:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """This side is gone; so the other one must go."""
        self.gone = True
        other = self.other
        if not other.gone:
            other.transport.unregisterProducer()
            if reason.check(ConnectionDone):
                other.transport.loseConnection()
            else:
                other.transport.abortConnection()
        self._ended()


class Bridge:
    """Passes bytes both ways between two connections until both have ended, or one breaks.

    Args:
        guests: The two, which are paused.
        ended: Is called once, when both connections are closed.
    """

    def __init__(self, guests: tuple[RelayGate, RelayGate], ended: Callable[[], None]) -> None:
        self._guests = guests
        self._ended = ended
        one, two = self._ends = _End(self._lost), _End(self._lost)
        one.other, two.other = two, one

    def start(self) -> None:
        """Begin."""
        for guest, end in zip(self._guests, self._ends, strict=True):
            guest.hand_over(end)
            end.transport.bufferSize = BUFFER
            end.transport.setTcpNoDelay(True)
        for guest, end in zip(self._guests, self._ends, strict=True):
            if not end.gone:
                end.begin(guest.early)
            guest.early = b""

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that went from the first to the second, and the other way."""
        return self._ends[0].sent, self._ends[1].sent

    def stop(self) -> None:
        """End at once."""
        for end in self._ends:
            if not end.gone:
                end.transport.abortConnection()

    def _lost(self) -> None:
        if all(end.gone for end in self._ends):
            self._ended()
