"""What people are told of tasks and engines, in words."""

from __future__ import annotations

import pytest

from ipkernel.controller import explaining
from ipkernel.controller.events import EnginesDraining
from ipkernel.wire.messages import Done, Outcome, Started, Terms
from tests.support.scheduling import Cluster


def begin(c: Cluster, tid: int) -> None:
    c.from_host((Started([tid]), b""), host=1)


def reason(c: Cluster, tid: int, later: float = 0.0) -> str:
    return c.scheduler.explain(tid, c.now + later).reason


def test_a_direct_task_waits_for_what_its_engine_runs() -> None:
    c = Cluster(engines=4)
    tids = c.submit(1, targets=[3], spread=False, label="fit")
    begin(c, tids[0])
    tids += [c.submit(1, targets=[3], spread=False)[0] for _ in range(3)]
    assert reason(c, tids[0], 12) == "engine 3 is running it since 12.0 s"
    assert reason(c, tids[1], 12) == (
        f"it waits for engine 3 to have room; engine 3 runs task {tids[0]} (fit) since 12.0 s; "
        "it is the next one"
    )
    assert reason(c, tids[2]).endswith("; 1 task is ahead of it")
    assert reason(c, tids[3]).endswith("; 2 tasks are ahead of it")


def test_a_task_at_the_host_of_an_engine_waits_for_those_before_it() -> None:
    c = Cluster(engines=1)
    c.warm_up()
    tids = c.submit(4)
    assert "about to run it" in reason(c, tids[0])
    begin(c, tids[0])
    assert reason(c, tids[1], 300) == (
        f"it waits at engine 0 where 1 task is ahead of it; engine 0 runs task {tids[0]} since "
        "5 min 0 s"
    )
    assert "where 3 tasks are ahead of it" in reason(c, tids[3])


def test_a_task_for_any_engine_is_told_what_these_do() -> None:
    c = Cluster(engines=2)
    first, second, third, high = [
        *c.submit(3), *c.submit(1, terms=Terms(priority=1))
    ]  # fmt: skip
    begin(c, first)
    text = reason(c, third, 7200)
    assert text == (
        "all 2 engines are busy; 2 tasks are ready in its line, it is the next one; "
        f"engine 0 runs task {first} since 120 min 0 s; engine 1 is about to run task {second}"
    ).replace("120 min 0 s", "2 h 0 min")
    assert "it is the next one" in reason(c, high)


def test_long_queues_are_not_looked_at_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "_LOOK", 5)
    c = Cluster()
    tids = c.submit(10)
    c.add_host(1)
    assert "more than 5 tasks are ahead of it" in reason(c, tids[-1])


@pytest.mark.parametrize(
    ("outcome", "state", "text"),
    [
        (Outcome.OK, "finished", "it succeeded; its result was given to whoever asked for it"),
        (Outcome.ERROR, "failed", "it raised an exception; "),
        (Outcome.TIMEOUT, "failed", "longer than its timeout"),
    ],
)
def test_tasks_that_have_ended_are_remembered(outcome: Outcome, state: str, text: str) -> None:
    c = Cluster(engines=1)
    (tid,) = c.submit(1, label="fit")
    c.from_host((Done(tid, 0, outcome, c.now, c.now + 1, 0), b""))
    story = c.scheduler.explain(tid)
    assert story.state == state and text in story.reason and story.engine == 0
    assert [line.partition(" ")[2] for line in story.story][:2] == [
        "submitted by session 1 (fit)",
        "begun on engine 0",
    ]
    assert ("it can be run again" in story.reason) == (outcome is not Outcome.OK)


def test_a_result_that_nobody_has_fetched() -> None:
    c = Cluster(engines=1)
    (tid,) = c.submit(1)
    c.detach(1)
    c.from_host((Done(tid, 0, Outcome.OK, c.now, c.now + 1, 0), b""))
    assert "its result is kept until" in reason(c, tid)


# -------------------------------------------------------------------------------- engines


def test_an_engine_tells_what_it_runs_and_what_waits() -> None:
    c = Cluster(engines=1)
    first, second, third = [c.submit(1, targets=[0], spread=False)[0] for _ in range(3)]
    begin(c, first)
    story = c.scheduler.explain_engine(0, c.now + 2)
    assert (story.state, story.host, story.running) == ("ready", "host-1", [first])
    assert story.queued == [second, third] and story.count == 2
    assert story.reason == f"engine 0 runs task {first} since 2.0 s"
    c.handle(EnginesDraining([0], "enough", c.now))
    assert (
        "it gets no more than what is bound to it: enough" in c.scheduler.explain_engine(0).reason
    )


def test_an_engine_without_work() -> None:
    c = Cluster(engines=1)
    assert c.scheduler.explain_engine(0).reason == "engine 0 has nothing to do"
    (tid,) = c.submit(1)
    c.done(tid)
    assert any("1 tasks ended on it" in line for line in c.scheduler.explain_engine(0).story)


def test_an_engine_that_was_lost() -> None:
    c = Cluster(engines=1)
    c.leave(0, "killed by SIGKILL (9)", started=[], restarting=True)
    story = c.scheduler.explain_engine(0, c.now + 5)
    assert story.state == "restarting"
    assert story.reason == "restarting for 5.0 s: killed by SIGKILL (9)"
    assert any(line.startswith("last lost at") and "SIGKILL" in line for line in story.story)
    c.join(0)
    assert "started again once" in c.scheduler.explain_engine(0).story


def test_an_engine_that_is_not_there() -> None:
    story = Cluster().scheduler.explain_engine(7)
    assert (story.state, story.reason) == ("unknown", "there is no engine 7")
