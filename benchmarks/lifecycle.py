"""Starts, looks and stops from the command line, and what many of them leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import metrics, stats
from benchmarks.runner import value

_COMMAND = [sys.executable, "-m", "ipkernel.cli.ipcluster"]


class _Commands:
    """``ipcluster`` with a home of its own, timed.

    Args:
        home: For ``IPYTHONDIR``.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = {**os.environ, "IPYTHONDIR": str(home)}

    def run(self, *arguments: str) -> float:
        """Run a command, which must succeed; return the seconds that it took."""
        before = time.perf_counter()
        subprocess.run(
            [*_COMMAND, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - before

    def end(self) -> None:
        """End what runs, after a figure that failed; there is nothing to end otherwise."""
        subprocess.run(
            [*_COMMAND, "stop", "--all"], env=self._environment, capture_output=True, check=False
        )

    def left(self) -> int:
        """Return how many processes, pid files and state files there are, without the journal's."""
        from ipkernel.cluster.processes import marked

        directory = self.home / "cluster_default"
        files = [path for kind in ("pid", "state") for path in (directory / kind).iterdir()]
        left = [path for path in files if not path.name.startswith("journal.")]
        return len(marked(directory)) + len(left)


def measure(bound: float, quick: bool) -> Iterator[dict[str, object]]:
    """Yield the figures.

    Args:
        bound: Seconds that the cycles may take.
        quick: Few of everything.
    """
    with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as directory:
        commands = _Commands(Path(directory))
        try:
            yield from _figures(commands, bound, quick)
        finally:
            commands.end()


def _figures(commands: _Commands, bound: float, quick: bool) -> Iterator[dict[str, object]]:
    taken: dict[str, list[float]] = {}

    def note(key: str, *arguments: str) -> None:
        taken.setdefault(key, []).append(commands.run(*arguments))

    commands.run("start", "-n", "2", "--daemonize")  # warms the page cache
    commands.run("stop")
    for _ in range(1 if quick else 3):
        for count in metrics.LIFECYCLE_ENGINES:
            note(f"lifecycle_start_{count}", "start", "-n", str(count), "--daemonize")
            note("lifecycle_status", "status")
            note(f"lifecycle_stop_{count}", "stop")
    for key, times in taken.items():
        yield value(key, stats.median(times))
    cycles = metrics.QUICK_LIFECYCLE_CYCLES if quick else metrics.LIFECYCLE_CYCLES
    began = time.perf_counter()
    done = 0
    while done < cycles and (not done or time.perf_counter() - began < 5 * bound):
        commands.run("start", "-n", "2", "--daemonize")
        commands.run("stop")
        done += 1
    note_of = f"{done} cycles" if done < metrics.LIFECYCLE_CYCLES else ""
    yield value("lifecycle_cycle", (time.perf_counter() - began) / done, note_of)
    yield value("lifecycle_left", commands.left(), note_of)
