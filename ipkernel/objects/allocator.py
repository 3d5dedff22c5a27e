"""Where in a store's memory, or in its files on disk, there is room: pure bookkeeping.

Memory comes in segments. A page of a segment takes real memory from when it is first written to,
and that first time costs ten times what later ones do. So the allocator knows which pages were
*touched*; what counts against the limit is them, used or not. A place is chosen so that few fresh
pages are needed, and pages that are not used are given back only when something else needs the
room, when there are very many of them, or when they have been idle for long.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, insort
from itertools import islice
from typing import Final

from attrs import define, field, frozen

from ipkernel.objects.intervals import Intervals

__all__ = ["PAGE", "SEGMENT", "Allocator", "Cut", "Fit", "Region"]

PAGE: Final = mmap.ALLOCATIONGRANULARITY
"""Default unit, in bytes: where this platform can begin to map."""

SEGMENT: Final = 64 << 20
"""Default size of a segment in bytes."""

_LOOK_AT: Final = 64
"""How many free stretches are compared before the best of them is taken."""


@frozen
class Region:
    """A stretch of a segment.

    Attributes:
        segment: Its number.
        offset: Where the stretch starts, in bytes.
        length: Its length in bytes; a multiple of the page.
    """

    segment: int
    offset: int
    length: int


@frozen
class Cut:
    """Something that is given back to the system.

    Attributes:
        region: What; its content is lost.
        whole: Whether it is a whole segment, which does not exist any more.
    """

    region: Region
    whole: bool


@frozen
class Fit:
    """The answer to a request for room.

    Attributes:
        region: The place, or None if there is none.
        new: If a segment must be made for it: the segment's size in bytes, else 0.
        given: What was given back to make room.
    """

    region: Region | None = None
    new: int = 0
    given: tuple[Cut, ...] = ()


@define(eq=False)
class _Segment:
    number: int
    size: int
    large: bool
    free: Intervals = field(factory=Intervals)
    touched: Intervals = field(factory=Intervals)
    stale: bool = False

    @property
    def idle(self) -> bool:
        return self.free.total == self.size


class Allocator:
    """Finds room in segments, best fit, and keeps what it uses below a limit.

    Objects larger than a usual segment get segments of their own kind, so that a small object
    does not take away the place where the next large one could go.

    Args:
        limit: Bytes that may be touched at most, used or not.
        segment_size: Bytes of a usual segment; larger ones are multiples of it.
        page: Regions begin and end at multiples of this many bytes.
        discards: Whether the system takes back pages in the middle of a segment.
        warm: Bytes that are kept, though unused, for what comes next. Of usual and of large
            segments, the one that became idle last is kept in any case.

    Attributes:
        limit: As given.
        used: Bytes of all regions in use.
        touched: Bytes that take real memory.
    """

    def __init__(
        self,
        limit: int,
        *,
        segment_size: int = SEGMENT,
        page: int = PAGE,
        discards: bool = True,
        warm: int | None = None,
    ) -> None:
        self.limit = limit
        self.used = 0
        self.touched = 0
        self._segment_size = -(-segment_size // page) * page
        self._page = page
        self._discards = discards
        self._warm = limit // 2 if warm is None else warm
        self._segments: dict[int, _Segment] = {}  # those that changed last are at the end
        # Free stretches as (length, segment, offset), of usual and of large segments.
        self._runs: tuple[list[tuple[int, int, int]], ...] = ([], [])
        self._last = 0

    @property
    def idle(self) -> int:
        """Bytes that take real memory and are not in use."""
        return self.touched - self.used

    @property
    def segments(self) -> dict[int, int]:
        """The segments that exist: number and size in bytes."""
        return {number: segment.size for number, segment in self._segments.items()}

    def round(self, size: int) -> int:
        """Return how many bytes an object of ``size`` bytes takes; at least a page."""
        return max(1, -(-size // self._page)) * self._page

    def allocate(self, size: int) -> Fit:
        """Find room for ``size`` bytes, at a place that needs few fresh pages.

        Returns:
            The place, if there is one; and in any case what had to be given back.
        """
        length = self.round(size)
        if self.used + length > self.limit:
            return Fit()
        large = length > self._segment_size
        fresh, spot = self._best(length, large)
        given: list[Cut] = []
        if self.touched + fresh > self.limit:
            given = self._give_back(self.touched + fresh - self.limit, spot)
            if self.touched + fresh > self.limit:
                return Fit(given=tuple(given))
        new = 0
        if spot is None:
            new = -(-length // self._segment_size) * self._segment_size
            spot = self._add(new, large, length)
        self._take(spot)
        return Fit(spot, new, tuple(given))

    def free(self, region: Region) -> None:
        """Make a region available again."""
        segment = self._segments[region.segment]
        end = region.offset + region.length
        for stretch in (segment.free.find(region.offset - 1), segment.free.find(end)):
            if stretch is not None:
                self._forget_run(segment, *stretch)
        segment.free.add(region.offset, end)
        merged = segment.free.find(region.offset)
        assert merged is not None
        self._note_run(segment, *merged)
        self.used -= region.length
        self._changed(segment)

    def lose(self, number: int) -> None:
        """Forget a segment and all that is in it: it could not be made."""
        segment = self._segments[number]
        self.used -= segment.size - segment.free.total
        self._remove(segment)

    def trim(self) -> list[Cut]:
        """Give back idle segments, the longest idle first, while there is too much idle."""
        if self.idle <= self._warm:
            return []
        given = []
        idle = [segment for segment in self._segments.values() if segment.idle]
        kept = {segment.large: segment.number for segment in idle}  # the last one of each kind
        for segment in idle:
            if self.idle <= self._warm:
                break
            if kept[segment.large] != segment.number:
                given.append(self._remove(segment))
        return given

    def tidy(self) -> list[Cut]:
        """Give back idle pages of segments in which nothing has changed since the last call."""
        given = []
        for segment in list(self._segments.values()):
            if segment.stale and segment.idle:
                given.append(self._remove(segment))
            elif segment.stale and self._discards:
                given += self._discard(segment, None)
            segment.stale = True
        return given

    def _best(self, length: int, large: bool) -> tuple[int, Region | None]:
        """Return the best free stretch, or None, and how many fresh pages' bytes it needs."""
        runs = self._runs[large]
        first = bisect_left(runs, (length,))
        best: tuple[int, Region | None] = (length, None)
        for _, number, offset in islice(runs, first, first + _LOOK_AT):
            warm = self._segments[number].touched.overlap(offset, offset + length)
            if best[1] is None or length - warm < best[0]:
                best = (length - warm, Region(number, offset, length))
            if warm == length:
                break
        return best

    def _add(self, size: int, large: bool, length: int) -> Region:
        self._last += 1
        segment = self._segments[self._last] = _Segment(self._last, size, large)
        segment.free.add(0, size)
        self._note_run(segment, 0, size)
        return Region(segment.number, 0, length)

    def _take(self, region: Region) -> None:
        segment = self._segments[region.segment]
        end = region.offset + region.length
        run = segment.free.find(region.offset)
        assert run is not None
        self._forget_run(segment, *run)
        segment.free.remove(region.offset, end)
        if end < run[1]:
            self._note_run(segment, end, run[1])
        self.touched += segment.touched.add(region.offset, end)
        self.used += region.length
        self._changed(segment)

    def _give_back(self, wanted: int, spare: Region | None) -> list[Cut]:
        """Give back ``wanted`` bytes or all that can be, but nothing of ``spare``."""
        given: list[Cut] = []
        target = self.touched - wanted
        for segment in list(self._segments.values()):
            if self.touched <= target:
                return given
            if segment.idle and (spare is None or spare.segment != segment.number):
                given.append(self._remove(segment))
        if self._discards:
            for segment in self._segments.values():
                if self.touched <= target:
                    break
                mine = spare is not None and spare.segment == segment.number
                given += self._discard(segment, spare if mine else None)
        return given

    def _discard(self, segment: _Segment, spare: Region | None) -> list[Cut]:
        given = []
        for start, end in segment.free:
            if spare is not None and start == spare.offset:
                start += spare.length
            count = segment.touched.remove(start, end) if start < end else 0
            if count:
                self.touched -= count
                given.append(Cut(Region(segment.number, start, end - start), whole=False))
        return given

    def _remove(self, segment: _Segment) -> Cut:
        for stretch in segment.free:
            self._forget_run(segment, *stretch)
        self.touched -= segment.touched.total
        del self._segments[segment.number]
        return Cut(Region(segment.number, 0, segment.size), whole=True)

    def _changed(self, segment: _Segment) -> None:
        segment.stale = False
        self._segments[segment.number] = self._segments.pop(segment.number)

    def _note_run(self, segment: _Segment, start: int, end: int) -> None:
        insort(self._runs[segment.large], (end - start, segment.number, start))

    def _forget_run(self, segment: _Segment, start: int, end: int) -> None:
        runs = self._runs[segment.large]
        del runs[bisect_left(runs, (end - start, segment.number, start))]
