"""The lanes of a host: what goes to an engine when, what comes back, what a crash costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.host.dispatch import PIPE_BYTES, PIPE_COUNT, PIPE_TIME, Lane
from ipkernel.wire.messages import Assign, Kind


def assign(task: int, digest: bytes = b"f", size: int = 10) -> Assign:
    return Assign(task, 0, Kind.APPLY, size, digest)


def lane_with(*tasks: Assign) -> Lane:
    lane = Lane()
    for task in tasks:
        lane.add(task, b"x" * min(task.size, 10))
    return lane


def ids(taken: list) -> list[int]:
    return [message.task for message, _ in taken]


def warm(lane: Lane, digest: bytes = b"f", duration: float = 0.0) -> None:
    """Let the lane learn how long a function takes."""
    lane.add(assign(10**6, digest), b"")
    lane.take()
    assert lane.done(10**6, duration)


def test_an_unknown_function_goes_alone() -> None:
    lane = lane_with(assign(1), assign(2))
    assert ids(lane.take()) == [1]
    assert lane.take() == []
    assert lane.running == 1


def test_the_next_task_goes_when_the_one_before_is_done() -> None:
    lane = lane_with(assign(1), assign(2))
    lane.take()
    assert lane.done(1, 0.5)
    assert ids(lane.take()) == [2]


def test_tiny_tasks_fill_the_pipe() -> None:
    lane = Lane()
    warm(lane)
    for task in range(1, 1001):
        lane.add(assign(task), b"")
    taken = lane.take()
    assert 100 < len(taken) <= PIPE_COUNT
    assert ids(taken) == list(range(1, len(taken) + 1))


def test_no_more_than_a_milliseconds_work_is_in_the_pipe() -> None:
    lane = Lane()
    warm(lane, duration=PIPE_TIME / 4)
    for task in range(1, 11):
        lane.add(assign(task), b"")
    assert 2 <= len(lane.take()) <= 5


def test_long_tasks_go_one_by_one() -> None:
    lane = Lane()
    warm(lane, duration=0.02)
    for task in (1, 2, 3):
        lane.add(assign(task), b"")
    assert ids(lane.take()) == [1]
    lane.done(1, 0.02)
    assert ids(lane.take()) == [2]


def test_one_long_run_stops_the_filling_at_once() -> None:
    lane = Lane()
    warm(lane)
    for task in range(1, 5):
        lane.add(assign(task), b"")
    assert len(lane.take()) == 4
    for task in range(1, 5):
        lane.done(task, 0.0 if task < 4 else 3.0)
    for task in range(5, 9):
        lane.add(assign(task), b"")
    assert ids(lane.take()) == [5]


def test_an_estimate_recovers_from_one_hiccup() -> None:
    lane = Lane()
    warm(lane, duration=0.002)
    for task in range(1, 60):
        lane.add(assign(task), b"")
        assert task in ids(lane.take())
        lane.done(task, 0.0)
    for task in range(100, 110):
        lane.add(assign(task), b"")
    assert len(lane.take()) == 10


def test_nothing_follows_an_unknown_function() -> None:
    lane = Lane()
    warm(lane)
    for task, digest in ((1, b"f"), (2, b"new"), (3, b"f")):
        lane.add(assign(task, digest), b"")
    assert ids(lane.take()) == [1, 2]
    lane.done(1, 0.0)
    assert lane.take() == []
    lane.done(2, 0.0)
    assert ids(lane.take()) == [3]


@pytest.mark.parametrize(
    ("kind", "together"),
    [(Kind.APPLY, 1), (Kind.MAP, 1), (Kind.EXECUTE, 1), (Kind.PUSH, 3), (Kind.KEYS, 3)],
)
def test_calls_that_bring_their_own_code_say_nothing_of_the_next(kind: Kind, together: int) -> None:
    lane = Lane()
    lane.add(Assign(1, 0, kind, 0), b"")
    lane.take()
    lane.done(1, 0.0)
    for task in (2, 3, 4):
        lane.add(Assign(task, 0, kind, 0), b"")
    assert len(lane.take()) == together


def test_bytes_in_the_pipe_are_bounded() -> None:
    lane = Lane()
    warm(lane)
    for task in (1, 2, 3):
        lane.add(assign(task, size=PIPE_BYTES), b"")
    assert ids(lane.take()) == [1]


def test_done_of_another_task_is_refused() -> None:
    lane = lane_with(assign(1))
    assert not lane.done(1, 0.0)
    lane.take()
    assert not lane.done(2, 0.0)
    assert lane.done(1, 0.0)


def test_reclaim_gives_back_only_what_was_not_sent() -> None:
    lane = lane_with(assign(1), assign(2), assign(3))
    lane.take()
    assert lane.reclaim([1, 2, 9]) == [2]
    lane.done(1, 1.0)
    assert ids(lane.take()) == [3]


@pytest.mark.parametrize(
    ("started", "expected"),
    [(None, [1, 2, 3]), (0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (99, [1, 2, 3])],
)
def test_a_crash_costs_what_the_engine_had_started(started: int | None, expected: list) -> None:
    lane = Lane()
    warm(lane)
    done = lane.finished
    for task in (1, 2, 3):
        lane.add(assign(task), b"")
    lane.take()
    lane.add(assign(4, b"other"), b"")
    begun, rest = lane.lost(None if started is None else done + started)
    assert begun == expected
    assert begun + rest == [1, 2, 3, 4]
    assert lane.running == 0 and not lane.waiting and not lane.known


class LaneMachine(RuleBasedStateMachine):
    """Any order of events keeps every task in exactly one place and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()
        self.next = 1
        self.waiting: list[int] = []
        self.flight: list[int] = []

    @rule(digest=st.sampled_from([b"", b"a", b"b"]), size=st.integers(0, 2 * PIPE_BYTES))
    def add(self, digest: bytes, size: int) -> None:
        self.lane.add(assign(self.next, digest, size), b"")
        self.waiting.append(self.next)
        self.next += 1

    @rule()
    def take(self) -> None:
        taken = ids(self.lane.take())
        assert taken == self.waiting[: len(taken)]
        self.flight += taken
        self.waiting = self.waiting[len(taken) :]
        assert self.flight or not self.waiting

    @precondition(lambda self: self.flight)
    @rule(duration=st.floats(-1.0, 10.0))
    def done(self, duration: float) -> None:
        assert self.lane.done(self.flight.pop(0), duration)

    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        asked = data.draw(st.lists(st.integers(1, self.next + 3), max_size=5, unique=True))
        expected = [task for task in asked if task in self.waiting]
        assert self.lane.reclaim(asked) == expected
        self.waiting = [task for task in self.waiting if task not in expected]

    @rule(more=st.integers(0, 300))
    def crash(self, more: int) -> None:
        begun, rest = self.lane.lost(self.lane.finished + more)
        assert begun + rest == self.flight + self.waiting
        assert len(begun) == min(more, len(self.flight))
        self.flight, self.waiting = [], []

    @invariant()
    def agrees(self) -> None:
        assert list(self.lane.waiting) == self.waiting
        assert [message.task for message, _ in self.lane.flight] == self.flight
        assert self.lane.running == (self.flight[0] if self.flight else 0)
        assert len(self.flight) <= PIPE_COUNT


LaneMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLaneMachine = LaneMachine.TestCase


@given(st.lists(st.floats(0, 1e-4), min_size=1, max_size=50))
def test_the_sums_return_to_zero_when_the_pipe_is_empty(durations: list[float]) -> None:
    lane = Lane()
    for task, duration in enumerate(durations, 1):
        lane.add(assign(task), b"")
        lane.take()
        lane.done(task, duration)
    assert lane._time == 0.0 and lane._bytes == 0
