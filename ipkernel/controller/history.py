"""How the latest tasks ended: for those that depend on them, and for whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeAlias

from ipkernel.controller.events import Result
from ipkernel.controller.tasks import Origin
from ipkernel.wire.messages import Finished, TaskId

#: Ends of tasks that are remembered. A client names those that it knows of, so for dependencies it
#: is about those whose news is on its way to the client, and about those of other sessions.
MEMORY: Final = 1 << 14
_message: Any = itemgetter(0)

Past: TypeAlias = tuple[Finished, Origin | None]
"""How a task ended, and what is known of it besides."""


class History:
    """How the latest tasks ended. To add to it is cheap; it is put in order when it is asked."""

    __slots__ = ("_ends", "_gone", "_index", "_new", "_origins")

    def __init__(self) -> None:
        self._ends: deque[Finished] = deque(maxlen=MEMORY)
        self._origins: deque[Origin | None] = deque(maxlen=MEMORY)
        self._index: dict[TaskId, Past] = {}
        self._gone: set[TaskId] = set()
        self._new = 0

    @property
    def count(self) -> int:
        """How many ends it knows."""
        return len(self._ends)

    def __iter__(self) -> Iterator[TaskId]:
        """Yield the tasks, those that ended first before the others."""
        return (message.task for message in self._ends if message.task not in self._gone)

    def add(self, results: Iterable[Result], origins: Iterable[Origin | None], count: int) -> None:
        """Remember these, of which there are ``count``, and forget the oldest for them."""
        self._ends.extend(map(_message, results))
        self._origins.extend(origins)
        self._new += count

    def find(self, task: TaskId) -> Finished | None:
        """Return how a task ended, if that is known."""
        past = self.past(task)
        return past[0] if past is not None else None

    def past(self, task: TaskId) -> Past | None:
        """Return what is known of a task that has ended, or None."""
        if self._new:
            if self._new + len(self._index) > 2 * MEMORY:  # half of them, or more, are forgotten
                self._index.clear()
                self._new = len(self._ends)
            pairs = zip(reversed(self._ends), reversed(self._origins), strict=True)
            new = islice(pairs, self._new)
            gone = self._gone
            self._index.update((one[0].task, one) for one in new if one[0].task not in gone)
            self._new = 0
        return self._index.get(task)

    def longest(self) -> tuple[int, float]:
        """Return how many of them ran on an engine, and how long the longest did, in seconds."""
        times = [m.completed - m.started for m in self._ends if m.started]
        return len(times), max(times, default=0.0)

    def forget(self, task: TaskId) -> bool:
        """Forget a task; return whether it was known."""
        if self.past(task) is None:
            return False
        del self._index[task]
        self._gone.add(task)
        if len(self._gone) > 2 * MEMORY:
            self._gone.intersection_update([message.task for message in self._ends])
        return True
