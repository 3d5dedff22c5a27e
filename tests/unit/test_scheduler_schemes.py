"""Schemes: which of the engines with room gets the next task."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.controller.defaults import SCHEMES
from ipkernel.controller.schemes import make_ladder
from ipkernel.wire.messages import Terms
from tests.support.scheduling import Cluster


def cluster(scheme: str, engines: int, seed: int = 1) -> Cluster:
    return Cluster(engines, scheme=scheme, random=Random(seed))


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="no scheme 'fair'; there are leastload, lru"):
        make_ladder("fair")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_engine_works_and_every_task_is_run(scheme: str) -> None:
    c = cluster(scheme, 4)
    tasks = c.submit(40)
    order: Counter[int] = Counter()
    while c.assigned:
        assert len(c.assigned) == min(4, len(tasks))
        one = c.assigned[0]
        order[one.engine] += 1
        tasks.remove(one.task)
        c.done(one.task, seconds=1.0)
    assert not tasks and set(order) == {0, 1, 2, 3}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_choices_and_resources_hold_with_every_scheme(scheme: str) -> None:
    c = cluster(scheme, 4)
    for _ in range(20):
        [task] = c.submit(targets=[1, 3], terms=Terms(1))
        assert c.engine_of(task) in (1, 3)
        c.done(task, seconds=1.0)


def test_lru_is_the_one_that_was_given_something_longest_ago() -> None:
    c = cluster("lru", 3)
    places = []
    for _ in range(9):
        [task] = c.submit()
        places.append(c.engine_of(task))
        c.done(task, seconds=1.0)
    assert places == [0, 1, 2] * 3
    [long] = c.submit()
    short = c.submit(2)
    c.done(*short, seconds=1.0)
    c.done(long, seconds=1.0)
    [next_] = c.submit()
    assert c.engine_of(next_) == 0  # though it was busy last


def places(scheme: str, seed: int, count: int = 400) -> list[int]:
    """Where tasks go, one at a time."""
    ladder = make_ladder(scheme, Random(seed))
    c = Cluster(4)
    for engine in c.scheduler.engines.values():
        engine.rung = -1
        ladder.update(engine)
    found = []
    for _ in range(count):
        first = ladder.first()
        assert first is not None
        found.append(first.id)
    return found


@pytest.mark.parametrize("scheme", ["plainrandom", "twobin", "weighted"])
def test_chance_is_even_among_equals_and_can_be_repeated(scheme: str) -> None:
    found = places(scheme, 5)
    assert found == places(scheme, 5) != places(scheme, 6)
    assert all(50 < count < 150 for count in Counter(found).values())


@pytest.mark.parametrize(
    ("scheme", "low", "high"),
    [("plainrandom", 0.4, 0.6), ("twobin", 0.15, 0.35), ("weighted", 0.0, 0.1)],
)
def test_how_often_the_loaded_one_of_two_engines_is_chosen(
    scheme: str, low: float, high: float
) -> None:
    c = cluster(scheme, 2)
    c.warm_up()
    c.submit(8, targets=[0])
    ladder = c.scheduler._core.ladder
    engines = list(c.scheduler.engines.values())
    assert engines[0].rung > engines[1].rung >= 0
    picked = Counter(ladder.pick(engines).id for _ in range(1000))
    assert low <= picked[0] / 1000 <= high


@given(
    st.sampled_from(SCHEMES),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=80),
)
@settings(deadline=None, max_examples=60)
def test_the_first_engine_has_room_whatever_happens(
    scheme: str, steps: list[tuple[int, int]]
) -> None:
    c = cluster(scheme, 6)
    core = c.scheduler._core
    for number, what in steps:
        engine = c.scheduler.engines[number]
        if what == 0:
            engine.ending = not engine.ending
            core.ladder.update(engine)
        elif what == 1:
            core.ladder.remove(engine)
        else:
            engine.window = what
            core.ladder.update(engine)
        first = core.ladder.first()
        able = [e for e in c.scheduler.engines.values() if e.rung >= 0]
        assert (first in able) if able else first is None
        assert core.ladder.open == len(able)
        if able:
            assert core.ladder.pick(able) in able
            assert (core.ladder.step() > 0) == (len(able) > 1)
