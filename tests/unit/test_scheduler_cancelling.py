"""Tasks that are cancelled, whatever they do just then, and who is told what."""

from __future__ import annotations

import pytest

from ipkernel.wire.messages import (
    MAX_LIST,
    Cancel,
    Cancelled,
    EngineJoined,
    Fate,
    Interrupt,
    Outcome,
    Reason,
    Reclaim,
    Returned,
    Started,
    decode_reason,
    encode_reason,
)
from tests.support.scheduling import Cluster


def test_a_waiting_task_is_aborted_at_once() -> None:
    c = Cluster(engines=1)
    first, second, third = c.submit(3)
    c.from_client((Cancel([second]), b""))
    finished, payload = c.results()[0]
    assert (finished.task, finished.outcome) == (second, Outcome.ABORTED)
    assert decode_reason(payload).kind == "aborted"
    c.done(first, seconds=1.0)
    assert [a.task for a in c.assigned] == [third]
    assert c.scheduler.counts().aborted == 1


def fates(c: Cluster, serial: int, session: int | None = None) -> dict[int, Fate]:
    """What a client was told about its request to abort tasks."""
    told = [m for m, _ in c.to_client(c.session if session is None else session)]
    answers = [m for m in told if isinstance(m, Cancelled) and m.serial == serial]
    found = [pair for m in answers for pair in zip(m.tasks, m.fates, strict=True)]
    assert len(found) == len(dict(found)), "told twice"
    return dict(found)


def interrupts(c: Cluster) -> list[Interrupt]:
    return [m for m, _ in c.to_host(1) if isinstance(m, Interrupt)]


def ends(c: Cluster, tid: int, fate: Fate) -> None:
    """Let the host say that it has ended a task."""
    c.done(tid, payload=encode_reason(Reason("aborted", "so", fate=fate)), outcome=Outcome.ABORTED)


def test_an_assigned_task_is_asked_back_and_aborted_when_it_comes() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    tids = c.submit(3)
    c.from_client((Cancel(tids[1:], 5), b""))
    [reclaim] = c.reclaims
    assert list(reclaim.tasks) == tids[1:]
    assert "cancelled" in c.scheduler.explain(tids[1]).reason
    assert not fates(c, 5)
    c.from_host((Returned(0, tids[2:]), b""))
    assert {f.task: f.outcome for f, _ in c.results()}[tids[2]] is Outcome.ABORTED
    c.done(tids[0], tids[1])  # it was too late for the second
    assert {f.task: f.outcome for f, _ in c.results()}[tids[1]] is Outcome.OK
    assert fates(c, 5) == {tids[2]: Fate.DEQUEUED, tids[1]: Fate.ENDED}


def test_what_cannot_be_taken_back_is_to_be_interrupted_by_its_host() -> None:
    c = Cluster(engines=1)
    tids = c.submit(2)
    c.from_client((Cancel(tids, 5, 700), b""))
    sent = [m for m, _ in c.to_host(1) if isinstance(m, Reclaim | Interrupt)]
    assert sent == [Reclaim(0, tids[:1]), Interrupt(0, 0, tids[:1], 700)]
    assert fates(c, 5) == {tids[1]: Fate.DEQUEUED}


@pytest.mark.parametrize("fate", [Fate.INTERRUPTED, Fate.KILLED])
def test_a_running_task_is_interrupted_and_everybody_who_asked_is_told(fate: Fate) -> None:
    c = Cluster(engines=1, clients=2)
    [tid] = c.submit(retries=5)
    c.from_host((Started([tid]), b""))
    c.from_client((Cancel([tid], 1), b""))
    c.from_client((Cancel([tid, tid], 9), b""), session=2)
    c.from_client((Cancel([tid], 2), b""))
    assert not c.reclaims
    assert interrupts(c) == [Interrupt(0, 0, [tid], 1000)]  # once
    assert "was asked to end it" in c.scheduler.explain(tid).reason
    ends(c, tid, fate)
    assert c.finished(tid).outcome is Outcome.ABORTED
    assert fates(c, 1) == fates(c, 2) == fates(c, 9, 2) == {tid: fate}
    assert c.scheduler.counts().aborted == 1


def test_a_running_task_that_ends_all_the_same_has_ended_already() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.from_host((Started([tid]), b""))
    c.from_client((Cancel([tid], 1), b""))
    c.done(tid)
    assert c.finished(tid).outcome is Outcome.OK
    assert fates(c, 1) == {tid: Fate.ENDED}


def test_an_interrupt_names_the_process_that_has_the_task() -> None:
    c = Cluster(engines=1)
    c.leave(0, "gone", started=[], restarting=True)
    c.from_host((EngineJoined(0, "host-1", 6000, 4), b""))
    [tid] = c.submit()
    c.from_client((Cancel([tid]), b""))
    assert interrupts(c)[0].epoch == 4


def test_a_cancel_that_wants_no_answer_gets_none() -> None:
    c = Cluster(engines=1)
    c.from_client((Cancel([*c.submit(3), 77]), b""))
    assert not [m for m, _ in c.to_client(1) if isinstance(m, Cancelled)]


def test_a_client_that_is_gone_is_told_nothing() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.from_client((Cancel([tid], 1), b""))
    c.detach(1)
    ends(c, tid, Fate.INTERRUPTED)
    assert not c.scheduler._core.askers
    assert not fates(c, 1)


def test_a_host_that_does_not_say_how_it_ended_a_task_does_no_harm() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.from_client((Cancel([tid], 1), b""))
    c.done(tid, payload=b"?", outcome=Outcome.ABORTED)
    assert fates(c, 1) == {tid: Fate.INTERRUPTED}


def test_who_asks_again_and_again_is_not_remembered_each_time() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    for serial in range(1, 200):
        c.from_client((Cancel([tid], serial), b""))
    assert len(c.scheduler._core.askers[tid]) == 64
    ends(c, tid, Fate.INTERRUPTED)
    assert fates(c, 199) == {tid: Fate.INTERRUPTED}


def test_any_number_of_tasks_is_cancelled_at_once() -> None:
    c = Cluster(engines=1)
    tids = c.submit(70_000, payload=b"")
    c.done(tids[0], seconds=1.0)
    c.from_client((Cancel(tids[:40_000], 1), b""), (Cancel(tids[40_000:], 1), b""))
    told = [m for m, _ in c.to_client(1) if isinstance(m, Cancelled)]
    assert [len(m.tasks) for m in told] == [MAX_LIST, 70_000 - MAX_LIST - 1]
    ends(c, tids[1], Fate.KILLED)
    found = fates(c, 1)
    assert (len(found), found[tids[0]], found[tids[1]]) == (70_000, Fate.ENDED, Fate.KILLED)
    assert set(found.values()) == {Fate.ENDED, Fate.KILLED, Fate.DEQUEUED}


def test_a_direct_task_in_its_queue_is_aborted_at_once() -> None:
    c = Cluster(engines=1)
    tids = [c.submit(targets=[0], spread=False)[0] for _ in range(200)]
    c.from_client((Cancel(tids[1:]), b""))
    assert {f.task for f, _ in c.results()} == set(tids[1:])
    assert len(c.scheduler.engines[0].direct) < 200  # the queue does not keep all of them
    c.done(tids[0])
    assert len(c.results()) == 200


def test_cancelled_tasks_do_not_pile_up_while_there_is_no_engine() -> None:
    c = Cluster(engines=0, clients=1)
    for _ in range(10):
        c.from_client((Cancel(c.submit(100)), b""))
    assert len(c.results()) == 1000
    [line] = c.scheduler._core.lines.all()
    assert len(line.queue) < 200


def test_a_cancelled_task_whose_engine_is_lost_is_aborted() -> None:
    for begun, fate in ((True, Fate.KILLED), (False, Fate.DEQUEUED)):
        c = Cluster(engines=1)
        [tid] = c.submit(retries=3)
        c.from_client((Cancel([tid], 1), b""))
        c.leave(0, "gone", started=[tid] if begun else [], restarting=True)
        assert c.finished(tid).outcome is Outcome.ABORTED
        assert decode_reason(c.payload_for(tid)).fate is fate
        assert "gone" in decode_reason(c.payload_for(tid)).text
        assert fates(c, 1) == {tid: fate}


def test_what_is_not_known_cannot_be_cancelled_and_does_no_harm() -> None:
    c = Cluster(engines=1)
    c.from_client((Cancel([1, c.session << 40], 3), b""))
    assert not c.results()
    assert fates(c, 3) == {1: Fate.UNKNOWN, c.session << 40: Fate.UNKNOWN}
