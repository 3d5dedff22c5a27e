"""How threads that move many bytes leave the processors to whoever has little to do, and at once.

Such a thread keeps a core busy for as long as its transfer takes, and Linux lets it run on until the next tick of
its clock, up to four milliseconds, while a call waits that needs a tenth of one. So these threads stop now
and then to let others go first. The kernel takes what is left of the slice of time of a thread that does so;
for it to lose next to nothing, the thread has the shortest slice there is. Threads that compute all the time then
get their fair share, and not more.

Where threads cannot choose their slice (before Linux 6.12, and on other systems) they do not stop: they could be
starved.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

__all__ = ["STRIDE", "Scheduling", "give_way"]

#: Bytes between two stops: what TLS takes some 50 microseconds for.
STRIDE: Final = 1 << 16
#: The slice, in nanoseconds: no kernel allows a shorter one.
SLICE: Final = 100_000
#: ``struct sched_attr`` of linux/sched/types.h, as its first version has it.
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
#: Places of ``sched_policy``, ``sched_flags`` and ``sched_runtime`` in it.
_POLICY, _FLAGS, _RUNTIME = 1, 2, 5
#: Policies whose threads have slices: SCHED_OTHER and SCHED_BATCH.
_FAIR: Final = (0, 3)
#: sched_setattr(2) and sched_getattr(2), which the C library has no functions for.
_CALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}


class Scheduling(NamedTuple):
    """What the system does for the calling thread; each function is for any thread.

    Attributes:
        get: Returns its attributes, as bytes; empty if there are none.
        set: Changes them; returns whether they were taken.
        stop: Lets others go first.
    """

    get: Callable[[], bytes]
    set: Callable[[bytes], bool]
    stop: Callable[[], object]


_thread = threading.local()


def give_way() -> Callable[[], object] | None:
    """Return what the calling thread is to call after each :data:`STRIDE` bytes; None for nothing.

    The first call of a thread chooses its slice, so this is for threads that exist to move bytes.
    """
    try:
        return _thread.stop  # type: ignore[no-any-return]
    except AttributeError:
        system = _system()
        courteous = system is not None and shorten(system)
        _thread.stop = stop = system.stop if system is not None and courteous else None
        return stop


def shorten(system: Scheduling) -> bool:
    """Choose the shortest slice for the calling thread; return whether it has it now.

    Args:
        system: The way to the system.
    """
    before = system.get()
    if len(before) < _ATTRIBUTES.size:
        return False
    fields: list[Any] = list(_ATTRIBUTES.unpack_from(before))
    if fields[_POLICY] not in _FAIR:
        return False
    fields[0] = _ATTRIBUTES.size
    fields[_FLAGS] = 0
    fields[_RUNTIME] = SLICE
    if not system.set(_ATTRIBUTES.pack(*fields)):
        return False
    # A kernel that knows no slices takes the number and forgets it.
    now = system.get()
    return len(now) >= _ATTRIBUTES.size and _ATTRIBUTES.unpack_from(now)[_RUNTIME] == SLICE


@cache
def _system() -> Scheduling | None:
    """Return what Linux does; None elsewhere, and where the portable ways are asked for."""
    numbers = _CALLS.get(platform.machine())
    if sys.platform != "linux" or numbers is None or os.environ.get("IPKERNEL_PORTABLE") == "1":
        return None
    library = ctypes.CDLL(None)
    call, (setter, getter) = library.syscall, numbers

    def get() -> bytes:
        room = ctypes.create_string_buffer(_ATTRIBUTES.size)
        return b"" if call(getter, 0, room, _ATTRIBUTES.size, 0) else room.raw

    def change(attributes: bytes) -> bool:
        return not call(setter, 0, ctypes.c_char_p(attributes), 0)

    # Not that of the module os, which keeps the interpreter's lock in some versions.
    return Scheduling(get, change, library.sched_yield)
