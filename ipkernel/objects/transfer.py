"""One move of an object, as those see it who wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ipkernel.errors import TransferError

__all__ = ["Transfer", "TransferCancelled"]


class TransferCancelled(TransferError):
    """Somebody has cancelled this transfer."""


class Transfer:
    """Counts the bytes of a transfer and carries the wish to end it; for any thread.

    Args:
        what: What is moved, for people, such as ``"push a to host n1"``.
        size: Bytes in all, 0 if that is not known.
        clock: Tells the time in seconds.

    Attributes:
        what: As given.
        size: As given; may be set later.
        done: Bytes moved so far.
        route: ``"shared memory"``, ``"direct"`` or ``"relay"``, once that is known.
        began: When it was made, by the clock.
    """

    def __init__(
        self, what: str = "", size: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what = what
        self.size = size
        self.done = 0
        self.route = ""
        self.began = clock()
        self._clock = clock
        self._cancelled = threading.Event()
        self._on_cancel: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes.

        Raises:
            TransferCancelled: Somebody has cancelled it.
        """
        with self._lock:
            self.done += count
        if self._cancelled.is_set():
            raise TransferCancelled(f"{self.what or 'the transfer'} was cancelled")

    def cancel(self) -> None:
        """End it as soon as possible; whoever moves the bytes raises TransferCancelled."""
        with self._lock:
            self._cancelled.set()
            wake, self._on_cancel = self._on_cancel, []
        for call in wake:
            call()

    def on_cancel(self, call: Callable[[], None]) -> None:
        """Have ``call()`` called, once, when it is cancelled: to wake who waits for the network."""
        with self._lock:
            if not self._cancelled.is_set():
                self._on_cancel.append(call)
                return
        call()

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled it."""
        return self._cancelled.is_set()

    @property
    def rate(self) -> float:
        """Bytes per second since it began."""
        return self.done / max(self._clock() - self.began, 1e-9)

    def __repr__(self) -> str:
        return f"<Transfer {self.what!r}: {self.done} of {self.size or '?'} bytes>"
