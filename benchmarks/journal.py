"""What the controller's journal takes: the same work with it and without it, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import metrics, stats, workload
from benchmarks.runner import time_calls, value

_TURNS = 3
_LEVELS = ("process", "off")


def measure(bound: float, quick: bool) -> Iterator[dict[str, object]]:
    """Yield the figures.

    Args:
        bound: Seconds that a figure may take.
        quick: Fewer tasks, one turn.
    """
    rates: dict[str, list[float]] = {level: [] for level in _LEVELS}
    calls: dict[str, list[float]] = {level: [] for level in _LEVELS}
    turns = 1 if quick else _TURNS
    for _ in range(turns):
        for level in _LEVELS:
            rate, call = _once(level, bound / turns, quick)
            rates[level].append(rate)
            calls[level].append(call)
    kept, off = (max(rates[level]) for level in _LEVELS)
    yield value("journal_tasks", kept)
    yield value("journal_tasks_off", off)
    yield value("journal_tasks_share", 100 * kept / off)
    yield value("journal_p50_ms", min(calls["process"]) * 1e3)
    yield value("journal_off_p50_ms", min(calls["off"]) * 1e3)


def _once(level: str, bound: float, quick: bool) -> tuple[float, float]:
    """Return the rate of tasks, per second, and the median of a call, in seconds."""
    from ipkernel import Cluster

    count = metrics.QUICK_JOURNAL_TASKS if quick else metrics.JOURNAL_TASKS
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home) / "cluster_journal"
        cluster = Cluster(2, cluster_dir=directory, controller_args=[f"--journal={level}"])
        with cluster as rc:
            view = rc.load_balanced_view()
            view.map_sync(workload.identity, range(1000))
            before = time.perf_counter()
            results = [view.apply_async(workload.identity, i) for i in range(count)]
            if [result.get() for result in results] != list(range(count)):
                raise AssertionError("wrong results")
            rate = count / (time.perf_counter() - before)
            taken = time_calls(lambda: view.apply_sync(workload.noop), bound / 4)
        return rate, stats.percentile(taken, 50)
