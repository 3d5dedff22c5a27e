"""Tasks that wait for tasks which only their own engines could run: found, and told."""

from __future__ import annotations

from random import Random

import pytest

from ipkernel.controller import deadlocks
from ipkernel.controller.deadlocks import Deadlock
from ipkernel.controller.events import HostFacts, SessionDetached, SessionOpened
from ipkernel.controller.watchdog import Watchdog
from ipkernel.wire.messages import Started, Terms
from tests.support.scheduling import Cluster


class Scene(Cluster):
    """Engines that run tasks, in which further clients are opened."""

    def __init__(self, engines: int) -> None:
        super().__init__(engines)
        self.sessions = iter(range(10, 100))

    def start(self, *tids: int) -> None:
        for tid in tids:
            self.from_host((Started([tid]), b""), host=1)

    def outer(self, count: int) -> list[int]:
        tids = self.submit(count)
        self.start(*tids)
        return tids

    def inner(self, engine: int) -> int:
        """Open a client inside an engine; return its session."""
        session = next(self.sessions)
        self.handle(SessionOpened(session, self.now, "inner", "", engine))
        return session

    def find(self) -> Deadlock | None:
        return deadlocks.find(self.scheduler._core)


def test_nothing_is_nested() -> None:
    c = Scene(2)
    assert c.find() is None
    c.outer(2)
    c.submit(5)
    assert c.find() is None


def test_all_engines_wait_for_what_none_of_them_can_begin() -> None:
    c = Scene(2)
    parents = c.outer(2)
    sessions = [c.inner(c.engine_of(parent)) for parent in parents]
    [first] = c.submit(session=sessions[0])
    assert c.find() is None  # the other engine may end its task
    [second, third] = c.submit(2, session=sessions[1])
    assert c.find() == Deadlock([0, 1], parents, [first, second], 3)
    c.done(parents[1], seconds=1.0)
    assert c.find() is None
    assert c.engine_of(first) == 1 or c.engine_of(second) == 1
    assert third


def test_one_more_engine_is_a_way_out() -> None:
    c = Scene(1)
    [parent] = c.outer(1)
    [child] = c.submit(session=c.inner(0))
    assert c.find() == Deadlock([0], [parent], [child], 1)
    c.add_host(1)
    assert c.find() is None


@pytest.mark.parametrize("targets", [[0], [0, 1]])
def test_engines_that_may_not_run_it_are_none(targets) -> None:
    c = Scene(3)
    parents = c.outer(2)
    sessions = [c.inner(c.engine_of(parent)) for parent in parents]
    found = [c.submit(session=s, targets=targets)[0] for s in sessions]
    assert sorted(c.engine_of(parent) for parent in parents) == [0, 1]
    assert c.find() == Deadlock([0, 1], parents, found, 2)


def test_calls_of_each_others_engine() -> None:
    c = Scene(2)
    parents = c.outer(2)
    at = [c.engine_of(parent) for parent in parents]
    one = c.submit(session=c.inner(at[0]), targets=[at[1]], spread=False)
    assert c.find() is None
    other = c.submit(session=c.inner(at[1]), targets=[at[0]], spread=False)
    assert c.find() == Deadlock([0, 1], parents, sorted(one + other), 2)


def test_a_chain_of_calls() -> None:
    c = Scene(2)
    [parent] = c.outer(1)
    [child] = c.submit(session=c.inner(c.engine_of(parent)))
    c.start(child)
    assert c.find() is None  # it runs, and may end
    [grandchild] = c.submit(session=c.inner(c.engine_of(child)))
    found = c.find()
    assert found == Deadlock([0, 1], sorted([parent, child]), [grandchild], 1)


def test_a_client_that_was_left_by_its_task_waits_for_nothing() -> None:
    c = Scene(1)
    [parent] = c.outer(1)
    session = c.inner(0)
    tids = c.submit(2, session=session)
    c.done(parent, seconds=1.0)
    c.start(tids[0])  # on the same engine, in the client's own task
    assert c.find() is None


def test_a_client_that_is_gone_waits_for_nothing() -> None:
    c = Scene(1)
    c.outer(1)
    session = c.inner(0)
    c.submit(session=session, keep=True)
    assert c.find() is not None
    c.handle(SessionDetached(session, [], c.now))
    assert c.find() is None


def test_only_engines_with_what_is_asked_for_count() -> None:
    c = Scene(1)
    [parent] = c.outer(1)
    c.add_host(1, facts=HostFacts(resources={"gpu": 1}))
    [plain] = c.submit(session=c.inner(0), targets=[0])
    assert c.find() == Deadlock([0], [parent], [plain], 1)
    [special] = c.submit(terms=Terms(resources={"gpu": 1}))
    assert c.engine_of(special) == 1
    c.from_host((Started([special]), b""), host=2)
    inner = c.inner(1)
    c.submit(session=inner)  # for any engine
    [asking] = c.submit(session=inner, terms=Terms(resources={"gpu": 1}))
    found = c.find()
    assert found is not None and found.engines == [0, 1]
    assert asking in found.waiting and found.size == 3


def test_it_is_told_when_it_has_been_so_for_a_while() -> None:
    c = Scene(2)
    parents = c.outer(2)
    children = [c.submit(2, session=c.inner(c.engine_of(p)))[0] for p in parents]
    watchdog: Watchdog = c.scheduler.watchdog(60.0)
    assert watchdog.look(c.now) == [] and watchdog.look(c.now + 59.0) == []
    (found,) = watchdog.look(c.now + 61.0)
    assert found.severity == "warning" and found.cause.startswith(f"nested {min(children)} ")
    assert found.reason == (
        "engines 0, 1 run tasks that have submitted tasks themselves, and may wait for them; 4 of those, "
        f"first task {min(children)}, cannot begin before, for no other engine may run it"
    )
    assert str(parents[0]) in found.advice
    c.done(parents[0], seconds=1.0)
    assert not [one for one in watchdog.look(c.now + 200.0) if one.cause.startswith("nested")]


def test_one_engine_alone_is_told_as_one() -> None:
    c = Scene(1)
    c.outer(1)
    c.submit(session=c.inner(0))
    watchdog = c.scheduler.watchdog(60.0)
    watchdog.look(c.now)
    (found,) = watchdog.look(c.now + 61.0)
    assert found.reason.startswith("engine 0 runs a task that has submitted tasks itself")
    assert "one of those, first task" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_while_an_engine_has_no_client_inside_nothing_is_stuck_for_all(seed) -> None:
    """Whatever is submitted to any engine: a task with no client inside may end, and its engine go on."""
    random = Random(seed)
    c = Scene(4)
    parents = c.outer(3)
    parents += c.outer(1)
    for parent in parents[:3]:
        session = c.inner(c.engine_of(parent))
        for _ in range(random.randrange(1, 4)):
            c.submit(random.randrange(1, 4), session=session)
    assert c.find() is None
    c.submit(session=c.inner(c.engine_of(parents[3])))
    found = c.find()
    assert found is not None and found.engines == [0, 1, 2, 3] and found.running == parents
