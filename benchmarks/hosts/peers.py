"""What the measurements of the peers between machines have in common."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import metrics, proc, stats, workload
from benchmarks.hosts.lab import Lab, Peak
from benchmarks.systems.adapter import Unsupported

MACHINES = dict.fromkeys(("ctl", "client", "h1"), ("lan",))
WORKERS = 2
ONLY = "of the peers it is not measured"
NOTE = f"arrays of {metrics.HOSTS_PEER_MB} MB"

Figures = Iterator[dict[str, object]]


class Peer(NamedTuple):
    """What a client of a peer can do.

    Attributes:
        push: Brings an array to the first worker, where it is read.
        pull: Returns the array that was pushed.
        noop: Has the other worker do nothing, and waits for it.
    """

    push: Callable[[Any], None]
    pull: Callable[[], Any]
    noop: Callable[[], object]


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _array(seed: int) -> Any:
    return workload.make_array(metrics.HOSTS_PEER_MB * 1_000_000, seed)


def pair(peer: Peer, bound: float) -> None:
    """Push and pull arrays; the best rates."""
    end = time.perf_counter() + bound
    found: dict[str, list[float]] = {"push": [], "pull": []}
    megabytes = metrics.HOSTS_PEER_MB
    for seed in range(4):  # the first one warms up and is not counted
        array = _array(seed)
        before = time.perf_counter()
        peer.push(array)
        pushed = time.perf_counter()
        workload.touch(back := peer.pull())
        now = time.perf_counter()
        if back.nbytes != array.nbytes:
            raise AssertionError(f"pull of {array.nbytes} bytes gave {back.nbytes}")
        if seed:
            found["push"].append(megabytes / (pushed - before))
            found["pull"].append(megabytes / (now - pushed))
        if found["push"] and now > end:
            break
    _say(**{way: max(rates) for way, rates in found.items()})


def warm(peer: Peer, bound: float) -> None:
    """Push a little, so that everybody imports what he needs."""
    del bound
    peer.push(workload.make_array(1_000_000, 0))


def peak(peer: Peer, bound: float) -> None:
    """One push, and by how much it made this process larger."""
    del bound  # it is one
    array = _array(1)
    workload.touch(array)
    _say(growth=proc.peak_growth(lambda: peer.push(array)))


def flow(peer: Peer, bound: float) -> None:
    """Pushes one after the other, until the input is closed or time is over."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    array = _array(1)
    before = time.perf_counter()
    moved = 0
    while not over.is_set() and time.perf_counter() - before < bound:
        peer.push(array)
        moved += metrics.HOSTS_PEER_MB
        if moved == metrics.HOSTS_PEER_MB:
            _say(flowing=True)
    _say(moved=moved, seconds=time.perf_counter() - before)


def noop(peer: Peer, bound: float) -> None:
    """Blocking no-op calls, the time of each in seconds."""
    for _ in range(20):
        peer.noop()
    taken: list[float] = []
    end = time.perf_counter() + bound
    while (before := time.perf_counter()) < end or not taken:
        peer.noop()
        taken.append(time.perf_counter() - before)
    _say(taken=taken)


ACTIONS = {act.__name__: act for act in (warm, peak, pair, flow, noop)}


def figures_of(
    lab: Lab,
    controller: subprocess.Popen[str],
    workers: Sequence[subprocess.Popen[str]],
    *script: Any,
    bound: float,
) -> Figures:
    """Run a peer's client on its machine and yield the figures.

    Args:
        lab: The machines.
        controller: What every client is connected to; its memory is measured, with its children's.
        workers: What runs on the host; measured in the same way.
        script: The client; an action of `ACTIONS` and the seconds that it may take are appended.
        bound: Seconds that one figure may take.
    """
    limit = 2 * bound + 60
    lab.run("client", *script, "warm", bound, limit=limit)
    with Peak(lambda: sum(_memory(worker.pid) for worker in workers)) as receiver:
        (sender,) = lab.run("client", *script, "peak", bound, limit=limit)
    yield {"metric": "hosts_peak_sender", "value": sender["growth"], "note": NOTE}
    beyond = receiver.growth - metrics.HOSTS_PEER_MB
    yield {"metric": "hosts_peak_receiver", "value": beyond, "note": NOTE}
    (rates,) = lab.run("client", *script, "pair", bound, limit=limit)
    for way in ("push", "pull"):
        yield {"metric": f"hosts_{way}_peer", "value": rates[way]}
    with Peak(lambda: _memory(controller.pid)) as growth:
        flowing = lab.start("client", *script, "flow", 2 * bound)
        assert flowing.stdout is not None
        flowing.stdout.readline()
        (calls,) = lab.run("client", *script, "noop", bound / 2, limit=limit)
        (moved,) = lab.finish(flowing, limit)  # closes its input, which ends it
    text = f"{NOTE}, {moved['moved']:,} MB in all"
    yield {"metric": "hosts_controller_direct", "value": growth.growth, "note": text}
    rate = moved["moved"] / moved["seconds"]
    text = f"{len(calls['taken']):,} calls beside pushes of {NOTE} at {rate:,.0f} MB/s"
    for percent in (50, 99):
        number = stats.percentile(calls["taken"], percent) * 1e3
        yield {"metric": f"hosts_noop_p{percent}_ms", "value": number, "note": text}
    raise Unsupported(ONLY)


def _memory(pid: int) -> float:
    return sum(proc.pss_mb(one) for one in (pid, *proc.living(pid)))
