"""Reading an engine's standard output and error, natively and portably.

Both classes hand over what arrives, can be paused, and can be closed. They differ in how the
daemon knows that it has everything that a finished task wrote: natively it reads what is in the
pipe (:meth:`NativePipe.drain`), portably it waits for the mark of the task's end.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from zope.interface import implementer

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # Windows, where the portable class is used
    pass

__all__ = ["NativePipe", "Pipe", "ThreadPipe"]

READ: Final = 1 << 16
#: Bytes that are read at most from a pipe that is closed: as much as a pipe can be made to hold by
#: default. A process that goes on writing must not keep the daemon there.
LAST_READ: Final = 1 << 20

Received = Callable[[bytes], None]


class Pipe(Protocol):
    """What the daemon does with an engine's output."""

    #: Whether the other end is closed.
    ended: bool

    def drain(self) -> None:
        """Take in what is in the pipe now, if that can be known."""

    def pause(self) -> None:
        """Take in nothing until :meth:`resume`."""

    def resume(self) -> None:
        """Go on."""

    def close(self) -> None:
        """Take in what is left without waiting, and close."""


@implementer(IReadDescriptor)
class NativePipe:
    """A pipe that the reactor watches.

    Args:
        reactor: Twisted's reactor.
        descriptor: The reading end, which becomes this object's.
        received: Is given what arrives.
    """

    def __init__(self, reactor: Any, descriptor: int, received: Received) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received
        self._reading = True
        self._available = array("i", [0])
        self.ended = False
        os.set_blocking(descriptor, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "engine output"

    def doRead(self) -> Any:
        """There is something to read, says the reactor."""
        self._read(READ)
        return CONNECTION_DONE if self.ended else None

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped watching."""
        self._reading = False

    def _read(self, count: int) -> int:
        if self._descriptor < 0:
            return 0
        try:
            data = os.read(self._descriptor, count)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return 0
        self._received(data)
        return len(data)

    def drain(self) -> None:
        """Take in what is in the pipe now.

        What a writer adds meanwhile is not waited for, so a background process that writes
        without end cannot keep the daemon here.
        """
        if self._descriptor < 0:
            return
        # Asking costs a tenth of a read that finds nothing, and an exception.
        ioctl(self._descriptor, FIONREAD, self._available)
        left = self._available[0]
        while left > 0 and not self.ended:
            left -= self._read(READ) or left

    def pause(self) -> None:
        """Take in nothing until :meth:`resume`; the engine blocks when the pipe is full."""
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    def resume(self) -> None:
        """Go on."""
        if not self._reading and not self.ended and self._descriptor >= 0:
            self._reading = True
            self._reactor.addReader(self)

    def close(self) -> None:
        """Take in what is left without waiting, and close."""
        if self._descriptor < 0:
            return
        left = LAST_READ
        while left > 0 and not self.ended and (count := self._read(READ)):
            left -= count
        self.pause()
        descriptor, self._descriptor = self._descriptor, -1
        self.ended = True
        os.close(descriptor)


class ThreadPipe:
    """A pipe that a thread reads, for systems whose reactors cannot watch pipes.

    Args:
        reactor: Twisted's reactor.
        descriptor: The reading end, which becomes this object's.
        received: Is given what arrives, in the reactor's thread.
    """

    def __init__(self, reactor: Any, descriptor: int, received: Received) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received
        self._going = threading.Event()
        self._going.set()
        self._closed = False
        self._ending: Callable[[], None] | None = None
        self.ended = False
        threading.Thread(target=self._run, name="engine output", daemon=True).start()

    def when_ended(self, function: Callable[[], None]) -> None:
        """Call ``function`` once the other end is closed and everything has been handed over."""
        if self.ended:
            function()
        else:
            self._ending = function

    def _run(self) -> None:
        while True:
            try:
                data = os.read(self._descriptor, READ)
            except OSError:
                data = b""
            self._going.wait()
            self._reactor.callFromThread(self._take, data)
            if not data:
                os.close(self._descriptor)
                return

    def _take(self, data: bytes) -> None:
        if data:
            if not self._closed:
                self._received(data)
            return
        self.ended = True
        if self._ending is not None:
            ending, self._ending = self._ending, None
            ending()

    def drain(self) -> None:
        """Do nothing: the mark of a task's end tells that all has arrived."""

    def pause(self) -> None:
        """Take in at most one more read until :meth:`resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Go on."""
        self._going.set()

    def close(self) -> None:
        """Hand over nothing more; the descriptor closes with the other end."""
        self._closed = True
        self._going.set()
