"""The time that a batch system gives a host."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ipkernel.host.walltime import Walltime


def make(seconds: float, margin: float) -> tuple[Clock, list[str], Walltime]:
    clock = Clock()
    clock.advance(1000.0)
    told: list[str] = []
    made = Walltime(
        clock, seconds, margin, lambda: told.append("near"), lambda: told.append("over")
    )
    return clock, told, made


def test_near_and_over() -> None:
    clock, told, walltime = make(100.0, 30.0)
    assert (walltime.left, walltime.near) == (100.0, False)
    clock.advance(69.0)
    assert told == []
    clock.advance(1.0)
    assert (told, walltime.near, walltime.left) == (["near"], True, 30.0)
    clock.advance(29.0)
    assert told == ["near"]
    clock.advance(1.0)
    assert told == ["near", "over"]
    assert 0.0 < walltime.left < 0.01  # there is an end, and 0 would mean that there is none
    assert not clock.getDelayedCalls()


def test_no_end() -> None:
    clock, told, walltime = make(0.0, 0.0)
    assert walltime.left == 0.0
    assert not clock.getDelayedCalls()
    clock.advance(1e9)
    assert (told, walltime.near) == ([], False)
    walltime.stop()


@pytest.mark.parametrize("passed", [0.0, 75.0, 200.0])
def test_stopping(passed: float) -> None:
    clock, told, walltime = make(100.0, 30.0)
    clock.advance(passed)
    before = list(told)
    walltime.stop()
    walltime.stop()
    clock.advance(500.0)
    assert told == before
    assert not clock.getDelayedCalls()


def test_little_is_left_at_the_start() -> None:
    clock, told, walltime = make(0.5, 30.0)
    clock.advance(0.0)
    assert (told, walltime.near) == (["near"], True)
    clock.advance(0.5)
    assert told == ["near", "over"]
