"""Threads that move many bytes choose a short slice, and stop for others only if they have it."""

from __future__ import annotations

import os
import platform
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.objects import courtesy
from ipkernel.objects.courtesy import _ATTRIBUTES, SLICE, Scheduling, give_way, shorten

#: size, policy, flags, nice, priority, runtime, deadline, period
USUAL = (48, 0, 0, 0, 0, 2_800_000, 0, 0)


class System:
    """A system as the calling thread sees it."""

    def __init__(self, attributes: tuple[int, ...] = USUAL, *, keeps: bool = True) -> None:
        self.attributes = attributes
        self.keeps = keeps
        self.allowed = True
        self.changes: list[tuple[int, ...]] = []
        self.stops = 0

    def get(self) -> bytes:
        return _ATTRIBUTES.pack(*self.attributes)

    def change(self, data: bytes) -> bool:
        self.changes.append(_ATTRIBUTES.unpack(data))
        if self.allowed and self.keeps:
            self.attributes = self.changes[-1]
        return self.allowed

    def stop(self) -> None:
        self.stops += 1

    @property
    def scheduling(self) -> Scheduling:
        return Scheduling(self.get, self.change, self.stop)


def in_thread(function: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(courtesy, "_system", lambda: made.scheduling)
    return made


def test_a_thread_gets_the_shortest_slice() -> None:
    system = System()
    assert shorten(system.scheduling)
    assert system.changes == [(48, 0, 0, 0, 0, SLICE, 0, 0)]


@given(nice=st.integers(-20, 19), policy=st.sampled_from([0, 3]), flags=st.integers(0, 1))
def test_nothing_else_is_changed(nice: int, policy: int, flags: int) -> None:
    system = System((48, policy, flags, nice, 0, 2_800_000, 0, 0))
    assert shorten(system.scheduling)
    assert system.attributes == (48, policy, 0, nice, 0, SLICE, 0, 0)


@pytest.mark.parametrize("policy", [1, 2, 5, 6])
def test_whoever_has_another_policy_keeps_it(policy: int) -> None:
    system = System((48, policy, 0, 0, 1, 0, 0, 0))
    assert not shorten(system.scheduling)
    assert system.changes == []


def test_a_kernel_that_forgets_the_slice_is_noticed() -> None:
    system = System((48, 0, 0, 0, 0, 0, 0, 0), keeps=False)
    assert not shorten(system.scheduling)
    assert len(system.changes) == 1


def test_a_system_that_refuses_is_left_alone() -> None:
    system = System()
    system.allowed = False
    assert not shorten(system.scheduling)
    assert system.attributes == USUAL


def test_a_system_that_tells_nothing_is_left_alone() -> None:
    system = System()
    assert not shorten(Scheduling(lambda: b"", system.change, system.stop))
    assert system.changes == []


def test_each_thread_chooses_once(system: System) -> None:
    def work() -> list[Any]:
        return [give_way() for _ in range(5)]

    for number in (1, 2):
        stops = in_thread(work)
        assert len(stops) == 5 and len(set(stops)) == 1
        stops[0]()
        assert len(system.changes) == number
        assert system.stops == number


def test_who_would_lose_its_slice_does_not_stop(system: System) -> None:
    system.keeps = False
    assert in_thread(lambda: [give_way(), give_way()]) == [None, None]
    assert len(system.changes) == 1


def test_there_is_nothing_to_do_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courtesy, "_system", lambda: None)
    assert in_thread(give_way) is None


@pytest.mark.parametrize("what", ["platform", "machine", "portable"])
def test_what_is_not_known_is_not_asked(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "platform":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif what == "machine":
        monkeypatch.setattr(platform, "machine", lambda: "vax")
    else:
        monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert courtesy._system.__wrapped__() is None


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in courtesy._CALLS,
    reason="the system is asked on Linux only",
)
def test_the_real_system_is_asked_for_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
    found = courtesy._system.__wrapped__()
    before = found.get()
    mine = _ATTRIBUTES.unpack(before)
    assert mine[1] == os.sched_getscheduler(0)

    def work() -> tuple[bool, bytes]:
        done = shorten(found)
        found.stop()
        return done, found.get()

    done, theirs = in_thread(work)
    assert found.get() == before
    assert (_ATTRIBUTES.unpack(theirs)[5] == SLICE) is done or mine[5] == SLICE
    assert _ATTRIBUTES.unpack(theirs)[3] == mine[3]
