"""What processes use of their machine."""

from __future__ import annotations

import os
from typing import Any

from attrs import frozen

__all__ = ["Gauge", "Reading", "private_memory"]


@frozen
class Reading:
    """What a process uses.

    Attributes:
        cpu: Percent of one core, since the last reading.
        memory: Bytes in memory, shared ones included.
        files: Open files and sockets; -1 where the system does not tell.
        started: When it was started, seconds since the epoch.
    """

    cpu: float = 0.0
    memory: int = 0
    files: int = -1
    started: float = 0.0


class Gauge:
    """Measures one process, again and again; that takes a tenth of a millisecond.

    Args:
        pid: Its process id; by default this process.
    """

    def __init__(self, pid: int | None = None) -> None:
        import psutil

        self.pid = pid if pid is not None else os.getpid()
        self._gone = psutil.Error
        self._process: Any = None
        try:
            self._process = psutil.Process(self.pid)
            self._process.cpu_percent()  # the next one is of the time since this one
        except psutil.Error:
            self._process = None

    def read(self) -> Reading | None:
        """Return what the process uses now; None if it has ended, or is somebody else's."""
        process = self._process
        if process is None:
            return None
        try:
            with process.oneshot():
                return Reading(
                    float(process.cpu_percent()),
                    int(process.memory_info().rss),
                    self._files(process),
                    float(process.create_time()),
                )
        except self._gone:
            return None

    def _files(self, process: Any) -> int:
        try:
            return int(process.num_fds() if os.name == "posix" else process.num_handles())
        except self._gone:
            return -1


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
