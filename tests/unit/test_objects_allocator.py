"""Finding room in segments: intervals, best fit, warm pages, the limit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ipkernel.objects.allocator import Allocator, Cut, Fit, Region
from ipkernel.objects.intervals import Intervals

PAGE = 16
SEGMENT = 128


def allocator(limit: int = 1024, **options) -> Allocator:
    return Allocator(limit, segment_size=SEGMENT, page=PAGE, **options)


def take(room: Allocator, size: int) -> Region:
    region = room.allocate(size).region
    assert region is not None
    return region


# ---------------------------------------------------------------- intervals

POSITION = st.integers(0, 40)
STRETCH = st.tuples(POSITION, POSITION).filter(lambda pair: pair[0] < pair[1])


class TestIntervals:
    @given(st.lists(st.tuples(st.booleans(), STRETCH)), STRETCH, POSITION)
    def test_they_are_a_set_of_bytes(self, changes, probe, position):
        intervals, model = Intervals(), set()
        for add, (start, end) in changes:
            stretch = set(range(start, end))
            if add:
                assert intervals.add(start, end) == len(stretch - model)
                model |= stretch
            else:
                assert intervals.remove(start, end) == len(stretch & model)
                model -= stretch
        assert intervals.total == len(model)
        assert {byte for start, end in intervals for byte in range(start, end)} == model
        assert intervals.overlap(*probe) == len(model & set(range(*probe)))
        found = intervals.find(position)
        assert (found is not None) == (position in model)
        if found is not None:
            start, end = found
            assert start <= position < end
            assert set(range(start, end)) <= model
            assert start - 1 not in model and end not in model

    def test_those_that_touch_are_one(self):
        intervals = Intervals()
        intervals.add(0, 4)
        intervals.add(8, 12)
        intervals.add(4, 8)
        assert list(intervals) == [(0, 12)]

    def test_a_hole_parts_one_in_two(self):
        intervals = Intervals()
        intervals.add(0, 12)
        assert intervals.remove(4, 8) == 4
        assert list(intervals) == [(0, 4), (8, 12)]


# ---------------------------------------------------------------- examples


class TestPlaces:
    def test_regions_are_whole_pages(self):
        room = allocator()
        first, second = take(room, 1), take(room, PAGE + 1)
        assert first == Region(1, 0, PAGE)
        assert second == Region(1, PAGE, 2 * PAGE)
        assert room.used == 3 * PAGE

    def test_nothing_takes_a_page_too(self):
        room = allocator()
        assert take(room, 0).length == PAGE

    def test_a_segment_is_made_when_it_is_needed(self):
        room = allocator()
        assert room.allocate(100).new == SEGMENT
        assert room.allocate(10).new == 0
        assert room.allocate(100).new == SEGMENT
        assert room.segments == {1: SEGMENT, 2: SEGMENT}

    def test_a_large_object_gets_a_segment_of_its_own(self):
        room = allocator()
        fit = room.allocate(SEGMENT + 1)
        assert fit.new == 2 * SEGMENT
        assert fit.region == Region(1, 0, SEGMENT + PAGE)

    def test_a_small_object_does_not_go_where_large_ones_were(self):
        room = allocator()
        large = take(room, 3 * SEGMENT)
        room.free(large)
        assert take(room, PAGE).segment != large.segment
        assert room.allocate(3 * SEGMENT) == Fit(large)

    def test_the_smallest_hole_that_fits_is_taken(self):
        room = allocator()
        regions = [take(room, size) for size in (32, 16, 16, 16, 48)]
        room.free(regions[0])
        room.free(regions[2])
        assert take(room, 16) == regions[2]

    def test_neighbours_become_one_hole(self):
        room = allocator()
        regions = [take(room, PAGE) for _ in range(SEGMENT // PAGE)]
        for region in (*regions[1::2], *regions[::2]):
            room.free(region)
        assert take(room, SEGMENT) == Region(1, 0, SEGMENT)


class TestWarmth:
    def test_what_was_freed_is_used_again(self):
        room = allocator()
        region = take(room, 100)
        room.free(region)
        assert room.touched == 112
        assert room.idle == 112
        assert room.allocate(100) == Fit(region)
        assert room.touched == 112

    def test_warm_pages_are_better_than_a_smaller_hole_of_fresh_ones(self):
        room = allocator()
        warm = take(room, SEGMENT)
        take(room, SEGMENT - 2 * PAGE)
        room.free(warm)
        assert take(room, PAGE).segment == warm.segment

    def test_few_fresh_pages_are_better_than_many(self):
        room = allocator()
        half, rest = take(room, SEGMENT // 2), take(room, SEGMENT // 2)
        last = take(room, SEGMENT // 4)
        room.free(half)
        room.free(rest)
        room.free(last)
        assert take(room, SEGMENT).segment == half.segment

    def test_too_much_that_is_idle_is_given_back(self):
        room = allocator(warm=SEGMENT)
        regions = [take(room, SEGMENT) for _ in range(4)]
        for region in regions:
            room.free(region)
        assert room.trim() == [Cut(Region(n, 0, SEGMENT), whole=True) for n in (1, 2, 3)]
        assert room.touched == SEGMENT
        assert room.trim() == []

    def test_the_last_idle_segment_is_kept_even_if_it_is_too_large(self):
        room = allocator(warm=0)
        region = take(room, 5 * SEGMENT)
        room.free(region)
        assert room.trim() == []
        assert room.allocate(5 * SEGMENT) == Fit(region)

    def test_so_is_the_last_one_of_the_other_kind(self):
        room = allocator(warm=0)
        large, small, other = take(room, 3 * SEGMENT), take(room, SEGMENT), take(room, SEGMENT)
        for region in (large, small, other):
            room.free(region)
        assert room.trim() == [Cut(small, whole=True)]
        assert room.allocate(3 * SEGMENT) == Fit(large)

    def test_a_segment_in_use_is_not_trimmed(self):
        room = allocator(warm=0)
        first, _, other = take(room, 64), take(room, 64), take(room, SEGMENT)
        room.free(first)
        room.free(other)
        assert room.trim() == []

    def test_what_was_idle_for_a_round_is_given_back(self):
        room = allocator()
        room.free(take(room, SEGMENT))
        assert room.tidy() == []
        assert room.tidy() == [Cut(Region(1, 0, SEGMENT), whole=True)]
        assert room.touched == 0

    def test_what_was_used_meanwhile_is_kept(self):
        room = allocator()
        room.free(take(room, SEGMENT))
        room.tidy()
        room.free(take(room, PAGE))
        assert room.tidy() == []

    def test_idle_pages_of_a_segment_in_use_are_given_back(self):
        room = allocator()
        first, _ = take(room, 64), take(room, 16)
        room.free(first)
        room.tidy()
        assert room.tidy() == [Cut(first, whole=False)]
        assert room.touched == room.used == 16

    def test_unless_the_system_cannot(self):
        room = allocator(discards=False)
        first, _ = take(room, 64), take(room, 16)
        room.free(first)
        room.tidy()
        assert room.tidy() == []
        assert room.touched == 80


class TestLimit:
    def test_no_more_than_the_limit_is_used(self):
        room = allocator(256)
        take(room, 240)
        assert room.allocate(17) == Fit()
        assert take(room, 16)
        assert room.touched == 256

    def test_idle_segments_make_room_the_oldest_first(self):
        room = allocator(3 * SEGMENT)
        first, second, third = (take(room, SEGMENT) for _ in range(3))
        for region in (second, first):
            room.free(region)
        fit = room.allocate(2 * SEGMENT)
        assert [cut.region.segment for cut in fit.given] == [second.segment, first.segment]
        assert fit.new == 2 * SEGMENT
        assert room.touched == 3 * SEGMENT
        room.free(third)

    def test_idle_pages_make_room(self):
        room = allocator(3 * SEGMENT)
        regions = [take(room, SEGMENT // 2) for _ in range(6)]
        for region in regions[::2]:
            room.free(region)
        fit = room.allocate(SEGMENT)
        assert fit.region is not None
        assert all(not cut.whole for cut in fit.given)
        assert room.touched <= 3 * SEGMENT

    def test_pages_that_cannot_be_given_back_count(self):
        room = allocator(3 * SEGMENT, discards=False)
        regions = [take(room, SEGMENT // 2) for _ in range(6)]
        for region in regions[::2]:
            room.free(region)
        assert room.allocate(SEGMENT) == Fit()
        room.free(regions[1])
        assert take(room, SEGMENT).segment == regions[0].segment

    def test_a_segment_that_could_not_be_made_is_forgotten(self):
        room = allocator()
        take(room, PAGE)
        fit = room.allocate(SEGMENT)
        room.lose(fit.region.segment)
        assert room.used == room.touched == PAGE
        assert room.segments == {1: SEGMENT}
        assert room.allocate(SEGMENT).new == SEGMENT

    @pytest.mark.parametrize("segment_size", [SEGMENT, SEGMENT - 1])
    def test_segments_are_whole_pages(self, segment_size):
        assert Allocator(1024, segment_size=segment_size, page=PAGE).allocate(1).new == SEGMENT


# ---------------------------------------------------------------- all orders


class AllocatorMachine(RuleBasedStateMachine):
    """Bytes are painted: a region that is handed out keeps its paint until it is freed."""

    regions = Bundle("regions")
    limit = 6 * SEGMENT
    discards = True

    def __init__(self) -> None:
        super().__init__()
        self.room = allocator(self.limit, discards=self.discards, warm=2 * SEGMENT)
        self.memory: dict[int, list[int]] = {}
        self.real: dict[int, set[int]] = {}
        self.live: dict[int, Region] = {}
        self.paint = 0

    @rule(target=regions, size=st.integers(0, 3 * SEGMENT))
    def allocate(self, size):
        fit = self.room.allocate(size)
        self.apply(fit.given)
        if fit.region is None:
            if self.discards:
                assert self.room.used + self.room.round(size) > self.limit
            return None
        number, offset, length = fit.region.segment, fit.region.offset, fit.region.length
        assert length == self.room.round(size)
        if fit.new:
            assert number not in self.memory
            self.memory[number] = [0] * fit.new
            self.real[number] = set()
        assert offset % PAGE == 0
        assert offset + length <= len(self.memory[number])
        assert not any(self.painted(fit.region)), "this is in use"
        self.paint += 1
        self.memory[number][offset : offset + length] = [self.paint] * length
        self.real[number].update(range(offset, offset + length))
        self.live[self.paint] = fit.region
        return self.paint

    @rule(paint=consumes(regions))
    def free(self, paint):
        if paint is None:
            return
        region = self.live.pop(paint)
        assert set(self.painted(region)) == {paint}, "somebody else wrote there"
        end = region.offset + region.length
        self.memory[region.segment][region.offset : end] = [0] * region.length
        self.room.free(region)

    @rule()
    def trim(self):
        self.apply(self.room.trim())

    @rule()
    def tidy(self):
        self.apply(self.room.tidy())

    def painted(self, region: Region) -> list[int]:
        return self.memory[region.segment][region.offset : region.offset + region.length]

    def apply(self, cuts) -> None:
        for cut in cuts:
            region = cut.region
            assert not any(self.painted(region)), "what is in use was given back"
            if cut.whole:
                assert region == Region(region.segment, 0, len(self.memory[region.segment]))
                del self.memory[region.segment], self.real[region.segment]
            else:
                assert self.discards
                end = region.offset + region.length
                self.real[region.segment].difference_update(range(region.offset, end))

    @invariant()
    def books_agree_with_memory(self):
        assert self.room.used == sum(region.length for region in self.live.values())
        assert self.room.touched == sum(map(len, self.real.values())) <= self.limit
        assert self.room.segments == {n: len(bytes_) for n, bytes_ in self.memory.items()}

    def teardown(self):
        for paint in list(self.live):
            self.free(paint)
        self.books_agree_with_memory()
        assert self.room.used == 0
        assert self.room.allocate(self.limit).region is not None, "not all came back"


class UndiscardingMachine(AllocatorMachine):
    discards = False


TestAllocator = AllocatorMachine.TestCase
TestAllocatorWithoutDiscards = UndiscardingMachine.TestCase
for _case in (TestAllocator, TestAllocatorWithoutDiscards):
    _case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
del _case  # or pytest would take it for one more
