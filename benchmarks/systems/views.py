"""What is measured in the same words with ipkernel and with ipyparallel: clients with views."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks import workload


class Views:
    """An adapter with a client, views of all engines and of the first, and a load-balanced one.

    Args:
        module: What is imported.
    """

    def __init__(self, module: str) -> None:
        self._ipp: Any = importlib.import_module(module)
        self._cluster: Any = None
        self._client: Any = None
        self._all: Any = None
        self._first: Any = None
        self._balanced: Any = None

    def look(self) -> None:
        """Make the views, and use all engines once."""
        self._all, self._first = self._client[:], self._client[0]
        self._balanced = self._client.load_balanced_view()
        self._all.apply_sync(workload.noop)

    def direct(self) -> object:
        return self._first.apply_sync(workload.noop)

    def balanced(self) -> object:
        return self._balanced.apply_sync(workload.noop)

    def burst_direct(self, count: int) -> Sequence[int]:
        results = [self._first.apply_async(workload.identity, i) for i in range(count)]
        return [result.get() for result in results]

    def burst_balanced(self, count: int) -> Sequence[int]:
        results = [self._balanced.apply_async(workload.identity, i) for i in range(count)]
        return [result.get() for result in results]

    def execute(self) -> None:
        self._all.execute(workload.STATEMENT, block=True)

    def push(self, array: Any) -> None:
        self._first.push({"bench_a": array}, block=True)
        self._first.execute(workload.TOUCH_STATEMENT, block=True)

    def make(self, nbytes: int, seed: int) -> None:
        self._first.execute(workload.make_statement(nbytes, seed), block=True)

    def pull(self) -> Any:
        return self._first.pull("bench_a", block=True)

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        view = self._first if workers == 1 else self._all
        view.push({"bench_a": array}, block=True)
        statement = workload.ENDS_STATEMENT if ends else workload.TOUCH_STATEMENT
        view.execute(statement, block=True)
