"""What a long queue costs: memory of controller and client, the rate, and a restart of the controller."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import metrics, proc, workload
from benchmarks.runner import value


def measure(client: Any, view: Any, bound: float, quick: bool) -> Iterator[dict[str, object]]:
    """Yield the figures of tasks that are submitted while the only engine is busy.

    Args:
        client: Of a cluster with one engine.
        view: Its load-balanced view.
        bound: Seconds that nothing may take ten times longer than.
        quick: A short queue.
    """
    count = metrics.QUICK_QUEUED_TASKS if quick else metrics.QUEUED_TASKS
    client.wait([view.apply_async(workload.noop) for _ in range(metrics.QUEUED_FEW)])
    waiting = metrics.QUICK_QUEUED_TASKS if quick else metrics.RESTART_TASKS
    yield value("queued_restart_s", _restart(client, view, waiting, bound))
    controller = client.status().pid
    short = _rate(client, view, metrics.QUEUED_FEW)
    before = proc.pss_mb(controller), proc.pss_mb(os.getpid())
    with tempfile.TemporaryDirectory(prefix="b-") as directory:
        gate = Path(directory, "gate")
        busy = view.apply_async(workload.wait_for, str(gate))
        began = time.perf_counter()
        for _ in range(count):
            view.apply_async(workload.noop)
        _until(lambda: _waiting(client) >= count, bound)
        yield value("queued_submit", count / (time.perf_counter() - began))
        yield value("queued_controller_mb", proc.pss_mb(controller) - before[0])
        yield value("queued_client_mb", proc.pss_mb(os.getpid()) - before[1])
        began = time.perf_counter()
        gate.touch()
        busy.get()
    _until(lambda: not _waiting(client), bound)
    rate = count / (time.perf_counter() - began)
    yield value("queued_rate", rate)
    yield value("queued_ratio", rate / short)


def _rate(client: Any, view: Any, count: int) -> float:
    began = time.perf_counter()
    client.wait([view.apply_async(workload.noop) for _ in range(count)])
    return count / (time.perf_counter() - began)


def _restart(client: Any, view: Any, count: int, bound: float) -> float:
    """Kill the controller while tasks wait; return the seconds until the first of them has ended."""
    with tempfile.TemporaryDirectory(prefix="b-") as directory:
        gate = Path(directory, "gate")
        view.apply_async(workload.wait_for, str(gate))
        first = view.apply_async(workload.noop)
        rest = [view.apply_async(workload.noop) for _ in range(count - 1)]
        _until(lambda: _waiting(client) > count, bound)
        controller = client.status().pid
        began = time.perf_counter()
        os.kill(controller, signal.SIGKILL)
        gate.touch()
        first.get()
        seconds = time.perf_counter() - began
    client.wait(rest)
    return seconds


def _waiting(client: Any) -> int:
    queue = client.status().queue
    return int(queue.waiting + queue.ready + queue.assigned + queue.running)


def _until(condition: Callable[[], bool], bound: float) -> None:
    end = time.perf_counter() + 10 * bound
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"a long queue was not dealt with in {10 * bound:g} s")
        time.sleep(0.05)
