"""What clients of ipkernel do in `ipkernel_`: ``ACTION --cluster-dir DIR``; prints JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time
from typing import Any

import ipkernel as ipp
from benchmarks import proc, workload


def say(**what: Any) -> None:
    """Print a JSON line."""
    print(json.dumps(what), flush=True)


def _push(view: Any, array: Any) -> float:
    before = time.perf_counter()
    view.push({"bench_a": array}, block=True)
    view.execute(workload.TOUCH_STATEMENT, block=True)
    return time.perf_counter() - before


def _clear(view: Any) -> None:
    view.execute("bench_a = None", block=True)


def warm(client: Any, options: argparse.Namespace) -> None:
    """Wait for the engines and let each import what it needs."""
    client.wait_for_engines(options.engines, timeout=30, interactive=False)
    _push(client[:], workload.make_array(1_000_000, 0))
    client[:].pull("bench_a", block=True)
    _clear(client[:])


def push_once(client: Any, options: argparse.Namespace) -> None:
    """One push, and by how much it made this process larger."""
    array = workload.make_array(options.mb * 1_000_000, 1)
    workload.touch(array)
    say(growth=proc.peak_growth(lambda: _push(client[0], array)))


def pair(client: Any, options: argparse.Namespace) -> None:
    """Pushes and pulls: the best rates, as many of each as there is time for, at most three."""
    view, size = client[0], options.mb * 1_000_000
    end = time.perf_counter() + options.seconds
    pushes: list[float] = []
    pulls: list[float] = []
    for seed in range(4):  # the first one warms up and is not counted
        array = workload.make_array(size, seed)
        taken = _push(view, array)
        del array
        before = time.perf_counter()
        array = view.pull("bench_a", block=True)
        workload.touch(array)
        now = time.perf_counter()
        if array.nbytes != size:
            raise AssertionError(f"pull of {size} bytes gave {array.nbytes}")
        del array
        gc.collect()
        if seed:
            pushes.append(options.mb / taken)
            pulls.append(options.mb / (now - before))
        if pushes and now > end:
            break
    _clear(view)
    say(push=max(pushes), pull=max(pulls), times=len(pushes))


def flow(client: Any, options: argparse.Namespace) -> None:
    """Pushes one after the other, until they are enough or time is over.

    If it is not said how much is enough, it is so when the input is closed.
    """
    over = threading.Event()
    if not options.total:
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    array = workload.make_array(options.mb * 1_000_000, 1)
    before = time.perf_counter()
    moved = 0
    while not over.is_set() and not 0 < options.total <= moved:
        client[0].push({"bench_a": array}, block=True)
        moved += options.mb
        if moved == options.mb:
            say(flowing=True)
        if time.perf_counter() - before > options.seconds:
            break
    say(moved=moved, seconds=time.perf_counter() - before)
    _clear(client[0])


def noop(client: Any, options: argparse.Namespace) -> None:
    """Blocking no-op calls, the time of each in seconds."""
    view = client[1]
    for _ in range(20):
        view.apply_sync(workload.noop)
    taken = []
    end = time.perf_counter() + options.seconds
    while (before := time.perf_counter()) < end:
        view.apply_sync(workload.noop)
        taken.append(time.perf_counter() - before)
    say(taken=taken)


def spread(client: Any, options: argparse.Namespace) -> None:
    """An array to some engines: the seconds that it takes, the better of at most two."""
    view = client[list(range(options.engines))]
    taken: list[float] = []
    end = time.perf_counter() + options.seconds
    for seed in range(3):  # the first one warms up and is not counted
        array = workload.make_array(options.mb * 1_000_000, seed)
        taken.append(_push(view, array))
        del array
        _clear(view)
        if len(taken) > 1 and time.perf_counter() > end:
            break
    say(seconds=min(taken[1:]))


ACTIONS = {act.__name__: act for act in (warm, push_once, pair, flow, noop, spread)}


def main() -> None:
    """Run one action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("--cluster-dir", required=True)
    parser.add_argument("--mb", type=int, default=0, help="size of an array")
    parser.add_argument(
        "--total", type=int, default=0, help="MB to move; 0: until the input is closed"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="how long")
    parser.add_argument("--engines", type=int, default=0, help="how many")
    options = parser.parse_args()
    with ipp.Client(cluster_dir=options.cluster_dir) as client:
        client.progress = False
        ACTIONS[options.action](client, options)


if __name__ == "__main__":
    main()
