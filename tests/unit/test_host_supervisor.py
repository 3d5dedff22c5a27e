"""The life of engine slots, event by event."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipkernel.host.processes import Exit
from ipkernel.host.supervisor import (
    BACK_OFF,
    MAX_QUICK_DEATHS,
    QUICK,
    End,
    Gone,
    Joined,
    Left,
    Phase,
    Start,
    Supervisor,
    Wait,
)

KILLED = Exit(None, 9)


def ready(now: float = 0.0) -> Supervisor:
    supervisor = Supervisor()
    assert supervisor.add("a", now) == [Start("a")]
    supervisor.spawned("a", 100)
    assert supervisor.hello("a") == [Joined("a")]
    return supervisor


def test_a_slot_starts_and_joins() -> None:
    supervisor = ready()
    slot = supervisor.slots["a"]
    assert (slot.phase, slot.pid, slot.restarts) == (Phase.READY, 100, 0)


def test_a_slot_whose_process_was_begun_needs_no_start() -> None:
    supervisor = Supervisor()
    assert supervisor.add("a", 0.0, begun=True) == []
    assert supervisor.hello("a") == [Joined("a")]


def test_hello_counts_once() -> None:
    assert ready().hello("a") == []


def test_the_same_slot_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        ready().add("a", 0.0)


def test_an_engine_that_dies_at_work_is_restarted_at_once() -> None:
    supervisor = ready()
    left, start = supervisor.exited("a", KILLED, 0.5, worked=True)
    assert left == Left("a", "killed by SIGKILL (9)", True, KILLED, 0.5)
    assert start == Start("a")
    assert supervisor.slots["a"].restarts == 1


def test_an_engine_that_dies_late_is_restarted_at_once() -> None:
    supervisor = ready()
    _, start = supervisor.exited("a", KILLED, QUICK)
    assert start == Start("a")


def test_quick_deaths_back_off_and_then_give_up() -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    waits = []
    for _ in range(MAX_QUICK_DEATHS):
        left, wait = supervisor.exited("a", Exit(1, None), 0.0)
        assert isinstance(left, Left) and left.restarting
        assert isinstance(wait, Wait)
        waits.append(wait.seconds)
        assert supervisor.waited("a", 0.0) == [Start("a")]
    assert waits == [BACK_OFF * 2**k for k in range(MAX_QUICK_DEATHS)]
    [left] = supervisor.exited("a", Exit(1, None), 0.0)
    assert isinstance(left, Left) and not left.restarting
    assert "exited with code 1" in left.reason
    assert supervisor.slots["a"].phase is Phase.DEAD


def test_work_resets_the_count() -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    for _ in range(MAX_QUICK_DEATHS):
        supervisor.exited("a", KILLED, 0.0)
        supervisor.waited("a", 0.0)
    assert supervisor.exited("a", KILLED, 0.0, worked=True)[1] == Start("a")
    assert supervisor.slots["a"].quick_deaths == 0


def test_what_cannot_be_started_says_why() -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    left, _ = supervisor.exited("a", None, 0.0, text="could not be forked: no memory")
    assert left == Left("a", "could not be forked: no memory", True, None, 0.0)


def test_the_end_of_a_ready_engine() -> None:
    supervisor = ready()
    assert supervisor.end("a", "not needed", 1.0) == [End("a")]
    assert supervisor.end("a", "not needed", 1.0) == []
    assert supervisor.exited("a", Exit(0, None), 2.0) == [
        Left("a", "not needed", False, Exit(0, None), 2.0),
        Gone("a"),
    ]
    assert not supervisor.slots


def test_restart_on_request() -> None:
    supervisor = ready()
    assert supervisor.end("a", "asked for", 1.0, again=True) == [End("a")]
    left, start = supervisor.exited("a", KILLED, 1.0)
    assert left == Left("a", "asked for", True, KILLED, 1.0)
    assert start == Start("a")
    assert supervisor.hello("a") == [Joined("a")]


def test_a_stop_wins_over_a_restart() -> None:
    supervisor = ready()
    supervisor.end("a", "asked for", 1.0, again=True)
    supervisor.end("a", "no, stop", 1.0)
    supervisor.end("a", "and a restart too late", 1.0, again=True)
    assert supervisor.exited("a", KILLED, 1.0)[-1] == Gone("a")


@pytest.mark.parametrize("dead", [False, True])
def test_a_slot_without_a_process_ends_at_once(dead: bool) -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    for _ in range(MAX_QUICK_DEATHS if dead else 0):
        supervisor.exited("a", KILLED, 0.0)
        supervisor.waited("a", 0.0)
    supervisor.exited("a", KILLED, 0.0)
    told = [] if dead else [Left("a", "stop", False, None, 0.0)]  # it was to come back
    assert supervisor.end("a", "stop", 0.0) == [*told, Gone("a")]
    assert supervisor.waited("a", 0.0) == []


def test_a_request_brings_a_dead_engine_back() -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    for _ in range(MAX_QUICK_DEATHS):
        supervisor.exited("a", KILLED, 0.0)
        supervisor.waited("a", 0.0)
    supervisor.exited("a", KILLED, 0.0)
    assert supervisor.end("a", "again", 0.0, again=True) == [Start("a")]
    assert supervisor.slots["a"].quick_deaths == 0


def test_a_process_that_never_says_hello_is_ended() -> None:
    supervisor = Supervisor()
    supervisor.add("a", 0.0)
    assert supervisor.overdue("a") == [End("a")]
    supervisor.hello("a")
    assert supervisor.overdue("a") == []


def test_events_of_unknown_slots_do_nothing() -> None:
    supervisor = Supervisor()
    supervisor.spawned("x", 1)
    assert supervisor.hello("x") == []
    assert supervisor.exited("x", KILLED, 0.0) == []
    assert supervisor.waited("x", 0.0) == []
    assert supervisor.overdue("x") == []
    assert supervisor.end("x", "", 0.0) == []


class Life(RuleBasedStateMachine):
    """Whatever happens, there is never more than one process for a slot, and none is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = Supervisor()
        self.now = 0.0
        self.alive = False
        self.waiting = False
        self.gone = False
        self.carry_out(self.supervisor.add("a", 0.0))

    def carry_out(self, instructions: list) -> None:
        for instruction in instructions:
            if isinstance(instruction, Start):
                assert not self.alive and not self.gone
                self.alive = True
            elif isinstance(instruction, Wait):
                assert not self.alive and instruction.seconds > 0
                self.waiting = True
            elif isinstance(instruction, End | Joined):
                assert self.alive
            elif isinstance(instruction, Gone):
                assert not self.alive and not self.gone
                self.gone = True

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hello(self) -> None:
        if self.alive:
            self.carry_out(self.supervisor.hello("a"))

    @rule(worked=st.booleans())
    def dies(self, worked: bool) -> None:
        if self.alive:
            self.alive = False
            self.carry_out(self.supervisor.exited("a", KILLED, self.now, worked=worked))

    @rule()
    def waited(self) -> None:
        if self.waiting:
            self.waiting = False
            self.carry_out(self.supervisor.waited("a", self.now))

    @rule(again=st.booleans())
    def asked_to_end(self, again: bool) -> None:
        self.carry_out(self.supervisor.end("a", "asked", self.now, again=again))

    @rule()
    def overdue(self) -> None:
        self.carry_out(self.supervisor.overdue("a"))

    @invariant()
    def consistent(self) -> None:
        slot = self.supervisor.slots.get("a")
        assert (slot is None) == self.gone
        if slot is not None:
            has_process = slot.phase in (Phase.STARTING, Phase.READY, Phase.ENDING)
            assert has_process == self.alive
            assert self.alive or self.waiting or slot.phase is Phase.DEAD


Life.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
