"""What is measured: every figure's name, unit, sense and the measurement it belongs to."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """One figure of the report.

    Attributes:
        key: its name in the JSON files.
        measure: the measurement (one subprocess run) that yields it.
        title: what the tables call it.
        unit: of the stored number.
        lower_is_better: True for times and sizes, False for rates.
    """

    key: str
    measure: str
    title: str
    unit: str
    lower_is_better: bool


MEASURES: dict[str, str] = {
    "start": "Cold start, size and stop of a cluster of two",
    "roundtrip": "Blocking round trip of a no-op",
    "tasks": "Tasks submitted one by one and gathered",
    "map": "Map of a tiny function over many items",
    "execute": "A statement on all engines, blocking",
    "transfer": "A numpy float64 array to and from one engine",
}
"""The measurements, in the order in which they run: name to title."""

TASK_SIZES = (1_000, 10_000, 100_000)
QUICK_TASK_SIZES = (1_000,)
DIRECT_TASKS = 10_000
QUICK_DIRECT_TASKS = 1_000
MAP_ITEMS = 1_000_000
QUICK_MAP_ITEMS = 100_000
TRANSFER_MB = (1, 10, 100, 400)
QUICK_TRANSFER_MB = (1, 10)

_FIXED = (
    Metric("start_s", "start", "script start to first result of both workers", "s", True),
    Metric("stop_s", "start", "stop: until the call returns", "s", True),
    Metric("gone_s", "start", "stop: until the last process is gone", "s", True),
    Metric("processes", "start", "processes beside the script", "", True),
    Metric("pss_cluster_mb", "start", "memory (PSS) without the script", "MB", True),
    Metric("pss_total_mb", "start", "memory (PSS) with the script", "MB", True),
    Metric("direct_p50_ms", "roundtrip", "one engine, p50", "ms", True),
    Metric("direct_p99_ms", "roundtrip", "one engine, p99", "ms", True),
    Metric("balanced_p50_ms", "roundtrip", "load-balanced, p50", "ms", True),
    Metric("balanced_p99_ms", "roundtrip", "load-balanced, p99", "ms", True),
    Metric("cpu_roundtrip_us", "roundtrip", "CPU of a load-balanced round trip", "us", True),
    *(
        Metric(f"tasks_{n}", "tasks", f"{n:,} tasks, load-balanced", "tasks/s", False)
        for n in TASK_SIZES
    ),
    Metric("tasks_direct", "tasks", "tasks to one engine", "tasks/s", False),
    Metric("cpu_task_us", "tasks", "CPU per load-balanced task, all processes", "us", True),
    Metric("cpu_direct_us", "tasks", "CPU per task to one engine, all processes", "us", True),
    Metric("map_items", "map", "map", "items/s", False),
    Metric("execute_p50_ms", "execute", "execute on both engines, p50", "ms", True),
)

METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        *_FIXED,
        *(
            Metric(f"{way}_{mb}", "transfer", f"{way} {mb} MB", "MB/s", False)
            for way in ("push", "pull")
            for mb in TRANSFER_MB
        ),
    )
}
"""Every figure by its key, in the order in which the tables show them."""


def of_measure(measure: str) -> list[Metric]:
    """Return the figures that one measurement yields, in table order."""
    return [metric for metric in METRICS.values() if metric.measure == measure]
