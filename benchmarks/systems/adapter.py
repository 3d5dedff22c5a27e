"""What every system must be able to do, or say that it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Unsupported(Exception):
    """The system has no such thing; the text says what is missing."""


class System(Protocol):
    """One system under measurement, with two workers of one thread each.

    A method that blocks returns when the result is back in the script. A method that a system
    has no means for raises `Unsupported`.
    """

    def start(self) -> None:
        """Start the workers and return when both have answered."""

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
