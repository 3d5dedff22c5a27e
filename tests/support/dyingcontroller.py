"""A controller that kills itself at chosen points of its work, as a cluster starts and restarts it.

``DEATHS`` in its environment names a plan, one entry for each life: ``point:count`` dies when the
point is reached for the count-th time. The lives are counted in the file that ``LIVES`` names; after
the last entry of the plan the controller lives on. The points:

=============  ===================================================================================
decided        the scheduler has decided, nothing is written
committed      the journal has it, nobody was told
half           about half of what was decided has been sent
released       all has been sent
loading        so many records of the journal have been read after a start, or all of them
=============  ===================================================================================

A point ``later:0.25`` stands for a quarter of a second after the start; in the first life, after
:func:`begin`, for a controller that dies before it is ready ends the start of its cluster.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ipkernel.launchers.local import LocalControllerLauncher

DEATHS = "IPKERNEL_TEST_DEATHS"
LIVES = "IPKERNEL_TEST_LIVES"


class DyingControllerLauncher(LocalControllerLauncher):
    """Starts it as :class:`LocalControllerLauncher` starts a controller."""

    module = "tests.support.dyingcontroller"


def plan_for(directory: Path, deaths: list[str]) -> dict[str, str]:
    """Return the environment for a cluster whose controller dies like this."""
    return {DEATHS: ",".join(deaths), LIVES: str(directory / "lives")}


def lives(directory: Path) -> int:
    """Return how often the controller of a plan has begun."""
    try:
        return len((directory / "lives").read_bytes())
    except FileNotFoundError:
        return 0


def begin(directory: Path) -> None:
    """Say that the cluster of a plan has started."""
    (directory / "begun-to-die").touch()


def _begin() -> tuple[str, float]:
    """Count this life; return where and when it is to end."""
    with open(os.environ[LIVES], "ab", buffering=0) as file:
        file.write(b".")
        life = file.tell()
    plan = os.environ[DEATHS].split(",")
    if life > len(plan):
        return "", 0
    point, _, count = plan[life - 1].partition(":")
    return point, float(count)


def die() -> None:
    """End as ``kill -9`` ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def _after(method: Callable[..., Any], count: float, before: bool) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls >= count:
            die()
        answer = method(*args, **keywords)
        if not before and calls >= count:
            die()
        return answer

    return counted


def _dies_in_half(method: Callable[..., Any], count: float) -> Callable[..., Any]:
    calls = 0

    def counted(self: Any, instructions: list[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls < count:
            method(self, instructions)
            return
        method(self, instructions[: (len(instructions) + 1) // 2])
        die()

    return counted


def _dies_while_loading(method: Callable[..., Iterator[Any]], count: float) -> Callable[..., Any]:
    def load(*args: Any) -> Iterator[Any]:
        for number, record in enumerate(method(*args), 1):
            if number >= count:
                break
            yield record
        die()

    return load


def _die_later(seconds: float) -> None:
    begun = Path(os.environ[LIVES]).with_name("begun-to-die")
    while not begun.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    die()


def prepare(point: str, count: float) -> None:
    """Make this process die there."""
    from ipkernel.controller.service import Controller
    from ipkernel.controller.sqlitejournal import SqliteJournal
    from ipkernel.controller.turn import Turn

    if point == "decided":
        Turn._write = _after(Turn._write, count, before=True)  # type: ignore[method-assign]
    elif point == "committed":
        Turn._release = _after(Turn._release, count, before=True)  # type: ignore[method-assign]
    elif point == "half":
        Controller._follow = _dies_in_half(Controller._follow, count)  # type: ignore[method-assign]
    elif point == "released":
        Turn._release = _after(Turn._release, count, before=False)  # type: ignore[method-assign]
    elif point == "loading":
        SqliteJournal.load = _dies_while_loading(SqliteJournal.load, count)  # type: ignore[method-assign]
    elif point == "later":
        threading.Thread(target=_die_later, args=(count,), daemon=True).start()
    elif point:
        raise ValueError(f"there is no point {point!r}")


if __name__ == "__main__":
    from ipkernel.cli.ipcontroller import main

    prepare(*_begin())
    sys.exit(main())
