"""Tasks that wait for other tasks: when they go, where, and when they never can."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.controller import history
from ipkernel.controller.dependencies import Need
from ipkernel.controller.events import Item, SessionHeld
from ipkernel.controller.history import History
from ipkernel.controller.instructions import DropClient
from ipkernel.controller.tasks import Origin, State
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Fetch,
    Finished,
    Kind,
    Outcome,
    Past,
    Reason,
    Submit,
    Terms,
    decode_reason,
)
from tests.support.scheduling import Cluster


def after(*tasks: int, **how: bool) -> Terms:
    return Terms(after=Dependency(list(tasks), **how))  # type: ignore[arg-type]


def follow(*tasks: int, **how: bool) -> Terms:
    return Terms(follow=Dependency(list(tasks), **how))  # type: ignore[arg-type]


def one(c: Cluster, terms: Terms | None = None, **options: object) -> int:
    [task] = c.submit(terms=terms, **options)  # type: ignore[arg-type]
    return task


def reason(c: Cluster, task: int) -> Reason:
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE
    return decode_reason(c.payload_for(task))


def is_assigned(c: Cluster, task: int) -> bool:
    return any(a.task == task for a in c.assigned)


# ---------------------------------------------------------------------------------- waiting


def test_a_task_waits_for_all_others_to_succeed() -> None:
    c = Cluster(engines=3)
    first, second = c.submit(2)
    child = one(c, after(first, second))
    assert c.scheduler.tasks[child].state is State.WAITING
    assert c.scheduler.counts().waiting == 1
    c.done(second)
    assert not is_assigned(c, child)
    c.done(first)
    assert is_assigned(c, child)


def test_one_success_may_be_enough() -> None:
    c = Cluster(engines=3)
    first, second = c.submit(2)
    child = one(c, after(first, second, all=False))
    c.done(first, outcome=Outcome.ERROR)
    assert not is_assigned(c, child)
    c.done(second)
    assert is_assigned(c, child)


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.OK])
def test_a_task_may_wait_for_an_end_of_either_kind(outcome: Outcome) -> None:
    c = Cluster(engines=2)
    first = one(c)
    child = one(c, after(first, failure=True))
    c.done(first, outcome=outcome)
    assert is_assigned(c, child)


def test_a_task_may_wait_for_failures() -> None:
    c = Cluster(engines=2)
    first, second = c.submit(2)
    child = one(c, after(first, second, all=False, success=False, failure=True))
    c.done(first)
    assert not is_assigned(c, child)
    c.done(second, outcome=Outcome.ERROR)
    assert is_assigned(c, child)


def test_a_chain_runs_link_by_link() -> None:
    c = Cluster(engines=2)
    chain = [one(c)]
    for _ in range(20):
        chain.append(one(c, after(chain[-1])))
    for task in chain:
        [only] = c.assigned
        assert only.task == task
        c.done(task)
    assert not c.scheduler.tasks


def test_a_task_that_has_ended_already_is_not_waited_for() -> None:
    c = Cluster(engines=1)
    first = one(c)
    c.done(first)
    assert is_assigned(c, one(c, after(first)))


def test_what_the_client_has_seen_need_not_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MEMORY", 2)
    c = Cluster(engines=1)
    tasks = [one(c) for _ in range(5) if not c.assigned or not c.done(c.assigned[0].task)]
    c.done(c.assigned[0].task)
    assert reason(c, one(c, after(tasks[0]))).kind == "unknown-task"
    seen = Terms(after=Dependency(ended=[Past(tasks[0], 0, True)]))
    assert is_assigned(c, one(c, seen))


def test_a_task_of_the_same_batch_can_be_waited_for() -> None:
    c = Cluster(engines=0)
    first = one(c)
    child = one(c, after(first))
    c.add_host(1)
    c.done(first)
    assert is_assigned(c, child)


def test_tasks_of_other_sessions_can_be_waited_for() -> None:
    c = Cluster(engines=2, clients=2)
    mine, yours = c.clients
    first = one(c, session=mine)
    child = one(c, after(first), session=yours)
    c.done(first)
    assert is_assigned(c, child)
    c.done(child)
    assert c.finished(child, yours).outcome is Outcome.OK


def test_so_can_those_whose_client_is_gone() -> None:
    c = Cluster(engines=1, clients=2)
    mine, yours = c.clients
    first = one(c, session=mine)
    c.detach(mine)
    c.done(first)
    c.scheduler._core.history = History()  # it is kept with the result, too
    assert is_assigned(c, one(c, after(first), session=yours))
    c.from_client((Fetch([first]), b""), session=yours)


def test_a_task_that_waits_for_two_things_waits_for_both() -> None:
    c = Cluster(engines=2)
    first, second = c.submit(2)
    where = c.engine_of(second)
    both = Terms(after=Dependency([first]), follow=Dependency([second]))
    child = one(c, both)
    c.done(second)
    assert not is_assigned(c, child)
    c.done(first)
    assert c.engine_of(child) == where


def test_a_released_task_keeps_its_priority() -> None:
    c = Cluster(engines=1)
    first = one(c)
    child = one(c, Terms(priority=5, after=Dependency([first])))
    one(c)
    c.done(first)
    assert is_assigned(c, child)


def test_tasks_of_a_held_client_are_not_released_to_engines() -> None:
    c = Cluster(engines=1, clients=2)
    first = one(c, session=2)
    child = one(c, after(first), session=1)
    c.handle(SessionHeld(1, True, c.now))
    c.done(first)
    assert not c.assigned
    c.handle(SessionHeld(1, False, c.now))
    assert is_assigned(c, child)


def test_a_task_whose_engine_was_lost_is_waited_for_on() -> None:
    c = Cluster(engines=2)
    first = one(c, retries=1)
    child = one(c, after(first))
    c.leave(c.engine_of(first), "killed", started=[first], restarting=True)
    assert not is_assigned(c, child)
    c.done(first)
    assert is_assigned(c, child)


# --------------------------------------------------------------------------------- following


def test_a_task_follows_another_one_to_its_engine() -> None:
    c = Cluster(engines=4)
    first = one(c, targets=[2])
    child = one(c, follow(first))
    c.done(first)
    assert c.engine_of(child) == 2


def test_it_waits_for_that_engine_while_others_are_idle() -> None:
    c = Cluster(engines=2)
    first = one(c, targets=[1])
    child = one(c, follow(first))
    one(c, targets=[1])
    c.done(first, seconds=1.0)
    assert not is_assigned(c, child)
    c.done(c.assigned[0].task, seconds=1.0)
    assert c.engine_of(child) == 1


def test_what_ran_in_several_places_cannot_be_followed_as_a_whole() -> None:
    c = Cluster(engines=2)
    first, second = one(c, targets=[0]), one(c, targets=[1])
    all_of_them, any_of_them = (
        one(c, follow(first, second)),
        one(c, follow(first, second, all=False)),
    )
    c.done(first)
    c.done(second)
    text = reason(c, all_of_them).text
    assert "ran on engines 0 and 1, not on the same" in text
    assert c.engine_of(any_of_them) == 0


def test_a_task_cannot_follow_where_it_may_not_go() -> None:
    c = Cluster(engines=2)
    first = one(c, targets=[0])
    child = one(c, follow(first), targets=[1])
    c.done(first)
    assert "ran on engine 0, but may run on engines 1 only" in reason(c, child).text


def test_a_task_cannot_follow_one_that_never_ran() -> None:
    c = Cluster(engines=1)
    one(c)
    first = one(c)
    child = one(c, follow(first, failure=True))
    c.from_client((Cancel([first]), b""))
    assert f"task {first} never ran" in reason(c, child).text


def test_a_task_cannot_follow_to_an_engine_that_is_gone() -> None:
    c = Cluster(engines=2)
    first = one(c, targets=[0])
    c.done(first)
    c.leave(0, "killed", started=[])
    assert "engine 0 is dead" in reason(c, one(c, follow(first))).text


# --------------------------------------------------------------------------------- never


def test_a_failure_ends_what_waits_for_success() -> None:
    c = Cluster(engines=2)
    first, second = c.submit(2)
    child = one(c, after(first, second))
    c.done(first, outcome=Outcome.ERROR)
    found = reason(c, child)
    assert found.kind == "dependency"
    assert f"can never be met: task {first} failed" in found.text
    c.done(second)
    assert not c.scheduler.tasks


def test_a_success_ends_what_waits_for_failure() -> None:
    c = Cluster(engines=1)
    first = one(c)
    child = one(c, after(first, success=False, failure=True))
    c.done(first)
    assert "succeeded, and only failures count" in reason(c, child).text


def test_the_last_failure_ends_what_waits_for_one_success() -> None:
    c = Cluster(engines=3)
    tasks = c.submit(3)
    child = one(c, after(*tasks, all=False))
    for task in tasks:
        assert child in c.scheduler.tasks
        c.done(task, outcome=Outcome.ERROR)
    assert "of the 2 others none did better" in reason(c, child).text


def test_one_failure_ends_a_long_chain_in_one_step() -> None:
    c = Cluster(engines=1)
    first = last = one(c)
    items: list[Item] = []
    for number in range(1, 20_001):
        items.append((Submit(first + number, Kind.APPLY, 0, terms=after(last)), b""))
        last = first + number
    c.from_client(*items)
    c.done(first, outcome=Outcome.ERROR)
    assert not c.scheduler.tasks
    assert len(c.results()) == 20_001


def test_a_dependency_that_is_known_to_have_failed_ends_the_task_at_once() -> None:
    c = Cluster(engines=1)
    seen = Terms(after=Dependency(ended=[Past(5, 0, False)]))
    assert "task 5 failed" in reason(c, one(c, seen)).text
    mixed = Dependency([], [Past(5, 0, False), Past(6, 0, True)], all=False)
    assert is_assigned(c, one(c, Terms(after=mixed)))


def test_an_unknown_task_cannot_be_waited_for() -> None:
    c = Cluster(engines=1)
    found = reason(c, one(c, after(987654321)))
    assert found.kind == "unknown-task"
    assert "task 987654321 is not known" in found.text


def test_a_task_cannot_wait_for_itself() -> None:
    c = Cluster(engines=1)
    first = one(c)
    assert reason(c, one(c, after(first + 1))).kind == "unknown-task"


def test_cancelling_what_is_waited_for_ends_who_waits() -> None:
    c = Cluster()
    first = one(c)
    child = one(c, after(first))
    grandchild = one(c, after(child))
    c.from_client((Cancel([first]), b""))
    assert reason(c, grandchild).kind == reason(c, child).kind == "dependency"


def test_who_waits_can_be_cancelled_and_is_forgotten() -> None:
    c = Cluster(engines=1)
    first = one(c)
    child = one(c, after(first))
    c.from_client((Cancel([child]), b""))
    assert c.finished(child).outcome is Outcome.ABORTED
    assert not c.scheduler._core.awaited
    c.done(first)
    assert not c.assigned


def test_a_rejected_task_ends_who_waits_for_it() -> None:
    c = Cluster(engines=1)
    first = one(c, digest=b"unknown")
    assert reason(c, one(c, after(first))).kind == "dependency"


def test_who_waits_for_lost_data_ends_too() -> None:
    c = Cluster(clients=2)
    c.add_host(1, store=True)
    made = c.made(b"o" * 16, session=2)
    first = one(c, session=2)
    child = one(c, after(first), needs=[made])
    grandchild = one(c, after(child))
    c.detach(2)
    assert c.finished(child).outcome is Outcome.LOST
    assert reason(c, grandchild).kind == "dependency"


def test_a_task_for_certain_engines_must_not_wait() -> None:
    c = Cluster(engines=1)
    one(c, after(1), targets=[0], spread=False)
    [dropped] = [i for i in c.last if isinstance(i, DropClient)]
    assert "only a load-balanced task may wait" in dropped.reason


# ------------------------------------------------------------------------------- explaining


def test_explain_says_what_a_task_waits_for() -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2)
    child = one(c, after(first, second))
    story = c.scheduler.explain(child)
    assert story.state == "waiting"
    assert story.reason == (
        f"it waits for all of 2 tasks to end: tasks {first}, {second} (assigned)"
    )
    single = one(
        c, Terms(after=Dependency([second]), follow=Dependency([first, second], all=False))
    )
    assert c.scheduler.explain(single).reason == (
        f"it waits for a task to end: task {second} (ready), and for one of 2 tasks to end: "
        f"tasks {first}, {second} (assigned)"
    )


# ------------------------------------------------------------------------------------ parts

ENDS = st.tuples(st.booleans(), st.integers(-1, 2))


@given(
    st.lists(ENDS, min_size=1, max_size=6),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from([(True, False), (False, True), (True, True)]),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_need_is_what_its_definition_says(
    ends: list[tuple[bool, int]], seen: int, every: bool, how: tuple[bool, bool], where: bool
) -> None:
    """Whatever the client knows beforehand, and in which order the others end."""
    success, failure = how
    known = [Past(n, engine, ok) for n, (ok, engine) in enumerate(ends[:seen])]
    rest = list(range(len(known), len(ends)))
    need = Need(Dependency(rest, known, every, success, failure), where)
    need.take_past()
    for task in rest:
        need.ended(task, *ends[task])
    good = [
        engine for ok, engine in ends if (success if ok else failure) and not (where and engine < 0)
    ]
    if every:
        possible = len(good) == len(ends) and not (where and len(set(good)) > 1)
    else:
        possible = bool(good)
    assert need.met == possible
    assert bool(need.problem) == (not possible)
    if where and possible:
        assert len(need.engines) == 1 and need.engines <= set(good)


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 60), st.booleans())
@settings(deadline=None)
def test_the_history_knows_the_latest(sizes: list[int], limit: int, asks: bool) -> None:
    before, history.MEMORY = history.MEMORY, limit  # type: ignore[misc]
    try:
        past = History()
        made = 0
        for size in sizes:
            new = range(made, made + size)
            ended = [(Finished(t, Outcome.OK, 0, 0.0, 0.0, 0), b"") for t in new]
            past.add(ended, [Origin(t) for t in new], size)
            made += size
            if asks:
                past.find(0)
            assert past.count == min(made, limit)
            known = [t for t in range(made) if past.find(t) is not None]
            latest = list(range(made - past.count, made))
            assert known[len(known) - len(latest) :] == latest  # it may know some more
            assert len(past._index) <= 2 * limit
            assert all(past.past(t)[1].submitted == t for t in known)
            assert list(past) == latest
    finally:
        history.MEMORY = before  # type: ignore[misc]
