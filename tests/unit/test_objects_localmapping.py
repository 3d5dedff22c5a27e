"""Memory of a store in another process: shared to write, one's own to read."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipkernel.objects import mapping
from ipkernel.objects.mapping import SegmentMemory, Segments, most_mappings
from ipkernel.objects.memory import NamedMemory, NativeMemory, portable

PAGE = mmap.ALLOCATIONGRANULARITY
SIZE = 48 * PAGE


class Made:
    """A segment of a store, and what another process knows of it."""

    def __init__(self, memory: Any) -> None:
        self.segment = memory.make(SIZE)
        description = self.segment.describe()
        if isinstance(description, int):
            description = fcntl.fcntl(description, fcntl.F_DUPFD_CLOEXEC)
        self.memory = SegmentMemory(description)

    def close(self) -> None:
        self.segment.close()
        self.memory = SegmentMemory("gone")  # pytest keeps what a fixture has made


@pytest.fixture(params=["native", "named"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    if request.param == "native" and portable():
        pytest.skip("this system passes no descriptors")
    it = Made(NativeMemory() if request.param == "native" else NamedMemory())
    yield it
    it.close()


def test_what_is_written_there_is_everybodys(made: Made) -> None:
    made.memory.shared(PAGE, 5)[:] = b"hello"
    assert made.segment.view[PAGE : PAGE + 5] == b"hello"


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_writes_in_any_order_leave_what_was_written_last(
    made: Made, writes: list[tuple[int, int]]
) -> None:
    made.segment.view[:] = expected = bytearray(SIZE)
    for number, (offset, size) in enumerate(writes, 1):
        data = bytes([number]) * min(size, SIZE - offset)
        made.memory.write(offset, memoryview(data))
        expected[offset : offset + len(data)] = data
        assert made.segment.view == expected


@pytest.mark.skipif(portable(), reason="no descriptors are passed")
def test_only_what_is_written_again_goes_through_a_mapping() -> None:
    made, data = Made(NativeMemory()), memoryview(b"x" * 100)
    made.memory.write(0, data)
    made.memory.write(mapping._BLOCK - 50, data)
    assert not made.memory._shared
    made.memory.write(200, data)
    assert len(made.memory._shared) == SIZE
    made.close()


@pytest.mark.skipif(portable(), reason="no descriptors are passed")
def test_only_what_is_written_again_is_written_in_large_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numpy")
    monkeypatch.setattr(mapping, "COPY_SLICE", PAGE)
    made, size = Made(NativeMemory()), SIZE // 2
    source = memoryview(mmap.mmap(-1, SIZE + PAGE))  # begins with a page
    data = source[PAGE // 2 :][:size]
    assert made.memory.step(0, data) == PAGE
    made.memory.write(0, data)
    assert made.memory.step(0, data) == made.memory.step(PAGE, data[:-PAGE]) == mapping.LARGE_SLICE
    assert made.memory.step(0, source[PAGE // 2 :]) == PAGE  # not all of it was written before
    assert made.memory.step(0, data[:PAGE]) == made.memory.step(SIZE, data) == PAGE
    # What lies a little further on in its page would be copied slowly.
    assert made.memory.step(PAGE // 2 + 64, data[:-PAGE]) == PAGE
    assert made.memory.step(PAGE // 2 - 64, data[:-PAGE]) == mapping.LARGE_SLICE
    monkeypatch.delitem(sys.modules, "numpy")
    assert made.memory.step(0, data) == PAGE
    monkeypatch.undo()
    made.close()


@pytest.mark.parametrize("with_numpy", [True, False])
def test_copies_are_the_same_with_and_without_numpy(
    made: Made, monkeypatch: pytest.MonkeyPatch, with_numpy: bool
) -> None:
    if with_numpy:
        pytest.importorskip("numpy")
    else:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    data = os.urandom(mapping._BLOCK + 17)
    for _ in range(3):
        made.memory.write(PAGE, memoryview(data))  # read-only, as bytes are
        assert made.segment.view[PAGE : PAGE + len(data)] == data
        data = data[::-1]


def test_what_does_not_fit_is_not_written(made: Made) -> None:
    data = memoryview(b"x" * 100)
    for offset in (SIZE - 50, SIZE - 50, SIZE, 1 << 40):
        with pytest.raises((OSError, ValueError)):
            made.memory.write(offset, data)
    assert len(made.segment.view) == SIZE


def test_the_mapping_to_write_is_made_once(made: Made) -> None:
    first = made.memory.shared(0, SIZE)
    assert made.memory.shared(PAGE, 100).obj is first.obj
    assert made.memory.shared(0, 1).obj is first.obj


def test_a_segment_whose_size_is_not_known_is_mapped_as_far_as_needed() -> None:
    made = Made(NamedMemory())
    begin, more = made.memory.shared(0, PAGE), made.memory.shared(PAGE, PAGE)
    begin[0], more[0] = 7, 8
    assert (made.segment.view[0], made.segment.view[PAGE]) == (7, 8)
    made.close()


def test_what_is_read_can_be_changed_for_oneself(made: Made) -> None:
    made.segment.view[PAGE : PAGE + 5] = b"hello"
    one, two = made.memory.private(PAGE, 5), made.memory.private(PAGE, 5)
    memoryview(one)[:] = b"HELLO"
    assert (one[:], two[:]) == (b"HELLO", b"hello")
    assert made.segment.view[PAGE : PAGE + 5] == b"hello"
    assert len(memoryview(one)) == 5


def test_a_copy_is_one_too(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "COPY_SLICE", 1000)
    data = os.urandom(5 * PAGE + 17)
    made.segment.view[PAGE : PAGE + len(data)] = data
    copied = made.memory.copy(PAGE, len(data))
    assert memoryview(copied) == data
    made.segment.view[PAGE] ^= 0xFF
    assert memoryview(copied) == data


def test_a_mapping_outlives_segment_and_store(made: Made) -> None:
    made.segment.view[0:5] = b"hello"
    view = memoryview(made.memory.private(0, 5))
    shared = made.memory.shared(0, 5)
    made.close()
    assert view == shared == b"hello"
    made.segment = NamedMemory().make(SIZE)


def test_more_than_there_is_cannot_be_had(made: Made) -> None:
    with pytest.raises((OSError, ValueError)):
        made.memory.private(0, SIZE + 1)
    with pytest.raises((OSError, ValueError)):
        made.memory.shared(SIZE, 1)
    with pytest.raises((OSError, ValueError)):
        made.memory.copy(SIZE, 1)


def test_an_object_that_begins_anywhere_cannot_be_mapped(made: Made) -> None:
    with pytest.raises((OSError, ValueError)):
        made.memory.private(1, 5)
    assert len(made.memory.copy(1, 5)) == 5


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        SegmentMemory("ipk-no-such-name").shared(0, 1)


@pytest.mark.skipif(portable(), reason="no descriptors are passed")
def test_the_descriptor_goes_with_the_segment() -> None:
    made = Made(NativeMemory())
    descriptor = made.memory._description
    assert isinstance(descriptor, int)
    view = made.memory.shared(0, 5)
    del made.memory
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    view[:] = b"hello"
    assert made.segment.view[:5] == b"hello"
    made.segment.close()


# ------------------------------------------------------------------ the cache


def test_segments_are_remembered_and_the_oldest_forgotten() -> None:
    segments = Segments(kept=2)
    one, two = segments.add(1, "one"), segments.add(2, "two")
    assert segments.find(1) is one
    three = segments.add(3, "three")
    assert segments.find(2) is None
    assert (segments.find(1), segments.find(3)) == (one, three)
    assert two is not None
    segments.clear()
    assert segments.find(1) is None


def test_a_segment_that_is_added_twice_is_there_once() -> None:
    segments = Segments(kept=2)
    segments.add(1, "one")
    again = segments.add(1, "one")
    segments.add(2, "two")
    assert segments.find(1) is again


def test_there_are_descriptors_left_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info >= (3, 13):
        assert most_mappings() > 1000
        return
    resource = pytest.importorskip("resource")
    for soft, most in [(1024, 256), (256, 64), (1 << 20, 256), (resource.RLIM_INFINITY, 256)]:
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        assert most_mappings.__wrapped__() == most
