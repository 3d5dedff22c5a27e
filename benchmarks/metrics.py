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
    "lifecycle": "Starts, looks and stops from the command line",
    "roundtrip": "Blocking round trip of a no-op",
    "tasks": "Tasks submitted one by one and gathered",
    "journal": "What writing everything down costs",
    "queued": "A long queue of no-ops for one busy engine",
    "losses": "A task kills its worker",
    "map": "Map of a tiny function over many items",
    "execute": "A statement on all engines, blocking",
    "transfer": "A numpy float64 array to and from one engine",
    "stored": "A call with an array that is there already",
    "broadcast": "An array to one engine and to eight engines of this machine",
    "hosts": "Between machines: network namespaces joined by a switch",
}
"""The measurements, in the order in which they run: name to title."""

LIFECYCLE_ENGINES = (2, 64)
LIFECYCLE_CYCLES = 100
QUICK_LIFECYCLE_CYCLES = 3
TASK_SIZES = (1_000, 10_000, 100_000)
QUICK_TASK_SIZES = (1_000,)
DIRECT_TASKS = 10_000
QUICK_DIRECT_TASKS = 1_000
JOURNAL_TASKS = 20_000
QUICK_JOURNAL_TASKS = 1_000
QUEUED_TASKS = 1_000_000
QUICK_QUEUED_TASKS = 10_000
QUEUED_FEW = 1_000
RESTART_TASKS = 100_000
LOSSES_ROUNDS = 300
QUICK_LOSSES_ROUNDS = 3
MAP_ITEMS = 1_000_000
QUICK_MAP_ITEMS = 100_000
TRANSFER_MB = (1, 10, 100, 1000)
QUICK_TRANSFER_MB = (1, 10)
STORED_MB = 100
BROADCAST_MB = 250
HERE_MB = 1000
QUICK_BROADCAST_MB = 20
BROADCAST_WORKERS = 8
HOSTS_MB = 1000
QUICK_HOSTS_MB = 100
HOSTS_PEER_MB = 100
HOSTS_FLOW_MB = 10_000
QUICK_HOSTS_FLOW_MB = 1_000

_FIXED = (
    Metric("start_s", "start", "script start to first result of both workers", "s", True),
    Metric("stop_s", "start", "stop: until the call returns", "s", True),
    Metric("gone_s", "start", "stop: until the last process is gone", "s", True),
    Metric("processes", "start", "processes beside the script", "", True),
    Metric("pss_cluster_mb", "start", "memory (PSS) without the script", "MB", True),
    Metric("pss_total_mb", "start", "memory (PSS) with the script", "MB", True),
    *(
        Metric(f"lifecycle_{what}_{n}", "lifecycle", f"{what}, {n} engines", "s", True)
        for what in ("start", "stop")
        for n in LIFECYCLE_ENGINES
    ),
    Metric("lifecycle_status", "lifecycle", "status", "s", True),
    Metric("lifecycle_cycle", "lifecycle", "start and stop again, 2 engines", "s", True),
    Metric(
        "lifecycle_left",
        "lifecycle",
        f"processes and files that {LIFECYCLE_CYCLES} of these leave",
        "",
        True,
    ),
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
    Metric("journal_tasks", "journal", "tasks one by one, with it", "tasks/s", False),
    Metric("journal_tasks_off", "journal", "tasks one by one, without it", "tasks/s", False),
    Metric("journal_tasks_share", "journal", "with it, of what it is without", "%", False),
    Metric("journal_p50_ms", "journal", "load-balanced round trip with it, p50", "ms", True),
    Metric("journal_off_p50_ms", "journal", "load-balanced round trip without it, p50", "ms", True),
    Metric("queued_submit", "queued", "submitted", "1/s", False),
    Metric("queued_controller_mb", "queued", "controller's memory beside what it was", "MB", True),
    Metric("queued_client_mb", "queued", "client's memory beside what it was", "MB", True),
    Metric("queued_rate", "queued", "worked off", "1/s", False),
    Metric("queued_ratio", "queued", "as times of a thousand at once", "x", False),
    Metric(
        "queued_restart_s", "queued", "controller killed, until a task has ended again", "s", True
    ),
    Metric("losses_error_p50_ms", "losses", "until the script has the error, p50", "ms", True),
    Metric("losses_error_max_ms", "losses", "until the script has the error, longest", "ms", True),
    Metric("losses_again_p50_ms", "losses", "until it was run again, p50", "ms", True),
    Metric("losses_again_max_ms", "losses", "until it was run again, longest", "ms", True),
    Metric("map_items", "map", "map", "items/s", False),
    Metric("execute_p50_ms", "execute", "execute on both engines, p50", "ms", True),
)

_WAYS = {"direct": "directly", "relay": "through the relay"}

_HOSTS = (
    Metric("hosts_raw_tls", "hosts", "a bare TLS stream", "MB/s", False),
    Metric("hosts_push_peer", "hosts", f"push {HOSTS_PEER_MB} MB", "MB/s", False),
    Metric("hosts_pull_peer", "hosts", f"pull {HOSTS_PEER_MB} MB", "MB/s", False),
    *(
        metric
        for way, how in _WAYS.items()
        for what in ("push", "pull")
        for metric in (
            Metric(f"hosts_{what}_{way}", "hosts", f"{what} {HOSTS_MB} MB {how}", "MB/s", False),
            Metric(
                f"hosts_{what}_{way}_share",
                "hosts",
                f"{what} {how}, of a bare TLS stream",
                "%",
                False,
            ),
        )
    ),
    Metric("hosts_peak_sender", "hosts", "sender's peak memory beyond the object", "MB", True),
    Metric("hosts_peak_receiver", "hosts", "receiver's peak memory beyond the object", "MB", True),
    *(
        Metric(
            f"hosts_controller_{way}",
            "hosts",
            f"controller's growth, {HOSTS_FLOW_MB:,} MB {how}",
            "MB",
            True,
        )
        for way, how in _WAYS.items()
    ),
    Metric("hosts_noop_p50_ms", "hosts", "no-op call while a transfer runs, p50", "ms", True),
    Metric("hosts_noop_p99_ms", "hosts", "no-op call while a transfer runs, p99", "ms", True),
    Metric("hosts_spread_1", "hosts", f"{HOSTS_MB} MB to 2 engines of 1 host", "s", True),
    Metric("hosts_spread_4", "hosts", f"{HOSTS_MB} MB to 8 engines of 4 hosts", "s", True),
    Metric("hosts_spread_ratio", "hosts", "4 hosts as times of 1 host", "x", True),
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
        Metric("stored_p50_ms", "stored", f"one engine, {STORED_MB} MB, p50", "ms", True),
        Metric("broadcast_1", "broadcast", f"{BROADCAST_MB} MB to one engine", "s", True),
        Metric(
            f"broadcast_{BROADCAST_WORKERS}",
            "broadcast",
            f"{BROADCAST_MB} MB to {BROADCAST_WORKERS} engines",
            "s",
            True,
        ),
        Metric("broadcast_ratio", "broadcast", "eight engines as times of one", "x", True),
        Metric("here_1", "broadcast", f"{HERE_MB} MB to one engine, two numbers read", "s", True),
        Metric(
            f"here_{BROADCAST_WORKERS}",
            "broadcast",
            f"{HERE_MB} MB to {BROADCAST_WORKERS} engines, two numbers read",
            "s",
            True,
        ),
        Metric("here_ratio", "broadcast", "the same as times of one", "x", True),
        *_HOSTS,
    )
}
"""Every figure by its key, in the order in which the tables show them."""


def of_measure(measure: str) -> list[Metric]:
    """Return the figures that one measurement yields, in table order."""
    return [metric for metric in METRICS.values() if metric.measure == measure]
