"""A set of bytes of something long, kept as the stretches that it consists of."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

__all__ = ["Intervals"]


class Intervals:
    """Disjoint stretches ``[start, end)`` in order; those that touch are one.

    Attributes:
        total: Number of bytes in the set.
    """

    def __init__(self) -> None:
        self.total = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def add(self, start: int, end: int) -> int:
        """Put all bytes of ``[start, end)`` in; return how many of them were not there."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        before = sum(e - s for s, e in self._slice(first, last))
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        added = end - start - before
        self.total += added
        return added

    def remove(self, start: int, end: int) -> int:
        """Take all bytes of ``[start, end)`` out; return how many of them were there."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return 0
        removed = self.overlap(start, end)
        head, tail = self._starts[first], self._ends[last - 1]
        left = [(head, start)] if head < start else []
        right = [(end, tail)] if end < tail else []
        self._starts[first:last] = [s for s, _ in left + right]
        self._ends[first:last] = [e for _, e in left + right]
        self.total -= removed
        return removed

    def overlap(self, start: int, end: int) -> int:
        """Return how many bytes of ``[start, end)`` are in the set."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        return sum(min(e, end) - max(s, start) for s, e in self._slice(first, last))

    def find(self, position: int) -> tuple[int, int] | None:
        """Return the stretch that a byte is in, or None if it is not in the set."""
        at = bisect_right(self._starts, position) - 1
        if at < 0 or self._ends[at] <= position:
            return None
        return self._starts[at], self._ends[at]

    def _slice(self, first: int, last: int) -> list[tuple[int, int]]:
        return list(zip(self._starts[first:last], self._ends[first:last], strict=True))
