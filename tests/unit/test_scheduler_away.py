"""Hosts that are away for a while, in the scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDraining,
    EnginesEnding,
    EnginesGone,
    FromClient,
    FromHost,
    HostAway,
    HostBack,
    HostJoined,
    HostLost,
    SessionDetached,
    SessionHeld,
    SessionOpened,
)
from ipkernel.controller.instructions import Commit, ToAllClients, ToClient, ToHost
from ipkernel.controller.picture import engine_info
from ipkernel.controller.scheduler import Scheduler
from ipkernel.wire.messages import (
    Assign,
    Cancel,
    Done,
    EngineJoined,
    EngineLeft,
    Finished,
    Kind,
    Outcome,
    Reclaim,
    Started,
    Submit,
)


class World:
    """A scheduler with a client and a host of two engines."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(checked=True)
        self.now = 1000.0
        self.to_hosts: dict[int, list[Any]] = {}
        self.to_client: list[Any] = []
        self.to_all: list[Any] = []
        self.handle(SessionOpened(1, self.now, "me", "tub"))
        self.host(1)

    def handle(self, *events: Any) -> None:
        for instruction in self.scheduler.handle(*events):
            if isinstance(instruction, ToHost):
                self.to_hosts.setdefault(instruction.host, []).extend(
                    m for m, _ in instruction.items
                )
            elif isinstance(instruction, ToClient):
                self.to_client += [m for m, _ in instruction.items]
            elif isinstance(instruction, ToAllClients):
                self.to_all += [m for m, _ in instruction.items]
            else:
                assert isinstance(instruction, Commit) or instruction
        self.scheduler.validate()

    def host(self, number: int, engines: int = 2) -> list[int]:
        ids = self.scheduler.take_ids(engines)
        self.handle(HostJoined(number, f"n{number}", 7, ids, self.now, "tub"))
        self.said(number, *[EngineJoined(one, f"n{number}", 100 + one, 1) for one in ids])
        return ids

    def said(self, host: int, *messages: Any) -> None:
        self.handle(FromHost(host, [(m, bytes(m.size)) for m in messages], self.now))

    def submit(self, *counts: int, targets: Any = (), spread: bool = True) -> None:
        items = [(Submit(tid(n), Kind.APPLY, 0, list(targets), spread), b"") for n in counts]
        self.handle(FromClient(1, items, self.now))

    def away(self, host: int = 1, seconds: float = 2.0) -> None:
        self.handle(HostAway(host, "connection lost", self.now + seconds, self.now))

    def back(self, host: int = 1, engines: Any = None) -> None:
        known = list(self.scheduler.hosts[host].engines)
        self.handle(HostBack(host, self.now, known if engines is None else engines))

    def assigned(self, host: int = 1) -> list[int]:
        return [m.task for m in self.to_hosts.get(host, []) if isinstance(m, Assign)]

    def outcomes(self) -> dict[int, Outcome]:
        return {m.task: m.outcome for m in self.to_client if isinstance(m, Finished)}

    def states(self) -> dict[int, str]:
        return {number: e.state for number, e in self.scheduler.engines.items()}

    def why(self, count: int) -> str:
        return self.scheduler.explain(tid(count)).reason


def tid(count: int) -> int:
    return (1 << 40) + count


def done(count: int, engine: int) -> Done:
    return Done(tid(count), engine, Outcome.OK, 1.0, 1.5, 0)


@pytest.fixture
def w() -> World:
    return World()


def test_nothing_is_assigned_to_a_host_that_is_away(w: World) -> None:
    w.away()
    w.submit(1, 2)
    w.submit(3, targets=[0], spread=False)
    assert w.assigned() == []
    assert w.states() == {0: "away", 1: "away"}
    assert w.scheduler.counts().ready == 2
    assert w.scheduler.counts().waiting == 1
    w.back()
    assert w.assigned() == [tid(3), tid(1)]
    w.said(1, done(3, 0))
    assert w.assigned()[2:] == [tid(2)]
    assert w.states() == {0: "ready", 1: "ready"}


def test_its_tasks_stay_and_their_results_count(w: World) -> None:
    w.submit(1, 2)
    w.said(1, Started([tid(1)]))
    w.away()
    assert sorted(w.scheduler.tasks) == [tid(1), tid(2)]
    w.back()
    w.said(1, done(1, 0), done(2, 1))
    assert w.outcomes() == {tid(1): Outcome.OK, tid(2): Outcome.OK}
    assert w.assigned() == [tid(1), tid(2)], "each was sent once"


def test_clients_hear_of_engines_only_when_they_are_lost(w: World) -> None:
    told = len(w.to_all)
    w.away()
    w.back()
    w.away()
    assert len(w.to_all) == told
    w.submit(1)
    w.handle(HostLost(1, "it did not come back", w.now))
    assert [type(m) for m in w.to_all[told:]] == [EngineLeft, EngineLeft]
    assert not w.scheduler.engines


def test_a_host_that_does_not_come_back_loses_its_tasks_by_the_usual_rule(w: World) -> None:
    w.submit(1, 2, 3)
    w.submit(4, targets=[1], spread=False)
    w.away()
    w.handle(HostLost(1, "it did not come back", w.now))
    assert w.outcomes() == {tid(n): Outcome.LOST for n in (1, 2, 4)}
    assert w.why(3).startswith("no engines: it waits for one to join")


def test_others_go_on_meanwhile(w: World) -> None:
    w.host(2)
    w.away()
    w.submit(1, 2)
    assert w.assigned(2) == [tid(1), tid(2)]


def test_a_cancelled_task_is_asked_back_when_the_host_is_there_again(w: World) -> None:
    w.submit(1, 2)
    w.away()
    w.handle(FromClient(1, [(Cancel([tid(1)]), b"")], w.now))
    [reclaim] = [m for m in w.to_hosts[1] if isinstance(m, Reclaim)]
    assert reclaim.tasks == [tid(1)]
    assert w.outcomes() == {}
    w.away()  # as the service says when even that connection fails at once
    w.back()


def test_a_task_bound_to_it_can_be_cancelled(w: World) -> None:
    w.away()
    w.submit(1, targets=[0], spread=False)
    w.handle(FromClient(1, [(Cancel([tid(1)]), b"")], w.now))
    assert w.outcomes() == {tid(1): Outcome.ABORTED}
    w.back()
    assert w.assigned() == []


def test_people_see_since_when_and_how_long(w: World) -> None:
    w.submit(1, 2)
    w.said(1, Started([tid(1)]))
    w.submit(3, targets=[0], spread=False)
    w.submit(4)
    w.away()
    said = "its host is away since"
    for count in (1, 2, 3, 4):
        assert said in w.why(count)
        assert "it has until" in w.why(count)
        assert "connection lost" in w.why(count)
    info = engine_info(w.scheduler.engines[0], w.now)
    assert info.state == "away"
    assert said in info.reason
    assert (info.running, info.queued) == (1, 1)
    w.back()
    assert said not in w.why(4)
    assert engine_info(w.scheduler.engines[0], w.now).reason == ""


def test_engines_that_were_starting_still_are(w: World) -> None:
    ids = w.scheduler.take_ids(1)
    w.handle(HostJoined(2, "n2", 8, ids, w.now))
    w.said(1, EngineLeft(1, "exited", restarting=True))
    w.handle(HostAway(2, "gone", w.now + 2, w.now), HostAway(1, "gone", w.now + 2, w.now))
    assert w.states() == {0: "away", 1: "away", 2: "away"}
    w.back(1)
    w.back(2)
    assert w.states() == {0: "ready", 1: "restarting", 2: "starting"}
    assert w.scheduler.engines[1].reason == "exited"
    w.said(1, EngineJoined(1, "n1", 5, 2))
    assert w.scheduler.engines[1].restarts == 1


def test_a_dead_engine_stays_dead(w: World) -> None:
    w.said(1, EngineLeft(1, "five quick deaths"))
    w.away()
    assert w.states() == {0: "away", 1: "dead"}
    w.submit(1, targets=[1], spread=False)
    assert w.outcomes() == {tid(1): Outcome.IMPOSSIBLE}
    w.back()
    assert w.states() == {0: "ready", 1: "dead"}


def test_engines_that_are_added_to_a_host_that_is_away_are_away(w: World) -> None:
    w.away()
    [number] = w.scheduler.take_ids(1)
    w.handle(EnginesAdded(1, [number], w.now))
    w.submit(1, targets=[number], spread=False)
    assert w.states()[number] == "away"
    w.back()
    assert w.states()[number] == "starting"
    w.said(1, EngineJoined(number, "n1", 9, 1))
    assert w.assigned() == [tid(1)]


def test_what_it_has_when_it_comes_back_is_what_it_has(w: World) -> None:
    w.submit(1, targets=[1], spread=False)
    w.away()
    w.handle(EnginesGone([0], "stopped on request", w.now))
    w.back(engines=[0, 5])
    assert w.states() == {0: "starting", 5: "starting"}
    assert w.outcomes() == {tid(1): Outcome.LOST}


@pytest.mark.parametrize("ending", [True, False])
def test_engines_that_are_to_go_go_on_going(w: World, ending: bool) -> None:
    w.submit(1, 2)
    w.away()
    told = len(w.to_all)
    if ending:
        w.handle(EnginesEnding([0], w.now))
    else:
        w.handle(EnginesDraining([0], "to be stopped", w.now))
        assert [m.excused for m in w.to_all[told:]] == [True], "clients knew of it"
        w.handle(EnginesEnding([0], w.now, ending=False))
        assert [type(m) for m in w.to_all[told:]] == [EngineLeft, EngineJoined]
        w.handle(EnginesDraining([0], "to be stopped", w.now))
    w.back()
    w.said(1, done(1, 0), done(2, 1))
    w.submit(3, 4)
    w.said(1, done(3, 1), done(4, 1))
    assert all(w.scheduler.tasks[t].engine == 1 for t in w.scheduler.tasks)


def test_direct_tasks_of_a_client_that_is_held_wait_too(w: World) -> None:
    w.submit(1, 2, targets=[0], spread=False)
    w.handle(SessionHeld(1, True, w.now))
    w.submit(3, targets=[0], spread=False)
    w.away()
    w.handle(SessionHeld(1, False, w.now))
    w.handle(SessionHeld(1, True, w.now))
    w.back()
    w.said(1, done(1, 0))
    w.handle(SessionHeld(1, False, w.now))
    assert tid(2) in w.assigned()


def test_a_client_may_go_while_a_host_is_away(w: World) -> None:
    w.submit(1)
    w.away()
    w.handle(SessionDetached(1, [], w.now))
    w.back()
    w.said(1, done(1, 0))
    assert list(w.scheduler.retained) == [tid(1)]


def test_strangers_are_passed_over(w: World) -> None:
    w.handle(HostAway(9, "who?", w.now, w.now), HostBack(9, w.now, []), HostBack(1, w.now, []))
    assert w.states() == {0: "ready", 1: "ready"}
