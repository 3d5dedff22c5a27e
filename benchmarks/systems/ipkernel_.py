"""ipkernel as its documentation says to use it: TLS and journal on, nothing tuned."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import runner, workload
from benchmarks.systems.views import Views

NOTES = {
    "start": "Cluster(n=2) as a context manager; TLS, controller, host daemon, zygote, 2 engines",
    "lifecycle": "ipcluster start --daemonize, status and stop, each a process of its own",
    "roundtrip": "rc[0].apply_sync; load_balanced_view().apply_sync",
    "tasks": "apply_async one by one, then get of every result; journal on",
    "journal": "as for tasks and for round trips, in turns with ipcontroller --journal off; best of three",
    "queued": "Cluster(n=1); apply_async of a no-op, results dropped, while a call keeps the engine; "
    "journal on; then they are run. PSS of the controller and of the script",
    "losses": "a load-balanced task writes down the time and sends SIGKILL to itself, when both engines "
    "are there; again = retries=1, which the other engine runs",
    "map": "load_balanced_view().map_sync, automatic chunks",
    "execute": "rc[:].execute(block=True)",
    "transfer": "rc[0].push and pull (block=True)",
    "stored": "rc.put, then rc[0].apply_sync with the reference",
    "broadcast": "Cluster(n=8); push (block=True) to rc[0] or rc[:], then a statement that reads it",
    "hosts": "TLS everywhere; a controller, a client and four hosts with two engines each are machines "
    "of their own; push and pull read each page; for the relay, the client and the host have no "
    "switch in common. The bare stream is a pair of blocking pyOpenSSL sockets between the same two "
    "machines, best of three; pushes and pulls are the best of three, too. Peaks are of the first "
    "transfer, into an empty store: the client's resident memory, and the host's store and what "
    "its processes have beside it (PSS). The no-op is called by another client, on the other engine "
    "of the host",
}

COLD_SCRIPT = """
import os
import ipkernel as ipp

cluster = ipp.Cluster(n=2)
rc = cluster.__enter__()
assert len(set(rc[:].apply_sync(os.getpid))) == 2
ready()
cluster.__exit__(None, None, None)
"""


class Ipkernel(Views):
    """The adapter of ipkernel."""

    def __init__(self) -> None:
        super().__init__("ipkernel")
        self._ref: Any = None

    def start(self, workers: int = 2) -> None:
        self._cluster = self._ipp.Cluster(n=workers)
        self._client = self._cluster.__enter__()
        self.look()

    def stop(self) -> None:
        self._ref = None
        self._cluster.__exit__(None, None, None)

    def map(self, items: list[int]) -> Sequence[int]:
        return list(self._balanced.map_sync(workload.triple, items))

    def store(self, array: Any) -> None:
        self._ref = self._client.put(array)

    def stored(self) -> float:
        return float(self._first.apply_sync(workload.last, self._ref))

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.hosts.ipkernel_")
        yield from measured.figures(bound, quick)

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.journal")
        yield from measured.measure(bound, quick)

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.queued")
        yield from measured.measure(self._client, self._balanced, bound, quick)

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.losses")
        yield from measured.measure(self._client, bound, quick)

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        measured: Any = importlib.import_module("benchmarks.lifecycle")
        yield from measured.measure(bound, quick)


if __name__ == "__main__":
    runner.main(Ipkernel, NOTES, COLD_SCRIPT)
