"""A scheduler that begins where another one ended."""

from __future__ import annotations

from typing import Any

import pytest

from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDescribed,
    EnginesGone,
    FromClient,
    FromHost,
    HostAway,
    HostBack,
    HostJoined,
    HostLost,
    RestartOver,
    SessionDetached,
    SessionOpened,
    SessionResumed,
    TasksPurged,
)
from ipkernel.controller.instructions import Commit, ToClient, ToHost
from ipkernel.controller.journal import Again, Forgotten, HostWent, LifeBegan
from ipkernel.controller.scheduler import Scheduler
from ipkernel.wire.messages import (
    Assign,
    Cancel,
    Cancelled,
    Dependency,
    Done,
    EngineJoined,
    EngineLeft,
    Fate,
    Finished,
    Free,
    Function,
    Held,
    Holding,
    Interrupt,
    Kind,
    ObjectMade,
    Outcome,
    Output,
    Reclaim,
    Started,
    Stream,
    Submit,
    Terms,
    decode_reason,
)
from ipkernel.wire.queries import Search, parse
from tests.support.journals import restored, stored

OBJECT = bytes(15) + b"o"


class World:
    """A scheduler whose records go through the journal's encoding, one client, hosts of two engines."""

    def __init__(self) -> None:
        self.records: list[Any] = [LifeBegan(7, 1000.0)]
        self.now = 1000.0
        self.begin()
        self.handle(SessionOpened(1, self.now, "me", "tub"))
        self.host(1)

    def begin(self) -> None:
        self.scheduler = Scheduler(checked=True)
        self.to_hosts: dict[int, list[Any]] = {}
        self.to_client: list[Any] = []
        self.payloads: list[Any] = []

    def restart(self) -> Any:
        """End at once, and begin again with what was written down."""
        old, self.records = self.records, []
        self.begin()
        self.now += 1.0
        loaded = restored(stored(old))
        begun = self.scheduler.restore(loaded, self.now, grace=10.0, keep=600.0)
        self.records = old + begun.records
        self.scheduler.validate()
        return begun

    def handle(self, *events: Any) -> None:
        for instruction in self.scheduler.handle(*events):
            if isinstance(instruction, Commit):
                self.records += instruction.records
            elif isinstance(instruction, ToHost):
                self.to_hosts.setdefault(instruction.host, []).extend(
                    m for m, _ in instruction.items
                )
            elif isinstance(instruction, ToClient):
                self.to_client += [m for m, _ in instruction.items]
                self.payloads += [payload for _, payload in instruction.items if payload]
        self.scheduler.validate()

    def host(self, number: int) -> None:
        ids = self.scheduler.take_ids(2)
        self.handle(HostJoined(number, f"n{number}", 7, ids, self.now, "tub"))
        self.joined(number)

    def joined(self, number: int) -> None:
        engines = self.scheduler.hosts[number].engines
        name = f"n{number}"
        self.said(number, *[EngineJoined(one, name, 100 + one, 1, began=0.5) for one in engines])

    def back(self, number: int = 1) -> None:
        """The host is connected, and has said which engines are ready, but not what they have."""
        ids = list(self.scheduler.hosts[number].engines)
        joined = HostJoined(number, f"n{number}", 7, ids, self.now, "tub")
        self.handle(HostBack(number, self.now, ids, joined))
        self.joined(number)

    def client(self, *objects: bytes) -> None:
        self.handle(SessionResumed(1, self.now))
        self.send(Held(list(objects)))

    def said(self, host: int, *messages: Any) -> None:
        self.handle(FromHost(host, [(m, bytes(m.size)) for m in messages], self.now))

    def send(self, *messages: Any) -> None:
        self.handle(FromClient(1, [(m, bytes(m.size)) for m in messages], self.now))

    def submit(self, *counts: int, **fields: Any) -> None:
        self.send(*[Submit(tid(n), Kind.APPLY, 0, **fields) for n in counts])

    def assigned(self, host: int = 1) -> list[int]:
        sent = self.to_hosts.get(host, [])
        return [m.task - tid(0) for m in sent if isinstance(m, Assign)]

    def outcomes(self) -> dict[int, Outcome]:
        ends = [m for m in self.to_client if isinstance(m, Finished)]
        assert len({m.task for m in ends}) == len(ends), "each end is told once"
        return {m.task - tid(0): m.outcome for m in ends}


def tid(count: int) -> int:
    return (1 << 40) + count


def done(count: int, engine: int, **fields: Any) -> Done:
    return Done(tid(count), engine, Outcome.OK, 1.0, 1.5, 0, **fields)


@pytest.fixture
def w() -> World:
    return World()


def test_nothing_written_down_is_nothing_restored() -> None:
    scheduler = Scheduler(checked=True)
    restored = scheduler.restore([], 1.0, grace=10.0, keep=60.0)
    assert (restored.life, restored.hosts, restored.sessions) == (0, [], 0)
    scheduler.validate()


def test_a_session_is_as_it_was(w: World) -> None:
    w.send(Function(b"digest", 3), Cancel([99]))
    w.submit(1, 2, 3, 4)
    restored = w.restart()
    assert (restored.life, restored.sessions) == (7, 1)
    assert [came.host for came in restored.hosts] == [1]
    session = w.scheduler.sessions[1]
    assert (session.client, session.tub_id, session.attached) == ("me", "tub", False)
    assert (session.taken, session.open) == (6, 4)
    assert session.functions == {b"digest": bytes(3)}
    assert {n: e.state for n, e in w.scheduler.engines.items()} == {0: "away", 1: "away"}
    assert [t.state.value for t in w.scheduler.tasks.values()] == ["ready", "ready"] + [
        "assigned", "assigned",
    ]  # fmt: skip


def test_tasks_that_the_host_has_go_on_and_others_are_assigned_anew(w: World) -> None:
    w.submit(1, 2, 3)
    w.restart()
    w.client()
    w.back()
    assert w.assigned() == []
    w.said(1, Holding(0, 1, [tid(1)]), Holding(1, 1, []), Held([], []), Started([]))
    assert w.scheduler.tasks[tid(1)].state.value == "running"
    assert w.assigned() == [2], "it was sent, and never begun"
    w.said(1, done(1, 0), done(2, 1))
    assert w.assigned() == [2, 3]
    w.said(1, done(3, w.scheduler.tasks[tid(3)].engine))
    assert w.outcomes() == {1: Outcome.OK, 2: Outcome.OK, 3: Outcome.OK}
    assert not w.scheduler.objects.rebuilding


def test_what_ended_meanwhile_is_told_once(w: World) -> None:
    w.submit(1, 2)
    w.restart()
    w.back()
    w.said(1, Holding(0, 1, []), Held([], []), done(1, 0), Started([]))
    w.client()
    assert w.outcomes() == {1: Outcome.OK}
    w.said(1, done(1, 0))
    assert w.outcomes() == {1: Outcome.OK}
    assert w.assigned() == [2]


def test_results_that_were_not_acknowledged_are_told_again(w: World) -> None:
    w.submit(1, 2)
    w.said(1, Output(tid(1), 0, Stream.STDOUT, 3, 1), done(1, 0), done(2, 1))
    w.records.append(Forgotten(w.now, [tid(2)]))
    w.restart()
    assert w.scheduler.totals.finished == 1
    w.client()
    assert w.outcomes() == {1: Outcome.OK}
    assert not w.scheduler.tasks


def test_results_are_found_by_label(w: World) -> None:
    w.submit(1, 2, label="fit")
    w.submit(3, label="other")
    w.submit(4, label="fit")
    w.submit(5, label="fit", targets=[9])
    w.said(1, done(1, 0), done(2, 1), done(3, 0))
    w.handle(SessionDetached(1, [], w.now))
    w.said(1, done(4, w.scheduler.tasks[tid(4)].engine))
    w.restart()
    searching = w.scheduler.search(Search(where=parse({"label": "fit"}), keys=["label", "status"]))
    searching.step(100)
    fit = [[tid(n), "fit", "error" if n == 5 else "ok"] for n in (1, 2, 4, 5)]
    assert sorted(searching.take()) == fit


def test_what_a_result_is_of_is_known(w: World) -> None:
    w.send(Submit(tid(1), Kind.MAP, 0), Submit(tid(2), Kind.EXECUTE, 0, label="fit"))
    w.submit(3)
    w.said(1, *(done(n, w.scheduler.tasks[tid(n)].engine) for n in (1, 2, 3)))
    w.handle(SessionDetached(1, [], w.now))
    w.restart()
    searching = w.scheduler.search(Search(where=parse({}), keys=["method"]))
    searching.step(100)
    assert sorted(searching.take()) == [[tid(1), "map"], [tid(2), "execute"], [tid(3), "apply"]]


def known(w: World, *keys: str) -> list[Any]:
    searching = w.scheduler.search(Search(where=parse({}), keys=list(keys)))
    searching.step(100)
    return sorted([row[0] - tid(0), *row[1:]] for row in searching.take())


def test_how_tasks_ended_is_known_whether_or_not_their_results_were_fetched(w: World) -> None:
    keys = ("submitted", "received", "status", "label", "engine_id", "kept")
    for count in (1, 2):
        w.now += 1.0
        w.submit(count, label="fit")
    w.now += 1.0
    w.said(1, done(1, 0), done(2, 1))
    w.records.append(Forgotten(w.now, [tid(1)]))
    w.submit(3, targets=[9])
    for _ in range(2):
        w.restart()
        assert known(w, *keys) == [
            [1, 1001.0, 1003.0, "ok", "fit", 0, False],
            [2, 1002.0, 1003.0, "ok", "fit", 1, True],
            [3, None, 1003.0, "error", None, None, True],
        ]


def test_which_process_ran_a_task_is_known_while_there_is_that_process(w: World) -> None:
    w.submit(1, 2)
    w.said(1, done(1, 0), done(2, 1))
    assert known(w, "engine_uuid") == [[1, "n1:100"], [2, "n1:101"]]
    w.restart()
    assert known(w, "engine_uuid") == [[1, None], [2, None]], "it has not been heard of"
    w.back()
    assert known(w, "engine_uuid") == [[1, "n1:100"], [2, "n1:101"]]
    w.said(1, EngineLeft(0, "killed", True), EngineJoined(0, "n1", 200, 2, began=2.0))
    assert known(w, "engine_uuid") == [[1, None], [2, "n1:101"]]


def test_what_was_purged_is_not_known_after_a_restart(w: World) -> None:
    w.submit(1, 2, 3)
    w.said(1, done(1, 0))
    w.records.append(Forgotten(w.now, [tid(1)]))
    w.said(1, done(2, 1))
    w.handle(TasksPurged([tid(1), tid(2)], w.now))
    w.said(1, done(3, 0))
    w.restart()
    assert known(w, "status") == [[3, "ok"]]


def test_output_of_tasks_that_go_on_is_told_again(w: World) -> None:
    w.submit(1)
    w.said(1, Output(tid(1), 0, Stream.STDOUT, 3, 1))
    w.restart()
    w.client()
    assert [m.serial for m in w.to_client if isinstance(m, Output)] == [1]


def test_a_host_that_does_not_come_back_is_lost_by_the_usual_rule(w: World) -> None:
    w.submit(1, retries=1)
    w.submit(2)
    w.submit(3, targets=[0], spread=False)
    w.submit(4)
    w.restart()
    w.client()
    w.host(2)
    assert w.assigned(2) == [4]
    w.handle(HostLost(1, "it did not come back", w.now))
    assert w.outcomes() == {2: Outcome.LOST, 3: Outcome.LOST}
    assert w.scheduler.tasks[tid(1)].attempts == 1
    assert w.assigned(2) == [4, 1]
    w.restart()
    assert w.scheduler.tasks[tid(1)].attempts == 1
    assert list(w.scheduler.hosts) == [2]


def test_a_second_restart_finds_what_the_first_one_did(w: World) -> None:
    w.submit(1, 2, 3)
    w.restart()
    w.back()
    w.said(1, Holding(0, 1, [tid(1)]), Started([]))
    w.restart()
    w.client()
    w.back()
    w.said(1, Holding(0, 1, [tid(1)]), Holding(1, 1, [tid(2)]), Started([]))
    assert w.assigned() == []
    w.said(1, done(1, 0), done(2, 1))
    assert w.assigned() == [3]


def test_a_host_that_comes_twice_before_it_has_said_all(w: World) -> None:
    w.submit(1, 2)
    w.restart()
    w.back()
    w.said(1, Holding(0, 1, [tid(1)]))
    w.handle(HostLost(9, "nobody", w.now))
    w.handle(HostAway(1, "cut", w.now + 2, w.now))
    w.back()
    w.said(1, Holding(0, 1, [tid(1)]), Started([]))
    assert w.scheduler.tasks[tid(1)].state.value == "running"
    assert w.assigned()[-1:] == [2]


def test_what_tasks_wait_for_is_known(w: World) -> None:
    w.submit(1, 2, 3, 4, 5)
    w.submit(6, terms=Terms(after=Dependency([tid(1), tid(3)])))
    w.submit(7, terms=Terms(follow=Dependency([tid(1)])))
    w.submit(8, terms=Terms(after=Dependency([tid(3)])))
    w.said(1, done(1, 0))
    w.records.append(Forgotten(w.now, [tid(1)]))
    assert [r.task - tid(0) for r in w.records if isinstance(r, Again)] == [6, 7]
    w.restart()
    waits = w.scheduler.explain
    assert "task 1099511627779 (" in waits(tid(6)).reason
    assert waits(tid(8)).state == "waiting"
    assert w.scheduler.tasks[tid(7)].message.targets == [0]
    w.client()
    w.back()
    w.said(1, Holding(1, 1, [tid(2)]), Holding(0, 1, [tid(3)]), Started([]), done(3, 0))
    assert waits(tid(6)).state in ("ready", "assigned")
    assert w.outcomes() == {3: Outcome.OK}


def test_ends_that_were_known_when_a_task_came_are_known_after_a_restart(w: World) -> None:
    w.submit(1, 2, 3)
    w.said(1, done(1, 0))
    w.submit(4, terms=Terms(after=Dependency([tid(1), tid(3)])))  # its client had not heard of it
    w.records.append(Forgotten(w.now, [tid(1)]))
    w.restart()
    assert w.scheduler.explain(tid(4)).state == "waiting"
    w.client()
    w.back()
    w.said(1, Holding(1, 1, [tid(2)]), Holding(0, 1, [tid(3)]), Started([]), done(3, 0))
    assert w.scheduler.explain(tid(4)).state in ("ready", "assigned")


def test_tasks_for_each_of_several_engines(w: World) -> None:
    w.submit(1, targets=[0, 1], spread=False)
    w.submit(3, targets=[0, 1], spread=False)
    w.said(1, done(1, 0))
    w.records.append(Forgotten(w.now, [tid(1)]))
    w.restart()
    assert sorted(w.scheduler.tasks) == [tid(2), tid(3), tid(4)]
    w.client()
    w.back()
    w.said(1, Holding(1, 1, [tid(2)]), Started([]), done(2, 1))
    assert sorted(w.assigned()) == [3, 4]


def test_an_engine_that_died_meanwhile(w: World) -> None:
    w.submit(1, 2)
    w.restart()
    w.client()
    w.back()
    w.said(1, Holding(1, 1, []), done(2, 1), EngineLeft(0, "killed", False, [tid(1)]), Started([]))
    assert w.outcomes() == {1: Outcome.LOST, 2: Outcome.OK}


def test_a_task_that_is_cancelled_before_its_host_is_back(w: World) -> None:
    w.submit(1, 2)
    w.restart()
    w.client()
    w.send(Cancel([tid(1), tid(2)]))
    w.back()
    assert not [m for m in w.to_hosts.get(1, []) if isinstance(m, Interrupt | Reclaim)]
    w.said(1, Holding(0, 1, [tid(1)]), Started([]))
    assert [m.tasks for m in w.to_hosts[1] if isinstance(m, Interrupt)] == [[tid(1)]]
    assert w.outcomes() == {2: Outcome.ABORTED}


def test_a_cancel_that_is_asked_for_again_is_answered(w: World) -> None:
    w.submit(1, 2)
    w.send(Cancel([tid(1), tid(2)], 5))
    w.restart()
    w.client()
    w.send(Cancel([tid(1), tid(2)], 5))
    w.back()
    w.said(1, Holding(0, 1, [tid(1)]), Started([]))
    w.said(1, Done(tid(1), 0, Outcome.ABORTED, 1.0, 1.5, 0))
    answers = [m for m in w.to_client if isinstance(m, Cancelled)]
    assert {m.serial for m in answers} == {5}
    fates = [(t - tid(0), fate) for m in answers for t, fate in zip(m.tasks, m.fates, strict=True)]
    assert sorted(fates) == [(1, Fate.INTERRUPTED), (2, Fate.DEQUEUED)]
    assert w.outcomes() == {1: Outcome.ABORTED, 2: Outcome.ABORTED}


def test_a_cancel_holds_though_its_client_does_not_come_back(w: World) -> None:
    w.submit(1, 2, retries=5)
    w.submit(3)
    w.said(1, Started([tid(1)]))
    w.send(Cancel([tid(1), tid(2)], 5, grace=7000))
    for _ in range(2):
        w.restart()
        w.back()
        assert not [m for m in w.to_hosts.get(1, []) if isinstance(m, Interrupt | Reclaim)]
    w.said(1, Holding(0, 1, [tid(1)]), Started([]))
    orders = [(m.tasks, m.grace) for m in w.to_hosts[1] if isinstance(m, Interrupt)]
    assert orders == [([tid(1)], 7000)], "what it has is to end, in the time that it was given"
    assert w.assigned() == [3], "what it has not begun has ended"
    assert any("cancelled" in line for line in w.scheduler.explain(tid(1)).story)
    w.said(1, EngineLeft(0, "killed", True, [tid(1)]))
    assert known(w, "status")[:2] == [[1, "aborted"], [2, "aborted"]]


@pytest.mark.parametrize("target", [-1, 0])
def test_a_cancelled_task_whose_host_is_lost_for_good_ends(w: World, target: int) -> None:
    w.submit(1, retries=5, targets=[target] if target >= 0 else [], spread=target < 0)
    w.send(Cancel([tid(1)]))
    w.records.append(HostWent(1, w.now))  # and nothing more: the controller was killed here
    w.restart()
    assert known(w, "status") == [[1, "aborted"]]
    w.restart()
    assert known(w, "status") == [[1, "aborted"]]
    assert not w.scheduler.tasks


def rejected(count: int, engine: int) -> Done:
    return Done(tid(count), engine, Outcome.REJECTED, 1.0, 1.5, 0)


def reject_at_first_host(w: World) -> None:
    """Have both engines of a host reject a task: one before a restart, one after another host has come."""
    w.said(1, rejected(1, 0))
    w.restart()
    w.client()
    w.back()
    w.said(1, Holding(1, 1, [tid(1)]), Started([]))
    w.host(2)
    w.said(1, rejected(1, 1))


def test_who_has_rejected_a_task_is_known_and_new_engines_are_asked(w: World) -> None:
    w.submit(1)
    reject_at_first_host(w)
    assert w.assigned(2) == [1], "it came when there were no more than those two"
    w.restart()
    w.client()
    w.back(1)
    w.said(1, Started([]))
    w.back(2)
    w.said(2, Holding(2, 1, [tid(1)]), Started([]), rejected(1, 2))
    assert (w.assigned(1), w.assigned(2)) == ([], [1])
    w.said(2, rejected(1, 3))
    assert w.outcomes() == {1: Outcome.IMPOSSIBLE}
    [payload] = w.payloads
    for engine, host in enumerate(("n1", "n1", "n2", "n2")):
        assert f"engine {engine} on {host}" in decode_reason(payload).text


def test_the_choice_of_a_rejected_task_stays_its_choice_after_a_restart(w: World) -> None:
    w.submit(1, targets=[0, 1])
    reject_at_first_host(w)
    assert w.outcomes() == {1: Outcome.IMPOSSIBLE}


def test_another_engine_with_the_id_of_one_that_rejected_a_task_may_run_it(w: World) -> None:
    w.submit(1)
    w.said(1, rejected(1, 0))
    w.handle(EnginesGone([0], "stopped", w.now))
    w.handle(EnginesAdded(1, w.scheduler.take_ids(1, [0]), w.now))
    w.restart()
    w.client()
    w.back()
    w.said(1, Holding(1, 1, [tid(1)]), Started([]), rejected(1, 1))
    assert w.assigned() == [1]
    assert w.scheduler.tasks[tid(1)].engine == 0


def test_a_client_that_does_not_come_back(w: World) -> None:
    w.restart()
    w.handle(RestartOver(w.now))
    w.back()
    w.said(1, Started([]))
    assert not w.scheduler.objects.rebuilding
    assert list(w.scheduler.sessions) == [1]
    w.handle(SessionResumed(1, w.now), SessionDetached(1, [], w.now))
    assert not w.scheduler.sessions


# --------------------------------------------------------------------------------- objects


def freed(w: World, host: int = 1) -> list[bytes]:
    return [o for m in w.to_hosts.get(host, []) if isinstance(m, Free) for o in m.objects]


def test_an_object_that_a_task_needs_is_found_again(w: World) -> None:
    w.submit(1, 2)
    w.send(ObjectMade(OBJECT, 100, 0, 1))
    w.submit(3, needs=[OBJECT])
    w.restart()
    w.client()
    w.back()
    w.said(1, Held([OBJECT], [100]), Holding(0, 1, [tid(1)]), Holding(1, 1, [tid(2)]), Started([]))
    assert not w.scheduler.objects.rebuilding
    assert freed(w) == []
    w.said(1, done(1, 0))
    assert w.assigned() == [3]
    w.said(1, done(3, 0))
    assert freed(w) == [OBJECT]


def test_an_object_that_nobody_has_any_more_is_lost(w: World) -> None:
    w.submit(1, 2)
    w.send(ObjectMade(OBJECT, 100, 0, 1))
    w.submit(3, needs=[OBJECT])
    w.restart()
    w.client()
    w.back()
    w.said(1, Held([], []), Holding(0, 1, [tid(1)]), Holding(1, 1, [tid(2)]), Started([]))
    assert w.outcomes() == {3: Outcome.LOST}


def test_what_a_client_has_references_to_stays(w: World) -> None:
    w.restart()
    w.back()
    w.said(1, Held([OBJECT, bytes(16)], [100, 5]), Started([]))
    assert freed(w) == []
    w.client(OBJECT)
    assert freed(w) == [bytes(16)]


def test_the_object_of_a_recorded_result_is_not_freed_by_its_second_coming(w: World) -> None:
    w.submit(1)
    w.said(1, done(1, 0, object=OBJECT, length=100))
    w.restart()
    w.back()
    w.said(1, Held([OBJECT], [100]), done(1, 0, object=OBJECT, length=100), Started([]))
    w.client()
    assert [m.object for m in w.to_client if isinstance(m, Finished)] == [OBJECT]
    assert freed(w) == []


def test_what_was_said_of_engines_is_known_after_a_restart() -> None:
    w = World()
    engine = min(w.scheduler.engines)
    w.handle(EnginesDescribed([engine], {"gpu": "a100", "left": 3}, ["left"], w.now))
    w.handle(EnginesDescribed([engine], {"rack": 2}, [], w.now))
    w.restart()
    assert w.scheduler.engines[engine].properties == {"gpu": "a100", "left": 3, "rack": 2}
    w.handle(EnginesDescribed([engine], {}, ["left"], w.now))
    w.restart()
    assert w.scheduler.engines[engine].properties == {"gpu": "a100", "rack": 2}
