"""How the latest tasks ended, for those that depend on them."""

from __future__ import annotations

from collections import deque
from typing import Final

from ipkernel.wire.messages import Finished, TaskId

#: Ends of tasks that are remembered. A client names those that it knows of, so it is about those
#: whose news is on its way to the client, and about those of other sessions.
MEMORY: Final = 1 << 16


class History:
    """How the latest tasks ended. To add to it is cheap; it is put in order when it is asked.

    Attributes:
        count: How many ends it knows.
    """

    __slots__ = ("_batches", "_index", "_indexed", "count")

    def __init__(self) -> None:
        self._batches: deque[list[Finished]] = deque()
        self._index: dict[TaskId, Finished] = {}
        self._indexed = 0
        self.count = 0

    def add(self, batch: list[Finished]) -> None:
        """Remember these, and forget the oldest for them."""
        self._batches.append(batch)
        self.count += len(batch)
        while self.count > MEMORY:
            old = self._batches.popleft()
            self.count -= len(old)
            if self._indexed:
                self._indexed -= 1
                for message in old:
                    self._index.pop(message.task, None)

    def find(self, task: TaskId) -> Finished | None:
        """Return how a task ended, if that is known."""
        batches, index = self._batches, self._index
        while self._indexed < len(batches):
            self._indexed += 1
            index.update((m.task, m) for m in batches[self._indexed - 1])
        return index.get(task)
