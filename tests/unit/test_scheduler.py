"""The scheduler, told what happens and asked what it wants done."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ipkernel.controller.core import MAX_WATCHERS
from ipkernel.controller.events import (
    EnginesEnding,
    EnginesGone,
    SessionDetached,
    SessionHeld,
    Tick,
)
from ipkernel.controller.instructions import Commit, DropClient, SessionEnded
from ipkernel.controller.journal import Assigned, Ended, SessionBegan, Submitted
from ipkernel.controller.retention import RETAIN_SECONDS, Retained
from ipkernel.controller.tasks import (
    TRANSITIONS,
    CheckedTask,
    InvalidTransition,
    State,
)
from ipkernel.wire.messages import (
    MAX_LIST,
    Assign,
    Cancel,
    Cancelled,
    Done,
    EngineJoined,
    EngineLeft,
    Fate,
    Fetch,
    Finished,
    ForgetFunctions,
    Function,
    Interrupt,
    Kind,
    Outcome,
    Output,
    Reason,
    Reclaim,
    Returned,
    Started,
    Stream,
    Submit,
    decode_reason,
    encode_reason,
)
from tests.support.scheduling import Cluster

# ------------------------------------------------------------------- the usual way of a task


def test_a_task_goes_to_an_engine_and_its_result_to_the_client() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    assert [(a.task, a.engine) for a in c.assigned] == [(tid, 0)]
    assert c.payload_of(tid) == b"payload"
    c.done(tid, payload=b"result")
    [(finished, payload)] = c.results()
    assert (finished.task, finished.outcome, finished.engine) == (tid, Outcome.OK, 0)
    assert (finished.attempts, payload) == (1, b"result")
    assert not c.scheduler.tasks
    assert c.scheduler.counts().finished == 1


def test_an_error_counts_as_failed() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.done(tid, outcome=Outcome.ERROR, payload=b"e")
    assert c.finished(tid).outcome is Outcome.ERROR
    assert c.scheduler.counts().failed == 1
    assert c.scheduler.counts().finished == 0


def test_what_must_be_kept_is_committed_before_anything_is_sent() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    first = c.last[0]
    assert isinstance(first, Commit)
    record, assigned = first.records
    assert isinstance(record, Submitted)
    assert record.taken == 1
    assert isinstance(assigned, Assigned)
    assert (assigned.host, assigned.tasks, assigned.engines) == (1, [tid], [0])
    assert [(type(m), p) for m, p in record.items] == [(Submit, b"payload")]
    c.done(tid, payload=b"r")
    first = c.last[0]
    assert isinstance(first, Commit)
    [ended] = first.records
    assert isinstance(ended, Ended)
    assert [(m.task, p) for m, p in ended.items] == [(tid, b"r")]


def test_a_session_is_written_down_when_it_begins() -> None:
    c = Cluster(engines=0, clients=1)
    [record] = c.last[0].records
    assert isinstance(record, SessionBegan)
    assert record.session == c.session


def test_tasks_are_assigned_in_the_order_of_their_submission() -> None:
    c = Cluster(engines=1)
    tids = c.submit(10)
    order = []
    while c.assigned:
        tid = c.assigned[0].task
        order.append(tid)
        c.done(tid, seconds=1.0)
    assert order == tids


def test_the_second_result_of_a_task_is_ignored() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.done(tid)
    c.from_host((Done(tid, 0, Outcome.OK, 1.0, 2.0, 1), b"x"))
    assert len(c.results()) == 1


def test_the_result_of_a_task_from_an_engine_that_does_not_have_it_is_ignored() -> None:
    c = Cluster(engines=2)
    [tid] = c.submit(targets=[0], spread=False)
    c.from_host((Done(tid, 1, Outcome.OK, 1.0, 2.0, 1), b"x"))
    c.from_host((Done(tid, 77, Outcome.OK, 1.0, 2.0, 1), b"x"))
    c.from_host((Done(7 << 40, 0, Outcome.OK, 1.0, 2.0, 1), b"x"))
    assert not c.results()
    c.done(tid)
    assert len(c.results()) == 1


# -------------------------------------------------------------------------- choice of engines


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


# ------------------------------------------------------------------------------- direct tasks


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


# ------------------------------------------------------------------------------------ fairness


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


# ---------------------------------------------------------------------------- losing an engine


def loss(**kwargs: object) -> Reason:
    return Reason("engine", "killed", signal=9, uptime=3.0, last_output=["bye"], **kwargs)  # type: ignore[arg-type]


def test_a_task_that_had_started_is_lost_with_its_engine() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.leave(0, "killed by signal 9", started=[tid], loss=loss())
    finished, payload = c.results()[0]
    assert (finished.task, finished.outcome, finished.engine) == (tid, Outcome.LOST, 0)
    assert finished.attempts == 1
    reason = decode_reason(payload)
    assert (reason.kind, reason.engine, reason.host) == ("engine", 0, "host-1")
    assert (reason.signal, reason.last_output) == (9, ["bye"])
    assert "killed by signal 9" in reason.text


def test_a_task_that_had_not_started_goes_to_another_engine() -> None:
    c = Cluster(engines=2)
    [tid] = c.submit()
    engine = c.engine_of(tid)
    c.leave(engine, "gone", started=[])
    assert c.engine_of(tid) == 1 - engine
    c.done(tid)
    assert c.finished(tid).attempts == 1


def test_a_task_is_run_again_as_often_as_its_retries_allow() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit(retries=2)
    for _ in range(2):
        c.leave(0, "gone", started=[tid], restarting=True)
        assert not c.results()
        assert c.scheduler.explain(tid).state == "ready"
        c.join(0)
        assert c.engine_of(tid) == 0
    c.leave(0, "gone", started=[tid], restarting=True)
    assert c.finished(tid).outcome is Outcome.LOST
    assert c.finished(tid).attempts == 3


def test_a_task_that_was_run_again_says_how_often_it_was_begun() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit(retries=5)
    c.leave(0, "gone", started=[tid], restarting=True)
    c.join(0)
    c.done(tid)
    assert (c.finished(tid).outcome, c.finished(tid).attempts) == (Outcome.OK, 2)


def test_direct_tasks_wait_for_an_engine_that_is_restarted() -> None:
    c = Cluster(engines=2)
    tids = [c.submit(targets=[0], spread=False)[0] for _ in range(3)]
    c.leave(0, "killed", started=[tids[0]], restarting=True)
    assert [f.task for f, _ in c.results()] == tids[:1]
    assert {c.scheduler.explain(t).state for t in tids[1:]} == {"waiting"}
    assert "restarted (killed)" in c.scheduler.explain(tids[1]).reason
    [late] = c.submit(targets=[0], spread=False)
    c.join(0)
    order = []
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=1.0)
    assert order == [*tids[1:], late]


def test_direct_tasks_are_lost_with_an_engine_that_is_not_restarted() -> None:
    c = Cluster(engines=2)
    tids = [c.submit(targets=[0], spread=False)[0] for _ in range(3)]
    c.leave(0, "died too often", started=[])
    assert {f.task: f.outcome for f, _ in c.results()} == dict.fromkeys(tids, Outcome.LOST)
    [late] = c.submit(targets=[0], spread=False)
    assert c.finished(late).outcome is Outcome.IMPOSSIBLE
    assert "dead: died too often" in decode_reason(c.payload_for(late)).text


def test_tasks_become_impossible_when_the_last_of_their_engines_goes() -> None:
    c = Cluster(engines=3)
    tids = c.submit(5, targets=[0, 1])
    c.leave(0, "gone", started=[])
    assert not c.results()
    c.leave(1, "gone", started=[])
    outcomes = {f.task: f.outcome for f, _ in c.results()}
    assert outcomes == dict.fromkeys(tids, Outcome.IMPOSSIBLE)
    [late] = c.submit(targets=[0, 1])
    assert c.finished(late).outcome is Outcome.IMPOSSIBLE


def test_clients_are_told_of_engines_that_come_and_go() -> None:
    c = Cluster(engines=1, clients=2)
    c.leave(0, "killed", restarting=True, started=[])
    left = [m for m, _ in c.told if isinstance(m, EngineLeft)]
    assert [(m.engine, m.reason, m.restarting) for m in left] == [(0, "killed", True)]
    c.join(0)
    joined = [m for m, _ in c.told if isinstance(m, EngineJoined)]
    assert [(m.engine, m.host) for m in joined] == [(0, "host-1")] * 2
    assert c.scheduler.engines[0].restarts == 1


# ------------------------------------------------------------------------------ losing a host


def test_the_head_of_each_queue_counts_as_started_when_a_host_is_lost() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    tids = c.submit(5)
    c.lose_host(1)
    finished, payload = c.results()[-1]
    assert (finished.task, finished.outcome) == (tids[0], Outcome.LOST)
    assert decode_reason(payload).kind == "host"
    assert {c.scheduler.explain(t).state for t in tids[1:]} == {"ready"}
    assert "no engines" in c.scheduler.explain(tids[1]).reason


def test_tasks_of_a_lost_host_go_on_elsewhere_in_order() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    tids = c.submit(6)
    c.lose_host(1)
    c.add_host(1)
    order = []
    while c.assigned:
        order.append(c.assigned[0].task)
        c.done(order[-1], seconds=1.0)
    assert order == tids[1:]


def test_the_ids_of_a_lost_host_are_free_again() -> None:
    c = Cluster(engines=2)
    assert sorted(c.scheduler.engines) == [0, 1]
    c.lose_host(1)
    assert not c.scheduler.engines
    assert c.add_host(1) == [0]


def test_a_host_that_comes_back_gets_its_ids_where_they_are_free() -> None:
    c = Cluster(engines=4)
    c.lose_host(1)
    assert c.add_host(1) == [0]
    assert c.add_host(3, wanted=[3, 0, 2]) == [3, 1, 2]


# --------------------------------------------------------------------------------- going back


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


# ------------------------------------------------------------------------------------- cancel


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


# --------------------------------------------------------------------------------- functions


def test_a_function_goes_to_a_host_once_and_ahead_of_the_tasks_that_name_it() -> None:
    c = Cluster(engines=2)
    digest = b"d" * 16
    c.from_client((Function(digest, 4), b"code"))
    assert not c.to_host(1)
    c.submit(2, digest=digest)
    sent = c.to_host(1)
    assert [type(m) for m, _ in sent] == [Function, Assign, Assign]
    assert sent[0] == (Function(digest, 4), b"code")
    c.done(*[a.task for a in c.assigned])
    c.submit(2, digest=digest)
    assert [type(m) for m, _ in c.to_host(1)] == [Function, Assign, Assign, Assign, Assign]


def test_every_host_gets_the_function() -> None:
    c = Cluster(engines=1)
    c.add_host(1)
    digest = b"d" * 16
    c.from_client((Function(digest, 4), b"code"))
    c.submit(2, digest=digest)
    for host in (1, 2):
        assert [type(m) for m, _ in c.to_host(host)] == [Function, Assign]


@pytest.mark.parametrize("targets", [[], [0], [0, 1]])
@pytest.mark.parametrize("spread", [True, False])
def test_a_task_with_an_unknown_function_is_impossible(targets: list[int], spread: bool) -> None:
    c = Cluster(engines=2)
    tids = c.submit(digest=b"?" * 16, targets=targets, spread=spread)
    assert {f.task: f.outcome for f, _ in c.results()} == dict.fromkeys(tids, Outcome.IMPOSSIBLE)
    assert "never sent" in decode_reason(c.results()[0][1]).text
    assert not c.scheduler.tasks


def test_functions_of_a_session_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.sessions.MAX_FUNCTIONS", 10)
    c = Cluster(engines=1)
    c.from_client((Function(b"a" * 16, 8), bytes(8)), (Function(b"b" * 16, 8), bytes(8)))
    [good] = c.submit(digest=b"a" * 16)
    [bad] = c.submit(digest=b"b" * 16)
    assert c.engine_of(good) == 0
    assert c.finished(bad).outcome is Outcome.IMPOSSIBLE


def test_functions_are_forgotten_with_the_last_session_that_has_them() -> None:
    c = Cluster(engines=1, clients=2)
    shared, own = b"s" * 16, b"o" * 16
    first, second = c.clients
    for session in c.clients:
        c.from_client((Function(shared, 1), b"s"), session=session)
    c.from_client((Function(own, 1), b"o"), session=first)
    tids = c.submit(session=first, digest=own) + c.submit(session=first, digest=shared)
    while c.assigned:
        c.done(c.assigned[0].task)
    assert {f.task for f, _ in c.results(first)} == set(tids)
    c.detach(first)
    forgotten = [m.digests for m, _ in c.to_host(1) if isinstance(m, ForgetFunctions)]
    assert forgotten == [[own]]
    c.submit(session=second, digest=shared)
    assert len([m for m, _ in c.to_host(1) if isinstance(m, Function)]) == 2


# ------------------------------------------------------------------------- clients that go


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


# ------------------------------------------------------------------------------------- output


def test_output_goes_to_the_session_of_its_task_only() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=second)
    item = (Output(tid, 0, Stream.STDOUT, 2), b"hi")
    c.from_host(item, (Output(0, 0, Stream.STDOUT, 2), b"??"))
    assert item in c.to_client(second)
    assert not [m for m, _ in c.to_client(first) if isinstance(m, Output)]


def test_output_counts_only_from_the_engine_that_has_the_task() -> None:
    c = Cluster(engines=2, clients=1)
    c.add_host(1)
    [tid] = c.submit(targets=[1])
    [waiting] = c.submit(targets=[1])
    for number in (0, 2):
        c.from_host((Output(tid, number, Stream.STDOUT, 2), b"no"))
    c.from_host((Output(tid, 1, Stream.STDOUT, 2), b"no"), host=2)
    c.from_host((Output(waiting + 5, 1, Stream.STDOUT, 2), b"no"))
    c.from_host((Output(tid, 1, Stream.STDOUT, 3), b"yes"))
    c.done(tid)
    c.from_host((Output(tid, 1, Stream.STDOUT, 2), b"no"))
    assert [p for m, p in c.to_client(c.session) if isinstance(m, Output)] == [b"yes"]


def test_the_end_of_the_output_of_a_detached_task_is_kept_with_its_result() -> None:
    c = Cluster(engines=1, clients=2)
    first, second = c.clients
    [tid] = c.submit(session=first)
    c.detach(first)
    for i in range(100):
        c.from_host((Output(tid, 0, Stream.STDOUT, 1000), bytes([i]) * 1000))
    c.done(tid)
    c.from_client((Fetch([tid]), b""), session=second)
    *outputs, last = c.to_client(second)[-44:]
    assert isinstance(last[0], Finished)
    kept = [p[0] for m, p in outputs if isinstance(m, Output)]
    assert kept == list(range(100 - len(kept), 100))
    assert 40 <= len(kept) <= 65
    assert c.scheduler.retained.bytes == 0


def test_output_of_a_task_that_has_ended_is_not_kept() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit()
    c.done(tid)
    c.detach(c.session)
    c.from_host((Output(tid, 0, Stream.STDOUT, 2), b"hi"))
    assert c.scheduler.retained.bytes == 0


# --------------------------------------------------------------------------- slow clients


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


# ------------------------------------------------------------------- clients that break rules


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


# ------------------------------------------------------------- engines that are stopped


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


# ------------------------------------------------------------------------------------ stories


def test_explain_says_why_a_task_waits() -> None:
    c = Cluster(engines=0, clients=1)
    [tid] = c.submit(label="mine")
    story = c.scheduler.explain(tid)
    assert story.state == "ready"
    assert story.reason == "no engines: it waits for one to join"
    assert "(mine)" in story.story[0]
    c.add_host(1)
    story = c.scheduler.explain(tid)
    assert (story.state, story.engine) == ("assigned", 0)
    assert "assigned to engine 0" in story.story[-1]
    [second] = c.submit()
    assert "all 1 engines are busy; 1 tasks are ready" in c.scheduler.explain(second).reason
    c.from_host((Started([tid]), b""))
    assert c.scheduler.explain(tid).state == "running"
    c.done(tid)
    story = c.scheduler.explain(tid)
    assert story.state == "finished" and "it succeeded" in story.reason
    assert c.scheduler.explain(12345).state == "unknown"


def test_a_story_tells_of_losses_and_stays_short() -> None:
    c = Cluster(engines=1)
    [tid] = c.submit(retries=1000)
    for _ in range(100):
        c.leave(0, "killed", started=[tid], restarting=True)
        c.join(0)
    story = c.scheduler.explain(tid).story
    assert any("was lost while it ran: killed" in line for line in story)
    assert len(story) < 60


def test_counts_add_up() -> None:
    c = Cluster(engines=2)
    c.submit(10)
    counts = c.scheduler.counts()
    assert (counts.ready, counts.assigned, counts.running) == (8, 2, 0)
    c.from_host((Started([c.assigned[0].task]), b""))
    counts = c.scheduler.counts()
    assert (counts.ready, counts.assigned, counts.running) == (8, 1, 1)


# -------------------------------------------------------------------------- the state machine


def test_every_state_can_be_reached_and_left() -> None:
    reached = {end for ends in TRANSITIONS.values() for end in ends}
    assert reached == set(State) - {State.SUBMITTED}
    for state in (State.FINISHED, State.FAILED, State.ABORTED):
        assert not TRANSITIONS[state]


def test_a_step_that_is_not_in_the_table_is_refused() -> None:
    task = CheckedTask(1, Submit(1, Kind.APPLY, 0), b"", 0.0)
    task.state = State.READY
    with pytest.raises(InvalidTransition, match="ready -> running"):
        task.state = State.RUNNING


def test_a_queued_task_is_small() -> None:
    import tracemalloc

    c = Cluster(engines=0, clients=1, checked=False)
    c.submit(10)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        c.submit(20_000, payload=b"")
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (after - before) / 20_000 <= 600


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


def test_a_long_reason_of_a_host_does_not_make_a_result_unreadable() -> None:
    c = Cluster(engines=1)
    c.from_host((EngineLeft(0, "x" * 4096, False), b""))
    [tid] = c.submit(targets=[0], spread=False)
    [(finished, payload)] = c.results()
    assert finished.task == tid
    assert decode_reason(payload).kind == "no-engine"


def test_empty_functions_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.sessions.MAX_FUNCTIONS", 10_000)
    c = Cluster(engines=1)
    session = c.scheduler.sessions[c.session]
    kept = [session.keep_function(b"%016d" % i, b"") for i in range(1000)]
    assert 0 < sum(kept) < 100


def test_the_times_of_a_task_that_ended_without_a_result_of_its_own() -> None:
    c = Cluster(engines=1)
    running, waiting = c.submit(2)
    began = c.now
    c.leave(0, "killed", started=[running], restarting=True)
    lost = c.finished(running)
    assert (lost.outcome, lost.attempts) == (Outcome.LOST, 1)
    assert 0 < began - lost.started <= 0.002
    assert 0 < lost.completed - lost.started <= 0.005
    c.from_client((Cancel([waiting]), b""))
    aborted = c.finished(waiting)
    assert (aborted.started, aborted.attempts, aborted.engine) == (0.0, 0, -1)
    assert aborted.completed > lost.completed
