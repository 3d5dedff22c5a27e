"""What becomes of tasks when engines and hosts are lost."""

from __future__ import annotations

from ipkernel.controller.picture import engine_info
from ipkernel.wire.messages import EngineJoined, EngineLeft, Outcome, Reason, decode_reason
from tests.support.scheduling import Cluster

# -------------------------------------------------------------------------------- losing an engine


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


def test_what_a_lost_engine_printed_last_is_shown_while_there_is_no_other() -> None:
    c = Cluster(engines=1)
    engine = c.scheduler.engines[0]
    printed = [f"line {n}" for n in range(40)]
    killed = Reason("engine", "killed", last_output=printed)
    c.leave(0, "killed", started=[], restarting=True, loss=killed)
    assert engine_info(engine, c.now).last_output == printed[-8:]
    # A host that comes back tells only that the engine is gone.
    c.from_host((EngineLeft(0, "killed", restarting=True), b""))
    assert engine_info(engine, c.now).last_output == printed[-8:]
    c.join(0)
    assert engine_info(engine, c.now).last_output == [], "they are of another process"
    story = c.scheduler.explain_engine(0).story
    assert story[story.index("it had printed last:") + 1].strip() == "line 32"


def test_a_long_reason_of_a_host_does_not_make_a_result_unreadable() -> None:
    c = Cluster(engines=1)
    c.from_host((EngineLeft(0, "x" * 4096, False), b""))
    [tid] = c.submit(targets=[0], spread=False)
    [(finished, payload)] = c.results()
    assert finished.task == tid
    assert decode_reason(payload).kind == "no-engine"


# ----------------------------------------------------------------------------------- losing a host


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
