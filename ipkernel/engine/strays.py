"""What engines leave behind when they end: programs in sessions of their own, found and killed.

A look may come too early. Between the start of a program and its first instruction nobody can tell whose
it is: the system shows its environment as empty. And what a program has started becomes our child only when
that program is gone. So whoever watches looks again soon, until nothing is left that may be the engine's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Final, NamedTuple

from ipkernel.engine import native

__all__ = ["Strays"]

#: Seconds until the second look; each further one takes twice as long, up to the longest.
FIRST: Final = 0.001
LONGEST: Final = 0.25
#: Seconds after the end of an engine at which what cannot be told of any process is left alone.
PATIENCE: Final = 30.0


class _Ended(NamedTuple):
    memory: int
    until: float


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


class Strays:
    """Finds and kills what belongs to engines that have ended.

    All processes that it looks at are children of this one, which have not been waited for: no number can
    mean another process than a moment ago.

    Args:
        children: Returns the process ids of all children.
        belongs_to: Tells whether a process belongs to an engine; see :func:`~ipkernel.engine.native.belongs_to`.
        kill: Kills a process.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        children: Callable[[], list[int]] = native.children,
        belongs_to: Callable[[int, int, int], bool | None] = native.belongs_to,
        kill: Callable[[int], object] = _kill,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._children = children
        self._belongs_to = belongs_to
        self._kill = kill
        self._clock = clock
        self._ended: dict[int, _Ended] = {}
        self._pause = FIRST
        self._next = 0.0

    def delay(self) -> float | None:
        """Return in how many seconds :meth:`look` has something to do; None if there is nothing."""
        return max(self._next - self._clock(), 0.0) if self._ended else None

    def began(self, engine: int) -> None:
        """An engine was started, with a number that an earlier one may have had."""
        self._ended.pop(engine, None)

    def end(self, engine: int, memory: int, engines: Container[int]) -> None:
        """Kill what an engine that has ended has left, as far as that can be told now.

        Args:
            engine: Its process id.
            memory: Number of the memory file that it, and no other engine, had mapped.
            engines: The process ids of all engines; those are nobody's.
        """
        self._ended[engine] = _Ended(memory, self._clock() + PATIENCE)
        self._next, self._pause = 0.0, FIRST
        self.look(engines)

    def look(self, engines: Container[int]) -> None:
        """Look again, if it is time to.

        Args:
            engines: The process ids of all engines; those are nobody's.
        """
        now = self._clock()
        if not self._ended or now < self._next:
            return
        others = [pid for pid in self._children() if pid not in engines]
        for engine, ended in list(self._ended.items()):
            answers = {pid: self._belongs_to(pid, engine, ended.memory) for pid in others}
            for pid, answer in answers.items():
                if answer:
                    self._kill(pid)
            # What was killed may have children, which are ours as soon as it is gone.
            if now >= ended.until or all(answer is False for answer in answers.values()):
                del self._ended[engine]
        self._next = now + self._pause
        self._pause = min(2 * self._pause, LONGEST)
