"""Engines that are to go: what they still do, who does the rest, and when that is told."""

from __future__ import annotations

import pytest

from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDraining,
    EnginesEnding,
    EnginesGone,
    HostFacts,
    HostJoined,
    HostLost,
)
from ipkernel.controller.instructions import EnginesDrained
from ipkernel.controller.picture import engine_info, host_info
from ipkernel.wire.messages import (
    Draining,
    EngineJoined,
    EngineLeft,
    Measured,
    Outcome,
    Returned,
    Started,
    Vitals,
    decode_reason,
)
from tests.support.scheduling import Cluster

LONG = 1.0
WHY = "the batch job's walltime is nearly over"


def drained(cluster: Cluster) -> list[int]:
    """The engines of which the last step has said that they have drained."""
    found = [i.engines for i in cluster.last if isinstance(i, EnginesDrained)]
    return found[0] if found else []


def drain(cluster: Cluster, *engines: int) -> list[int]:
    cluster.handle(EnginesDraining(list(engines), "there are too many", cluster.now))
    return drained(cluster)


def host_drains(cluster: Cluster, host: int = 1) -> list[int]:
    cluster.from_host((Draining(WHY), b""), host=host)
    return drained(cluster)


def gone(cluster: Cluster, *engines: int) -> None:
    cluster.handle(EnginesGone(list(engines), "stopped on request", cluster.now))


def test_an_idle_engine_has_drained_at_once_and_gets_nothing_more() -> None:
    cluster = Cluster(engines=2)
    assert drain(cluster, 1) == [1]
    tids = cluster.submit(5)
    assert {a.engine for a in cluster.assigned} == {0}
    assert drained(cluster) == []  # it is said once
    assert cluster.told[-1] == (EngineLeft(1, "there are too many", excused=True), b"")
    gone(cluster, 1)
    cluster.done(tids[0])


def test_what_has_begun_is_finished_first() -> None:
    cluster = Cluster(engines=2)
    tids = cluster.submit(2)
    busy = cluster.engine_of(tids[0])
    cluster.from_host((Started([tids[0]]), b""))
    assert drain(cluster, busy) == []
    cluster.done(tids[0], seconds=LONG)
    assert drained(cluster) == [busy]
    assert cluster.finished(tids[0]).outcome is Outcome.OK


def test_what_has_not_begun_is_taken_back_and_run_elsewhere() -> None:
    cluster = Cluster(engines=2)
    cluster.warm_up()
    tids = cluster.submit(40)
    mine = [t for t in tids if cluster.engine_of(t) == 1]
    assert len(mine) > 2
    assert drain(cluster, 1) == []
    assert cluster.reclaims[-1].engine == 1
    assert cluster.reclaims[-1].tasks == mine
    cluster.from_host((Returned(1, mine[1:]), b""), host=1)  # the first one runs already
    assert drained(cluster) == []
    cluster.done(mine[0])
    assert drained(cluster) == [1]
    gone(cluster, 1)
    rest = [t for t in tids if t != mine[0]]
    while left := [t for t in rest if t not in {m.task for m, _ in cluster.results()}]:
        cluster.done(*[t for t in left if any(a.task == t for a in cluster.assigned)])
    assert {cluster.finished(t).engine for t in mine[1:]} == {0}
    assert all(cluster.finished(t).attempts == 1 for t in tids)


def test_what_only_it_can_run_it_finishes() -> None:
    cluster = Cluster(engines=2)
    tids = cluster.submit(3, targets=[1], spread=False)
    alone = cluster.submit(1, targets=[1], spread=True)
    assert drain(cluster, 1) == []
    assert not cluster.reclaims
    cluster.done(tids[0], seconds=LONG)
    cluster.done(tids[1], seconds=LONG)
    assert drained(cluster) == []
    cluster.done(tids[2], seconds=LONG)
    assert drained(cluster) == [1]
    reason = decode_reason(cluster.payload_for(alone[0]))  # it had not begun, and nobody else may
    assert (cluster.finished(alone[0]).outcome, reason.kind) == (Outcome.IMPOSSIBLE, "no-engine")


@pytest.mark.parametrize("spread", [True, False])
def test_new_tasks_for_it_are_refused(spread: bool) -> None:
    cluster = Cluster(engines=2)
    drain(cluster, 1)
    [tid] = cluster.submit(1, targets=[1], spread=spread)
    text = decode_reason(cluster.payload_for(tid)).text
    assert text == "engine 1 is about to go: there are too many"
    [either] = cluster.submit(1, targets=[0, 1])
    assert cluster.engine_of(either) == 0


def test_it_is_explained() -> None:
    cluster = Cluster(engines=1)
    first, second = cluster.submit(2, targets=[0], spread=False)
    drain(cluster, 0)
    assert "finishes what is bound to it" in cluster.scheduler.explain(second).reason
    [waits] = cluster.submit(1)
    assert cluster.scheduler.explain(waits).reason == "no engines: it waits for one to join"
    info = engine_info(cluster.scheduler.engines[0], cluster.now)
    assert (info.state, info.reason) == ("draining", "there are too many")
    assert first in {a.task for a in cluster.assigned}


def test_a_crash_while_it_drains() -> None:
    """What is bound to it ends; the rest goes elsewhere by the usual rule."""
    cluster = Cluster(engines=2)
    begun, bound = cluster.submit(2, targets=[1], spread=False)
    drain(cluster, 1)
    cluster.leave(1, "killed by SIGKILL (9)", started=[begun], restarting=True)
    assert drained(cluster) == [1]
    for tid, what in ((begun, "while it ran"), (bound, "before it could run")):
        assert cluster.finished(tid).outcome is Outcome.LOST
        assert what in decode_reason(cluster.payload_for(tid)).text
    told = len(cluster.told)
    cluster.join(1)
    assert len(cluster.told) == told  # clients do not see it again
    gone(cluster, 1)


def test_it_is_lost_while_it_drains() -> None:
    cluster = Cluster()
    cluster.add_host(1)
    cluster.add_host(1)
    [tid] = cluster.submit(1, targets=[0], spread=False)
    drain(cluster, 0)
    cluster.lose_host(1)
    assert drained(cluster) == [0]
    assert cluster.finished(tid).outcome is Outcome.LOST


def test_it_stays_after_all() -> None:
    cluster = Cluster(engines=2)
    drain(cluster, 1)
    cluster.handle(EnginesEnding([1], cluster.now, ending=False))
    assert cluster.told[-1] == (EngineJoined(1, "host-1", 5001, host_id=1), b"")
    tids = cluster.submit(2)
    assert {cluster.engine_of(t) for t in tids} == {0, 1}


# ------------------------------------------------------------------------------- hosts


def test_a_host_drains_with_all_of_its_engines_and_those_to_come() -> None:
    cluster = Cluster()
    cluster.add_host(2, join=False)
    cluster.join(0)
    assert host_drains(cluster) == [0, 1]
    [new] = cluster.scheduler.take_ids(1)
    cluster.handle(EnginesAdded(1, [new], cluster.now))
    cluster.join(1)
    cluster.join(new)
    [tid] = cluster.submit(1)
    assert not cluster.assigned
    cluster.handle(EnginesEnding([0], cluster.now, ending=False))  # its host goes all the same
    assert not cluster.assigned
    assert host_info(cluster.scheduler.hosts[1], True, (0, 0), 0).draining == WHY
    [other] = cluster.add_host(1)
    assert cluster.engine_of(tid) == other


@pytest.mark.parametrize("drains", [True, False])
def test_the_end_of_a_walltime_is_no_attempt(drains: bool) -> None:
    cluster = Cluster()
    cluster.add_host(1)
    [tid] = cluster.submit(1)
    if drains:
        host_drains(cluster)
    message = EngineLeft(0, "the batch job's walltime is over", False, [tid], None, True)
    cluster.from_host((message, b""))
    if not drains:  # no host excuses the loss of its engines as it likes
        assert cluster.finished(tid).outcome is Outcome.LOST
        return
    assert "walltime is over" in " ".join(cluster.scheduler.explain(tid).story)
    cluster.lose_host(1)
    [other] = cluster.add_host(1)
    assert cluster.engine_of(tid) == other
    cluster.done(tid)
    assert (cluster.finished(tid).outcome, cluster.finished(tid).attempts) == (Outcome.OK, 1)


@pytest.mark.parametrize(
    ("left", "drains", "passed", "survives"),
    [(0.0, False, 1e6, False), (0.0, True, 1.0, True), (60.0, False, 59.0, False),
     (60.0, False, 61.0, True), (60.0, True, 59.0, True)],
)  # fmt: skip
def test_a_host_that_goes_without_a_word(
    left: float, drains: bool, passed: float, survives: bool
) -> None:
    """Batch systems kill; near and after the end of the walltime that costs no attempt."""
    cluster = Cluster()
    ids = cluster.scheduler.take_ids(1)
    cluster.handle(
        HostJoined(1, "n1", 7, ids, cluster.now, facts=HostFacts("slurm", "slurm job 17", left, 2))
    )
    cluster.join(0)
    info = host_info(cluster.scheduler.hosts[1], True, (0, 0), 0)
    assert (info.launcher, info.label, info.restarts) == ("slurm", "slurm job 17", 2)
    assert bool(info.ends) == bool(left)
    [tid] = cluster.submit(1)
    if drains:
        host_drains(cluster)
    cluster.now += passed
    cluster.handle(HostLost(1, "its connection was lost", cluster.now))
    if survives:
        assert cluster.scheduler.tasks[tid].attempts == 0
        assert "walltime" in cluster.scheduler.explain(tid).story[-1]
    else:
        assert cluster.finished(tid).outcome is Outcome.LOST


# ------------------------------------------------------------------------- measurements


def test_what_processes_use_is_shown() -> None:
    cluster = Cluster(engines=2)
    engine = cluster.scheduler.engines[1]
    own, theirs = Vitals(-1, 1.26, 1000, 5, 11.0), Vitals(1, 99.94, 2000, -1, 12.0)
    cluster.from_host((Measured([own, theirs, Vitals(77)]), b""), host=1)
    info = engine_info(engine, cluster.now)
    assert (info.cpu, info.memory, info.files, info.started) == (99.9, 2000, -1, 12.0)
    host = host_info(cluster.scheduler.hosts[1], True, (0, 0), 0)
    assert (host.cpu, host.memory, host.files, host.started) == (1.3, 1000, 5, 11.0)
    assert engine_info(cluster.scheduler.engines[0], cluster.now).memory == 0
    cluster.leave(1, "it used 2.1 GB", started=[], restarting=True)
    cluster.join(1)
    info = engine_info(engine, cluster.now)
    assert info.memory == 0  # it is another process
    assert info.reason == "" and info.last_loss.endswith(": it used 2.1 GB")
