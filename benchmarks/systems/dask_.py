"""dask.distributed as its documentation says to use it: a local cluster, all defaults."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import runner, workload
from benchmarks.systems.adapter import Unsupported

NOTES = {
    "start": "Client(n_workers=2, threads_per_worker=1); its scheduler runs inside the script, "
    "so 'without the script' counts workers only; no TLS",
    "lifecycle": "it has no command that starts and stops a cluster",
    "roundtrip": "submit(pure=False).result(); one engine = submit(workers=[first])",
    "tasks": "submit(pure=False) one by one, then gather",
    "journal": "nothing is journaled",
    "queued": "not measured: its client and scheduler keep what is queued in other forms",
    "losses": "not measured: its nanny starts a worker again, and the same task up to three times more",
    "map": "Client.map over eight chunks made by hand, as its best practices advise (its own map "
    "makes one task per item; dask.bag, which makes chunks, was two to six times slower)",
    "execute": "Client.run of a function that runs exec",
    "transfer": "scatter(workers=[first], hash=False) and Future.result()",
    "stored": "submit(workers=[first], pure=False) with a future scattered before",
    "broadcast": "Client(n_workers=8, threads_per_worker=1); scatter(broadcast=True, hash=False), "
    "then a task on each worker that reads it",
    "hosts": "TLS (tls://) with certificates made for the run; scheduler, a host with two workers and "
    "the client are machines of their own; scatter and Future.result() as by default, through the scheduler",
}

COLD_SCRIPT = """
import os
from distributed import Client

if __name__ == "__main__":
    client = Client(n_workers=2, threads_per_worker=1)
    assert len(set(client.run(os.getpid).values())) == 2
    ready()
    client.shutdown()
"""


def _run_statement(code: str) -> None:
    exec(code, {})


class Dask:
    """The adapter of dask.distributed."""

    def __init__(self) -> None:
        self._distributed: Any = importlib.import_module("distributed")
        self._client: Any = None
        self._first: list[str] = []
        self._array: Any = None
        self._stored: Any = None
        self._workers: list[str] = []

    def start(self, workers: int = 2) -> None:
        self._client = self._distributed.Client(n_workers=workers, threads_per_worker=1)
        self._workers = sorted(self._client.run(workload.noop))
        self._first = self._workers[:1]

    def stop(self) -> None:
        self._array = self._stored = None
        self._client.shutdown()

    def direct(self) -> object:
        return self._client.submit(workload.noop, pure=False, workers=self._first).result()

    def balanced(self) -> object:
        return self._client.submit(workload.noop, pure=False).result()

    def burst_direct(self, count: int) -> Sequence[int]:
        submit, first = self._client.submit, self._first
        return list(
            self._client.gather(
                [submit(workload.identity, i, pure=False, workers=first) for i in range(count)]
            )
        )

    def burst_balanced(self, count: int) -> Sequence[int]:
        submit = self._client.submit
        return list(
            self._client.gather([submit(workload.identity, i, pure=False) for i in range(count)])
        )

    def map(self, items: list[int]) -> Sequence[int]:
        size = max(1, len(items) // 8)
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        futures = self._client.map(workload.triple_chunk, chunks, pure=False)
        return [value for chunk in self._client.gather(futures) for value in chunk]

    def execute(self) -> None:
        self._client.run(_run_statement, workload.STATEMENT)

    def push(self, array: Any) -> None:
        there = self._client.scatter(array, workers=self._first, hash=False)
        self._client.submit(workload.touch, there, pure=False, workers=self._first).result()

    def make(self, nbytes: int, seed: int) -> None:
        self._array = self._client.submit(
            workload.make_array, nbytes, seed, pure=False, workers=self._first
        )
        self._distributed.wait(self._array)

    def pull(self) -> Any:
        return self._array.result()

    def store(self, array: Any) -> None:
        self._stored = self._client.scatter(array, workers=self._first, hash=False)

    def stored(self) -> float:
        return float(
            self._client.submit(
                workload.last, self._stored, pure=False, workers=self._first
            ).result()
        )

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        readers = self._workers[:workers]
        there = self._client.scatter(array, workers=readers, broadcast=workers > 1, hash=False)
        read = workload.ends if ends else workload.touch
        self._client.gather(
            [self._client.submit(read, there, pure=False, workers=[worker]) for worker in readers]
        )

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.hosts.dask_")
        yield from measured.figures(bound, quick)

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("nothing is journaled")

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported(
            "not measured: its client and scheduler keep what is queued in other forms"
        )

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported(
            "not measured: its nanny starts a worker again, and the same task up to three times more"
        )

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("it has no command that starts and stops a cluster")


if __name__ == "__main__":
    runner.main(Dask, NOTES, COLD_SCRIPT)
