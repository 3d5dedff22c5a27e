"""What Linux offers beyond POSIX to see that no process outlives its purpose.

Elsewhere the functions do nothing, or say that there is nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

__all__ = ["COOKIE", "adopt_orphans", "belongs_to", "children", "die_with_parent"]

#: Environment variable with the process id of the engine that a program was started by.
COOKIE: Final = "IPKERNEL_ENGINE_PID"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def _prctl(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int, number: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> None:
    """Have this process killed when its parent ends.

    Args:
        parent: The parent's process id; if it is gone already, this process ends now.
        number: The signal that it gets.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Return the process ids of this process's children, where that can be asked for."""
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as file:
                found += [int(pid) for pid in file.read().split()]
    except (OSError, ValueError):
        pass  # a thread that has ended meanwhile: its children are the others' now
    return found


def belongs_to(pid: int, engine: int, mapped: int) -> bool | None:
    """Tell whether a process was started by an engine.

    A program that the engine has started has its environment. What was forked, and went on as it
    was, has the zygote's instead, but also the engine's shared memory.

    Args:
        pid: The process.
        engine: The engine's process id.
        mapped: Number of the memory file that the engine, and nobody else, had mapped.

    Returns:
        None while that cannot be told: the process is about to become another program, or has just ended;
        or it has no environment at all.
    """
    try:
        environment = _environment(pid)
        if f"{COOKIE}={engine}".encode() in environment.split(b"\0"):
            return True
        with open(f"/proc/{pid}/maps", "rb") as file:
            wanted = str(mapped).encode()
            if any(_is_memory_file(line.split(None, 5), wanted) for line in file):
                return True
        # What has changed meanwhile was asked for its memory too late.
        return False if environment and _environment(pid) == environment else None
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return False  # a program of another user's


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def _is_memory_file(fields: list[bytes], number: bytes) -> bool:
    return len(fields) == 6 and fields[4] == number and fields[5].startswith(b"/memfd:")
