"""Memory of a host's store in a process that uses it.

What a process writes into the store for the first time goes there as into a file, for to touch the pages of
a mapping for the first time costs ten times as much as the copy itself. Where it writes again it goes
through a mapping that is kept, whose pages are fetched all at once before; that is the fastest way. What it
reads is mapped copy-on-write: it may be written to, and the store's bytes stay what they are. It is part of
a :class:`~ipkernel.objects.window.Window`, or has a mapping of its own where that cannot be.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ipkernel.objects.window import Part, Window

__all__ = ["COPY_SLICE", "SegmentMemory", "Segments", "most_mappings"]

#: Bytes that are copied at a time: the interpreter's lock is held meanwhile.
COPY_SLICE: Final = 4 << 20
#: The same where it is not held. From some size on, 200 MB at most, C libraries copy past the caches, in
#: two thirds of the time.
LARGE_SLICE: Final = 256 << 20
#: But it takes them twice the time where the target lies so little further on in its page than the source.
_NEAR: Final = 1 << 10
#: Bytes of which it is remembered as a whole whether this process has written there.
_BLOCK: Final = 1 << 16
#: Whether a process has written to such a block: never, as to a file, or through the mapping.
_FRESH, _FILED, _MAPPED = range(3)
#: Of :mod:`mmap`, which does not name it: fetch the pages of a mapping (Linux 5.14). They can be written
#: to as well; its sibling for that, MADV_POPULATE_WRITE, looks at each page and takes twice the time.
_POPULATE_READ: Final = 22 if sys.platform == "linux" else None
#: Segments that are kept mapped, the least recently used ones go first.
KEPT: Final = 64


@cache
def most_mappings() -> int:
    """Return how many objects one process maps at a time; further ones are copied.

    Before Python 3.13 each mapping has a descriptor of its own, and there are not many of those.
    """
    if sys.version_info >= (3, 13):
        return 1 << 14
    try:
        import resource
    except ImportError:
        return 1 << 14
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 256 if soft == resource.RLIM_INFINITY else min(256, soft // 4)


class SegmentMemory:
    """One segment of a store's memory, as this process has it. For any thread.

    Args:
        description: A descriptor, which becomes this object's, or a name.
    """

    def __init__(self, description: int | str) -> None:
        self._description = description
        self._size = 0
        if isinstance(description, int):
            weakref.finalize(self, os.close, description).atexit = False
            self._size = os.fstat(description).st_size
        self._lock = threading.Lock()
        self._shared = memoryview(b"")
        self._window: Window | None = None
        self._written = bytearray(-(-self._size // _BLOCK))

    def write(self, offset: int, data: memoryview) -> None:
        """Copy ``data`` there, for everybody to see.

        Raises:
            OSError, ValueError: It cannot be written, or is not that long.
        """
        before = self._note(offset, len(data))
        if before != _FRESH or not isinstance(self._description, int):
            target = self.shared(offset, len(data))
            if before == _FILED:
                self._populate(offset, len(data))
            _copy(target, data)
            return
        while data:
            count = os.pwrite(self._description, data, offset)
            data = data[count:]
            offset += count

    def step(self, offset: int, data: memoryview) -> int:
        """Return how many bytes of ``data`` are best written at a time, beginning there."""
        numpy = sys.modules.get("numpy")
        if numpy is None or len(data) <= COPY_SLICE:  # the interpreter's lock is held meanwhile
            return COPY_SLICE
        first, end = offset // _BLOCK, -(-(offset + min(len(data), LARGE_SLICE)) // _BLOCK)
        if min(self._written[first:end], default=_FRESH) == _FRESH:
            return COPY_SLICE
        source = numpy.frombuffer(data, "u1").__array_interface__["data"][0]
        return COPY_SLICE if (offset - source) % mmap.PAGESIZE < _NEAR else LARGE_SLICE

    def _note(self, offset: int, size: int) -> int:
        """Take note that all of this is written now; return how the least of it was before."""
        first, end = offset // _BLOCK, -(-(offset + size) // _BLOCK)
        with self._lock:
            before = min(self._written[first:end], default=_MAPPED)
            if before != _MAPPED:
                end = min(end, len(self._written))
                self._written[first:end] = bytes([before + 1]) * (end - first)
            return before

    def _populate(self, offset: int, size: int) -> None:
        """Fetch pages at once: one by one, as they are touched, costs five times as much."""
        whole = self._shared.obj
        if _POPULATE_READ is None or not isinstance(whole, mmap.mmap):
            return
        start = offset - offset % mmap.PAGESIZE
        try:
            whole.madvise(_POPULATE_READ, start, offset + size - start)
        except OSError:  # an older kernel: they come one by one
            pass

    def shared(self, offset: int, size: int) -> memoryview:
        """Return some of it, writable and shared with everybody who has it mapped.

        Raises:
            OSError, ValueError: It cannot be mapped, or is not that long.
        """
        end = offset + size
        with self._lock:
            if len(self._shared) < end:
                whole = self._size or end  # of a name the size is not known
                self._shared = memoryview(self._map(0, whole, mmap.ACCESS_WRITE))
            if len(self._shared) < end:
                raise ValueError(f"the segment has {len(self._shared)} bytes, not {end}")
            return self._shared[offset:end]

    def lend(self, offset: int, size: int) -> tuple[Part, Callable[[], None]] | None:
        """Return some of the mapping that is kept to read, copy-on-write.

        Returns:
            The part, and what must be called when the last view of it has gone, before this part of the
            mapping can be lent again. None if it cannot be lent; then it may be mapped.
        """
        if sys.platform != "linux" or not isinstance(self._description, int):
            return None
        window = self._window
        if window is None:
            from ipkernel.objects.window import Window

            with self._lock:
                if self._window is None:
                    try:
                        self._window = Window(self._map(0, self._size, mmap.ACCESS_COPY))
                    except OSError:  # there may be no room for all of it
                        return None
                window = self._window
        part = window.lend(offset, size)
        return None if part is None else (part, partial(window.take_back, offset, size))

    def private(self, offset: int, size: int) -> mmap.mmap:
        """Map some of it copy-on-write, for one use.

        Raises:
            OSError, ValueError: It cannot be mapped, or is not that long.
        """
        return self._map(offset, size, mmap.ACCESS_COPY)

    def copy(self, offset: int, size: int) -> mmap.mmap:
        """Return a copy of some of it; where it can, without a descriptor of its own.

        Raises:
            OSError, ValueError: It cannot be read, or is not that long.
        """
        copied = mmap.mmap(-1, size)
        done = 0
        while done < size:
            step = min(COPY_SLICE, size - done)
            with memoryview(copied)[done : done + step] as target:
                if isinstance(self._description, int):
                    count = os.preadv(self._description, [target], offset + done)
                else:
                    target[:] = self.shared(offset + done, step)
                    count = step
            if not count:
                raise ValueError(f"the segment ends before {offset + size} bytes")
            done += count
        return copied

    def _map(self, offset: int, size: int, access: int) -> mmap.mmap:
        if isinstance(self._description, int):
            return _map_file(self._description, offset, size, access)
        if sys.platform == "win32":
            return mmap.mmap(-1, size, tagname=self._description, access=access, offset=offset)
        import _posixshmem  # type: ignore[import-not-found,unused-ignore]

        descriptor = _posixshmem.shm_open("/" + self._description, os.O_RDWR, mode=0o600)
        try:
            return _map_file(descriptor, offset, size, access)
        finally:
            os.close(descriptor)


def _copy(target: memoryview, data: memoryview) -> None:
    numpy = sys.modules.get("numpy")
    if numpy is None or len(data) < _BLOCK or len(target) != len(data):
        target[:] = data
    else:  # which gives the interpreter's lock to others meanwhile
        numpy.copyto(numpy.frombuffer(target, "u1"), numpy.frombuffer(data, "u1"))


def _map_file(descriptor: int, offset: int, size: int, access: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, access=access, offset=offset, trackfd=False)
    return mmap.mmap(descriptor, size, access=access, offset=offset)


class Segments:
    """The segments that this process knows. For any thread.

    Args:
        kept: How many at most; the least recently used ones are forgotten. Views of them
            stay valid.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: OrderedDict[int, SegmentMemory] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, number: int) -> SegmentMemory | None:
        """Return a segment, or None if it is not known."""
        with self._lock:
            segment = self._known.get(number)
            if segment is not None:
                self._known.move_to_end(number)
            return segment

    def add(self, number: int, description: int | str) -> SegmentMemory:
        """Remember a segment, and return it."""
        with self._lock:
            segment = self._known[number] = SegmentMemory(description)
            self._known.move_to_end(number)
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
            return segment

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._known.clear()
