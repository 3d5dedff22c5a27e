"""Measures one system: what the adapter modules run as a subprocess in their environment.

Usage: ``python -m benchmarks.systems.<name>_ COMMAND``, where COMMAND is a measurement of
`metrics.MEASURES` but ``start`` (prints one JSON line per figure), ``notes`` or ``cold-script``
(print what the driver needs of the module).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks import metrics, proc, stats, workload
from benchmarks.systems.adapter import System, Unsupported

COLD_PRELUDE = """
import json as _json, sys as _sys, time as _time

def _say(**what):
    print(_json.dumps(what), flush=True)

def ready():
    _say(ready=_time.monotonic())
    _sys.stdin.readline()
    _say(stopping=_time.monotonic())
"""
COLD_END = """
if __name__ == "__main__":
    _say(stopped=_time.monotonic())
"""
WARM_UP_CALLS = 50
WARM_UP_TASKS = 200
MAX_CALLS = 1000
WARM_UP_TRANSFERS = 4
"""Transfers of a size that are not counted: stores reuse memory, and several pieces of it in turn."""
SPARE_MB = 1500
"""Memory that must be left on the machine; a measurement that leaves less is ended."""
ROOM = 6
"""A transfer begins only if so many times its size of memory is available, beside what is spared:
slow systems have that many copies on their way."""

Figures = Iterator[dict[str, object]]
"""What a measurement yields: ``{"metric": key, "value": number}``, perhaps with a ``note`` on
what differs from the other systems, or ``{"metric": key, "skipped": why}``."""


def value(key: str, number: float, note: str = "") -> dict[str, object]:
    """Return one figure as a JSON object."""
    figure: dict[str, object] = {"metric": key, "value": number}
    return {**figure, "note": note} if note else figure


def skipped(keys: Sequence[str], why: str) -> Figures:
    """Yield that each of ``keys`` was not measured, and why."""
    for key in keys:
        yield {"metric": key, "skipped": why}


def time_calls(call: Callable[[], object], bound: float, most: int = MAX_CALLS) -> list[float]:
    """Call up to ``most`` times, but start no call after ``bound`` seconds; return seconds each."""
    taken: list[float] = []
    end = time.perf_counter() + bound
    while len(taken) < most:
        before = time.perf_counter()
        if taken and before >= end:
            break
        call()
        taken.append(time.perf_counter() - before)
    return taken


def _warm_calls(call: Callable[[], object], bound: float) -> None:
    time_calls(call, bound / 5, WARM_UP_CALLS)


def measure_roundtrip(system: System, bound: float, quick: bool) -> Figures:
    """Blocking no-op calls: load-balanced first, then to one engine."""
    most = 100 if quick else MAX_CALLS
    root = os.getppid()
    for name, call in (("balanced", system.balanced), ("direct", system.direct)):
        keys = [f"{name}_p50_ms", f"{name}_p99_ms"]
        try:
            _warm_calls(call, bound)
        except Unsupported as missing:
            yield from skipped(keys, str(missing))
            continue
        cpu = proc.cpu_seconds(root)
        taken = time_calls(call, bound, most)
        cpu = proc.cpu_seconds(root) - cpu
        yield value(keys[0], stats.percentile(taken, 50) * 1e3)
        yield value(keys[1], stats.percentile(taken, 99) * 1e3)
        if name == "balanced":
            yield value("cpu_roundtrip_us", cpu / len(taken) * 1e6)


def _burst(burst: Callable[[int], Sequence[int]], count: int) -> tuple[float, float]:
    """Return the rate (tasks/s) and the CPU (seconds per task) of one checked burst."""
    root = os.getppid()
    cpu = proc.cpu_seconds(root)
    before = time.perf_counter()
    results = burst(count)
    seconds = time.perf_counter() - before
    cpu = proc.cpu_seconds(root) - cpu
    if list(results) != list(range(count)):
        raise AssertionError(f"wrong results of {count} tasks")
    return count / seconds, cpu / count


def measure_tasks(system: System, bound: float, quick: bool) -> Figures:
    """Bursts of growing size; a size that would take longer than the bound is not run."""
    system.burst_balanced(WARM_UP_TASKS)
    rate = cpu = 0.0
    done = 0
    for count in metrics.QUICK_TASK_SIZES if quick else metrics.TASK_SIZES:
        key = f"tasks_{count}"
        if rate and count / rate > bound:
            why = f"would take {count / rate:.0f} s, more than the bound of {bound:g} s"
            yield from skipped([key], why)
            continue
        rate, cpu = _burst(system.burst_balanced, count)
        yield value(key, rate)
        done = count
    yield value("cpu_task_us", cpu * 1e6, f"over {done:,} tasks")
    yield from _measure_direct(system, bound, quick)


def _measure_direct(system: System, bound: float, quick: bool) -> Figures:
    """A burst to one engine: the large one if the small one shows that it stays in the bound."""
    try:
        system.burst_direct(WARM_UP_TASKS)
        count = metrics.QUICK_DIRECT_TASKS
        rate, cpu = _burst(system.burst_direct, count)
    except Unsupported as missing:
        yield from skipped(["tasks_direct", "cpu_direct_us"], str(missing))
        return
    if not quick and metrics.DIRECT_TASKS / rate <= bound:
        count = metrics.DIRECT_TASKS
        rate, cpu = _burst(system.burst_direct, count)
    yield value("tasks_direct", rate, f"over {count:,} tasks")
    yield value("cpu_direct_us", cpu * 1e6, f"over {count:,} tasks")


def measure_map(system: System, bound: float, quick: bool) -> Figures:
    """Maps of growing size as far as the bound allows; the rate is that of the largest."""
    system.map(list(range(1000)))
    rate = 0.0
    done = 0
    for count in (metrics.QUICK_MAP_ITEMS, metrics.MAP_ITEMS):
        if rate and (quick or count / rate > bound):
            break
        rate, done = _map_rate(system, count), count
    note = "" if quick or done == metrics.MAP_ITEMS else f"over {done:,} items, by the bound"
    yield value("map_items", rate, note)


def _map_rate(system: System, count: int) -> float:
    """Return the rate (items/s) of one checked map over ``count`` items."""
    items = list(range(count))
    before = time.perf_counter()
    results = system.map(items)
    seconds = time.perf_counter() - before
    if list(results) != list(range(0, 3 * count, 3)):
        raise AssertionError("wrong results of map")
    return count / seconds


def measure_execute(system: System, bound: float, quick: bool) -> Figures:
    """A statement on all engines, blocking."""
    try:
        _warm_calls(system.execute, bound)
    except Unsupported as missing:
        yield from skipped(["execute_p50_ms"], str(missing))
        return
    taken = time_calls(system.execute, bound, 50 if quick else MAX_CALLS)
    yield value("execute_p50_ms", stats.percentile(taken, 50) * 1e3)


def room_for(megabytes: float) -> None:
    """Check that there is memory for moving an array.

    Raises:
        Unsupported: there is too little.
    """
    available = proc.available_mb()
    if available < ROOM * megabytes + SPARE_MB:
        raise Unsupported(
            f"only {available:,.0f} MB of memory are available, not {ROOM} times the array"
        )


def _is_warm(transfers: int, seconds: float, bound: float) -> bool:
    """Tell whether a transfer counts, after so many others that took so many seconds.

    A slow system has fewer to warm up, but one.
    """
    return transfers >= WARM_UP_TRANSFERS or (transfers > 0 and seconds > bound / 2)


def _transfer_times(
    system: System, way: str, nbytes: int, bound: float, quick: bool
) -> list[float]:
    """Return the seconds of some transfers; making the arrays is outside the time."""
    wanted = 2 if quick else max(2, min(10, 200_000_000 // nbytes))
    begin = time.perf_counter()
    moving = 0.0
    taken: list[float] = []
    for seed in range(wanted + WARM_UP_TRANSFERS):
        room_for(nbytes / 1e6)
        if way == "push":
            array = workload.make_array(nbytes, seed)
            before = time.perf_counter()
            system.push(array)
        else:
            system.make(nbytes, seed)
            before = time.perf_counter()
            array = system.pull()
            workload.touch(array)
        now = time.perf_counter()
        if array.nbytes != nbytes // 8 * 8:
            raise AssertionError(f"{way} of {nbytes} bytes gave {array.nbytes}")
        if _is_warm(seed, moving, bound):
            taken.append(now - before)
        moving += now - before
        if taken and now - begin > bound:
            break
        del array
    return taken


def measure_transfer(system: System, bound: float, quick: bool) -> Figures:
    """Arrays of growing size to an engine and back."""
    sizes = metrics.QUICK_TRANSFER_MB if quick else metrics.TRANSFER_MB
    for way in ("push", "pull"):
        rate = 0.0
        for megabytes in sizes:
            key = f"{way}_{megabytes}"
            if rate and 2 * megabytes / rate > bound:
                why = f"two would take {2 * megabytes / rate:.0f} s, more than the bound of {bound:g} s"
                yield from skipped([key], why)
                continue
            try:
                taken = _transfer_times(system, way, megabytes * 1_000_000, bound / 2, quick)
            except Unsupported as missing:
                yield from skipped([key], str(missing))
            else:
                rate = megabytes / stats.median(taken)
                yield value(key, rate)


def measure_stored(system: System, bound: float, quick: bool) -> Figures:
    """Blocking calls with an array that is there already."""
    array = workload.make_array(metrics.STORED_MB * 1_000_000, 1)
    try:
        system.store(array)
        if system.stored() != workload.last(array):
            raise AssertionError("a wrong array was stored")
        _warm_calls(system.stored, bound)
    except Unsupported as missing:
        yield from skipped(["stored_p50_ms"], str(missing))
        return
    taken = time_calls(system.stored, bound, 50 if quick else MAX_CALLS)
    yield value("stored_p50_ms", stats.percentile(taken, 50) * 1e3)


def _broadcast_time(
    system: System, megabytes: int, workers: int, ends: bool, bound: float
) -> float:
    """Return the seconds (the median of up to three) of bringing an array to some workers."""
    room_for(megabytes * (1 + workers) / ROOM)
    system.broadcast(
        workload.make_array(1_000_000, 0), workers, ends
    )  # starts what there is to start
    taken: list[float] = []
    moving = 0.0
    for seed in range(3 + WARM_UP_TRANSFERS):
        room_for(megabytes * (1 + workers) / ROOM)
        array = workload.make_array(megabytes * 1_000_000, seed)
        before = time.perf_counter()
        system.broadcast(array, workers, ends)
        now = time.perf_counter()
        if _is_warm(seed, moving, bound):
            taken.append(now - before)
        moving += now - before
        if moving > bound:
            if not taken:
                raise Unsupported(f"the first one took {now - before:.0f} s, more than the bound")
            break
    return stats.median(taken)


def measure_broadcast(system: System, bound: float, quick: bool) -> Figures:
    """An array to one worker, then to all: read as a whole, and at its ends only."""
    for name, full, ends in (
        ("broadcast", metrics.BROADCAST_MB, False),
        ("here", metrics.HERE_MB, True),
    ):
        megabytes = metrics.QUICK_BROADCAST_MB if quick else full
        many = metrics.BROADCAST_WORKERS
        found: dict[int, float] = {}
        for workers in (1, many):
            key = f"{name}_{workers}"
            try:
                found[workers] = _broadcast_time(system, megabytes, workers, ends, bound)
            except Unsupported as missing:
                yield from skipped([key], str(missing))
            else:
                yield value(key, found[workers], f"{megabytes} MB" if quick else "")
        if len(found) == 2:
            yield value(f"{name}_ratio", found[many] / found[1])
        else:
            yield from skipped([f"{name}_ratio"], "one of the two is missing")


def measure_hosts(system: System, bound: float, quick: bool) -> Figures:
    """What the system's own script measures between machines; it says itself what it lacks."""
    return _own(system.hosts, "hosts", bound, quick)


def measure_lifecycle(system: System, bound: float, quick: bool) -> Figures:
    """What the system's own commands take to start, look and stop."""
    return _own(system.lifecycle, "lifecycle", bound, quick)


def measure_journal(system: System, bound: float, quick: bool) -> Figures:
    """What the system's journal takes of its rate and of a call."""
    return _own(system.journal, "journal", bound, quick)


def measure_queued(system: System, bound: float, quick: bool) -> Figures:
    """What a long queue costs the system's processes, as far as it can be seen."""
    return _own(system.queued, "queued", bound, quick)


def measure_losses(system: System, bound: float, quick: bool) -> Figures:
    """What the loss of a worker takes, where its task can tell of it."""
    return _own(system.losses, "losses", bound, quick)


def _own(
    measured: Callable[[float, bool], Figures], name: str, bound: float, quick: bool
) -> Figures:
    """Yield what a system measures itself, and what of the measurement it lacks."""
    found: set[str] = set()
    why = "it has no such thing"
    try:
        for figure in measured(bound, quick):
            found.add(str(figure["metric"]))
            yield figure
    except Unsupported as missing:
        why = str(missing)
    keys = [metric.key for metric in metrics.of_measure(name) if metric.key not in found]
    yield from skipped(keys, why)


MEASUREMENTS: dict[str, Callable[[System, float, bool], Figures]] = {
    "lifecycle": measure_lifecycle,
    "roundtrip": measure_roundtrip,
    "tasks": measure_tasks,
    "journal": measure_journal,
    "queued": measure_queued,
    "losses": measure_losses,
    "map": measure_map,
    "execute": measure_execute,
    "transfer": measure_transfer,
    "stored": measure_stored,
    "broadcast": measure_broadcast,
    "hosts": measure_hosts,
}
WORKERS = {
    "broadcast": metrics.BROADCAST_WORKERS,
    "hosts": 0,
    "journal": 0,
    "lifecycle": 0,
    "queued": 1,
}
"""How many workers a measurement needs, if not two; those with 0 start theirs."""


def _watch_memory() -> None:
    """End the whole run, by way of the nest, before the machine's memory is exhausted."""
    while proc.available_mb() > SPARE_MB:
        time.sleep(0.2)
    if "nest.py" in proc.command_line(os.getppid()):
        os.kill(os.getppid(), signal.SIGUSR1)
    else:
        os._exit(1)  # run by hand: there is nobody else who was to be told


def cold_script(body: str) -> str:
    """Return the whole text of the script that the driver times from outside."""
    return COLD_PRELUDE + body + COLD_END


def run(system: System, measure: str, bound: float, quick: bool) -> None:
    """Start the system, print the figures of one measurement as they come, and stop it."""
    workers = WORKERS.get(measure, 2)
    if workers:
        system.start(workers)
    try:
        for figure in MEASUREMENTS[measure](system, bound, quick):
            print(json.dumps(figure), flush=True)
    finally:
        if workers:
            system.stop()


def main(
    make: Callable[[], System],
    notes: Mapping[str, str],
    cold: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of an adapter module.

    Args:
        make: makes the adapter.
        notes: by measurement, what is done and what differs from the other systems.
        cold: the body of the cold script; it calls ``ready()`` once.
        arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=[*MEASUREMENTS, "notes", "cold-script"])
    parser.add_argument("--bound", type=float, default=30.0, help="seconds per figure")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.command == "notes":
        json.dump(dict(notes), sys.stdout)
    elif options.command == "cold-script":
        sys.stdout.write(cold_script(cold))
    else:
        threading.Thread(target=_watch_memory, daemon=True).start()
        run(make(), options.command, options.bound, options.quick)
