"""Passing bytes between two sockets without looking at them: in a thread, by the kernel.

``splice`` moves what arrives from one socket through a pipe to the other one, so the bytes never
come into this process. A receiver that is slow leaves the pipe full, and the sender has to wait.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: Bytes that are asked for at a time, and that a pipe should hold.
CHUNK: Final = 1 << 20

#: From so many bytes at once on, more are on their way, and may gather: to wake this thread, and by what it
#: passes a peer, takes as long as to move them.
_BULK: Final = 1 << 15
#: Seconds for that. The buffers of the sockets hold many times what comes meanwhile.
_GATHER: Final = 0.0003

_FLAGS: Final = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_ENDED: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Stream:
    """One direction.

    Attributes:
        source: The socket that is read.
        target: The socket that is written to.
        passed: Bytes that have arrived there.
    """

    def __init__(self, source: socket.socket, target: socket.socket, early: bytes) -> None:
        self.source = source
        self.target = target
        self.passed = 0
        self._early = memoryview(early)
        self._filled = 0
        self._full = False
        self._ended = False
        self._out, self._in = os.pipe()
        with suppress(OSError):  # a user may have only so much memory in pipes
            fcntl.fcntl(self._in, _SET_PIPE_SIZE, CHUNK)

    @property
    def wants_to_read(self) -> bool:
        return not (self._ended or self._full or self._early)

    @property
    def wants_to_write(self) -> bool:
        return bool(self._filled or self._early)

    def read(self) -> None:
        """Fill the pipe, and empty it again as far as the target takes it."""
        try:
            count = os.splice(self.source.fileno(), self._in, CHUNK, flags=_FLAGS)
        except BlockingIOError:
            self._full = self._filled > 0  # else there is nothing to be read
            return
        if not count:
            self._ended = True
            if not self._filled:
                self._close_target()
            return
        self._filled += count
        self.write()

    def write(self) -> None:
        """Empty the pipe, as far as the target takes it."""
        try:
            if self._early:
                count = self.target.send(self._early)
                self._early = self._early[count:]
            else:
                count = os.splice(self._out, self.target.fileno(), self._filled, flags=_FLAGS)
                self._filled -= count
                self._full = False
        except BlockingIOError:
            return
        self.passed += count
        if self._ended and not self._filled:
            self._close_target()

    def _close_target(self) -> None:
        with suppress(OSError):  # it is gone already
            self.target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._out)
        os.close(self._in)


class Splice:
    """Passes bytes both ways between two connected sockets until both have ended, or one breaks.

    When one side says that it sends no more, the other one is told, and may go on sending.

    Args:
        sockets: The two; they belong to this object from now on.
        early: For each, what was read from it already.
        ended: Is called once, in the thread, when the sockets are closed.
    """

    def __init__(
        self,
        sockets: tuple[socket.socket, socket.socket],
        early: tuple[bytes, bytes],
        ended: Callable[[], None],
    ) -> None:
        one, two = self._sockets = sockets
        self._ended = ended
        self._stopping = False
        self._lock = threading.Lock()
        self._streams = [_Stream(one, two, early[0])]
        try:
            self._streams.append(_Stream(two, one, early[1]))
        except OSError:  # no more descriptors
            self._streams[0].close()
            raise
        self._thread = threading.Thread(target=self._run, name="ipkernel-relay", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own.

        Raises:
            RuntimeError: There is no thread to be had; the sockets are closed.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._close()
            raise

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that went from the first to the second, and the other way."""
        return self._streams[0].passed, self._streams[1].passed

    def stop(self) -> None:
        """End soon; callable from any thread and at any time."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            for one in self._sockets:  # this wakes the thread
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            with suppress(OSError):  # one side is gone, and so is the purpose of this
                self._pass()
        finally:
            self._close()
            self._ended()

    def _close(self) -> None:
        with self._lock:
            self._stopping = True
            for one in self._sockets:
                one.close()
        for stream in self._streams:
            stream.close()

    def _pass(self) -> None:
        poll = select.poll()
        watched: dict[int, int] = {}
        while not self._stopping:
            wanted = self._wanted()
            if not wanted:
                return
            for number in watched.keys() - wanted.keys():
                poll.unregister(number)
            for number, events in wanted.items():
                if watched.get(number) != events:
                    poll.register(number, events)
            watched = wanted
            before = sum(self.passed)
            for number, events in poll.poll():
                self._happened(number, events)
            if sum(self.passed) - before >= _BULK:
                time.sleep(_GATHER)

    def _wanted(self) -> dict[int, int]:
        """Return what is waited for, by descriptor; nothing when all has been passed."""
        wanted: dict[int, int] = {}
        for stream in self._streams:
            if stream.wants_to_read:
                number = stream.source.fileno()
                wanted[number] = wanted.get(number, 0) | select.POLLIN
            if stream.wants_to_write:
                number = stream.target.fileno()
                wanted[number] = wanted.get(number, 0) | select.POLLOUT
        return wanted

    def _happened(self, number: int, events: int) -> None:
        can_write = events & (select.POLLOUT | _ENDED)
        can_read = events & (select.POLLIN | _ENDED)
        for stream in self._streams:
            if can_write and stream.target.fileno() == number and stream.wants_to_write:
                stream.write()
            if can_read and stream.source.fileno() == number and stream.wants_to_read:
                stream.read()
