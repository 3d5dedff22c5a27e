"""Parts of one mapping, lent one after the other: each shows the store, and keeps what is written."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.objects.mapping import SegmentMemory

if sys.platform != "linux":
    pytest.skip("windows are for Linux", allow_module_level=True)

from ipkernel.objects import window as module
from ipkernel.objects.window import Part, Window

PAGE = mmap.PAGESIZE
PAGES = 600
SIZE = PAGES * PAGE
LARGE = module._LOOK_AT // PAGE + 1
"""Pages of a part that is large enough to be looked at."""


class Segment:
    """A segment as its store has it, and a window to it."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, SIZE)
            self.store = mmap.mmap(descriptor, SIZE)
            self.window = Window(mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_COPY))
        finally:
            os.close(descriptor)

    def fill(self, byte: int, first: int = 0, count: int = PAGES) -> None:
        self.store[first * PAGE : (first + count) * PAGE] = bytes([byte]) * count * PAGE

    def lend(self, first: int, count: int) -> memoryview | None:
        part = self.window.lend(first * PAGE, count * PAGE)
        return None if part is None else memoryview(part).cast("B")

    def take_back(self, first: int, count: int) -> None:
        self.window.take_back(first * PAGE, count * PAGE)


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment()
    yield made
    del made.store, made.window  # pytest keeps what a fixture has made


def without_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernel were older."""

    def fail(*args: Any) -> None:
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(module.fcntl, "ioctl", fail)


def without_pagemap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no /proc."""

    def fail(*args: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(module.os, "open", fail)


def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel can do."""


@pytest.fixture(params=[as_it_is, without_scan, without_pagemap])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    request.param(monkeypatch)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("count", [1, LARGE])
@pytest.mark.parametrize("written", [0, 1, -1])
def test_a_part_that_is_lent_again_shows_what_is_there_now(
    segment: Segment, count: int, written: int
) -> None:
    segment.fill(1)
    view = segment.lend(7, count)
    assert view is not None
    assert bytes(view) == b"\1" * count * PAGE
    if written:
        view[0 if written > 0 else -1] = 77
    del view
    segment.take_back(7, count)
    segment.fill(2)
    again = segment.lend(7, count)
    assert again is not None
    assert bytes(again) == b"\2" * count * PAGE


def test_what_is_written_is_nobody_elses(segment: Segment) -> None:
    segment.fill(1)
    view = segment.lend(0, 2)
    assert view is not None
    view[:] = b"x" * len(view)
    assert segment.store[0] == 1
    assert bytes(view) == b"x" * len(view)


def test_a_part_is_lent_to_one_at_a_time(segment: Segment) -> None:
    view = segment.lend(2, 4)
    for first, count in [(2, 4), (0, 3), (5, 1), (3, 1), (0, 10)]:
        assert segment.lend(first, count) is None
    neighbours = segment.lend(0, 2), segment.lend(6, 1)
    assert None not in neighbours
    del view
    assert segment.lend(2, 4) is None  # the last view has gone, but it was not taken back
    segment.take_back(2, 4)
    assert segment.lend(2, 4) is not None


@pytest.mark.parametrize(
    ("offset", "size"), [(1, 5), (SIZE, 1), (SIZE - PAGE, PAGE + 1), (PAGE // 2, 1)]
)
def test_what_is_not_there_is_not_lent(segment: Segment, offset: int, size: int) -> None:
    assert segment.window.lend(offset, size) is None


def test_a_part_need_not_end_with_a_page(segment: Segment) -> None:
    segment.fill(3)
    part = segment.window.lend(PAGE, 5)
    assert part is not None
    assert bytes(part) == b"\3" * 5
    assert segment.window.lend(2 * PAGE, 5) is not None
    part[4] = 9
    del part
    segment.window.take_back(PAGE, 5)
    again = segment.window.lend(PAGE, 6)
    assert again is not None
    assert bytes(again) == b"\3" * 6


def test_neighbours_keep_what_was_written(segment: Segment) -> None:
    views = [segment.lend(first, LARGE) for first in (0, LARGE)]
    for view in views:
        assert view is not None
        view[0] = view[-1] = 5
    kept = views[1]
    views.clear()
    segment.take_back(0, LARGE)
    assert kept is not None
    assert (kept[0], kept[-1]) == (5, 5)


def test_what_is_locked_in_memory_is_not_lent_again(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Locked:
        def madvise(self, *args: int) -> None:
            raise OSError(22, "Invalid argument")

    view = segment.lend(0, 1)
    assert view is not None
    mapped, segment.window._map = segment.window._map, Locked()  # type: ignore[assignment]
    del view
    segment.take_back(0, 1)
    segment.window._map = mapped
    assert segment.lend(0, 1) is None
    assert segment.lend(1, 1) is not None


def test_a_part_outlives_its_window() -> None:
    segment = Segment()
    segment.fill(4)
    view = segment.lend(0, LARGE)
    del segment
    gc.collect()
    assert view is not None
    assert bytes(view) == b"\4" * LARGE * PAGE


def test_the_end_of_the_last_view_is_noticed(segment: Segment) -> None:
    part = segment.window.lend(0, 100)
    assert part is not None
    ended: list[object] = []
    noticed: Callable[[weakref.ref[Part]], None] = ended.append
    reference = weakref.ref(part, noticed)
    view = memoryview(part).cast("B")[10:20]
    del part
    assert not ended
    del view
    assert ended == [reference]


@pytest.mark.usefixtures("kernel")
def test_only_what_was_written_to_is_seen_as_such(segment: Segment) -> None:
    segment.fill(1)
    view = segment.lend(0, PAGES)
    assert view is not None
    assert sum(view[::PAGE]) == PAGES
    told = _scans(segment)
    if told:
        assert not segment.window._written(0, SIZE)
    view[300 * PAGE] = 2
    assert segment.window._written(0, SIZE)
    assert segment.window._written(300 * PAGE, PAGE)
    if told:
        assert not segment.window._written(0, 300 * PAGE)
        assert not segment.window._written(301 * PAGE, SIZE - 301 * PAGE)


def _scans(segment: Segment) -> bool:
    """Tell whether this kernel can be asked, which it can if it finds nothing where nothing is."""
    return not segment.window._written(SIZE - PAGE, PAGE)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 255), st.integers(0, PAGES - 1)),
        st.tuples(st.just("lend"), st.integers(0, PAGES - 1), st.integers(1, LARGE + 5)),
        st.tuples(st.just("write"), st.integers(0, 9), st.integers(0, SIZE)),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_a_view_shows_the_store_as_it_was_lent_and_what_was_written_to_it(
    steps: list[tuple[str, int, int]],
) -> None:
    segment = Segment()
    lent: list[tuple[int, int, memoryview, bytearray]] = []
    busy: set[int] = set()
    for step, one, two in steps:
        if step == "store" and two not in busy:  # what is leased is never changed
            segment.fill(one, two, 1)
        elif step == "lend":
            pages = range(one, one + two)
            view = segment.lend(one, two)
            assert (view is not None) == (pages.stop <= PAGES and busy.isdisjoint(pages))
            if view is not None:
                expected = bytearray(segment.store[one * PAGE : pages.stop * PAGE])
                lent.append((one, two, view, expected))
                busy.update(pages)
        elif step == "write" and lent:
            _, _, view, expected = lent[one % len(lent)]
            view[two % len(view)] = expected[two % len(view)] = 200
        elif step == "end" and lent:
            first, count, _, _ = lent.pop(one % len(lent))
            segment.take_back(first, count)
            busy.difference_update(range(first, first + count))
        assert all(view == expected for _, _, view, expected in lent)


# ------------------------------------------------------------- of a segment


def memory() -> tuple[mmap.mmap, SegmentMemory]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, SIZE)
    return mmap.mmap(descriptor, SIZE), SegmentMemory(descriptor)


def test_a_segment_lends_what_it_has() -> None:
    store, segment = memory()
    store[PAGE : PAGE + 5] = b"hello"
    lent = segment.lend(PAGE, 5)
    assert lent is not None
    assert bytes(lent[0]) == b"hello"
    assert segment.lend(PAGE, 5) is None
    lent[0][0] = 0
    undo = lent[1]
    del lent
    undo()
    again = segment.lend(PAGE, 5)
    assert again is not None
    assert bytes(again[0]) == b"hello"
    assert segment.lend(SIZE, 5) is None


def test_a_segment_with_a_name_lends_nothing() -> None:
    assert SegmentMemory("ipk-no-such-name").lend(0, 5) is None


def test_a_segment_that_cannot_be_mapped_as_a_whole_lends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, segment = memory()
    store[:5] = b"hello"
    whole = segment._map

    def limited(offset: int, size: int, access: int) -> mmap.mmap:
        if size > PAGE:
            raise OSError(12, "Cannot allocate memory")
        return whole(offset, size, access)

    monkeypatch.setattr(segment, "_map", limited)
    assert segment.lend(0, 5) is None
    assert segment.private(0, 5)[:] == b"hello"
