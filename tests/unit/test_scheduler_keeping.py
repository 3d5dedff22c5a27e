"""Requests for much of a resource that small ones pass, until it is kept free for them."""

from __future__ import annotations

import pytest

from ipkernel.controller.events import HostFacts, HostLost, SessionOpened
from ipkernel.controller.keeping import PASSES
from ipkernel.controller.tasks import State
from ipkernel.wire.messages import Cancel, Outcome, Terms
from tests.support.scheduling import Cluster


def using(c: Cluster, count: int = 1, session: int | None = None, **resources: float) -> list[int]:
    return c.submit(count, session=session, terms=Terms(resources=resources))


def host(c: Cluster, engines: int = 4, gpu: float = 3) -> None:
    c.add_host(engines, facts=HostFacts(shared={"gpu": gpu}))


def turns(c: Cluster, count: int) -> list[int]:
    """Let so many tasks end, one at a time and the oldest first; return what was assigned."""
    begun: list[int] = []
    for _ in range(count):
        before = {a.task for a in c.assigned}
        c.done(c.assigned[0].task)
        begun += [a.task for a in c.assigned if a.task not in before]
    return begun


def late(c: Cluster, gpu: float = 3, small: int = 4 * PASSES) -> int:
    """Submit a large task among small ones, and let these pass it until that is enough."""
    using(c, small // 2, gpu=1)
    [large] = using(c, gpu=gpu)
    using(c, small // 2, gpu=1)
    while not c.scheduler._core.lines.overdue:
        assert large not in turns(c, 1)
    assert large not in turns(c, 1)
    assert c.scheduler._core.kept
    return large


def all_end(c: Cluster) -> None:
    while c.assigned:
        turns(c, 1)
    assert not c.scheduler.tasks


def test_it_is_passed_for_a_limited_time_only() -> None:
    c = Cluster()
    host(c)
    large = late(c)
    assert turns(c, 2)[-1:] == [large], "what two of three small ones gave back was kept"
    all_end(c)


def test_a_second_one_comes_after_the_first() -> None:
    c = Cluster()
    host(c)
    first = late(c)
    [second] = using(c, gpu=2)
    assert first in turns(c, 3)
    ends = 0
    while c.scheduler.tasks[second].state is State.READY:
        turns(c, 1)
        ends += 1
    assert ends <= 3 * PASSES
    all_end(c)


def test_it_is_kept_at_one_place_and_only_what_is_asked_for() -> None:
    c = Cluster()
    host(c)
    host(c)
    large = late(c, small=20 * PASSES)
    [place] = {engine.host.id for engine in c.scheduler._core.kept}
    [plain] = c.submit()
    assert c.engine_of(plain) is not None
    while c.scheduler.tasks[large].state is State.READY:
        begun = turns(c, 1)
        others = {c.scheduler.tasks[task].engine for task in begun if task != large}
        assert all(c.scheduler.engines[number].host.id != place for number in others)
    all_end(c)


def test_what_each_engine_has_is_kept_at_one_engine() -> None:
    c = Cluster()
    for _ in range(2):
        c.add_host(1, facts=HostFacts(resources={"gpu": 2}))
    c.warm_up()
    large = late(c, gpu=2)
    assert len(c.scheduler._core.kept) == 1
    while c.scheduler.tasks[large].state is State.READY:
        turns(c, 1)
    all_end(c)


def test_why_others_wait() -> None:
    c = Cluster()
    host(c)
    late(c)
    waiting = [task for task in c.scheduler.tasks.values() if task.state is State.READY]
    assert c.scheduler.explain(waiting[-1].id).reason == (
        "it waits for 1 gpu, which is kept free on engine 0 for tasks that ask for 3 gpu and were "
        "passed by others for long"
    )


def test_tasks_of_tasks_pass_nevertheless() -> None:
    c = Cluster()
    host(c)
    large = late(c)
    c.handle(SessionOpened(2, c.now, "in a task", "tub-2", 1))
    [nested] = using(c, session=2, gpu=1)
    assert nested in [a.task for a in c.assigned]
    assert c.scheduler.tasks[large].state is State.READY
    all_end(c)


def test_nothing_is_kept_for_what_is_cancelled() -> None:
    c = Cluster()
    host(c)
    large = late(c)
    before = len(c.assigned)
    c.from_client((Cancel([large]), b""))
    assert c.finished(large).outcome is Outcome.ABORTED
    assert len(c.assigned) == before + 1
    all_end(c)


def test_it_is_kept_elsewhere_when_its_place_is_gone() -> None:
    c = Cluster()
    host(c)
    host(c)
    large = late(c, small=20 * PASSES)
    [place] = {engine.host.id for engine in c.scheduler._core.kept}
    c.assigned = [a for a in c.assigned if c.scheduler.engines[a.engine].host.id != place]
    c.handle(HostLost(place, "its power is gone", c.now))
    assert {engine.host.id for engine in c.scheduler._core.kept} == {3 - place}
    while c.scheduler.tasks[large].state is State.READY:
        turns(c, 1)
    all_end(c)


@pytest.mark.parametrize("sessions", [2, PASSES + 4])
def test_sessions_that_ask_for_the_same_take_turns(sessions: int) -> None:
    c = Cluster(clients=sessions)
    host(c, gpu=2)
    for number in c.clients:
        using(c, 4, session=number, gpu=1)
    all_end(c)
