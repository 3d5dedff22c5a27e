"""A segment mapped once, of which one part after the other is lent to whoever reads there.

To map an object anew costs the kernel more than to read it: each page has to be found and entered, and
thrown out again at the end. So a process maps the whole segment, copy-on-write, and keeps it. A part of it
that nobody has written to shows what is in the store now, whatever was there before; what somebody has
written to is thrown out before that part is lent again.

For Linux: elsewhere, pages that were written to cannot be thrown out.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from functools import lru_cache
from typing import Final, TypeAlias

from ipkernel.objects.intervals import Intervals

__all__ = ["Part", "Window"]

Part: TypeAlias = ctypes.Array[ctypes.c_ubyte]
"""Some bytes of a window; what ends with the last view of them."""

#: Of smaller parts the pages are thrown out unseen: there are not many to be entered again.
_LOOK_AT: Final = 1 << 20
#: ioctl(2) of /proc/self/pagemap: look for pages of some kind (Linux 6.7).
_PAGEMAP_SCAN: Final = 0xC0606610
_IS_FILE, _IS_PRESENT, _IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4


class _Scan(ctypes.Structure):
    """``struct pm_scan_arg`` of linux/fs.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    ]


class Window:
    """A segment in this process. For any thread.

    Args:
        mapped: All of it, copy-on-write, which nobody else has written to.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self._size = len(mapped)
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(mapped))
        self._lent = Intervals()
        self._lock = threading.Lock()

    def lend(self, offset: int, size: int) -> Part | None:
        """Return some of it; None if it is not there, or if any of it is lent already.

        Args:
            offset: Where it begins, in bytes.
            size: Bytes; at least one.
        """
        end = _round(offset + size)
        if offset % mmap.PAGESIZE or offset + size > self._size:
            return None
        with self._lock:
            if self._lent.total and self._lent.overlap(offset, end):
                return None
            self._lent.add(offset, end)
        return _part(size).from_buffer(self._map, offset)

    def take_back(self, offset: int, size: int) -> None:
        """Make a part what it was before it was lent; there must be no view of it any more.

        Args:
            offset: As given to :meth:`lend`.
            size: As given to :meth:`lend`.
        """
        length = _round(offset + size) - offset
        if size < _LOOK_AT or self._written(offset, length):
            try:
                self._map.madvise(mmap.MADV_DONTNEED, offset, length)
            except OSError:  # it is locked in memory; then it is never lent again
                return
        with self._lock:
            self._lent.remove(offset, offset + length)

    def _written(self, offset: int, length: int) -> bool:
        """Tell whether any page is this process's own by now, or that cannot be told."""
        found = (ctypes.c_uint64 * 3)()
        start = self._address + offset
        scan = _Scan(
            size=ctypes.sizeof(_Scan),
            start=start,
            end=start + length,
            vec=ctypes.addressof(found),
            vec_len=1,
            max_pages=1,
            # Those that are not of the file, but somewhere.
            category_inverted=_IS_FILE,
            category_mask=_IS_FILE,
            category_anyof_mask=_IS_PRESENT | _IS_SWAPPED,
            return_mask=_IS_PRESENT,
        )
        try:
            pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            return bool(fcntl.ioctl(pages, _PAGEMAP_SCAN, scan)) or scan.walk_end < scan.end
        except OSError:  # an older kernel
            return True
        finally:
            os.close(pages)


@lru_cache(64)
def _part(size: int) -> type[Part]:
    """Return the type of parts of a size: to make one takes longer than all else that lending does."""
    return ctypes.c_ubyte * size


def _round(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
