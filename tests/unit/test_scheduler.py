"""The scheduler, told what happens and asked what it wants done: the usual way of a task, and what is known of it."""

from __future__ import annotations

import pytest

from ipkernel.controller.instructions import Commit
from ipkernel.controller.journal import Assigned, Ended, SessionBegan, Submitted
from ipkernel.controller.tasks import TRANSITIONS, CheckedTask, InvalidTransition, State
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
)
from tests.support.scheduling import Cluster

# ------------------------------------------------------------------------- the usual way of a task


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


# ------------------------------------------------------------------------------------------ output


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


# ----------------------------------------------------------------------------------------- stories


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
    assert "the only engine is busy; 1 task is ready" in c.scheduler.explain(second).reason
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


# ------------------------------------------------------------------------------- the state machine


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


def test_tasks_that_have_ended_and_were_taken_cost_nothing() -> None:
    import gc
    import tracemalloc

    c = Cluster(engines=2, checked=False)

    def run(count: int) -> None:
        for _ in range(count // 200):
            c.submit(200, payload=b"x" * 50)
            while c.assigned:
                c.done(*[one.task for one in c.assigned], payload=b"y" * 50)
            c.forget()
        gc.collect()

    run(20_000)  # more than the history remembers
    tracemalloc.start()
    try:
        run(20_000)
        before = tracemalloc.get_traced_memory()[0]
        run(20_000)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (after - before) / 20_000 <= 16
