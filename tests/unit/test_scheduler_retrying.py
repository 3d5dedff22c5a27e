"""Tasks that have failed, and ask to be run again."""

from __future__ import annotations

import pytest

from ipkernel.controller.events import HostFacts
from ipkernel.controller.tasks import State
from ipkernel.serialize.failure import describe, encode
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Failed,
    Outcome,
    Recovery,
    Terms,
)
from tests.support.scheduling import Cluster

BROKEN = encode(describe(OSError("it broke")))


def fail(c: Cluster, task: int) -> None:
    c.done(task, outcome=Outcome.RETRY, payload=BROKEN)


def test_it_is_run_as_often_as_its_retries_allow() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(retries=2)
    for attempt in (1, 2):
        fail(c, task)
        assert not c.results()
        assert c.engine_of(task) == 0
        story = "\n".join(c.scheduler.tasks[task].story())
        assert f"failed on engine 0: OSError: it broke; run again, {attempt} of 2" in story
    fail(c, task)
    finished = c.finished(task)
    assert (finished.outcome, finished.attempts) == (Outcome.ERROR, 3)
    assert c.payload_for(task) == BROKEN
    assert c.scheduler.totals.failed == 1
    assert not c.assigned


def test_it_may_succeed_then() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(retries=5)
    fail(c, task)
    c.done(task)
    finished = c.finished(task)
    assert (finished.outcome, finished.attempts) == (Outcome.OK, 2)
    assert c.scheduler.totals.finished == 1 and c.scheduler.totals.failed == 0


def test_lost_engines_use_the_same_retries() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(retries=1)
    c.leave(c.engine_of(task), "killed", started=[task])
    fail(c, task)
    assert c.finished(task).outcome is Outcome.ERROR


def test_items_that_failed_are_a_result_when_the_retries_are_used_up() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(retries=1)
    c.done(task, outcome=Outcome.RETRY_ITEMS, payload=b"some")
    assert not c.results()
    c.done(task, outcome=Outcome.RETRY_ITEMS, payload=b"others")
    assert c.finished(task).outcome is Outcome.OK
    assert c.payload_for(task) == b"others"
    assert c.scheduler.totals.finished == 1


def test_a_large_result_with_items_that_failed_is_freed() -> None:
    c = Cluster(clients=1)
    c.add_host(1, store=True)
    [task] = c.submit(retries=1)
    c.done(task, outcome=Outcome.RETRY_ITEMS, makes=b"o" * 16)
    assert c.freed(1) == [b"o" * 16]
    c.done(task, outcome=Outcome.RETRY_ITEMS, makes=b"p" * 16)
    assert c.finished(task).object == b"p" * 16
    assert c.freed(1) == [b"o" * 16]


def test_others_of_its_client_wait_behind_it() -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2, retries=1)
    fail(c, first)
    assert c.engine_of(first) == 0
    assert c.scheduler.tasks[second].state is State.READY


def test_what_was_cancelled_is_not_run_again() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(retries=3)
    c.from_client((Cancel([task]), b""))
    fail(c, task)
    assert c.finished(task).outcome is Outcome.ERROR
    assert not c.assigned


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.RETRY_ITEMS])
def test_a_task_that_is_bound_to_an_engine_ends(outcome: Outcome) -> None:
    """Nothing is to change the order of these."""
    c = Cluster(engines=1)
    [task] = c.submit(retries=3, targets=[0], spread=False)
    c.done(task, outcome=outcome)
    ends = {Outcome.RETRY: Outcome.ERROR, Outcome.RETRY_ITEMS: Outcome.OK}
    assert c.finished(task).outcome is ends[outcome]


def test_those_that_depend_on_it_wait_for_its_end() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(retries=1)
    [after] = c.submit(terms=Terms(after=Dependency([task])))
    fail(c, task)
    assert [a.task for a in c.assigned] == [task]
    c.done(task)
    assert [a.task for a in c.assigned] == [after]


def test_it_is_recovered_when_the_retries_are_used_up() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(retries=1, terms=Terms(recovery=Recovery(b"", b"sorry")))
    fail(c, task)
    assert c.payload_of(task) == b"payload"
    fail(c, task)
    assert c.payload_of(task) == b"sorry"
    c.done(task)
    assert c.finished(task).failed == Failed(Outcome.ERROR, BROKEN)


def test_what_it_uses_is_free_until_it_runs_again() -> None:
    c = Cluster()
    c.add_host(2, facts=HostFacts(shared={"gpu": 1.0}))
    terms = Terms(resources={"gpu": 1.0})
    [task] = c.submit(retries=1, terms=terms)
    fail(c, task)
    c.done(task)
    [other] = c.submit(terms=terms)
    assert c.engine_of(other) in (0, 1)
