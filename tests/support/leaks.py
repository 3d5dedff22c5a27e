"""What a test can leave behind, and how to see it: processes, threads, descriptors, files."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

COOKIE = "IPKERNEL_TEST_COOKIE"
GRACE = 2.0
"""Seconds that something which is closing may take."""

KNOWN_THREADS = (
    "test-reactor",  # tests/support/reactor.py
    "ipkernel-reactor",  # the same of a client: one for the life of a process
    "PoolThread-twisted.internet.reactor",  # name resolution and deferToThread of that reactor
    "asyncio_",  # the default executor of an event loop
    "pytest_timeout",
    "Thread-resource-sharer",
    "tqdm_monitor",  # lives as long as the process, by tqdm's design
)


class Snapshot(NamedTuple):
    """What this process owned at one moment."""

    children: frozenset[psutil.Process]
    threads: frozenset[threading.Thread]
    descriptors: dict[int, str]
    files: frozenset[str]
    marked: frozenset[int]


def take(*, machine: bool) -> Snapshot:
    """Look at everything; ``machine`` looks for processes with the session's cookie as well."""
    return Snapshot(
        children(), threads(), descriptors(), files(), marked() if machine else frozenset()
    )


def children() -> frozenset[psutil.Process]:
    """Return the direct child processes, those already dead but not yet waited for included."""
    return frozenset(
        child for child in psutil.Process().children() if not _is_resource_tracker(child)
    )


def _is_resource_tracker(process: psutil.Process) -> bool:
    """Tell whether this is the standard library's own helper, which lives as long as we do."""
    try:
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def threads() -> frozenset[threading.Thread]:
    """Return the running threads that a test must have ended."""
    return frozenset(t for t in threading.enumerate() if not t.name.startswith(KNOWN_THREADS))


def descriptors() -> dict[int, str]:
    """Return open descriptors of this process and what they are (empty without ``/proc``)."""
    found: dict[int, str] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor with which the directory was read
            continue
    return found


def files() -> frozenset[str]:
    """Return what stands in the temporary directory itself; ``tmp_path`` lies elsewhere."""
    return frozenset(os.listdir(tempfile.gettempdir()))


def marked() -> frozenset[int]:
    """Return the processes of this machine, other than this one, that carry the session's cookie."""
    wanted = os.environ[COOKIE]
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(COOKIE) == wanted:
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return frozenset(found)


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Describe, a line each, what is there now and was not there before."""
    lines = [f"child process {_describe(p.pid)}" for p in after.children - before.children]
    lines += [f"thread {t.name!r}" for t in after.threads - before.threads]
    lines += [
        f"descriptor {number} ({what})"
        for number, what in after.descriptors.items()
        if before.descriptors.get(number) != what
    ]
    lines += [f"file {Path(tempfile.gettempdir(), f)}" for f in after.files - before.files]
    lines += [f"process {_describe(pid)}" for pid in after.marked - before.marked]
    return lines


def wait_until_clean(before: Snapshot, *, machine: bool, grace: float = GRACE) -> list[str]:
    """Poll until nothing new is left, at most ``grace`` seconds; return what is left then."""
    deadline = time.monotonic() + grace
    while True:
        left = difference(before, take(machine=machine))
        if not left:
            return left
        if time.monotonic() > deadline:
            gc.collect()  # what lies in a cycle goes with the next collection: it is no leak
            return difference(before, take(machine=machine))
        time.sleep(0.02)


def end_leftovers(before: Snapshot) -> None:
    """Kill leaked processes, so that one leaking test does not fail all that follow."""
    pids = {p.pid for p in children() - before.children} | (marked() - before.marked)
    for pid in pids:
        try:
            psutil.Process(pid).kill()
        except psutil.Error:
            continue


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(pid)
