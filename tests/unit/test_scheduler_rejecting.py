"""Engines that reject tasks."""

from __future__ import annotations

import pytest

from ipkernel.controller.tasks import State
from ipkernel.serialize.failure import describe, encode
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Outcome,
    Reason,
    Started,
    Terms,
    decode_reason,
)
from tests.support.scheduling import Cluster


def reject(c: Cluster, task: int, why: str = "not here") -> int:
    """Let the engine of a task reject it; return which that is."""
    engine = c.engine_of(task)
    told = encode(describe(LookupError(why)))
    c.done(task, outcome=Outcome.REJECTED, payload=told)
    return engine


def reason(c: Cluster, task: int) -> Reason:
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE
    return decode_reason(c.payload_for(task))


def test_a_rejected_task_goes_to_each_other_engine_once() -> None:
    c = Cluster(engines=3)
    [task] = c.submit()
    engines = [reject(c, task, f"reason {n}") for n in range(3)]
    assert sorted(engines) == [0, 1, 2]
    found = reason(c, task)
    assert found.kind == "dependency"
    for number, engine in enumerate(engines):
        assert f"engine {engine} on host-1: LookupError: reason {number}" in found.text
    assert not c.scheduler.tasks


@pytest.mark.parametrize(
    "told", [b"", b"\x81\xa5ename\xa2\xff\xfe", b"\x81\xa1x" + b"\x91" * 100_000]
)
def test_an_engine_that_cannot_be_understood_has_rejected_it_all_the_same(told: bytes) -> None:
    c = Cluster(engines=1)
    [task] = c.submit()
    c.done(task, outcome=Outcome.REJECTED, payload=told)
    assert "it did not say why" in reason(c, task).text


def test_another_engine_may_run_it() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(retries=0)
    refused = reject(c, task)
    assert c.engine_of(task) == 1 - refused
    c.done(task)
    result = c.finished(task)
    assert (result.outcome, result.attempts, result.engine) == (Outcome.OK, 1, 1 - refused)
    assert not c.scheduler._core.refused


def test_it_waits_for_a_busy_engine_and_not_for_the_idle_one_that_rejected_it() -> None:
    c = Cluster(engines=2)
    [busy], [task] = c.submit(targets=[1]), c.submit(targets=[0, 1])
    assert reject(c, task) == 0
    assert not [a for a in c.assigned if a.task == task]
    story = c.scheduler.explain(task)
    assert "the only engine that it may run on is busy" in story.reason
    assert "engine 0 rejected it: LookupError: not here" in " ".join(story.story)
    c.done(busy, seconds=1.0)
    assert c.engine_of(task) == 1


def test_the_choice_of_a_task_stays_its_choice() -> None:
    c = Cluster(engines=3)
    [task] = c.submit(targets=[0, 2])
    assert {reject(c, task), reject(c, task)} == {0, 2}
    assert reason(c, task).kind == "dependency"


def test_a_task_for_certain_engines_has_failed_there() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(targets=[0], spread=False)
    reject(c, task)
    assert c.finished(task).outcome is Outcome.ERROR
    assert c.scheduler.totals.failed == 1


def test_a_rejected_task_keeps_its_place_ahead_of_others() -> None:
    c = Cluster(engines=2)
    first, second = c.submit(2)
    rest = c.submit(3)
    refused = reject(c, first)
    c.done(second, seconds=1.0)
    assert c.engine_of(first) == 1 - refused
    assert c.engine_of(rest[0]) == refused


def test_a_running_task_can_be_rejected() -> None:
    c = Cluster(engines=2)
    [task] = c.submit()
    c.from_host((Started([task]), b""))
    refused = reject(c, task)
    assert not c.scheduler.engines[refused].running
    c.done(task)
    assert c.finished(task).outcome is Outcome.OK


def test_a_cancelled_task_is_not_offered_again() -> None:
    c = Cluster(engines=2)
    [task] = c.submit()
    c.from_client((Cancel([task]), b""))
    reject(c, task)
    assert c.finished(task).outcome is Outcome.ABORTED


def test_who_waits_for_it_hears_of_the_end_only() -> None:
    c = Cluster(engines=2)
    [task] = c.submit()
    [child] = c.submit(terms=Terms(after=Dependency([task])))
    reject(c, task)
    assert child in c.scheduler.tasks
    reject(c, task)
    assert reason(c, child).kind == "dependency"


def test_a_task_that_follows_another_has_nowhere_else_to_go() -> None:
    c = Cluster(engines=2)
    [first] = c.submit()
    [child] = c.submit(terms=Terms(follow=Dependency([first])))
    c.done(first)
    reject(c, child)
    assert "no engine can run this task" in reason(c, child).text


def test_engines_that_are_gone_are_not_waited_for() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(targets=[0, 1])
    refused = reject(c, task)
    c.leave(1 - refused, "killed", started=[])
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE


def test_a_task_that_needs_objects_goes_on_with_them() -> None:
    c = Cluster()
    c.add_host(1, store=True)
    c.add_host(1, store=True)
    made = c.made(b"o" * 16, host=1)
    [task] = c.submit(needs=[made])
    assert reject(c, task) == 0
    assert c.engine_of(task) == 1
    c.done(task)
    assert c.finished(task).outcome is Outcome.OK


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x90"])
def test_an_engine_that_does_not_say_why_is_excluded_as_well(payload: bytes) -> None:
    c = Cluster(engines=1)
    [task] = c.submit()
    c.done(task, outcome=Outcome.REJECTED, payload=payload)
    assert "it did not say why" in reason(c, task).text


def test_what_engines_say_is_bounded() -> None:
    c = Cluster(engines=30)
    [task] = c.submit()
    for _ in range(30):
        reject(c, task, "no " * 1000)
    assert len(reason(c, task).text) <= 4000


# ----------------------------------------------------------------- engines that join later


def test_an_engine_that_joins_later_is_asked_as_long_as_the_task_waits() -> None:
    c = Cluster(engines=2)
    [busy] = c.submit(targets=[1])
    [task] = c.submit()
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    assert c.scheduler.tasks[task].message.targets == [1]
    c.add_host(1)
    assert c.engine_of(task) == 2
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    c.done(busy)
    assert c.engine_of(task) == 1
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE
    assert c.payload_for(task).count(b"rejected") == 0
    assert all(f"engine {n}".encode() in c.payload_for(task) for n in range(3))


def test_an_engine_that_its_client_did_not_name_is_not_asked() -> None:
    c = Cluster(engines=2)
    c.submit(targets=[1])
    [task] = c.submit(targets=[0, 1])
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    c.add_host(1)
    assert c.scheduler.tasks[task].message.targets == [1]
    assert c.scheduler.tasks[task].state is State.READY


def test_rejected_tasks_keep_their_order_and_priorities_when_others_may_run_them() -> None:
    c = Cluster(engines=2)
    c.submit(targets=[1])
    tasks = []
    for priority in (0, 5, 0, 5):
        [task] = c.submit(terms=Terms(priority))
        assert c.engine_of(task) == 0
        c.done(task, outcome=Outcome.REJECTED, payload=b"", seconds=1.0)
        tasks.append(task)
    c.submit(targets=[0])
    c.add_host(1)
    order = []
    while [a for a in c.assigned if a.engine == 2]:
        [one] = [a.task for a in c.assigned if a.engine == 2]
        order.append(one)
        c.done(one, seconds=1.0)
    assert order == [tasks[3], tasks[1], tasks[2], tasks[0]]


def test_an_id_that_is_used_anew_is_another_engine() -> None:
    c = Cluster(engines=1)
    c.add_host(1)
    c.submit(targets=[1])
    [task] = c.submit()
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    c.lose_host(1)
    c.add_host(1, wanted=[0])
    assert c.engine_of(task) == 0
