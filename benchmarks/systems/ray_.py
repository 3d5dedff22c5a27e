"""Ray as its documentation says to use it: ``ray.init`` with two CPUs, all other defaults."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import runner, workload
from benchmarks.systems.adapter import Unsupported

NOTES = {
    "start": "ray.init(num_cpus=2), two actors answer; dashboard as by default; usage reports "
    "to the internet switched off; no TLS",
    "lifecycle": "nothing comparable",
    "roundtrip": "ray.get of one task; one engine = a method of one actor",
    "tasks": "remote() one by one, then ray.get of all; one engine = an actor",
    "journal": "nothing is journaled",
    "queued": "not measured: what is queued is in several of its processes",
    "losses": "not measured: its tasks are run again by default, in other processes",
    "map": "ray.util.multiprocessing.Pool(2).map, automatic chunks; the pool is made before",
    "execute": "a method of two actors that runs exec",
    "transfer": "ray.put and an actor's method that reads it; ray.get of an object that an actor "
    "made (shared memory, read-only)",
    "stored": "ray.put, then a method of an actor with the reference",
    "broadcast": "ray.init(num_cpus=8), eight actors; ray.put, then a method of one or of all actors "
    "that reads it (shared memory, read-only)",
    "hosts": "nothing comparable: a driver of Ray runs on a node of its cluster, so there is no "
    "client on a machine of its own, and nodes share files that network namespaces do not part",
}

COLD_SCRIPT = """
import os
import ray

ray.init(num_cpus=2)

@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

workers = [Worker.remote() for _ in range(2)]
assert len(set(ray.get([worker.pid.remote() for worker in workers]))) == 2
ready()
ray.shutdown()
"""


class _Worker:
    """The actor: a process of its own that keeps an array."""

    def noop(self) -> None:
        return None

    def identity(self, value: int) -> int:
        return value

    def execute(self, code: str) -> None:
        exec(code, self.__dict__)

    def last(self, array: Any) -> float:
        return workload.last(array)

    def touch(self, array: Any) -> float:
        return workload.touch(array)

    def ends(self, array: Any) -> float:
        return workload.ends(array)

    def make(self, nbytes: int, seed: int) -> None:
        self.array = workload.make_array(nbytes, seed)

    def give(self) -> Any:
        return self.array


class Ray:
    """The adapter of Ray."""

    def __init__(self) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._noop: Any = None
        self._identity: Any = None
        self._actor_class: Any = None
        self._actors_made: list[Any] = []
        self._pool: Any = None
        self._workers = 0
        self._ref: Any = None

    def start(self, workers: int = 2) -> None:
        ray = self._ray
        self._workers = workers
        ray.init(num_cpus=workers)
        self._noop = ray.remote(workload.noop)
        self._identity = ray.remote(workload.identity)
        self._actor_class = ray.remote(_Worker)
        ray.get([self._noop.remote() for _ in range(2)])

    def stop(self) -> None:
        self._pool = self._ref = None
        self._ray.shutdown()

    def _actors(self) -> list[Any]:
        """The actors, made on first use so that tasks are measured without them."""
        if not self._actors_made:
            self._actors_made = [self._actor_class.remote() for _ in range(self._workers)]
            self._ray.get([actor.noop.remote() for actor in self._actors_made])
        return self._actors_made

    def direct(self) -> object:
        return self._ray.get(self._actors()[0].noop.remote())

    def balanced(self) -> object:
        return self._ray.get(self._noop.remote())

    def burst_direct(self, count: int) -> Sequence[int]:
        call = self._actors()[0].identity.remote
        return list(self._ray.get([call(i) for i in range(count)]))

    def burst_balanced(self, count: int) -> Sequence[int]:
        call = self._identity.remote
        return list(self._ray.get([call(i) for i in range(count)]))

    def map(self, items: list[int]) -> Sequence[int]:
        if self._pool is None:
            pools: Any = importlib.import_module("ray.util.multiprocessing")
            self._pool = pools.Pool(2)
        return list(self._pool.map(workload.triple, items))

    def execute(self) -> None:
        self._ray.get([actor.execute.remote(workload.STATEMENT) for actor in self._actors()])

    def push(self, array: Any) -> None:
        self._ray.get(self._actors()[0].touch.remote(self._ray.put(array)))

    def make(self, nbytes: int, seed: int) -> None:
        self._ray.get(self._actors()[0].make.remote(nbytes, seed))

    def pull(self) -> Any:
        return self._ray.get(self._actors()[0].give.remote())

    def store(self, array: Any) -> None:
        self._ref = self._ray.put(array)

    def stored(self) -> float:
        return float(self._ray.get(self._actors()[0].last.remote(self._ref)))

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        ref = self._ray.put(array)
        actors = self._actors()[:workers]
        reads = [actor.ends if ends else actor.touch for actor in actors]
        self._ray.get([read.remote(ref) for read in reads])

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("nothing comparable")

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("nothing is journaled")

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("not measured: what is queued is in several of its processes")

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("not measured: its tasks are run again by default, in other processes")

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("nothing comparable")


if __name__ == "__main__":
    runner.main(Ray, NOTES, COLD_SCRIPT)
