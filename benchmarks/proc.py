"""Process trees, CPU time and memory as Linux's /proc tells them. Only the standard library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CLEAR_PEAK = "5"
"""What makes the kernel forget the peak of a process's memory (see proc(5), clear_refs)."""
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Stat(NamedTuple):
    """The part of ``/proc/<pid>/stat`` that is used here.

    Attributes:
        ppid: process id of the parent.
        state: one letter; ``Z`` is a process that has ended and is not yet reaped.
        own_s: CPU seconds of the process itself, user and system.
        children_s: CPU seconds of its children that have ended and been waited for.
    """

    ppid: int
    state: str
    own_s: float
    children_s: float


def parse_stat(text: str, ticks: int = TICKS) -> Stat:
    """Parse the text of a ``stat`` file; a name with blanks and brackets in it does no harm."""
    fields = text[text.rindex(")") + 2 :].split()
    user, system, child_user, child_system = (int(field) for field in fields[11:15])
    return Stat(
        ppid=int(fields[1]),
        state=fields[0],
        own_s=(user + system) / ticks,
        children_s=(child_user + child_system) / ticks,
    )


def parse_pss_kb(text: str) -> int:
    """Return the proportional set size in KiB from the text of a ``smaps_rollup`` file."""
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) if match else 0


def snapshot(proc: Path = PROC) -> dict[int, Stat]:
    """Return the `Stat` of every process that can be read, by process id."""
    found = {}
    for entry in os.listdir(proc):
        if entry.isdigit():
            try:
                found[int(entry)] = parse_stat((proc / entry / "stat").read_text())
            except (OSError, ValueError):
                continue  # it has ended meanwhile
    return found


def descendants(root: int, stats: dict[int, Stat]) -> list[int]:
    """Return the process ids below ``root`` (not itself), parents before their children."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.ppid, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = sorted(children.get(queue.pop(0), []))
        found.extend(below)
        queue.extend(below)
    return found


def living(root: int) -> list[int]:
    """Return the descendants of ``root`` that have not ended."""
    stats = snapshot()
    return [pid for pid in descendants(root, stats) if stats[pid].state != "Z"]


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds of all that ever ran below ``root``, without ``root`` itself.

    ``root`` must be a subreaper, so that what has ended is in somebody's children's time.
    """
    stats = snapshot()
    total = stats[root].children_s if root in stats else 0.0
    return total + sum(stats[pid].own_s + stats[pid].children_s for pid in descendants(root, stats))


def pss_mb(pid: int) -> float:
    """Return the proportional set size of a process in MB (10**6 bytes), 0 if it is gone."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    return parse_pss_kb(text) * 1024 / 1e6


def apart_mb(pid: int) -> float:
    """Return the memory of a process in MB (10**6 bytes) without what it shares on purpose.

    That is its proportional set size less shared memory; 0 if it is gone.
    """
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    sizes = re.findall(r"^Pss_(?:Anon|File):\s+(\d+) kB", text, re.MULTILINE)
    return sum(map(int, sizes)) * 1024 / 1e6


def nameless_mb(pid: int) -> float:
    """Return the size (MB of 10**6 bytes) of the nameless files in memory that a process has open."""
    blocks: dict[int, int] = {}
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0.0
    for descriptor in descriptors:
        try:
            if os.readlink(descriptor).startswith("/memfd:"):
                found = descriptor.stat()
                blocks[found.st_ino] = found.st_blocks
        except OSError:  # closed meanwhile
            continue
    return sum(blocks.values()) * 512 / 1e6


def available_mb(meminfo: Path = PROC / "meminfo") -> float:
    """Return the memory (MB of 10**6 bytes) that can be had without swapping."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024 / 1e6 if match else 0.0


def status_mb(pid: int | str, field: str) -> float:
    """Return a size in MB (10**6 bytes) of ``/proc/<pid>/status``, such as VmRSS; 0 if it is gone."""
    try:
        text = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0.0
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) * 1024 / 1e6 if match else 0.0


def peak_growth(act: Callable[[], object]) -> float:
    """Return how much larger (MB) this process was at most while ``act`` ran than before it."""
    (PROC / "self" / "clear_refs").write_text(CLEAR_PEAK)
    before = status_mb("self", "VmRSS")
    act()
    return status_mb("self", "VmHWM") - before


def command_line(pid: int) -> str:
    """Return the command line (or the title it gave itself) of a process, '' if it is gone."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
