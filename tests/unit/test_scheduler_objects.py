"""Tasks and the objects that they need and make, as the scheduler sees them."""

from __future__ import annotations

import pytest

from ipkernel.controller.events import (
    SessionDetached,
    SessionHeld,
    Tick,
    Undelivered,
)
from ipkernel.controller.retention import RETAIN_SECONDS, Retained
from ipkernel.wire.messages import (
    Cancel,
    Done,
    Fetch,
    Kind,
    Moving,
    ObjectMade,
    Outcome,
    Reason,
    Release,
    Returned,
    Started,
    Submit,
    decode_reason,
)
from tests.support.scheduling import OBJECT_SIZE, Cluster

X, Y, Z = (bytes([c]) * 16 for c in b"\xaa\xbb\xcc")


def cluster(hosts: int = 2, engines: int = 1, clients: int = 1) -> Cluster:
    c = Cluster(clients=clients)
    for _ in range(hosts):
        c.add_host(engines, store=True)
    return c


def objects(c: Cluster) -> set[bytes]:
    return set(c.scheduler.objects.entries)


def reason_of(c: Cluster, tid: int, session: int | None = None) -> Reason:
    [payload] = [p for m, p in c.results(session) if m.task == tid]
    return decode_reason(payload)


# ------------------------------------------------------------------ what tasks need


def test_clients_whose_tasks_wait_for_an_object_are_told_how_far_it_is() -> None:
    c = cluster(2, clients=2)
    c.made(X, host=1)
    c.submit(1000, needs=[X], payload=b"", targets=[1])
    c.from_host((Moving(Y, 5), b""), host=2)
    c.seek(2, X)
    c.from_host((Moving(X, 5), b""), host=2)
    told = [[m for m, _ in c.to_client(one) if isinstance(m, Moving)] for one in c.clients]
    assert told == [[Moving(X, 5, OBJECT_SIZE, 2)], []]


def test_what_a_task_needs_goes_with_it() -> None:
    c = cluster(3)
    c.made(X, host=1)
    c.made(Y, host=2)
    c.submit(needs=[X, Y], stored=True, payload=b"", targets=[0], spread=False)
    c.submit(needs=[Y, X], payload=b"")
    c.submit(keep=True)
    first, second, third = c.assigned
    assert (first.needs, first.stored, first.keep) == ([X, Y], True, False)
    assert (second.needs, second.stored, second.keep) == ([Y, X], False, False)
    assert (third.needs, third.stored, third.keep) == ([], False, True)
    assert all(not a.placed for a in c.assigned)


def test_what_a_task_needs_lives_until_it_has_ended() -> None:
    c = cluster(1)
    c.made(X, host=1)
    [tid] = c.submit(needs=[X], payload=b"")
    c.release(X)
    assert objects(c) == {X}
    c.done(tid)
    assert c.freed(1) == [X]
    assert not objects(c)


def test_submit_and_release_in_one_batch() -> None:
    c = cluster(1)
    tid = c.session << 40
    c.from_client(
        (ObjectMade(X, 10, 1), b""),
        (Submit(tid, Kind.APPLY, 0, needs=[X], stored=True), b""),
        (Release([X]), b""),
    )
    assert objects(c) == {X}
    assert not c.freed(1)


def test_one_object_serves_the_tasks_of_all_engines() -> None:
    c = cluster(2, 2)
    c.made(X, host=1)
    tids = c.submit(needs=[X], stored=True, payload=b"", targets=[0, 1, 2, 3], spread=False)
    c.release(X)
    for tid in tids[:3]:
        c.done(tid)
        assert objects(c) == {X}
    c.done(tids[3])
    assert c.freed(1) == [X]


@pytest.mark.parametrize("targets", [[], [0], [0, 1]])
@pytest.mark.parametrize("spread", [True, False])
def test_a_task_that_needs_an_unknown_object_fails_at_once(targets, spread) -> None:
    c = cluster()
    tids = c.submit(needs=[X], payload=b"", targets=targets, spread=spread)
    assert len(tids) == (2 if len(targets) == 2 and not spread else 1)
    for tid in tids:
        assert c.finished(tid).outcome is Outcome.LOST
        reason = reason_of(c, tid)
        assert reason.kind == "object"
        assert "object aaaaaaaa is not known" in reason.text
    assert not c.assigned
    assert not c.scheduler.tasks


def test_a_task_that_needs_a_freed_or_a_lost_object_is_told_so() -> None:
    c = cluster()
    c.made(X, host=1)
    c.release(X)
    c.made(Y, host=2)
    c.lose_host(2)
    freed, lost = c.submit(needs=[X], payload=b"") + c.submit(needs=[Y], payload=b"")
    assert "object aaaaaaaa (1.0 MB) was freed" in reason_of(c, freed).text
    assert "object bbbbbbbb (1.0 MB) is lost: host host-2, which had it" in reason_of(c, lost).text


@pytest.mark.parametrize("direct", [True, False])
def test_tasks_that_wait_fail_when_their_object_is_lost(direct: bool) -> None:
    c = cluster(2)
    engine = c.scheduler.hosts[1].engines
    [number] = engine
    where = {"targets": [number], "spread": False} if direct else {"targets": [number]}
    c.submit(3, targets=[number], spread=False)  # keep it busy
    c.made(X, host=2)
    waiting = c.submit(3, needs=[X], payload=b"", **where)
    others = c.submit(2, **where)
    c.lose_host(2)
    for tid in waiting:
        assert c.finished(tid).outcome is Outcome.LOST
        assert "which had it, is gone" in reason_of(c, tid).text
    assert all(tid in c.scheduler.tasks for tid in others)


def test_parked_tasks_fail_as_well_when_their_object_is_lost() -> None:
    c = cluster(2)
    c.handle(SessionHeld(c.session, True, c.now))
    c.made(X, host=2)
    [direct] = c.submit(needs=[X], payload=b"", targets=[0], spread=False)
    [spread] = c.submit(needs=[X], payload=b"")
    c.lose_host(2)
    for tid in (direct, spread):
        assert reason_of(c, tid).kind == "object"
    c.handle(SessionHeld(c.session, False, c.now))
    assert not c.scheduler.tasks


def test_an_assigned_task_is_the_business_of_its_host_when_its_object_is_lost() -> None:
    c = cluster(2)
    c.made(X, host=2)
    [tid] = c.submit(needs=[X], payload=b"", targets=[0])
    c.seek(1, X)
    assert [s.host for s in c.sources(1)] == [2]
    c.lose_host(2)
    assert tid in c.scheduler.tasks
    c.seek(1, X, failed=2, problem="connection cut")
    answer = c.sources(1)[-1]
    assert "connection cut" in answer.problem
    payload = b"why"
    c.done(tid, payload=payload, outcome=Outcome.LOST)
    assert c.finished(tid).outcome is Outcome.LOST
    c.release(X)
    assert not objects(c)


def test_a_needy_task_is_run_again_where_it_may_be() -> None:
    c = cluster(2)
    c.made(X, host=2)
    c.copied(1, X)
    [tid] = c.submit(needs=[X], payload=b"", retries=1)
    host = c.scheduler.engines[c.engine_of(tid)].host.id
    c.from_host((Started([tid]), b""), host=host)
    c.release(X)
    c.lose_host(host)
    assert objects(c) == {X}
    [again] = c.assigned
    assert again.task == tid
    assert again.needs == [X]
    c.done(tid)
    assert c.finished(tid).attempts == 2
    assert not objects(c)


def test_a_task_is_not_run_again_when_its_object_went_with_the_host() -> None:
    c = cluster(2)
    c.made(X, host=1)
    [tid] = c.submit(needs=[X], payload=b"", retries=5)
    assert c.engine_of(tid) == 0
    c.lose_host(1)
    reason = reason_of(c, tid)
    assert reason.kind == "object"
    assert "host host-1, which had it, is gone (connection lost)" in reason.text


def test_a_task_that_comes_back_after_its_object_was_lost_ends() -> None:
    c = cluster(2)
    c.made(X, host=2)
    [tid] = c.submit(needs=[X], payload=b"", targets=[0])
    c.lose_host(2)
    assert tid in c.scheduler.tasks  # host 1 has it, and may have got the object
    c.from_host((Returned(0, [tid]), b""))
    assert reason_of(c, tid).kind == "object"


@pytest.mark.parametrize("how", ["cancel", "engine", "impossible", "retries"])
def test_every_end_of_a_task_lets_go_of_what_it_needed(how: str) -> None:
    c = cluster(2)
    c.made(X, host=2)
    if how == "cancel":
        c.submit(1, targets=[0], spread=False)
        [tid] = c.submit(needs=[X], payload=b"", targets=[0])
        c.release(X)
        c.from_client((Cancel([tid]), b""))
    elif how == "engine":
        [tid] = c.submit(needs=[X], payload=b"", targets=[0], spread=False)
        c.release(X)
        c.leave(0, "killed", started=[tid])
    elif how == "retries":
        [tid] = c.submit(needs=[X], payload=b"", targets=[0], retries=1)
        c.release(X)
        for _ in range(2):
            c.leave(0, "killed", started=[tid], restarting=True)
            if tid in c.scheduler.tasks:
                assert not c.freed(2)
                c.join(0)
    else:
        c.submit(1, targets=[0])
        [tid] = c.submit(needs=[X], payload=b"", targets=[0])
        c.release(X)
        c.leave(0, "killed", started=[])
    assert tid not in c.scheduler.tasks
    assert c.freed(2) == [X]
    assert not objects(c)


def test_why_a_task_waits_at_its_engine() -> None:
    c = cluster(3)
    c.made(X)
    [tid] = c.submit(needs=[X], payload=b"", targets=[0])
    assert "has not been asked for yet" in c.scheduler.explain(tid).reason
    c.seek(1, X)
    assert c.scheduler.explain(tid).reason == (
        "it waits at engine 0 for what it needs: object aaaaaaaa (1.0 MB) is being sent by the "
        "client of session 1"
    )
    c.copied(1, X)
    assert "about to run it" in c.scheduler.explain(tid).reason


# -------------------------------------------------------------------- what tasks make


def test_a_result_that_is_an_object_belongs_to_the_session() -> None:
    c = cluster()
    [tid] = c.submit(keep=True)
    c.done(tid, makes=X)
    finished = c.finished(tid)
    assert (finished.object, finished.length, finished.host) == (X, OBJECT_SIZE, 1)
    assert finished.size == 0
    assert objects(c) == {X}
    c.release(X)
    assert c.freed(1) == [X]


def test_an_error_may_be_an_object_too() -> None:
    c = cluster()
    [tid] = c.submit()
    c.done(tid, makes=X, outcome=Outcome.ERROR)
    assert c.finished(tid).object == X
    assert c.scheduler.counts().failed == 1


def test_results_of_a_run_are_kept_apart() -> None:
    c = cluster(1)
    c.warm_up()
    tids = c.submit(3)
    host, engine = 1, 0
    items = [
        (Done(tids[0], engine, Outcome.OK, 1.0, 1.1, 1), b"a"),
        (Done(tids[1], engine, Outcome.OK, 1.0, 1.1, 0, X, 77), b""),
        (Done(tids[2], engine, Outcome.OK, 1.0, 1.1, 1), b"c"),
    ]
    c.from_host(*items, host=host)
    assert [c.finished(t).object for t in tids] == [b"", X, b""]
    assert c.scheduler.objects.entries[X].length == 77


def test_the_object_of_a_second_result_is_freed() -> None:
    c = cluster(2)
    [tid] = c.submit(targets=[0])
    c.done(tid, makes=X)
    c.from_host((Done(tid, 0, Outcome.OK, 1.0, 2.0, 0, X, 5), b""))
    assert not c.freed(1)  # the host repeats itself
    c.from_host((Done(tid, 0, Outcome.OK, 1.0, 2.0, 0, Y, 5), b""))
    assert c.freed(1) == [Y]
    c.from_host((Done(tid, 77, Outcome.OK, 1.0, 2.0, 0, Z, 5), b""), host=2)
    assert c.freed(2) == [Z]


def test_a_result_of_a_session_that_is_no_more_is_freed() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.detach(2)
    c.done(tid)
    c.handle(Tick(c.now + RETAIN_SECONDS + 1))
    c.from_host((Done(tid, 0, Outcome.OK, 1.0, 2.0, 0, X, 5), b""))
    assert c.freed(1) == [X]


def test_objects_that_an_engine_makes_beside_its_result() -> None:
    c = cluster(1)
    c.from_host((ObjectMade(X, 10, 99, c.session), b""), host=1)
    assert c.scheduler.objects.entries[X].holders == {1}  # the sender, whatever it says
    c.from_host((ObjectMade(Y, 10, 1, 12345), b""), host=1)
    assert c.freed(1) == [Y]
    c.release(X)
    assert c.freed(1) == [Y, X]


# ------------------------------------------------------------- sessions and retention


def test_a_result_that_waits_keeps_its_object() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.detach(2)
    c.done(tid, makes=X)
    assert 2 not in c.scheduler.sessions
    assert objects(c) == {X}
    c.from_client((Fetch([tid]), b""), session=1)
    assert c.finished(tid, 1).object == X
    assert objects(c) == {X}
    c.detach(1)
    assert c.freed(1) == [X]


def test_a_result_that_expires_takes_its_object_with_it() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.detach(2)
    c.done(tid, makes=X)
    c.handle(Tick(c.now + RETAIN_SECONDS - 10))
    assert objects(c) == {X}
    c.handle(Tick(c.now + RETAIN_SECONDS + 10))
    assert c.freed(1) == [X]


def test_a_result_that_did_not_reach_its_client_is_kept_with_its_object() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.done(tid, makes=X)
    result = [(m, p) for m, p in c.results(2) if m.task == tid]
    c.handle(SessionDetached(2, result, c.now))
    assert objects(c) == {X}
    assert 2 not in c.scheduler.objects.references
    c.from_client((Fetch([tid]), b""), session=1)
    c.release(X, session=1)
    assert c.freed(1) == [X]


def test_a_result_that_was_on_its_way_when_the_client_went() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.done(tid, makes=X)
    result = [(m, p) for m, p in c.results(2) if m.task == tid]
    c.handle(SessionDetached(2, [], c.now), Undelivered(result, c.now))
    assert tid in c.scheduler.retained
    assert objects(c) == {X}


def test_a_delivered_result_is_let_go_when_its_session_ends() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=2)
    c.done(tid, makes=X)
    c.made(Y, host=1, session=2)
    c.detach(2)
    assert sorted(c.freed(1)) == [X, Y]


def test_what_a_session_refers_to_lives_as_long_as_its_tasks_and_results() -> None:
    """A result may contain references to what else its session had."""
    c = cluster(1, clients=2)
    tids = c.submit(2, session=2)
    c.made(Y, host=1, session=2)
    c.detach(2)
    c.done(tids[0])
    assert objects(c) == {Y}
    c.done(tids[1])
    assert 2 not in c.scheduler.sessions
    assert objects(c) == {Y}
    c.from_client((Fetch([tids[0]]), b""), session=1)
    assert objects(c) == {Y}
    c.from_client((Fetch([tids[1]]), b""), session=1)
    assert c.freed(1) == [Y]


def test_who_watches_a_task_gets_a_reference_of_its_own() -> None:
    c = cluster(1, clients=3)
    [tid] = c.submit(session=1)
    for session in (2, 3):
        c.from_client((Fetch([tid]), b""), session=session)
    c.done(tid, makes=X)
    for session in (1, 2, 3):
        assert c.finished(tid, session).object == X
        assert objects(c) == {X}
    for session in (1, 2):
        c.release(X, session=session)
        assert objects(c) == {X}
    c.release(X, session=3)
    assert c.freed(1) == [X]


def test_who_watches_a_task_of_a_client_that_has_gone_gets_its_reference() -> None:
    c = cluster(1, clients=2)
    [tid] = c.submit(session=1)
    c.from_client((Fetch([tid]), b""), session=2)
    c.detach(1)
    c.done(tid, makes=X)
    assert c.scheduler.objects.references == {2: {X: c.scheduler.objects.entries[X]}}


def test_results_that_are_fetched_together_keep_their_objects() -> None:
    c = cluster(1, clients=2)
    tids = c.submit(2, session=2)
    c.detach(2)
    for tid, made in zip(tids, (X, Y), strict=True):
        c.done(tid, makes=made)
    c.from_client((Fetch(tids), b""), session=1)
    assert c.freed(1) == []
    c.release(X, Y, session=1)
    assert c.freed(1) == [X, Y]


def test_results_that_have_no_room_any_more_lose_their_objects() -> None:
    c = Cluster(clients=2, retained=Retained(size=2000))
    c.add_host(1, store=True)
    tids = c.submit(5, session=2)
    c.detach(2)
    for tid, name in zip(tids, b"abcde", strict=True):
        c.done(tid, makes=bytes([name]) * 16)
    kept = {bytes([name]) * 16 for name in b"cde"}
    assert objects(c) == kept
    assert set(c.freed(1)) == {b"a" * 16, b"b" * 16}
