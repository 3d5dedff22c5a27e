"""Which of the ends of tasks in a log are the latest: how these tasks ended is remembered for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from typing import Final

from msgspec.structs import replace

from ipkernel.controller.history import MEMORY
from ipkernel.controller.journal import Ended, Over

#: Ends that are counted together: those from one row to another.
_PART: Final = 256


class LatestEnds:
    """In which rows the latest ends are, and which of these nobody is to hear of.

    As many are counted as the history knows, and a few more.
    """

    def __init__(self) -> None:
        self._parts: deque[list[int]] = deque()  # the first row, and how many ends
        self._count = 0
        self._purged: dict[int, int] = {}  # tasks, and the rows that say so

    def note(self, row: int, count: int) -> None:
        """Take note that in a row, which is later than those before, there are so many ends."""
        parts = self._parts
        if parts and parts[-1][1] < _PART:
            parts[-1][1] += count
        else:
            parts.append([row, count])
        self._count += count
        while self._count - parts[0][1] >= MEMORY:
            self._count -= parts.popleft()[1]

    def purge(self, row: int, tasks: Iterable[int]) -> None:
        """Take note that a row says that nobody is to hear of tasks any more."""
        purged = self._purged
        purged.update(dict.fromkeys(tasks, row))
        if len(purged) > 2 * MEMORY:
            self._purged = {task: at for task, at in purged.items() if self._has(at)}

    def _has(self, row: int) -> bool:
        """Tell whether a row is one of those with the latest ends, or a later one."""
        return bool(self._parts) and row >= self._parts[0][0]

    def of(self, row: int, record: Ended, live: Set[int]) -> Over | None:
        """Return what is to be remembered of tasks whose results are forgotten.

        Args:
            row: Number of the row in which they are.
            record: How they ended.
            live: Those of them whose results are kept.
        """
        if not self._has(row):
            return None
        ends = [
            (replace(message, object=b"", host=0, failed=None), submitted)
            for (message, _), submitted in zip(record.items, record.came, strict=True)
            if message.task not in live and message.task not in self._purged
        ]
        return Over(record.time, [m for m, _ in ends], [s for _, s in ends]) if ends else None

    def left(self, row: int, record: Over) -> Over | None:
        """Return what of it is still to be remembered."""
        if not self._has(row):
            return None
        gone = self._purged
        if not gone or gone.keys().isdisjoint([message.task for message in record.ends]):
            return record
        pairs = zip(record.ends, record.submitted, strict=False)
        ends = [one for one in pairs if one[0].task not in gone]
        return Over(record.time, [m for m, _ in ends], [s for _, s in ends]) if ends else None
