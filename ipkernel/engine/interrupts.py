"""Interrupts: a KeyboardInterrupt in user code, and nothing between tasks.

SIGINT (and Ctrl-Break on Windows) raises only while a task is open. The flags are items of a
list because storing into it is a single bytecode at which no signal can be delivered.
"""

from __future__ import annotations

# The C functions: signal.getsignal() costs 1 us for making an enum of its answer.
import _signal  # type: ignore[import-not-found]
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]

_INTERRUPTS = [
    number for name in ("SIGINT", "SIGBREAK") if (number := getattr(signal, name, None)) is not None
]


class Interrupts:
    """Decides what becomes of an interrupt.

    Attributes:
        open: ``open[0]`` is True while user code runs and may be interrupted; ``open[1]`` becomes
            True when an interrupt arrives while it is not, and is for somebody.
        due: Tells whether an interrupt that arrives while no task is open is for somebody: for a
            task that is being loaded, or that was sent and has not begun.
        meant: Tells whether an interrupt is for the present task or the next one at all: the daemon
            may mean one that has ended meanwhile.
    """

    def __init__(self) -> None:
        self.open = [False, False]
        self.due: Callable[[], bool] = lambda: True
        self.meant: Callable[[], bool] = lambda: True

        # A plain function: a bound method would be a new object at each look.
        def interrupted(signum: int, frame: FrameType | None) -> None:
            if not self.meant():
                return
            if self.open[0]:
                raise KeyboardInterrupt
            self.open[1] = self.due()

        self._handler: Callable[[int, FrameType | None], Any] = interrupted

    def install(self) -> None:
        """Take over the interrupt signals; main thread only."""
        for number in _INTERRUPTS:
            _signal.signal(number, self._handler)

    def restore(self) -> None:
        """Take them back where a task has changed them."""
        for number in _INTERRUPTS:
            if _signal.getsignal(number) is not self._handler:
                _signal.signal(number, self._handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context in which an interrupt waits until the end; for the machinery inside a task."""
        was = self.open[0]
        self.open[0] = False
        try:
            yield
        finally:
            self.open[0] = was
        if was and self.open[1]:
            self.open[1] = False
            raise KeyboardInterrupt


def reset_when_forked(become: Callable[[], None]) -> None:
    """Give processes that user code forks the signal handling of a fresh Python, where there is a fork.

    A SIGTERM that comes before such a process has it waits for that: the handler here would take it, and
    Python then forgets it. A ``multiprocessing.Pool`` that ends so early would wait for its workers for ever.

    Args:
        become: Is called in such a process before that.
    """
    if not hasattr(os, "register_at_fork"):
        return
    masks = threading.local()  # any thread may fork

    def before() -> None:
        masks.was = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.was)

    def in_child() -> None:
        become()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.was)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
