"""Work that is taken back from busy engines, and clients that take turns."""

from __future__ import annotations

import pytest

from ipkernel.wire.messages import Cancel, Outcome, Returned, Started, Terms
from tests.support.scheduling import Cluster


def give_back(c: Cluster) -> list[int]:
    """Let hosts give back all that they were asked for; return it."""
    given = []
    while c.reclaims:
        asked = c.reclaims.pop(0)
        given += asked.tasks
        c.from_host((Returned(asked.engine, asked.tasks), b""))
    return given


def test_an_engine_that_joins_gets_what_waits_behind_a_long_task() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    tasks = c.submit(20)
    c.from_host((Started(tasks[:1]), b""), host=1)
    c.add_host(1)
    assert give_back(c) == tasks[1:]
    assert c.engine_of(tasks[1]) == 1
    for task in tasks[1:]:
        assert c.engine_of(task) == 1
        c.done(task)
    assert [a.task for a in c.assigned] == tasks[:1]


def test_an_engine_that_is_freed_by_a_cancellation_gets_it() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    long, other = c.submit(2)
    c.from_host((Started([long, other]), b""), host=1)
    if c.engine_of(long) == 1:
        long, other = other, long
    movable = c.submit(5)
    assert all(task not in [a.task for a in c.assigned] for task in movable)
    c.from_client((Cancel([other]), b""))
    c.done(other, outcome=Outcome.ABORTED)
    assert c.engine_of(movable[0]) == 1
    assert not any(a.engine == 0 and a.task != long for a in c.assigned)


@pytest.mark.parametrize("priority", [0, 5])
def test_what_is_taken_back_keeps_its_place(priority: int) -> None:
    c = Cluster(engines=1)
    c.warm_up()
    first = c.submit(1, terms=Terms(9))
    low = c.submit(3)
    high = c.submit(3, terms=Terms(priority + 1))
    c.from_host((Started(first), b""), host=1)
    later = c.submit(2, terms=Terms(priority))
    c.add_host(1)
    assert set(give_back(c)) == {*low, *high}
    order = []
    while [a for a in c.assigned if a.engine == 1]:
        order.append(next(a.task for a in c.assigned if a.engine == 1))
        c.done(order[-1], seconds=1.0)
    first_there, last = later  # the one was free for the new engine at once
    rest = [*low, last] if priority == 0 else [last, *low]
    assert order == [first_there, *high, *rest]


def test_a_client_with_a_hundred_thousand_tasks_does_not_shut_another_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c = Cluster(engines=2, clients=2)
    many, few = c.clients
    with monkeypatch.context() as patch:
        patch.setattr(c.scheduler, "validate", lambda: None)  # which looks at every task
        c.submit(100_000, session=many)
        modest = set(c.submit(10, session=few))
        ended = 0
        while modest:
            task = c.assigned[0].task
            c.done(task, seconds=1.0)
            modest.discard(task)
            ended += 1
        assert ended <= 25
        tiny = set(c.submit(10, session=few))
        waited = 0
        while tiny:
            batch = [a.task for a in c.assigned]
            c.done(*batch)  # windows grow: whole batches of the other client go out at once
            tiny.difference_update(batch)
            waited += 1
        assert waited <= 25
