"""How the latest tasks ended, for those that depend on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from ipkernel.controller.events import Result
from ipkernel.wire.messages import Finished, TaskId

#: Ends of tasks that are remembered. A client names those that it knows of, so it is about those
#: whose news is on its way to the client, and about those of other sessions.
MEMORY: Final = 1 << 14
_message: Any = itemgetter(0)


class History:
    """How the latest tasks ended. To add to it is cheap; it is put in order when it is asked."""

    __slots__ = ("_ends", "_index", "_new")

    def __init__(self) -> None:
        self._ends: deque[Finished] = deque(maxlen=MEMORY)
        self._index: dict[TaskId, Finished] = {}
        self._new = 0

    @property
    def count(self) -> int:
        """How many ends it knows."""
        return len(self._ends)

    def add(self, results: Iterable[Result], count: int) -> None:
        """Remember these, of which there are ``count``, and forget the oldest for them."""
        self._ends.extend(map(_message, results))
        self._new += count

    def find(self, task: TaskId) -> Finished | None:
        """Return how a task ended, if that is known."""
        if self._new:
            if self._new + len(self._index) > 2 * MEMORY:  # half of them, or more, are forgotten
                self._index.clear()
                self._new = len(self._ends)
            new = islice(reversed(self._ends), self._new)
            self._index.update((message.task, message) for message in new)
            self._new = 0
        return self._index.get(task)
