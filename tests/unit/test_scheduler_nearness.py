"""Load-balanced tasks that need objects go where these are, and starve nobody."""

from __future__ import annotations

from ipkernel.controller.events import SessionHeld
from ipkernel.controller.queues import PATIENCE
from ipkernel.wire.messages import Cancel, Returned, Started
from tests.support.scheduling import Cluster

X, Y, Z = (bytes([c]) * 16 for c in b"\xaa\xbb\xcc")


def cluster(hosts: int = 2, engines: int = 2, clients: int = 1) -> Cluster:
    """Host n has the engines from ``(n - 1) * engines`` on."""
    c = Cluster(clients=clients)
    for _ in range(hosts):
        c.add_host(engines, store=True)
    return c


def host_of(c: Cluster, tid: int) -> int:
    return c.scheduler.engines[c.engine_of(tid)].host.id


def where(c: Cluster, tids: list[int]) -> list[int]:
    """The hosts that these tasks were sent to, as far as they were, in order."""
    assigned = {a.task for a in c.assigned}
    return [host_of(c, tid) for tid in tids if tid in assigned]


def needy(c: Cluster, count: int, *needs: bytes, **options) -> list[int]:
    return c.submit(count, needs=list(needs), payload=b"", **options)


def finish(c: Cluster, tids: list[int], seconds: float = 1.0) -> None:
    assigned = [a.task for a in c.assigned if a.task in set(tids)]
    c.done(*assigned, seconds=seconds)


# --------------------------------------------------------------------------- the choice


def test_a_task_goes_to_the_host_that_has_what_it_needs() -> None:
    c = cluster(3)
    c.made(X, host=3)
    for _ in range(5):
        [tid] = needy(c, 1, X)
        assert host_of(c, tid) == 3
        finish(c, [tid])


def test_the_host_with_most_bytes_is_best() -> None:
    c = cluster(3)
    c.made(X, host=1)
    c.made(Y, host=2)
    c.made(Z, host=2)
    [tid] = needy(c, 1, X, Y, Z)
    assert host_of(c, tid) == 2


def test_equal_hosts_take_turns() -> None:
    c = cluster(3, 4)
    c.made(X, host=1)
    c.copied(2, X)
    tids = needy(c, 8, X)
    assert sorted(where(c, tids)) == [1] * 4 + [2] * 4


def test_what_is_everywhere_or_nowhere_does_not_matter() -> None:
    c = cluster(2)
    c.made(X, host=1)
    c.copied(2, X)
    c.made(Y)
    for needs in (X, Y):
        tids = needy(c, 4, needs)
        assert sorted(where(c, tids)) == [1, 1, 2, 2]
        assert not c.scheduler.tasks[tids[0]].near
        finish(c, tids)


def test_among_the_engines_of_the_best_host_the_least_loaded_is_taken() -> None:
    c = cluster(2, 2)
    c.made(X, host=2)
    c.warm_up()
    c.submit(3, targets=[2], spread=False)
    [tid] = needy(c, 1, X)
    assert c.engine_of(tid) == 3


def test_only_engines_that_were_asked_for() -> None:
    c = cluster(3, 2)
    c.made(X, host=1)
    c.made(Y, host=3)
    c.copied(2, Y)
    tids = needy(c, 2, X, targets=[1, 5])
    assert {c.engine_of(tid) for tid in tids} == {1, 5}
    finish(c, tids)
    [tid] = needy(c, 1, X, targets=[1, 5])
    assert c.engine_of(tid) == 1
    [tid] = needy(c, 1, Y, targets=[1, 5])
    assert c.engine_of(tid) == 5


# ------------------------------------------------------------------- nobody is idle


def test_an_idle_engine_does_not_wait_for_the_best_one() -> None:
    c = cluster(2, 2)
    c.made(X, host=1)
    tids = needy(c, 6, X)
    assert where(c, tids) == [1, 1, 2, 2]
    finish(c, tids[:2])
    assert where(c, tids[4:]) == [1, 1]


def test_engines_come_first_for_tasks_whose_objects_they_have() -> None:
    c = cluster(2, 2)
    c.made(X, host=1)
    c.made(Y, host=2)
    tids = c.submit(4)  # all are busy
    for_one = needy(c, 4, X)
    for_two = needy(c, 4, Y)
    finish(c, tids)
    for _ in range(2):
        assert set(where(c, for_one)) == {1}
        assert set(where(c, for_two)) == {2}
        finish(c, [a.task for a in c.assigned])


def test_what_waits_for_a_busy_host_is_taken_by_one_that_has_nothing_to_do() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    c.made(Y, host=2)
    busy = c.submit(1, targets=[0])
    for_one = needy(c, 3, X)
    assert where(c, for_one) == [2]
    c.from_host((Started(busy), b""), host=1)
    for _ in range(2):
        finish(c, for_one)
    assert not [
        tid
        for tid in for_one
        if tid in c.scheduler.tasks and tid not in {a.task for a in c.assigned}
    ]


def test_tasks_of_a_host_that_is_gone_go_elsewhere() -> None:
    c = cluster(3, 1)
    c.made(X, host=1)
    c.copied(2, X)
    c.scheduler.objects.entries[X].holders.discard(2)  # as if it had come later
    del c.scheduler.objects.at_host[2][X]
    busy = c.submit(3)
    waiting = needy(c, 4, X)
    c.copied(2, X)
    c.lose_host(1)
    finish(c, busy[1:])
    assert set(where(c, waiting)) == {2, 3}


def test_tasks_that_are_given_back_are_found_again() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    c.warm_up()
    tids = needy(c, 5, X)
    assert where(c, tids) == [1] * 5
    c.from_host((Started(tids[:1]), b""), host=1)
    [reclaim] = c.reclaims
    assert reclaim.tasks == tids[1:]
    c.from_host((Returned(0, tids[1:]), b""))
    assert where(c, tids[1:]) == [2] * 4


def test_cancelled_tasks_leave_their_line() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    busy = c.submit(2)
    tids = needy(c, 4, X)
    c.from_client((Cancel(tids[:3]), b""))
    assert len(c.scheduler.tasks) == 3
    finish(c, busy[:1])
    assert where(c, tids) == [1]
    more = needy(c, 1, X)
    c.from_client((Cancel(more), b""))
    finish(c, busy[1:])
    assert not c.scheduler.objects.entries[X].tasks - {tids[3]}


def test_a_session_that_is_held_waits_with_its_needy_tasks() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    busy = c.submit(2)
    tids = needy(c, 2, X)
    c.handle(SessionHeld(c.session, True, c.now))
    more = needy(c, 1, X)
    finish(c, busy)
    assert not c.assigned
    c.handle(SessionHeld(c.session, False, c.now))
    assert where(c, tids) == [1, 2]
    assert where(c, more) == []


def test_why_such_a_task_waits() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    c.submit(2)
    [tid] = needy(c, 1, X)
    assert c.scheduler.explain(tid).reason == (
        "all 2 engines, best those of host-1 that has what it needs, are busy; "
        "1 task is ready in its line, it is the next one; "
        f"engine 0 is about to run task {tid - 2}; engine 1 is about to run task {tid - 1}"
    )


# -------------------------------------------------------------------------- fairness


def test_others_get_half_of_a_host_that_has_what_many_need() -> None:
    c = cluster(2, 1, clients=2)
    c.made(X, host=1, session=1)
    busy, stuck = c.submit(2, session=1)
    c.from_host((Started([stuck]), b""), host=2)
    mine = needy(c, 40, X, session=1)
    theirs = c.submit(40, session=2)
    c.done(busy, seconds=1.0)
    for _ in range(20):
        finish(c, [a.task for a in c.assigned if a.task != stuck])
    assert sum(tid not in c.scheduler.tasks for tid in mine) == 10
    assert sum(tid not in c.scheduler.tasks for tid in theirs) == 10


def test_who_is_served_by_its_host_now_and_then_goes_on_waiting_for_it() -> None:
    c = cluster(2, 1, clients=2)
    c.made(X, host=1, session=1)
    busy = c.submit(2, session=1)
    mine = needy(c, PATIENCE * 4, X, session=1)
    c.submit(PATIENCE * 4, session=2)
    finish(c, busy)
    for _ in range(PATIENCE * 2):
        assert set(where(c, mine)) <= {1}
        finish(c, [a.task for a in c.assigned])
    assert len([tid for tid in mine if tid in c.scheduler.tasks]) < PATIENCE * 4 - 40


def test_those_who_wait_for_a_stuck_host_take_turns_elsewhere() -> None:
    c = cluster(2, 1, clients=2)
    for session in (1, 2):
        c.made(X, host=1, session=session)
    stuck, busy = c.submit(2, session=1)
    c.from_host((Started([stuck]), b""), host=1)
    one = needy(c, 10, X, session=1)
    two = needy(c, 10, X, session=2)
    c.done(busy, seconds=1.0)
    for _ in range(8):
        finish(c, [a.task for a in c.assigned if a.task != stuck])
    ended = [sum(tid not in c.scheduler.tasks for tid in tids) for tids in (one, two)]
    assert ended == [4, 4]


def test_direct_tasks_share_with_needy_ones() -> None:
    c = cluster(2, 1)
    c.made(X, host=1)
    busy = c.submit(1, targets=[0], spread=False) + c.submit(1, targets=[1], spread=False)
    c.from_host((Started(busy[1:]), b""), host=2)
    direct = c.submit(20, targets=[0], spread=False)
    mine = needy(c, 20, X)
    c.done(busy[0], seconds=1.0)
    for _ in range(20):
        finish(c, [a.task for a in c.assigned if a.engine == 0])
    ended = sum(tid not in c.scheduler.tasks for tid in direct)
    assert 8 <= ended <= 12
    assert 8 <= sum(tid not in c.scheduler.tasks for tid in mine) <= 12


def test_a_session_whose_best_host_is_stuck_is_not_starved_by_another_one() -> None:
    c = cluster(2, 1, clients=2)
    c.made(X, host=1, session=1)
    stuck, busy = c.submit(2, session=1)
    c.from_host((Started([stuck]), b""), host=1)
    mine = needy(c, 3, X, session=1)
    theirs = c.submit(PATIENCE * 4, session=2)
    c.done(busy, seconds=1.0)
    for _ in range(PATIENCE * 2):
        finish(c, [a.task for a in c.assigned if a.task != stuck])
    assert not [tid for tid in mine if tid in c.scheduler.tasks]
    assert [tid for tid in theirs if tid in c.scheduler.tasks]
    # what comes later waits for its host again
    later = needy(c, 1, X, session=1)
    finish(c, [a.task for a in c.assigned if a.task != stuck])
    assert where(c, later) == []
    c.done(stuck, seconds=1.0)
    assert where(c, later) in ([1], [])
    for _ in range(4):
        finish(c, [a.task for a in c.assigned if a.task not in later])
    assert later[0] not in c.scheduler.tasks or where(c, later) == [1]


def test_needy_sessions_take_turns() -> None:
    c = cluster(2, 1, clients=2)
    c.made(X, host=1, session=1)
    c.made(X, host=1, session=2)
    busy = c.submit(2, session=1)
    one = needy(c, 10, X, session=1)
    two = needy(c, 10, X, session=2)
    finish(c, busy)
    for _ in range(5):
        finish(c, [a.task for a in c.assigned])
    ended = [sum(tid not in c.scheduler.tasks for tid in tids) for tids in (one, two)]
    assert sum(ended) == 10
    assert min(ended) >= 4


def test_tasks_without_needs_are_spread_as_if_there_were_no_others() -> None:
    c = cluster(2, 4)
    c.made(X, host=1)
    c.warm_up()
    for engine in range(4):
        c.submit(c.scheduler.engines[engine].window, targets=[engine], spread=False)
    needy(c, 2000, X, targets=[0, 1, 2, 3])
    tids = c.submit(40)
    assert sorted(c.engine_of(tid) for tid in tids) == sorted(list(range(4, 8)) * 10)


# ------------------------------------------------------------------------------ limits


def test_lines_of_many_hosts_do_not_pile_up(monkeypatch) -> None:
    c = cluster(6, 1)
    monkeypatch.setattr(c.scheduler._core.lines, "_many", 4)
    ids = [bytes([n]) * 16 for n in range(1, 7)]
    for host, object_id in enumerate(ids, 1):
        c.made(object_id, host=host)
    for _ in range(3):
        for object_id in ids:
            [tid] = needy(c, 1, object_id)
            finish(c, [tid])
    assert len(c.scheduler._core.lines.all()) <= 8
