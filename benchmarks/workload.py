"""The work that every system is given: the same functions, importable in every environment."""

from __future__ import annotations

from typing import Any

STATEMENT = "bench_x = 1"
"""The statement that ``execute`` runs on all engines."""

TOUCH_STATEMENT = "bench_touched = float(bench_a[::512].sum())"
"""Reads one number of each 4 KiB page of ``bench_a`` on an engine."""

ENDS_STATEMENT = "bench_touched = float(bench_a[0] + bench_a[-1])"
"""Reads the first and the last number of ``bench_a`` on an engine."""


def noop() -> None:
    """Do nothing: what remains is the cost of the system."""


def wait_for(path: str) -> None:
    """Return when there is a file."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


def die_at_first(path: str) -> None:
    """Write the time to a file and kill the worker; return if there is the file already."""
    import os
    import signal
    import time

    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(repr(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)


def identity(value: int) -> int:
    """Return ``value``; the argument makes every task of a burst distinct."""
    return value


def triple(value: int) -> int:
    """Return three times ``value``: the tiny function that is mapped."""
    return 3 * value


def triple_chunk(values: list[int]) -> list[int]:
    """Return `triple` of each of ``values``: for a system whose users make chunks themselves."""
    return [triple(value) for value in values]


def touch(array: Any) -> float:
    """Read one number of each 4 KiB page of a float64 ``array`` and return their sum.

    Systems that map memory lazily must pay for the pages as those do that have copied them.
    """
    return float(array[::512].sum())


def ends(array: Any) -> float:
    """Return the sum of the first and the last number of a float64 ``array``."""
    return float(array[0] + array[-1])


def last(array: Any) -> float:
    """Return the last number of a float64 ``array``: a call that has the array, but reads one page."""
    return float(array[-1])


def make_array(nbytes: int, seed: int) -> Any:
    """Return a float64 numpy array of ``nbytes`` bytes of random numbers made from ``seed``.

    Random and new for each repetition, so neither compression nor a cache can help anyone.
    """
    import numpy

    return numpy.random.default_rng(seed).random(nbytes // 8)


def make_statement(nbytes: int, seed: int) -> str:
    """Return the statement that makes the array of `make_array` on an engine as ``bench_a``."""
    return (
        "import numpy as bench_numpy\n"
        f"bench_a = bench_numpy.random.default_rng({seed}).random({nbytes // 8})"
    )
