"""What the measurements of the peers between machines have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import metrics, workload
from benchmarks.hosts.lab import Lab
from benchmarks.systems.adapter import Unsupported

MACHINES = dict.fromkeys(("ctl", "client", "h1"), ("lan",))
KEYS = ("hosts_push_peer", "hosts_pull_peer")
ONLY = "only pushes and pulls of one size are measured of the peers"

Figures = Iterator[dict[str, object]]


def measure(push: Callable[[Any], None], pull: Callable[[], Any], bound: float) -> None:
    """Push and pull arrays and print the best rates; for the client of a peer.

    Args:
        push: Brings an array to the worker, where it is read.
        pull: Returns the array that was pushed.
        bound: Seconds after which nothing more is begun.
    """
    end = time.perf_counter() + bound
    found: dict[str, list[float]] = {"push": [], "pull": []}
    megabytes = metrics.HOSTS_PEER_MB
    for seed in range(4):  # the first one warms up and is not counted
        array = workload.make_array(megabytes * 1_000_000, seed)
        before = time.perf_counter()
        push(array)
        pushed = time.perf_counter()
        workload.touch(back := pull())
        now = time.perf_counter()
        if back.nbytes != array.nbytes:
            raise AssertionError(f"pull of {array.nbytes} bytes gave {back.nbytes}")
        if seed:
            found["push"].append(megabytes / (pushed - before))
            found["pull"].append(megabytes / (now - pushed))
        if found["push"] and now > end:
            break
    print(json.dumps({way: max(rates) for way, rates in found.items()}), flush=True)


def figures_of(lab: Lab, *script: Any, bound: float) -> Figures:
    """Run a peer's client on its machine and yield the figures that it printed."""
    reports = lab.run("client", *script, limit=2 * bound + 60)
    for key in KEYS:
        yield {"metric": key, "value": reports[-1][key.split("_")[1]]}
    raise Unsupported(ONLY)
