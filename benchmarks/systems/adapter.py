"""What every system must be able to do, or say that it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Unsupported(Exception):
    """The system has no such thing; the text says what is missing."""


class System(Protocol):
    """One system under measurement, with workers of one thread each.

    A method that blocks returns when the result is back in the script. A method that a system
    has no means for raises `Unsupported`.
    """

    def start(self, workers: int = 2) -> None:
        """Start so many workers and return when they can be used."""

    def stop(self) -> None:
        """Stop everything that `start` started."""

    def direct(self) -> object:
        """Run `workload.noop` on the first worker, blocking."""

    def balanced(self) -> object:
        """Run `workload.noop` on whichever worker the system chooses, blocking."""

    def burst_direct(self, count: int) -> Sequence[int]:
        """Submit ``count`` calls of `workload.identity` one by one to one worker and gather."""

    def burst_balanced(self, count: int) -> Sequence[int]:
        """Submit ``count`` calls of `workload.identity` one by one to any worker and gather."""

    def map(self, items: list[int]) -> Sequence[int]:
        """Map `workload.triple` over ``items``, chunks chosen by the system if it can."""

    def execute(self) -> None:
        """Run `workload.STATEMENT` on both workers, blocking."""

    def push(self, array: Any) -> None:
        """Bring ``array`` to the first worker and read it there (`workload.touch`)."""

    def make(self, nbytes: int, seed: int) -> None:
        """Make the array of `workload.make_array` on the first worker; not timed."""

    def pull(self) -> Any:
        """Return the array that `make` made."""

    def store(self, array: Any) -> None:
        """Bring ``array`` to where `stored` uses it; not timed."""

    def stored(self) -> float:
        """Run `workload.last` on the first worker with what `store` stored, blocking."""

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        """Bring ``array`` to the first worker or all of them, and read it there.

        All pages (`workload.touch`), or with ``ends`` two numbers (`workload.ends`).
        """

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        """Yield the figures of several machines (see `runner.Figures`); `start` is not called."""

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        """Yield the figures of its journal (see `runner.Figures`); `start` is not called."""

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        """Yield the figures of a long queue (see `runner.Figures`) for its one worker."""

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        """Yield the figures of tasks that kill their worker (see `runner.Figures`)."""

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        """Yield the figures of its commands (see `runner.Figures`); `start` is not called."""
