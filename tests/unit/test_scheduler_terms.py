"""What few tasks ask for beside an engine: priorities first of all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.controller.queues import Line
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Kind,
    Outcome,
    Past,
    Recovery,
    Submit,
    Terms,
)
from tests.support.scheduling import Cluster


def ranked(c: Cluster, priority: int, count: int = 1, **options: object) -> list[int]:
    return c.submit(count, terms=Terms(priority), **options)  # type: ignore[arg-type]


def run_all(c: Cluster, seconds: float = 1.0) -> list[int]:
    """Run tasks one by one until nothing is left; return them in the order of their ends."""
    order = []
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=seconds)
    return order


# ------------------------------------------------------------------------------- priorities


def test_tasks_of_a_higher_priority_go_first() -> None:
    c = Cluster(engines=1)
    running = c.submit()
    none, low, high = c.submit(2), ranked(c, -1, 2), ranked(c, 7, 2)
    more = c.submit(1)
    assert run_all(c) == [*running, *high, *none, *more, *low]


def test_priorities_hold_among_tasks_with_different_engines() -> None:
    c = Cluster(engines=2)
    busy = [*c.submit(targets=[0]), *c.submit(targets=[1])]
    low = c.submit(1)
    bound = ranked(c, 1, 1, targets=[1])
    high = ranked(c, 2, 1, targets=[0, 1])
    c.done(busy[1], seconds=1.0)
    assert c.engine_of(high[0]) == 1
    c.done(high[0], seconds=1.0)
    assert c.engine_of(bound[0]) == 1
    c.done(busy[0], seconds=1.0)
    assert c.engine_of(low[0]) == 0


def test_a_task_whose_engines_are_busy_does_not_hold_up_those_of_a_lower_priority() -> None:
    c = Cluster(engines=2)
    c.submit(targets=[0])
    high = ranked(c, 9, 1, targets=[0])
    low = c.submit()
    assert c.engine_of(low[0]) == 1
    assert c.scheduler.tasks[high[0]].state is State.READY


def test_priorities_do_not_change_the_turns_of_clients() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    c.submit(session=first)
    for priority in range(30):
        ranked(c, priority, session=first)
    modest = c.submit(10, session=second)
    order = run_all(c)
    assert max(order.index(task) for task in modest) <= 21


def test_a_prioritised_task_that_comes_back_is_the_first_of_its_priority() -> None:
    c = Cluster(engines=1)
    [first] = ranked(c, 3)
    second, low = ranked(c, 3), c.submit()
    c.leave(0, "killed", started=[], restarting=True)
    c.join(0)
    assert run_all(c) == [first, *second, *low]


def test_tiny_tasks_of_several_priorities_fill_one_window() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    busy = c.submit(c.scheduler.engines[0].window)
    low, high = ranked(c, 1, 5), ranked(c, 2, 5)
    c.done(*busy)
    assert [a.task for a in c.assigned] == [*high, *low]


def test_cancelled_tasks_of_a_priority_do_not_pile_up() -> None:
    c = Cluster()
    keep = ranked(c, 1) + c.submit()
    for priority in (5, -5):
        tasks = ranked(c, priority, 500)
        c.from_client((Cancel(tasks), b""))
    [line] = c.scheduler._core.lines.all()
    assert len(list(line.tasks())) < 300
    c.add_host(1)
    assert run_all(c) == keep


def test_tasks_whose_engines_are_gone_end_whatever_their_priority() -> None:
    c = Cluster(engines=1)
    c.submit(targets=[0])
    tasks = ranked(c, 1, 2, targets=[0]) + ranked(c, -1, 2, targets=[0])
    c.leave(0, "killed", started=[])
    assert all(c.finished(task).outcome is Outcome.IMPOSSIBLE for task in tasks)


def test_explain_says_a_tasks_priority() -> None:
    c = Cluster(engines=1)
    c.submit()
    [task] = ranked(c, 4)
    assert "with priority 4" in c.scheduler.explain(task).story[0]


@given(st.lists(st.one_of(st.integers(-3, 3), st.none()), max_size=60))
@settings(deadline=None)
def test_a_line_is_in_order_whatever_goes_in_and_out(steps: list[int | None]) -> None:
    """A number adds a task of that priority; None takes one."""
    line = Line(1, ())
    waiting: list[tuple[int, int]] = []
    for number, priority in enumerate(steps):
        if priority is not None:
            message = Submit(number, Kind.APPLY, 0, terms=Terms(priority))
            line.level(priority).append(Task(number, message, b"", 0.0, state=State.READY))
            waiting.append((-priority, number))
        else:
            while not line.queue and line.descend():
                pass
            if not waiting:
                assert not line.queue
                continue
            waiting.sort()
            assert line.queue.popleft().id == waiting.pop(0)[1]
        assert sorted(t.id for t in line.tasks()) == sorted(n for _, n in waiting)


@pytest.mark.parametrize("count", [1, 3])
def test_a_line_that_was_emptied_begins_anew(count: int) -> None:
    c = Cluster(engines=1)
    before = ranked(c, 2, count)
    assert run_all(c) == before
    after = c.submit(count)
    assert run_all(c) == after


# --------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize(
    ("targets", "spread"), [([], True), ([0], True), ([0], False)], ids=["any", "choice", "direct"]
)
def test_the_host_is_told_how_long_a_task_may_run(targets: list[int], spread: bool) -> None:
    c = Cluster(engines=1)
    c.submit(targets=targets, spread=spread, terms=Terms(timeout=0.0301))
    c.submit(targets=targets, spread=spread)
    assert c.assigned[0].limit == 31
    c.done(c.assigned[0].task)
    assert c.assigned[0].limit == 0


def test_a_task_that_timed_out_has_failed_and_is_not_run_again() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(retries=3, terms=Terms(timeout=1.0))
    c.done(task, outcome=Outcome.TIMEOUT, payload=b"why")
    assert c.finished(task).outcome is Outcome.TIMEOUT
    assert c.scheduler.totals.failed == 1
    assert not c.scheduler.tasks


# ----------------------------------------------------------------------------------- labels


def test_tasks_that_have_not_ended_are_found_by_their_label() -> None:
    c = Cluster(engines=1, clients=2)
    first = c.submit(2, label="fit")
    c.submit(label="other")
    second = c.submit(2, label="fit", session=2)
    assert c.scheduler.labelled("fit", 10) == [*first, *second]
    assert c.scheduler.labelled("fit", 3) == [*first, second[0]]
    c.done(first[0])
    assert c.scheduler.labelled("fit", 10) == [first[1], *second]


# ------------------------------------------------------------------------------- what they weigh


def test_what_a_task_waits_for_counts_in_what_its_session_has_queued() -> None:
    c = Cluster(engines=1)
    [first] = c.submit(payload=b"1234")
    session = c.scheduler.sessions[1]
    assert session.bytes == 4
    ended = [Past(7, 0, True)] * 50
    [child] = c.submit(terms=Terms(after=Dependency([first], ended)), payload=b"12")
    assert session.bytes == 4 + 2 + 51 * 64
    c.done(first)
    assert session.bytes == 2 + 51 * 64
    c.done(child)
    assert session.bytes == 0
    [other] = c.submit(targets=[0])
    [child] = c.submit(terms=Terms(follow=Dependency([other])))
    c.from_client((Cancel([child]), b""))
    assert session.bytes == c.scheduler.tasks[other].charge


def test_what_is_run_when_a_task_has_failed_counts_too() -> None:
    c = Cluster(engines=1)
    terms = Terms(recovery=Recovery(b"", bytes(1000)), follow=Dependency([], [Past(7, 0, True)]))
    [task] = c.submit(terms=terms, payload=b"12")
    session = c.scheduler.sessions[1]
    assert session.bytes == 2 + 1000 + 64
    c.done(task, outcome=Outcome.ERROR)
    assert session.bytes == 1000
    c.done(task)
    assert session.bytes == 0
