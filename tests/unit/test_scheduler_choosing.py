"""Which engine gets which task, and when."""

from __future__ import annotations

from itertools import pairwise

from ipkernel.controller.events import EnginesEnding, EnginesGone
from ipkernel.wire.messages import Outcome, Reclaim, Returned, Started, decode_reason
from tests.support.scheduling import Cluster

# ------------------------------------------------------------------------------- choice of engines


def test_tasks_are_spread_over_idle_engines() -> None:
    c = Cluster(engines=4)
    c.submit(4)
    assert sorted(a.engine for a in c.assigned) == [0, 1, 2, 3]


def test_an_engine_that_was_not_used_for_longest_comes_first() -> None:
    c = Cluster(engines=3)
    used = []
    for _ in range(6):
        [tid] = c.submit()
        used.append(c.assigned[0].engine)
        c.done(tid)
    assert used == [0, 1, 2, 0, 1, 2]


def test_only_one_task_is_assigned_until_it_is_known_how_long_tasks_take() -> None:
    c = Cluster(engines=1)
    c.submit(100)
    assert len(c.assigned) == 1


def test_long_tasks_are_not_prefetched() -> None:
    c = Cluster(engines=1)
    c.submit(10)
    for _ in range(9):
        c.done(c.assigned[0].task, seconds=0.02)
        assert len(c.assigned) == 1


def test_tasks_of_some_milliseconds_are_prefetched_one_deep() -> None:
    c = Cluster(engines=1)
    c.submit(20)
    for _ in range(10):
        c.done(c.assigned[0].task, seconds=0.01)
    assert len(c.assigned) == 2


def test_tiny_tasks_fill_a_window_that_grows_to_its_limit() -> None:
    c = Cluster(engines=1)
    c.submit(20_000)
    sizes = []
    for _ in range(15):
        c.done(*[a.task for a in c.assigned], seconds=1e-6)
        sizes.append(len(c.assigned))
    assert sizes[:4] == [2, 4, 8, 16]
    assert sizes[-1] == 1024 == c.scheduler.engines[0].window
    assert all(b <= 2 * a for a, b in pairwise(sizes))


def test_the_window_shrinks_when_tasks_become_long() -> None:
    c = Cluster(engines=1)
    c.submit(5000)
    for _ in range(12):
        c.done(*[a.task for a in c.assigned], seconds=1e-6)
    while len(c.assigned) > 1:
        c.done(c.assigned[0].task, seconds=1.0)
    assert c.scheduler.engines[0].window == 1


def test_a_window_is_limited_by_bytes_too() -> None:
    c = Cluster(engines=1)
    c.submit(4)
    for _ in range(4):
        c.done(c.assigned[0].task, seconds=1e-6)
    c.submit(16, payload=bytes(3 << 20))
    assert len(c.assigned) == 3


def test_a_queue_of_tiny_tasks_is_divided_evenly() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    c.submit(100)
    counts = [sum(a.engine == e for a in c.assigned) for e in (0, 1)]
    assert sum(counts) == 100
    assert abs(counts[0] - counts[1]) <= 2


def test_the_less_loaded_engine_gets_more() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    for tid in c.submit(30, targets=[0], spread=False):
        assert c.engine_of(tid) == 0
    c.submit(50)
    counts = [sum(a.engine == e for a in c.assigned) for e in (0, 1)]
    assert sum(counts) == 80
    assert abs(counts[0] - counts[1]) <= 2


def test_a_task_with_a_choice_of_engines_goes_to_one_of_them() -> None:
    c = Cluster(engines=4)
    c.submit(6, targets=[1, 3])
    assert sorted(a.engine for a in c.assigned) == [1, 3]
    while c.assigned:
        c.done(c.assigned[0].task, seconds=1.0)
        assert {a.engine for a in c.assigned} <= {1, 3}
    assert len(c.results()) == 6


def test_tasks_whose_engines_are_busy_do_not_hold_others_up() -> None:
    c = Cluster(engines=2)
    c.submit(5, targets=[0])
    [other] = c.submit()
    assert c.engine_of(other) == 1


def test_lines_of_many_choices_of_engines_do_not_stay() -> None:
    c = Cluster(engines=1)
    for other in range(1, 3000):
        [tid] = c.submit(targets=[0, other])
        c.done(tid)
    assert len(c.scheduler._core.lines.all()) < 1100
    tids = c.submit(3, targets=[0, 5])
    for _ in tids:
        c.done(c.assigned[0].task)
    c.scheduler.validate()
    assert not c.scheduler.tasks


# ------------------------------------------------------------------------------------ direct tasks


def test_a_task_for_several_engines_is_one_task_for_each() -> None:
    c = Cluster(engines=3)
    tids = c.submit(targets=[2, 0], spread=False)
    assert len(tids) == 2
    assert [c.engine_of(t) for t in tids] == [2, 0]
    for tid in tids:
        c.done(tid)
    assert [f.task for f, _ in c.results()] == tids


def test_direct_tasks_of_an_engine_keep_their_order() -> None:
    c = Cluster(engines=2)
    tids = [c.submit(targets=[0], spread=False)[0] for _ in range(5)]
    order = []
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=0.5)
    assert order == tids


def test_a_direct_task_for_an_engine_that_is_not_there_is_impossible() -> None:
    c = Cluster(engines=2)
    tids = c.submit(targets=[1, 7], spread=False)
    finished, payload = c.results()[0]
    assert (finished.task, finished.outcome, finished.attempts) == (tids[1], Outcome.IMPOSSIBLE, 0)
    reason = decode_reason(payload)
    assert reason.kind == "no-engine"
    assert "no engine 7" in reason.text
    assert c.engine_of(tids[0]) == 1


def test_direct_and_load_balanced_tasks_share_an_engine() -> None:
    c = Cluster(engines=1)
    shared = c.submit(20)
    direct = [c.submit(targets=[0], spread=False)[0] for _ in range(20)]
    order = []
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=0.5)
    assert sorted(order) == sorted(shared + direct)
    for kind in (shared, direct):  # neither waits for all of the other
        assert sum(t in kind for t in order[:20]) >= 8


def test_the_first_place_that_is_wanted_by_both_is_of_what_can_go_nowhere_else() -> None:
    c = Cluster(engines=2)
    busy = {c.engine_of(task): task for task in c.submit(2)}
    (bound,) = c.submit(targets=[0], spread=False)
    (free,) = c.submit()
    c.done(busy[0], seconds=0.5)
    assert c.engine_of(bound) == 0
    c.done(busy[1], seconds=0.5)
    assert c.engine_of(free) == 1


def test_a_direct_task_waits_for_an_engine_that_is_starting() -> None:
    c = Cluster(engines=0, clients=1)
    [number] = c.add_host(1, join=False)
    [tid] = c.submit(targets=[number], spread=False)
    story = c.scheduler.explain(tid)
    assert story.state == "waiting"
    assert "is being started" in story.reason
    assert c.scheduler.counts().waiting == 1
    c.join(number)
    assert c.engine_of(tid) == number


# ---------------------------------------------------------------------------------------- fairness


def test_clients_take_turns() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    mine = c.submit(50, session=first)
    yours = c.submit(50, session=second)
    order = []
    for _ in range(20):
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=1.0)
    assert sum(t in yours for t in order) >= 9
    assert sum(t in mine for t in order) >= 9


def test_clients_take_turns_with_tiny_tasks_too() -> None:
    c = Cluster(engines=1, clients=2)
    c.warm_up()
    first, second = c.clients
    c.submit(5000, session=first)
    c.submit(500, session=second)
    assigned = len(c.assigned)
    c.done(*[a.task for a in c.assigned], seconds=1e-6)
    share = sum(a.task >> 40 == second for a in c.assigned)
    assert share >= min(assigned, 500) // 3


# -------------------------------------------------------------------------------------- going back


def test_what_waits_behind_a_long_task_is_given_to_an_idle_engine() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    tids = c.submit(8)
    mine = [t for t in tids if c.engine_of(t) == 0]
    yours = [t for t in tids if c.engine_of(t) == 1]
    c.from_host((Started([mine[0]]), b""))
    c.done(*yours)
    [reclaim] = c.reclaims
    assert (reclaim.engine, list(reclaim.tasks)) == (0, mine[1:])
    c.from_host((Returned(0, mine[1:]), b""))
    assert {c.engine_of(t) for t in mine[1:]} == {1}
    assert c.engine_of(mine[0]) == 0


def test_a_reclaim_that_comes_too_late_changes_nothing() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    tids = c.submit(4)
    mine = [t for t in tids if c.engine_of(t) == 0]
    c.from_host((Started([mine[0]]), b""))
    c.done(*[t for t in tids if t not in mine])
    assert c.reclaims
    c.from_host((Returned(0, []), b""))
    c.done(*mine)
    assert {f.task for f, _ in c.results()} >= set(tids)


def test_a_host_that_gives_nothing_back_is_not_asked_again_for_the_same_task() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    tids = c.submit(6)
    mine = [t for t in tids if c.engine_of(t) == 0]
    c.from_host((Started([mine[0]]), b""))
    c.done(*[t for t in tids if t not in mine])
    assert len(c.reclaims) == 1
    c.from_host((Returned(0, []), b""))
    assert len(c.reclaims) == 1
    c.done(mine[0])
    c.from_host((Started([mine[1]]), b""))
    assert len(c.reclaims) == 2


def test_nothing_more_is_put_behind_a_long_task() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    [long] = c.submit()
    c.from_host((Started([long]), b""))
    c.submit(5)
    assert [a.task for a in c.assigned] == [long]
    assert c.scheduler.counts().running == 1


def test_tasks_that_must_run_on_the_busy_engine_are_left_there() -> None:
    c = Cluster(engines=2)
    c.warm_up()
    tids = c.submit(3, targets=[0])
    direct = c.submit(targets=[0], spread=False)
    assert {c.engine_of(t) for t in tids + direct} == {0}
    c.from_host((Started([tids[0]]), b""))
    assert not c.reclaims


def test_reclaims_name_no_task_twice() -> None:
    c = Cluster(engines=3)
    c.warm_up()
    tids = c.submit(9)
    mine = [t for t in tids if c.engine_of(t) == 0]
    c.from_host((Started([mine[0]]), b""))
    c.done(*[t for t in tids if t not in mine])
    c.from_host((Started([mine[0]]), b""))
    named = [t for r in c.reclaims for t in r.tasks]
    assert sorted(named) == sorted(set(named))
    assert all(isinstance(r, Reclaim) for r in c.reclaims)


# ------------------------------------------------------------------------ engines that are stopped


def test_nothing_goes_to_an_engine_that_is_being_stopped() -> None:
    c = Cluster(engines=2)
    c.handle(EnginesEnding([0], c.now))
    c.submit(2)
    assert {a.engine for a in c.assigned} == {1}
    [tid] = c.submit(targets=[0], spread=False)
    assert "being stopped" in decode_reason(c.payload_for(tid)).text
    c.leave(0, "stopped", started=[])
    assert list(c.scheduler.engines) == [1]
    assert c.scheduler.take_ids(1) == [0]


def test_engines_that_never_came_up_are_removed() -> None:
    c = Cluster(engines=1)
    numbers = c.add_host(2, join=False)
    tids = c.submit(targets=numbers, spread=False)
    c.handle(EnginesGone(numbers, "could not be started", c.now))
    assert {f.task: f.outcome for f, _ in c.results()} == dict.fromkeys(tids, Outcome.LOST)
    assert list(c.scheduler.engines) == [0]
