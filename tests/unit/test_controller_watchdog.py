"""What the watchdog finds, when, and what it says of it."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.task import Clock

from ipkernel.controller.events import HostAway, SessionHeld
from ipkernel.controller.watchdog import Surroundings
from ipkernel.controller.watching import Watching
from ipkernel.wire.messages import Done, Outcome, Started
from ipkernel.wire.records import Stuck
from tests.support.scheduling import Cluster


class Scene(Cluster):
    """A cluster with a watchdog that tells of what is so for 60 s."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.watchdog = self.scheduler.watchdog(60.0)

    def look(self, later: float = 0.0, **around) -> list[Stuck]:
        """Look now, and once more later; nothing happens in between."""
        self.watchdog.look(self.now, Surroundings(**around))
        return self.watchdog.look(self.now + later, Surroundings(**around))

    def only(self, later: float = 61.0, **around) -> Stuck:
        assert self.look(59.0, **around) == []
        (found,) = self.look(later, **around)
        assert found.advice
        return found


def test_nothing_is_wrong_with_a_cluster_that_works() -> None:
    c = Scene(engines=2)
    assert c.look(1000) == []
    tids = c.submit(5)
    for tid in tids[:2]:
        c.from_host((Started([tid]), b""), host=1)
    assert c.look(1000) == []
    assert Scene().look(1000) == []


def test_tasks_wait_and_there_is_no_engine() -> None:
    c = Scene()
    c.submit(3)
    found = c.only()
    assert (found.severity, found.cause) == ("warning", "no engines")
    assert found.reason == "3 tasks have not ended, and there is no engine"
    c.add_host(1)
    assert c.look(10) == []


def test_engines_that_do_not_become_ready() -> None:
    c = Scene()
    c.add_host(2, join=False)
    found = c.look(61)
    assert [one.cause for one in found] == ["starting 0", "starting 1"]
    assert "is being started and does not become ready" in found[0].reason
    c.submit(1)
    assert "no engine is ready (2 starting)" in c.look(61)[-1].reason
    c.join(0)
    assert [one.cause for one in c.look(61)] == ["starting 1", "not begun 0 1099511627776"]


def test_an_engine_that_does_not_come_back() -> None:
    c = Scene(engines=2)
    c.submit(2, targets=[0], spread=False)
    c.leave(0, "killed by SIGKILL (9)", started=[], restarting=True)
    found = c.only()
    assert found.cause == "restarting 0" and "SIGKILL" in found.reason
    assert found.reason.endswith("2 tasks wait for it")


def test_an_engine_that_is_lost_again_and_again() -> None:
    c = Scene(engines=2)
    for _ in range(3):
        assert c.look() == []
        c.now += 10
        c.leave(0, "killed by SIGKILL (9)", started=[], restarting=True)
        c.join(0)
    (found,) = c.look()
    assert "was started again 3 times within 30 s" in found.reason and "SIGKILL" in found.reason
    c.now += 130
    c.look()
    assert c.look(1) == []


def test_an_idle_engine_beside_ready_tasks_is_a_fault() -> None:
    c = Scene(engines=1)
    busy, first, *_ = c.submit(4)
    core = c.scheduler._core
    engine = core.engines[0]
    task = engine.assigned.pop(busy)  # nobody but a fault does this
    core.ladder.update(engine)
    found = c.only()
    assert found.severity == "fault"
    assert found.reason == f"task {first} and 2 others are ready, and engine 0 has nothing to do"
    engine.assigned[busy] = task
    core.ladder.update(engine)
    assert not [one for one in c.look(61) if one.severity == "fault"]


def test_tasks_that_may_not_run_on_the_idle_engine_are_none() -> None:
    c = Scene(engines=2)
    tids = c.submit(3, targets=[1])
    c.from_host((Started([tids[0]]), b""), host=1)
    assert c.look(600) == []


def test_a_task_that_its_host_does_not_begin() -> None:
    c = Scene(engines=1)
    (tid,) = c.submit(1)
    found = c.only(62)
    assert found.cause == f"not begun 0 {tid}" and "has not begun it" in found.reason
    c.from_host((Started([tid]), b""), host=1)
    assert c.look(62) == []


def test_a_task_that_takes_much_longer_than_others() -> None:
    c = Scene(engines=1)
    for _ in range(10):
        (tid,) = c.submit(1)
        c.from_host((Done(tid, 0, Outcome.OK, c.now, c.now + 30.0, 0), b""))
    (tid,) = c.submit(1, label="fit")
    c.from_host((Started([tid]), b""), host=1)
    assert c.look(80) == []
    (found,) = c.look(100)
    assert found.severity == "information"
    assert f"runs task {tid} (fit) for 100 s; the longest of the last 10 took 30 s" in found.reason


def test_a_client_that_takes_no_results() -> None:
    c = Scene(engines=1)
    c.handle(SessionHeld(1, True, c.now))
    c.submit(2)
    found = c.only()
    assert "client 1 does not take its results; 2 tasks of it wait" in found.reason
    c.handle(SessionHeld(1, False, c.now))
    assert "held 1" not in [one.cause for one in c.look(61)]


def test_hosts_that_say_nothing_or_are_away() -> None:
    c = Scene(engines=1)
    found = c.only(heard={1: c.now})
    assert found.cause == "silent 1" and "nothing is heard of host host-1" in found.reason
    c.handle(HostAway(1, "connection lost", c.now + 600, c.now))
    (found,) = c.look(61)
    assert found.cause == "away 1" and "connection lost" in found.reason


def test_a_journal_that_is_not_written() -> None:
    c = Scene()
    found = c.only(journal="No space left on device", journal_since=c.now)
    assert found.severity == "fault" and "No space left on device; nothing leaves" in found.reason


def test_what_is_worst_comes_first_and_not_too_much_is_told() -> None:
    c = Scene()
    c.add_host(150, join=False)
    found = c.look(61, journal_since=c.now)
    assert len(found) == 100 and found[0].cause == "journal"


# ------------------------------------------------------------------------------ the shell


class Eyes:
    """A watchdog that finds what it is told to."""

    def __init__(self) -> None:
        self.found: list[Stuck] = []
        self.looks: list[float] = []

    def look(self, now, around):
        self.looks.append(now)
        if self.found is None:
            raise LookupError("blind")
        return self.found


@pytest.fixture
def watch():
    clock, eyes = Clock(), Eyes()
    watching = Watching(clock, eyes, Surroundings, 60.0)
    yield clock, eyes, watching
    watching.close()
    watching.close()
    assert not clock.getDelayedCalls()


def test_each_cause_is_logged_once(watch, caplog):
    clock, eyes, watching = watch
    caplog.set_level(logging.INFO, "ipkernel.controller.watching")
    eyes.found = [Stuck(cause="a", severity="fault", reason="it hangs", advice="pull")]
    eyes.found.append(Stuck(cause="b", severity="information", reason="it lasts"))
    clock.pump([15.0] * 3)
    assert eyes.looks == [15.0, 30.0, 45.0] and watching.stuck == eyes.found
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "stuck: it hangs. What to do: pull"),
        ("INFO", "stuck: it lasts. What to do: "),
    ]
    eyes.found = eyes.found[:1]
    clock.advance(15.0)
    assert caplog.records[-1].getMessage() == "not stuck any more: it lasts"


def test_a_watchdog_that_fails_looks_again(watch, caplog):
    clock, eyes, watching = watch
    eyes.found = None
    clock.advance(15.0)
    assert "the watchdog failed" in caplog.text
    eyes.found = []
    clock.advance(15.0)
    assert len(eyes.looks) == 2


def test_it_can_be_switched_off():
    clock = Clock()
    Watching(clock, Eyes(), Surroundings, 0.0).close()
    assert not clock.getDelayedCalls()
