"""The standard library's process pool: no network, no TLS, no other hosts; the lower bound."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import runner, workload
from benchmarks.systems.adapter import Unsupported

NOTES = {
    "start": "ProcessPoolExecutor(2), pairs of 5 ms tasks until both workers have answered; "
    "pipes only: no network, no TLS, no controller",
    "lifecycle": "it has no commands",
    "roundtrip": "submit().result(); it cannot address one worker",
    "tasks": "submit one by one, then result of every future; nothing is journaled",
    "journal": "nothing is journaled",
    "queued": "it has no controller",
    "losses": "a worker that is lost breaks its pool",
    "map": "Executor.map with chunksize = items / 8 (it has no automatic chunks; this is what "
    "multiprocessing.Pool would choose for two workers)",
    "execute": "not possible: workers keep no namespace that can be addressed",
    "transfer": "push = argument of a task; workers keep no data, so nothing can be pulled",
    "stored": "not possible: workers keep no data",
    "broadcast": "not possible: it cannot address all workers",
    "hosts": "not possible: it has no network",
}

COLD_SCRIPT = """
import os
import time
from concurrent.futures import ProcessPoolExecutor

def pid():
    time.sleep(0.005)
    return os.getpid()

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2)
    seen = set()
    while len(seen) < 2:
        seen.update([future.result() for future in [pool.submit(pid), pool.submit(pid)]])
    ready()
    pool.shutdown()
"""


def _slow_pid() -> int:
    time.sleep(0.005)
    return os.getpid()


class Futures:
    """The adapter of concurrent.futures."""

    def __init__(self) -> None:
        self._pool: Any = None

    def start(self, workers: int = 2) -> None:
        self._pool = ProcessPoolExecutor(workers)
        seen: set[int] = set()
        while len(seen) < workers:
            pair = [self._pool.submit(_slow_pid) for _ in range(workers)]
            seen.update(future.result() for future in pair)

    def stop(self) -> None:
        self._pool.shutdown()

    def direct(self) -> object:
        raise Unsupported("cannot address one worker")

    def balanced(self) -> object:
        return self._pool.submit(workload.noop).result()

    def burst_direct(self, count: int) -> Sequence[int]:
        raise Unsupported("cannot address one worker")

    def burst_balanced(self, count: int) -> Sequence[int]:
        futures = [self._pool.submit(workload.identity, i) for i in range(count)]
        return [future.result() for future in futures]

    def map(self, items: list[int]) -> Sequence[int]:
        chunk = max(1, len(items) // 8)
        return list(self._pool.map(workload.triple, items, chunksize=chunk))

    def execute(self) -> None:
        raise Unsupported("workers keep no namespace")

    def push(self, array: Any) -> None:
        self._pool.submit(workload.touch, array).result()

    def make(self, nbytes: int, seed: int) -> None:
        raise Unsupported("workers keep no data, so nothing can be pulled from one")

    def pull(self) -> Any:
        raise Unsupported("workers keep no data, so nothing can be pulled from one")

    def store(self, array: Any) -> None:
        raise Unsupported("workers keep no data")

    def stored(self) -> float:
        raise Unsupported("workers keep no data")

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        raise Unsupported("cannot address a worker, nor all of them")

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("it works on one machine only")

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("nothing is journaled")

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("it has no controller")

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("a worker that is lost breaks its pool")

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("it has no commands")


if __name__ == "__main__":
    runner.main(Futures, NOTES, COLD_SCRIPT)
