"""ipyparallel as its documentation says to use it: local engines, all defaults."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import runner, workload
from benchmarks.systems.adapter import Unsupported
from benchmarks.systems.views import Views

NOTES = {
    "start": "Cluster(n=2, engines='local').start_and_connect_sync(); messages signed (HMAC), "
    "not encrypted",
    "lifecycle": "its start returns before there are engines",
    "roundtrip": "rc[0].apply_sync; load_balanced_view().apply_sync",
    "tasks": "apply_async one by one, then get of every result; results kept in its hub's memory",
    "journal": "its task database keeps results, and no journal of what is to be done",
    "queued": "not measured: its queue is in a process without a status",
    "losses": "it does not start an engine again by itself",
    "map": "rc[:].map_sync: one chunk per engine (the load-balanced map has chunksize=1 and no "
    "automatic chunks)",
    "execute": "rc[:].execute(block=True)",
    "transfer": "rc[0].push and pull (block=True)",
    "stored": "it has no store: the array was pushed under a name before, and the call is given "
    "Reference(name)",
    "broadcast": "Cluster(n=8); push (block=True) to rc[0] or rc[:], then a statement that reads it",
    "hosts": "controller, a host with two engines and the client are machines of their own; the "
    "connection files are copied; messages signed, not encrypted; all bytes pass through the controller",
}

COLD_SCRIPT = """
import os
import ipyparallel as ipp

cluster = ipp.Cluster(n=2, engines="local")
rc = cluster.start_and_connect_sync()
assert len(set(rc[:].apply_sync(os.getpid))) == 2
ready()
rc.close()
cluster.stop_cluster_sync()
"""


class Ipyparallel(Views):
    """The adapter of ipyparallel."""

    def __init__(self) -> None:
        super().__init__("ipyparallel")

    def start(self, workers: int = 2) -> None:
        self._cluster = self._ipp.Cluster(n=workers, engines="local", log_level=logging.ERROR)
        self._client = self._cluster.start_and_connect_sync()
        self.look()

    def stop(self) -> None:
        self._client.close()
        self._cluster.stop_cluster_sync()

    def map(self, items: list[int]) -> Sequence[int]:
        return list(self._all.map_sync(workload.triple, items))

    def store(self, array: Any) -> None:
        self._first.push({"bench_s": array}, block=True)

    def stored(self) -> float:
        return float(self._first.apply_sync(workload.last, self._ipp.Reference("bench_s")))

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.hosts.ipyparallel_")
        yield from measured.figures(bound, quick)

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("its task database keeps results, and no journal of what is to be done")

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("not measured: its queue is in a process without a status")

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("it does not start an engine again by itself")

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("its start returns before there are engines")


if __name__ == "__main__":
    runner.main(Ipyparallel, NOTES, COLD_SCRIPT)
