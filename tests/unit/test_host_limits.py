"""Time limits of tasks at a host: interrupts, kills, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ipkernel.host.engine import Engine
from ipkernel.host.limits import GRACE, SETTLE, Limits
from ipkernel.host.needs import NoObjects
from ipkernel.host.traffic import REPORT_AFTER, Traffic
from ipkernel.wire.messages import (
    Assign,
    Done,
    Fate,
    Interrupt,
    Kind,
    Outcome,
    Reason,
    Started,
    decode_reason,
)


class Wire:
    """The link of an engine that runs what it is sent when the test says so."""

    open = True

    def __init__(self) -> None:
        self.sent: list[Assign] = []

    def send(self, message: Any, payload: Any = b"") -> None:
        self.sent.append(message)

    def flush(self) -> None:
        pass


class Scene:
    """One engine at a host whose clock is the test's."""

    backlog = 0

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.up: list[tuple[Any, Any]] = []
        self.interrupts = 0
        self.kills: list[str] = []
        engines: dict[str, Engine] = {}
        self.limits = Limits(
            self.clock, self, "here",
            interrupt=self.interrupt,
            kill=lambda _, text: self.kills.append(text),
            resume=self.resume,
        )  # fmt: skip
        self.traffic = Traffic(self.clock, self, engines, lambda *_: None, NoObjects(), self.limits)
        self.engine = engines["1"] = Engine("1", 0, self.traffic.forward)
        self.engine.epoch = 1
        self.engine.pid = 77
        self.wire = self.engine.link = Wire()  # type: ignore[assignment]
        self.traffic.by_id[0] = self.engine

    def interrupt(self, engine: Engine) -> None:
        assert engine is self.engine
        self.interrupts += 1

    def resume(self, engine: Engine) -> None:
        self.traffic.feed(engine)

    def send(self, message: Any, payload: Any = b"") -> None:
        self.up.append((message, payload))

    def assign(self, *tasks: tuple[int, float]) -> None:
        """Assign tasks, each with its limit in seconds."""
        batch = [
            (Assign(task, 0, Kind.PUSH, 0, limit=int(limit * 1000)), b"") for task, limit in tasks
        ]
        self.traffic.handle(batch)

    def done(self, task: int, outcome: Outcome = Outcome.OK, payload: bytes = b"r") -> None:
        now = self.clock.seconds()
        message = Done(task, 0, outcome, now - 1e-6, now, len(payload))
        self.traffic.arrived(self.engine, [(message, payload)])

    @property
    def sent(self) -> list[int]:
        return [message.task for message in self.wire.sent]

    def results(self) -> list[tuple[int, Outcome]]:
        return [(m.task, m.outcome) for m, _ in self.up if isinstance(m, Done)]

    def reason(self, task: int) -> Reason:
        [payload] = [p for m, p in self.up if isinstance(m, Done) and m.task == task]
        return decode_reason(payload)


def test_a_task_that_ends_in_time_is_left_alone() -> None:
    scene = Scene()
    scene.assign((1, 5.0))
    scene.clock.advance(4.9)
    scene.done(1)
    scene.clock.advance(10.0)
    assert (scene.interrupts, scene.kills, scene.results()) == (0, [], [(1, Outcome.OK)])
    assert not scene.clock.getDelayedCalls()


def test_a_task_that_takes_longer_is_interrupted_and_told_why() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.5)
    assert scene.interrupts == 1
    scene.done(1, Outcome.ERROR, b"a KeyboardInterrupt")
    assert scene.results() == [(1, Outcome.TIMEOUT)]
    reason = scene.reason(1)
    assert (reason.kind, reason.engine, reason.host, reason.pid) == ("timeout", 0, "here", 77)
    assert "longer than its timeout of 0.5 s" in reason.text
    assert reason.text.endswith("was interrupted")
    scene.clock.advance(10.0)
    assert not scene.kills


def test_an_engine_that_hears_no_interrupt_is_killed() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.5)
    scene.clock.advance(GRACE)
    [text] = scene.kills
    assert "longer than its timeout of 0.5 s" in text
    assert scene.traffic.lost(scene.engine, 1) == ([], [])
    assert scene.results() == [(1, Outcome.TIMEOUT)]
    assert "went on for 2 s more, its engine was killed" in scene.reason(1).text
    scene.traffic.stop()
    assert not scene.clock.getDelayedCalls()


def test_an_engine_that_an_interrupt_ends_has_timed_out_too() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.6)
    assert scene.traffic.lost(scene.engine, 1) == ([], [])
    assert "interrupted, and its engine ended" in scene.reason(1).text


def test_a_result_that_comes_in_spite_of_the_interrupt_counts() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.6)
    scene.done(1)
    assert scene.results() == [(1, Outcome.OK)]


def test_an_error_before_the_limit_is_the_tasks_own() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.4)
    scene.done(1, Outcome.ERROR)
    assert scene.results() == [(1, Outcome.ERROR)]


def test_a_task_that_is_lost_before_its_limit_is_lost() -> None:
    scene = Scene()
    scene.assign((1, 5.0), (2, 5.0))
    assert scene.traffic.lost(scene.engine, 1) == ([1], [2])
    assert not scene.results()
    scene.clock.advance(20.0)
    assert not scene.interrupts


def test_the_time_of_a_task_begins_when_it_runs() -> None:
    scene = Scene()
    scene.assign((1, 0.0), (2, 1.0))
    scene.clock.advance(3.0)
    assert not scene.interrupts
    scene.done(1)
    scene.clock.advance(0.9)
    assert not scene.interrupts
    scene.clock.advance(0.2)
    assert scene.interrupts == 1


def test_so_it_does_for_one_that_was_in_the_pipe_already() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    scene.done(1)  # pushes are known to be quick from here on
    scene.assign((2, 0.0), (3, 1.0), (4, 0.0))
    assert scene.sent == [1, 2, 3]
    scene.clock.advance(5.0)
    assert not scene.interrupts
    scene.done(2)
    scene.clock.advance(1.1)
    assert scene.interrupts == 1


def test_nothing_is_sent_behind_a_task_with_a_limit() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    scene.done(1)
    scene.assign((2, 1.0), (3, 1.0), (4, 0.0))
    assert scene.sent == [1, 2]
    scene.done(2)
    assert scene.sent == [1, 2, 3]


def test_nothing_is_begun_until_an_interrupt_has_settled() -> None:
    scene = Scene()
    scene.assign((1, 0.5), (2, 0.0))
    scene.clock.advance(0.5)
    scene.done(1, Outcome.ERROR)
    assert scene.sent == [1]
    scene.assign((3, 0.0))
    assert scene.sent == [1]
    scene.clock.advance(SETTLE)
    assert scene.sent == [1, 2, 3]


def test_an_interrupt_that_is_long_ago_holds_nothing_up() -> None:
    scene = Scene()
    scene.assign((1, 0.5), (2, 0.0))
    scene.clock.advance(0.5)
    scene.clock.advance(SETTLE + 0.1)
    scene.done(1, Outcome.ERROR)
    assert scene.sent == [1, 2]


def test_an_engine_that_ends_while_it_settles_goes_on_when_it_is_back() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.5)
    scene.done(1, Outcome.ERROR)
    scene.traffic.lost(scene.engine, 1)
    scene.assign((2, 0.0))
    assert scene.sent == [1, 2]


def test_a_host_that_stops_forgets_its_limits() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.limits.stop()
    scene.traffic.stop()
    assert not scene.clock.getDelayedCalls()


def test_a_task_is_still_reported_as_running() -> None:
    scene = Scene()
    scene.assign((1, 5.0))
    scene.clock.advance(REPORT_AFTER * 2)
    assert [m.tasks for m, _ in scene.up if isinstance(m, Started)] == [[1]]


LIMITS = st.sampled_from([0.0, 0.0, 0.5, 1.0])


@given(st.lists(LIMITS, min_size=1, max_size=8), st.lists(st.sampled_from("daxl"), max_size=40))
@settings(deadline=None)
def test_every_task_has_one_end(limits: list[float], steps: str) -> None:
    """Done, a while later, failed, lost: in any order."""
    scene = Scene()
    scene.assign(*enumerate(limits, 1))
    lost: list[int] = []
    for step in steps:
        flight = scene.engine.lane.flight
        if step == "a":
            scene.clock.advance(0.4)
        elif step == "l":
            begun, rest = scene.traffic.lost(scene.engine, None)
            lost += [*begun, *rest]
        elif flight:
            scene.done(flight[0][0].task, Outcome.OK if step == "d" else Outcome.ERROR)
        ended = [task for task, _ in scene.results()]
        open_ones = [m.task for m, _ in scene.engine.lane.flight] + [*scene.engine.lane.waiting]
        assert sorted([*ended, *lost, *open_ones]) == list(range(1, len(limits) + 1))
        assert (scene.engine.limit is not None) == bool(
            scene.engine.lane.flight and scene.engine.lane.flight[0][0].limit
        )
        for task, outcome in scene.results():
            assert outcome is not Outcome.TIMEOUT or limits[task - 1]
    scene.limits.stop()


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.LOST])
def test_whatever_goes_wrong_after_the_interrupt_is_the_timeout(outcome: Outcome) -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(1.0)
    scene.done(1, outcome)
    assert scene.results() == [(1, Outcome.TIMEOUT)]


# ------------------------------------------------------------------------------------- aborts


def abort(scene: Scene, *tasks: int, grace: float = 1.0, epoch: int = 1) -> None:
    message = Interrupt(0, epoch, list(tasks), int(grace * 1000))
    scene.traffic.handle([(message, b"")])


def piped() -> Scene:
    """An engine with three quick tasks in its pipe, and a way to say which an interrupt is for."""
    scene = Scene()
    scene.engine.progress = memoryview(bytearray(16)).cast("Q")
    scene.assign((1, 0.0))
    scene.done(1)
    scene.assign((2, 0.0), (3, 0.0), (4, 0.0))
    assert scene.sent == [1, 2, 3, 4]
    scene.engine.progress[0] = 2
    return scene


def test_a_running_task_is_aborted_on_request() -> None:
    scene = Scene()
    scene.assign((1, 0.0), (2, 0.0))
    scene.clock.advance(3.0)
    abort(scene, 1)
    assert scene.interrupts == 1
    scene.done(1, Outcome.ERROR, b"a KeyboardInterrupt")
    assert scene.results() == [(1, Outcome.ABORTED)]
    reason = scene.reason(1)
    assert (reason.kind, reason.fate) == ("aborted", Fate.INTERRUPTED)
    assert "cancelled while it ran on engine 0 on here (pid 77) and was interrupted" in reason.text
    assert scene.sent == [1]
    scene.clock.advance(SETTLE)
    assert scene.sent == [1, 2]
    assert not scene.kills


def test_one_that_does_not_react_costs_its_engine() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    abort(scene, 1, grace=0.3)
    scene.clock.advance(0.29)
    assert not scene.kills
    scene.clock.advance(0.02)
    assert scene.kills == [
        "was killed: a task was cancelled and did not end when it was interrupted"
    ]
    assert scene.traffic.lost(scene.engine, 1) == ([], [])
    reason = scene.reason(1)
    assert (scene.results(), reason.fate) == ([(1, Outcome.ABORTED)], Fate.KILLED)
    assert "went on for 0.3 s more, its engine was killed and is started again" in reason.text


def test_one_that_returns_a_value_all_the_same_has_ended() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    abort(scene, 1)
    abort(scene, 1)
    scene.done(1)
    assert (scene.interrupts, scene.results()) == (1, [(1, Outcome.OK)])


@pytest.mark.parametrize("how", ["over", "waits", "another process", "another engine"])
def test_only_what_runs_is_interrupted(how: str) -> None:
    scene = Scene()
    scene.assign((1, 0.0), (2, 0.0))
    if how == "over":
        scene.done(1)
        abort(scene, 1)
    elif how == "waits":
        abort(scene, 2)
    elif how == "another process":
        abort(scene, 1, epoch=7)
    else:
        scene.traffic.handle([(Interrupt(3, 1, [1]), b"")])
    scene.clock.advance(20.0)
    assert (scene.interrupts, scene.kills) == (0, [])


def test_a_task_with_a_timeout_is_aborted_before_that() -> None:
    scene = Scene()
    scene.assign((1, 50.0))
    abort(scene, 1)
    scene.clock.advance(0.1)
    scene.done(1, Outcome.ERROR)
    assert scene.results() == [(1, Outcome.ABORTED)]


def test_a_task_whose_time_is_over_has_timed_out_whoever_aborts_it() -> None:
    scene = Scene()
    scene.assign((1, 0.5))
    scene.clock.advance(0.6)
    abort(scene, 1)
    scene.done(1, Outcome.ERROR)
    assert (scene.interrupts, scene.results()) == (1, [(1, Outcome.TIMEOUT)])


def test_tasks_in_the_pipe_are_interrupted_when_it_is_their_turn() -> None:
    scene = piped()
    assert scene.engine.progress is not None
    abort(scene, 2, 4)
    assert (scene.interrupts, scene.engine.progress[1]) == (1, 0)  # the scene does not aim
    assert scene.engine.aim()
    assert scene.engine.progress[1] == 2
    scene.done(2, Outcome.ERROR)
    scene.assign((5, 0.0))
    assert scene.interrupts == 1  # the third is nobody's business
    scene.done(3)
    assert scene.interrupts == 2
    scene.engine.aim()
    assert scene.engine.progress[1] == 4
    scene.done(4, Outcome.ERROR)
    ended = [Outcome.OK, Outcome.ABORTED, Outcome.OK, Outcome.ABORTED]
    assert scene.results() == list(enumerate(ended, 1))
    assert 5 not in scene.sent
    scene.clock.advance(SETTLE)
    assert 5 in scene.sent
    assert scene.engine.progress[1] == 0  # from here on an interrupt is for whatever runs


def test_what_is_doomed_and_faster_is_forgotten() -> None:
    scene = piped()
    abort(scene, 3, 4)
    assert not scene.interrupts
    now = scene.clock.seconds()
    batch = [(Done(task, 0, Outcome.OK, now, now, 1), b"r") for task in (2, 3, 4)]
    scene.traffic.arrived(scene.engine, batch)
    assert not scene.engine.doomed and not scene.interrupts


def test_an_engine_that_has_gone_on_to_the_next_task_is_not_killed() -> None:
    scene = piped()
    assert scene.engine.progress is not None
    abort(scene, 2)
    scene.engine.progress[0] = 3  # the news of the end is on its way
    scene.clock.advance(1.0)
    assert not scene.kills
    scene.done(2, Outcome.ERROR)
    scene.clock.advance(20.0)
    assert (scene.kills, scene.results()[-1]) == ([], (2, Outcome.ABORTED))
    assert not scene.engine.paused


def test_a_task_with_a_limit_behind_an_aborted_one_does_not_stop_its_engine() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    scene.done(1)
    scene.assign((2, 0.0), (3, 5.0), (4, 0.0))
    assert scene.sent == [1, 2, 3]
    abort(scene, 2)
    scene.done(2, Outcome.ERROR)
    scene.done(3)  # its clock has taken the place of the one that says when all is settled
    assert scene.sent == [1, 2, 3, 4]


def test_nobody_counts_but_what_was_behind_a_killed_task_had_not_begun() -> None:
    scene = Scene()
    scene.assign((1, 0.0))
    scene.done(1)
    scene.assign((2, 0.0), (3, 0.0))
    assert not scene.engine.aim()
    abort(scene, 2)
    scene.clock.advance(1.0)
    assert scene.kills
    assert scene.traffic.lost(scene.engine, None) == ([], [3])
    assert scene.results()[-1] == (2, Outcome.ABORTED)
    assert not scene.engine.doomed


@given(st.lists(LIMITS, min_size=1, max_size=8), st.lists(st.sampled_from("daxlbA"), max_size=40))
@settings(deadline=None)
def test_every_task_has_one_end_also_if_it_is_aborted(limits: list[float], steps: str) -> None:
    scene = piped()
    scene.traffic.lost(scene.engine, 2)
    scene.up.clear()
    scene.assign(*enumerate(limits, 1))
    lost: list[int] = []
    aborted: set[int] = set()
    for step in steps:
        flight = scene.engine.lane.flight
        if step == "a":
            scene.clock.advance(0.4)
        elif step == "l":
            begun, rest = scene.traffic.lost(scene.engine, None)
            lost += [*begun, *rest]
        elif step in "bA":
            wanted = range(1, len(limits) + 1) if step == "A" else [m.task for m, _ in flight][:1]
            aborted.update(m.task for m, _ in flight if m.task in wanted)
            abort(scene, *wanted)
        elif flight:
            scene.done(flight[0][0].task, Outcome.OK if step == "d" else Outcome.ERROR)
        ended = [task for task, _ in scene.results()]
        open_ones = [m.task for m, _ in scene.engine.lane.flight] + [*scene.engine.lane.waiting]
        assert sorted([*ended, *lost, *open_ones]) == list(range(1, len(limits) + 1))
        for task, outcome in scene.results():
            assert outcome is not Outcome.ABORTED or task in aborted
        if not scene.engine.lane.flight:
            assert not scene.engine.doomed
    scene.clock.advance(20.0)
    for _ in range(len(limits)):
        while scene.engine.lane.flight and not scene.kills:
            scene.done(scene.engine.lane.flight[0][0].task)
        scene.clock.advance(20.0)
    if not scene.kills:
        assert not scene.engine.lane.waiting, "it is stopped for ever"
    scene.limits.stop()
    scene.traffic.stop()
