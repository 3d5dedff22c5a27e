"""Clients that go, fetch, are slow or break rules."""

from __future__ import annotations

import pytest

from ipkernel.controller.core import MAX_WATCHERS
from ipkernel.controller.events import SessionDetached, SessionHeld, Tick
from ipkernel.controller.instructions import DropClient, SessionEnded
from ipkernel.controller.retention import RETAIN_SECONDS, Retained
from ipkernel.wire.messages import (
    Cancel,
    Done,
    Fetch,
    Finished,
    Kind,
    Outcome,
    Output,
    Started,
    Stream,
    Submit,
    decode_reason,
)
from tests.support.scheduling import Cluster

# --------------------------------------------------------------------------------- clients that go


def test_tasks_of_a_client_that_is_gone_go_on_and_their_results_are_kept() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    tids = c.submit(3, session=first)
    c.detach(first)
    while c.assigned:
        c.done(c.assigned[0].task, payload=b"kept", seconds=1.0)
    assert not c.results(first)
    assert len(c.scheduler.retained) == 3
    assert c.scheduler.explain(tids[0]).state == "finished"
    c.from_client((Fetch(tids), b""), session=second)
    assert [(f.task, p) for f, p in c.results(second)] == [(t, b"kept") for t in tids]
    assert len(c.scheduler.retained) == 0
    assert c.scheduler.retained.bytes == 0


def test_undelivered_results_of_a_client_that_is_gone_are_kept() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=first)
    c.done(tid, payload=b"lost on the way")
    c.handle(SessionDetached(first, c.results(first), c.now))
    c.from_client((Fetch([tid]), b""), session=second)
    assert [(f.task, p) for f, p in c.results(second)] == [(tid, b"lost on the way")]


def test_a_task_that_still_runs_can_be_fetched_ahead() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=first)
    c.detach(first)
    c.from_client((Fetch([tid]), b""), session=second)
    assert not c.results(second)
    c.done(tid)
    assert [f.task for f, _ in c.results(second)] == [tid]
    assert len(c.scheduler.retained) == 0


def test_both_clients_get_a_result_that_both_want() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=first)
    c.from_client((Fetch([tid]), b""), session=second)
    c.from_client((Fetch([tid]), b""), session=first)
    c.done(tid)
    assert [f.task for f, _ in c.results(first)] == [tid]
    assert [f.task for f, _ in c.results(second)] == [tid]


def test_all_clients_that_fetch_a_running_task_get_its_output_and_its_result() -> None:
    c = Cluster(engines=1, clients=4)
    first, second, third, fourth = c.clients
    [tid] = c.submit(session=first)
    c.detach(first)
    for session in (second, third, fourth, third):
        c.from_client((Fetch([tid]), b""), session=session)
    c.detach(second)
    c.from_host((Output(tid, 0, Stream.STDOUT, 2), b"hi"))
    c.done(tid)
    for session in (third, fourth):
        assert [type(m) for m, _ in c.to_client(session)[-2:]] == [Output, Finished]
        assert [f.task for f, _ in c.results(session)] == [tid]
    assert not c.results(second)
    assert not c.scheduler._core.watchers


def test_so_many_clients_may_wait_for_one_task() -> None:
    c = Cluster(engines=1, clients=MAX_WATCHERS + 2)
    first, *others, last = c.clients
    [tid] = c.submit(session=first)
    for session in others:
        c.from_client((Fetch([tid]), b""), session=session)
    c.from_client((Fetch([tid]), b""), session=last)
    [(finished, payload)] = c.results(last)
    assert finished.outcome is Outcome.IMPOSSIBLE
    assert "wait for task" in decode_reason(payload).text
    c.done(tid)
    assert all([f.outcome for f, _ in c.results(s)] == [Outcome.OK] for s in others)


def test_a_result_is_kept_when_its_fetcher_goes_too() -> None:
    c = Cluster(engines=1, clients=3)
    first, second, third = c.clients
    [tid] = c.submit(session=first)
    c.detach(first)
    c.from_client((Fetch([tid]), b""), session=second)
    c.detach(second)
    c.done(tid)
    c.from_client((Fetch([tid]), b""), session=third)
    assert [f.task for f, _ in c.results(third)] == [tid]


def test_fetching_what_is_not_there_is_answered() -> None:
    c = Cluster(engines=1)
    c.from_client((Fetch([99]), b""))
    finished, payload = c.results()[0]
    assert (finished.task, finished.outcome) == (99, Outcome.IMPOSSIBLE)
    assert "not known" in decode_reason(payload).text


def test_results_expire() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=first)
    c.detach(first)
    c.done(tid)
    c.now += RETAIN_SECONDS - 1
    c.handle(Tick(c.now))
    assert tid in c.scheduler.retained
    c.now += 2
    c.handle(Tick(c.now))
    assert tid not in c.scheduler.retained
    c.from_client((Fetch([tid]), b""), session=second)
    assert c.finished(tid, second).outcome is Outcome.IMPOSSIBLE


def test_the_oldest_results_make_room_for_new_ones() -> None:
    c = Cluster(engines=1, clients=1, retained=Retained(size=5000))
    first = c.session
    tids = c.submit(5, session=first)
    c.detach(first)
    for tid in tids:
        c.done(tid, payload=bytes(1500), seconds=1.0)
    assert list(c.scheduler.retained) == tids[-2:]
    assert c.scheduler.retained.bytes <= 5000


def test_a_session_ends_when_its_client_and_its_tasks_are_gone() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.detach(c.session)
    assert c.session in c.scheduler.sessions
    c.done(tid)
    assert SessionEnded in [type(i) for i in c.last]
    assert not c.scheduler.sessions
    c.from_client((Cancel([tid]), b""))
    assert not c.scheduler.tasks


# ------------------------------------------------------------------------------------ slow clients


def test_nothing_is_started_for_a_client_that_does_not_take_its_results() -> None:
    c = Cluster(engines=2, clients=2)
    first, second = c.clients
    c.handle(SessionHeld(first, True, c.now))
    mine = c.submit(3, session=first)
    [direct] = c.submit(targets=[1], spread=False, session=first)
    yours = c.submit(2, session=second)
    assert sorted(a.task for a in c.assigned) == yours
    assert "does not take" in c.scheduler.explain(mine[0]).reason
    c.done(*yours)
    assert not c.assigned
    c.handle(SessionHeld(first, False, c.now))
    while c.assigned:
        c.done(c.assigned[0].task)
    assert {f.task for f, _ in c.results(first)} == {*mine, direct}


def test_direct_tasks_keep_their_order_over_a_hold() -> None:
    c = Cluster(engines=1)
    tids = [c.submit(targets=[0], spread=False)[0] for _ in range(3)]
    c.handle(SessionHeld(c.session, True, c.now))
    tids += [c.submit(targets=[0], spread=False)[0] for _ in range(3)]
    c.done(tids[0], seconds=1.0)
    assert not c.assigned
    c.handle(SessionHeld(c.session, False, c.now))
    order = tids[:1]
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=1.0)
    assert order == tids


def test_the_payload_that_a_session_has_queued_is_counted_once() -> None:
    c = Cluster(engines=4)
    tids = c.submit(targets=[0, 1, 2, 3], spread=False, payload=bytes(400))
    assert c.scheduler.sessions[c.session].bytes == 400
    c.done(tids[0])
    assert c.scheduler.sessions[c.session].bytes == 300
    c.done(*tids[1:])
    assert c.scheduler.sessions[c.session].bytes == 0


# ------------------------------------------------------------------------ clients that break rules


def test_a_client_must_not_use_the_ids_of_others() -> None:
    c = Cluster(engines=1)
    for message in (
        Submit(1, Kind.APPLY, 0),
        Submit(c.session << 40, Kind.APPLY, 0, [0], False),
        Submit(((c.session + 1) << 40) - 1, Kind.APPLY, 0, [0, 0], False),
    ):
        if message.task >> 40 == c.session and len(message.targets) == 1:
            continue
        c.from_client((message, b""))
        assert any(isinstance(i, DropClient) for i in c.last), message
        assert not c.scheduler.tasks


@pytest.mark.parametrize("targets", [[], [0]])
def test_a_client_must_not_use_an_id_twice(targets: list[int]) -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.from_client((Submit(tid, Kind.APPLY, 0, targets), b""))
    assert any(isinstance(i, DropClient) for i in c.last)
    assert list(c.scheduler.tasks) == [tid]


def test_a_client_must_not_send_what_hosts_send() -> None:
    c = Cluster(engines=1)
    c.from_client((Started([1]), b""))
    assert any(isinstance(i, DropClient) and "Started" in i.reason for i in c.last)


def test_messages_of_hosts_and_clients_that_are_gone_are_ignored() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.lose_host(1)
    assert c.finished(tid).outcome is Outcome.LOST
    c.from_host((Done(tid, 0, Outcome.OK, 1.0, 2.0, 0), b""), host=1)
    c.lose_host(1)
    c.detach(c.session)
    c.detach(c.session)
    assert len(c.results()) == 1
