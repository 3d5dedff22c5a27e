"""Tasks that use resources, and tasks for engines with certain properties."""

from __future__ import annotations

import pytest

from ipkernel.controller.demands import PARTS
from ipkernel.controller.events import EnginesDescribed, HostAway, HostBack, HostFacts
from ipkernel.controller.tasks import State
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Outcome,
    Returned,
    Simple,
    Terms,
    decode_reason,
)
from tests.support.scheduling import Cluster


def using(c: Cluster, count: int = 1, **resources: float) -> list[int]:
    return c.submit(count, terms=Terms(resources=resources))


def where(c: Cluster, count: int = 1, **properties: Simple) -> list[int]:
    return c.submit(count, terms=Terms(where=properties))


def describe(c: Cluster, engine: int, *drop: str, **put: Simple) -> None:
    c.handle(EnginesDescribed([engine], put, list(drop), c.now))


def machines(*each: dict[str, float], shared: dict[str, float] | None = None) -> Cluster:
    """One host with one engine for each of the dicts of resources."""
    c = Cluster()
    for resources in each:
        c.add_host(1, facts=HostFacts(resources=resources, shared=shared or {}))
    return c


def end_of(c: Cluster, task: int) -> str:
    """Why a task ended as impossible."""
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE
    reason = decode_reason(c.payload_for(task))
    assert reason.kind == "resources"
    return reason.text


def waits(c: Cluster, task: int) -> str:
    assert c.scheduler.tasks[task].state is State.READY
    return c.scheduler.explain(task).reason


# -------------------------------------------------------------------------------- resources


def test_a_task_goes_where_its_resource_is() -> None:
    c = machines({}, {"gpu": 1}, {})
    for _ in range(5):
        [task] = using(c, gpu=1)
        assert c.engine_of(task) == 1
        c.done(task)


def test_tasks_wait_for_what_others_use() -> None:
    c = machines({"gpu": 1}, {})
    first, second = using(c, 2, gpu=1)
    assert c.engine_of(first) == 0
    assert waits(c, second) == (
        f"it waits for 1 gpu, of which 0 is free: engine 0 has it in use by task {first}"
    )
    c.done(first)
    assert c.engine_of(second) == 0


def test_all_tasks_in_the_window_of_an_engine_count() -> None:
    c = machines({"memory": 2.5})
    c.warm_up()
    tasks = using(c, 10, memory=0.5)
    assert [a.task for a in c.assigned] == tasks[:5]
    c.done(*tasks[:2])
    assert [a.task for a in c.assigned] == tasks[2:7]


def test_fractions_add_up_exactly() -> None:
    c = machines({"share": 1})
    c.warm_up()
    tasks = using(c, 12, share=0.1)
    assert len(c.assigned) == 10
    c.done(*tasks[:10])
    assert not c.scheduler.engines[0].used or len(c.assigned) == 2


def test_less_than_the_least_part_is_one_part() -> None:
    c = machines({"x": 3 / PARTS})
    c.warm_up()
    using(c, 9, x=1e-9)
    assert len(c.assigned) == 3


def test_what_engines_of_a_host_share() -> None:
    c = Cluster()
    c.add_host(3, facts=HostFacts(shared={"memory": 4}))
    c.add_host(1, facts=HostFacts(shared={"memory": 1}))
    large = using(c, 3, memory=2)
    assert sorted(c.engine_of(t) for t in large[:2]) == [0, 1]
    assert "it waits for 2 memory, of which 0 is free" in waits(c, large[2])
    [small] = using(c, memory=1)
    assert c.engine_of(small) == 3
    c.done(large[0])
    assert c.engine_of(large[2]) in (0, 1, 2)


def test_both_kinds_at_once() -> None:
    c = Cluster()
    c.add_host(2, facts=HostFacts(resources={"gpu": 1}, shared={"licence": 1}))
    first, second = using(c, 2, gpu=1, licence=1)
    [third] = using(c, gpu=1)
    assert c.engine_of(first) != c.engine_of(third)
    c.done(third)
    assert "1 licence" in waits(c, second)
    c.done(first)
    assert c.engine_of(second) in (0, 1)


def test_others_pass_a_task_that_waits_for_a_resource() -> None:
    c = machines({"gpu": 1}, {"cpu": 1})
    busy, blocked = using(c, 2, gpu=1)
    [plain] = c.submit()
    assert c.engine_of(plain) == 1
    assert waits(c, blocked)
    assert c.engine_of(busy) == 0


def test_priorities_hold_among_those_that_use_the_same() -> None:
    c = machines({"gpu": 1})
    [running] = using(c, gpu=1)
    low = c.submit(terms=Terms(0, resources={"gpu": 1}))
    high = c.submit(terms=Terms(5, resources={"gpu": 1}))
    c.done(running, seconds=1.0)
    assert [a.task for a in c.assigned] == high
    c.done(*high, seconds=1.0)
    assert [a.task for a in c.assigned] == low


@pytest.mark.parametrize("restarting", [True, False])
def test_what_a_lost_engine_had_in_use_is_free_again(restarting: bool) -> None:
    c = Cluster()
    c.add_host(2, facts=HostFacts(shared={"licence": 1}))
    first, second = using(c, 2, licence=1)
    engine = c.engine_of(first)
    c.leave(engine, "killed", started=[first], restarting=restarting)
    assert c.finished(first).outcome is Outcome.LOST
    assert c.engine_of(second) == 1 - engine


def test_what_is_given_back_is_free_again() -> None:
    c = machines({"x": 2})
    c.warm_up()
    first, second = using(c, 2, x=1)
    c.from_client((Cancel([second]), b""))
    assert c.scheduler.engines[0].used == {"x": 2 * PARTS}
    c.from_host((Returned(0, [second]), b""))
    assert c.scheduler.engines[0].used == {"x": PARTS}
    assert c.finished(second).outcome is Outcome.ABORTED


def test_what_a_rejected_task_used_is_free_again() -> None:
    c = machines({"gpu": 1}, {"gpu": 1}, {})
    [task] = using(c, gpu=1)
    first = c.engine_of(task)
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    assert {first, c.engine_of(task)} == {0, 1}
    c.done(task, outcome=Outcome.REJECTED, payload=b"")
    assert c.finished(task).outcome is Outcome.IMPOSSIBLE  # the third has no gpu: it is not asked


def test_tasks_with_a_choice_of_engines() -> None:
    c = machines({"gpu": 1}, {"gpu": 1}, {})
    [task] = c.submit(targets=[1, 2], terms=Terms(resources={"gpu": 1}))
    assert c.engine_of(task) == 1
    [never] = c.submit(targets=[2], terms=Terms(resources={"gpu": 1}))
    assert end_of(c, never) == "none of the engines 2 has 1 gpu; engine 2 has none"


def test_impossible_requests_end_at_once() -> None:
    c = machines({"gpu": 1, "memory": 2}, {"memory": 8})
    [much] = using(c, gpu=2)
    assert end_of(c, much) == "no engine has 2 gpu; engine 0 has 1"
    [unknown] = using(c, tpu=0.5)
    assert end_of(c, unknown) == "no engine has 0.5 tpu; engine 0 has none"
    [both] = using(c, gpu=1, memory=4)
    assert end_of(c, both) == "no engine has 1 gpu and 4 memory, all at once"


def test_where_there_is_no_engine_one_may_come() -> None:
    c = Cluster()
    [task] = using(c, gpu=1)
    assert "no engines" in waits(c, task)
    c.add_host(1, facts=HostFacts(resources={"gpu": 1}))
    assert c.engine_of(task) == 0


def test_a_request_is_impossible_as_soon_as_there_are_engines_and_none_has_it() -> None:
    c = Cluster()
    [task] = using(c, gpu=1)
    c.add_host(1)
    assert end_of(c, task) == "no engine has 1 gpu; engine 0 has none"


def test_tasks_end_when_the_last_engine_that_could_run_them_goes() -> None:
    c = machines({"gpu": 1}, {})
    _, waiting = using(c, 2, gpu=1)
    c.lose_host(1)
    assert end_of(c, waiting) == "no engine has 1 gpu; engine 1 has none"


def test_a_request_is_looked_at_again_when_what_it_waited_for_has_ended() -> None:
    c = machines({"gpu": 1}, {})
    [first] = c.submit()
    terms = Terms(after=Dependency([first]), resources={"gpu": 1})
    [task] = c.submit(terms=terms)
    [never] = c.submit(terms=Terms(after=Dependency([first]), resources={"gpu": 9}))
    assert "9 gpu" in end_of(c, never)
    c.done(first)
    assert c.engine_of(task) == 0


def test_work_is_taken_back_only_for_an_engine_that_has_what_it_uses() -> None:
    c = machines({"gpu": 4}, {"gpu": 1}, {})
    c.warm_up()
    tasks = using(c, 4, gpu=1)
    busy = [t for t in tasks if c.engine_of(t) == 0]
    assert len(busy) >= 2
    c.scheduler.validate()


def test_equal_terms_are_kept_once() -> None:
    c = Cluster()
    tasks = [*using(c, gpu=1), *using(c, gpu=1)]
    first, second = (c.scheduler.tasks[t].message.terms for t in tasks)
    assert first is second is not None


# ------------------------------------------------------------------------------- properties


def test_a_task_goes_to_an_engine_with_a_property() -> None:
    c = Cluster(engines=3)
    describe(c, 2, os="linux", cores=8)
    for wanted in ({"os": "linux"}, {"cores": 8}, {"os": "linux", "cores": 8}):
        [task] = c.submit(terms=Terms(where=dict(wanted)))
        assert c.engine_of(task) == 2
        c.done(task)


def test_properties_that_no_engine_has() -> None:
    c = Cluster(engines=2)
    describe(c, 1, os="darwin")
    assert end_of(c, *where(c, os="linux")) == (
        "no engine has the property os='linux'; engine 1 has os='darwin'"
    )
    assert end_of(c, *where(c, gpu=True)) == "no engine has the property gpu=True; none has one"
    describe(c, 0, gpu=True)
    assert end_of(c, *where(c, gpu=True, os="darwin")) == (
        "no engine has gpu=True and os='darwin', all at once"
    )


def test_a_property_may_be_none() -> None:
    c = Cluster(engines=2)
    describe(c, 1, licence=None)
    [task] = where(c, licence=None)
    assert c.engine_of(task) == 1


def test_properties_come_and_go() -> None:
    c = Cluster(engines=2)
    describe(c, 0, os="linux")
    first, second = where(c, 2, os="linux")
    assert c.engine_of(first) == 0
    describe(c, 1, os="linux")
    assert c.engine_of(second) == 1
    [third] = where(c, os="linux")
    assert "engines that have os='linux' are busy" in waits(c, third)
    describe(c, 0, "os")
    describe(c, 1, "os", arch="arm")
    assert "os='linux'" in end_of(c, third)
    assert c.scheduler.engines[1].properties == {"arch": "arm"}


def test_an_engine_keeps_its_properties_when_it_is_restarted() -> None:
    c = Cluster(engines=2)
    describe(c, 1, os="linux")
    c.leave(1, "killed", started=[], restarting=True)
    [task] = where(c, os="linux")
    c.join(1)
    assert c.engine_of(task) == 1


def test_a_new_engine_has_no_properties() -> None:
    c = Cluster()
    c.add_host(1)
    describe(c, 0, os="linux")
    c.lose_host(1)
    c.add_host(1)
    assert c.scheduler.engines[0].properties == {}


def test_direct_tasks_ask_for_no_engine() -> None:
    c = Cluster(engines=1)
    c.submit(targets=[0], spread=False, terms=Terms(where={"os": "linux"}))
    assert any("ask for an engine" in str(i) for i in c.last)


def test_lines_for_what_is_asked_for_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    c = machines({"x": 5000})
    with monkeypatch.context() as patch:
        patch.setattr(c.scheduler, "validate", lambda: None)  # which looks at all lines
        for number in range(1, 2500):
            c.done(*using(c, x=number))
    c.scheduler.validate()
    assert len(c.scheduler._core.lines.all()) < 1500
    assert len(c.scheduler._core.demands._known) < 1500


def test_nothing_is_impossible_while_a_host_is_away() -> None:
    c = machines({}, {})
    c.handle(HostAway(2, "connection lost", c.now + 2.0, c.now))
    [task] = using(c, gpu=1)
    assert c.scheduler.tasks[task].state is State.READY
    c.handle(HostBack(2, c.now, [1]))
    assert end_of(c, task) == "no engine has 1 gpu; engine 0 has none"
