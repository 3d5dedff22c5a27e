"""What processes use of their machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

__all__ = ["Gauge", "Reading", "private_memory", "process_lives", "same_process_lives"]


#: Seconds by which two readings of a process's start time may differ.
_SAME_START: Final = 2.0


@frozen
class Reading:
    """What a process uses.

    Attributes:
        cpu: Percent of one core since the last reading, at first since its start.
        memory: Bytes in memory, shared ones included.
        files: Open files and sockets; -1 where the system does not tell.
    """

    cpu: float = 0.0
    memory: int = 0
    files: int = -1


class Gauge:
    """Measures one process, again and again; that takes a tenth of a millisecond.

    Args:
        pid: Its process id.
        started: When it was started, by the clock of ``now``. The system's own notion of that is
            wrong by as much as the clock was set since.
        now: Returns the time in seconds.
    """

    def __init__(self, pid: int, started: float, now: Callable[[], float] = time.time) -> None:
        import psutil

        self.pid = pid
        self._gone = psutil.Error
        self._now = now
        self._since = started
        self._spent = 0.0
        self._process: Any = None
        with suppress(psutil.Error):
            self._process = psutil.Process(self.pid)

    def read(self) -> Reading | None:
        """Return what the process uses now; None if it has ended, or is somebody else's."""
        process = self._process
        if process is None:
            return None
        try:
            with process.oneshot():
                times = process.cpu_times()
                memory = int(process.memory_info().rss)
            files = self._files(process)
        except self._gone:
            return None
        return Reading(self._percent(times.user + times.system), memory, files)

    def _percent(self, spent: float) -> float:
        now = self._now()
        seconds, cpu = now - self._since, spent - self._spent
        self._since, self._spent = now, spent
        return 100.0 * max(0.0, cpu) / seconds if seconds > 0.0 else 0.0

    def _files(self, process: Any) -> int:
        try:
            return int(process.num_fds() if os.name == "posix" else process.num_handles())
        except self._gone:
            return -1


def process_lives(pid: int) -> bool:
    """Tell whether there is a process of this machine that has not ended."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is somebody else's
        return True


def same_process_lives(pid: int, started: float) -> bool:
    """Tell whether a process of this machine has not ended, and is not a later one of its number.

    Args:
        pid: Process id.
        started: Seconds since the epoch, as :meth:`psutil.Process.create_time` gave them.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(abs(process.create_time() - started) < _SAME_START)
    except psutil.Error:
        return False


def private_memory(pid: int) -> int:
    """Return the bytes in memory that a process does not share, 0 if that cannot be told.

    On Linux pages that belong to files or to shared memory are not counted, such as large objects
    in the store of a host. Elsewhere all that is in memory is.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        pass
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
