"""Tasks that need objects: who waits, who passes, and what becomes of leases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ipkernel.errors import ObjectLost, StoreFull
from ipkernel.host.dispatch import Lane
from ipkernel.host.engine import Engine
from ipkernel.host.limits import Limits
from ipkernel.host.needs import NoObjects
from ipkernel.host.processes import Exit
from ipkernel.host.traffic import Traffic
from ipkernel.wire.messages import (
    Assign,
    Closing,
    Done,
    Free,
    Kind,
    Outcome,
    Placed,
    Reclaim,
    Release,
    Returned,
    decode_reason,
)

A, B = 1 << 40, 2 << 40  # the first tasks of two sessions


def oid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def assign(task: int, *needs: int, engine: int = 0, epoch: int = 0) -> Assign:
    return Assign(task, engine, Kind.APPLY, 0, b"f", epoch, [oid(n) for n in needs])


class Objects:
    """Brings an object when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[bytes], str, int, Deferred[list[Placed]]]] = []
        self.cancelled = 0
        self.leased: list[tuple[bytes, str]] = []
        self.dropped: list[tuple[str, list[int]]] = []
        self.handled: list[Any] = []
        self.there: set[bytes] = set()

    def admit(self, subject: str) -> tuple[str, bytes]:
        return "unix:@here", b"ticket for " + subject.encode()

    def lease_now(self, ids: Sequence[bytes], holder: str) -> list[Placed] | None:
        if not self.there.issuperset(ids):
            return None
        self.leased += [(one, holder) for one in ids]
        return [Placed(one, 1, 4096 * n, 10) for n, one in enumerate(ids)]

    def require(self, ids: Sequence[bytes], holder: str, owner: int) -> Deferred[list[Placed]]:
        def cancel(_: Any) -> None:
            self.cancelled += 1
            self.waiting = [one for one in self.waiting if one[3] is not waiting]

        waiting: Deferred[list[Placed]] = Deferred(cancel)
        self.waiting.append((list(ids), holder, owner, waiting))
        return waiting

    def bring(self, index: int = -1) -> None:
        ids, holder, _, waiting = self.waiting.pop(index)
        self.leased += [(one, holder) for one in ids]
        waiting.callback([Placed(one, 1, 4096 * n, 10) for n, one in enumerate(ids)])

    def lose(self, text: str, index: int = -1) -> None:
        self.waiting.pop(index)[3].errback(ObjectLost(text))

    def give_back(self, objects: Iterable[bytes], holder: str) -> None:
        for one in objects:
            self.leased.remove((one, holder))

    def drop(self, holder: str, tasks: Iterable[int]) -> None:
        self.dropped.append((holder, list(tasks)))
        self.leased = [one for one in self.leased if one[1] != holder]

    def handle(self, message: Any) -> None:
        self.handled.append(message)


class Wire:
    """The link to an engine."""

    open = True

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.flushes = 0

    def send(self, message: Any, payload: Any = b"") -> None:
        self.sent.append(message)

    def flush(self) -> None:
        self.flushes += 1


class Scene:
    """A host with engines whose processes are lists."""

    backlog = 0

    def __init__(self, engines: int = 1, objects: Any = None) -> None:
        self.up: list[tuple[Any, Any]] = []
        self.objects: Any = Objects() if objects is None else objects
        self.engines: dict[str, Engine] = {}
        limits = Limits(Clock(), self, "here", interrupt=print, kill=print, resume=print)
        self.traffic = Traffic(Clock(), self, self.engines, lambda *_: None, self.objects, limits)
        for number in range(engines):
            engine = self.engines[str(number + 1)] = Engine(
                str(number + 1), number, self.traffic.forward
            )
            engine.epoch = 1
            engine.link = Wire()  # type: ignore[assignment]
            self.traffic.by_id[number] = engine
        self.engine = self.engines["1"]

    def send(self, message: Any, payload: Any = b"") -> None:
        self.up.append((message, payload))

    def handle(self, *messages: Any) -> None:
        self.traffic.handle([(message, b"") for message in messages])

    def at(self, engine: int = 0) -> list[int]:
        link: Any = self.traffic.by_id[engine].link
        return [message.task for message in link.sent if isinstance(message, Assign)]

    def last(self, engine: int = 0) -> Assign:
        link: Any = self.traffic.by_id[engine].link
        return link.sent[-1]

    def done(self, task: int, engine: int = 0) -> None:
        message = Done(task, engine, Outcome.OK, 1.0, 2.0, 0)
        self.traffic.arrived(self.traffic.by_id[engine], [(message, b"")])


# ---------------------------------------------------------------- the usual way


def test_a_task_goes_when_its_objects_are_there() -> None:
    scene = Scene()
    scene.handle(assign(A, 7, 8))
    assert scene.at() == []
    assert scene.objects.waiting[0][:3] == ([oid(7), oid(8)], "engine:1:1", 1)
    scene.objects.bring()
    assert scene.at() == [A]
    assert scene.last().placed == [Placed(oid(7), 1, 0, 10), Placed(oid(8), 1, 4096, 10)]
    assert scene.last().needs == [oid(7), oid(8)]


def test_objects_that_are_there_cost_no_turn() -> None:
    scene = Scene()
    scene.objects.there = {oid(7)}
    scene.handle(assign(A, 7))
    assert scene.at() == [A]
    assert scene.last().placed == [Placed(oid(7), 1, 0, 10)]
    assert scene.objects.waiting == []
    assert scene.objects.leased == [(oid(7), "engine:1:1")]


def test_a_task_whose_objects_are_there_waits_behind_one_that_waits() -> None:
    scene = Scene()
    scene.objects.there = {oid(7)}
    scene.handle(assign(A, 8), assign(A + 1, 7), assign(B, 7))
    assert scene.at() == [B]
    scene.done(B)
    scene.handle(Reclaim(0, [A + 1]))
    assert scene.objects.leased == [(oid(7), "engine:1:1")]  # that of the task that was sent
    scene.handle(assign(A + 2, 7))
    scene.objects.bring()
    scene.done(A)
    assert scene.at() == [B, A, A + 2]


def test_an_engine_says_which_leases_have_ended() -> None:
    scene = Scene(engines=2)
    scene.objects.there = {oid(7), oid(8)}
    scene.handle(assign(A, 7, 8), assign(B, 7, engine=1))
    done = Done(A, 0, Outcome.OK, 1.0, 2.0, 0)
    scene.traffic.arrived(scene.engine, [(Release([oid(7)]), b""), (done, b"")])
    assert scene.objects.leased == [(oid(8), "engine:1:1"), (oid(7), "engine:2:1")]
    assert [message for message, _ in scene.up] == [done]  # the controller counts no leases


def test_later_tasks_of_the_session_wait_behind_and_others_pass() -> None:
    scene = Scene()
    scene.handle(assign(A, 7), assign(A + 1), assign(B))
    assert scene.at() == [B]
    scene.objects.bring()
    assert scene.at() == [B]  # it runs, and nothing is known of how long
    scene.done(B)
    scene.done(A)
    assert scene.at() == [B, A, A + 1]


def test_two_tasks_with_needs_go_in_order_however_their_objects_come() -> None:
    scene = Scene()
    scene.handle(assign(A, 7), assign(A + 1, 8))
    scene.objects.bring(1)
    assert scene.at() == []
    scene.objects.bring(0)
    scene.done(A)
    assert scene.at() == [A, A + 1]


def test_what_came_before_in_a_session_goes_before() -> None:
    scene = Scene()
    scene.handle(assign(B), assign(A), assign(A + 1, 7))
    scene.objects.bring()
    scene.done(B)
    scene.done(A)
    assert scene.at() == [B, A, A + 1]


def test_a_session_waits_on_one_engine_only() -> None:
    scene = Scene(engines=2)
    scene.handle(assign(A, 7), assign(A + 1, engine=1))
    assert (scene.at(0), scene.at(1)) == ([], [A + 1])


# ---------------------------------------------------------------- missing objects


def test_a_task_ends_when_an_object_cannot_be_had() -> None:
    scene = Scene()
    scene.handle(assign(A, 7), assign(A + 1))
    scene.objects.lose("host n1 that held it is gone")
    ((done, payload),) = scene.up
    assert (done.task, done.engine, done.outcome) == (A, 0, Outcome.LOST)
    reason = decode_reason(payload)
    assert (reason.kind, reason.text) == ("object", "host n1 that held it is gone")
    assert scene.at() == [A + 1]
    assert not scene.engine.waits and not scene.engine.lane.held


def test_a_task_that_finds_no_room_for_its_objects_says_so() -> None:
    scene = Scene()
    scene.handle(assign(A, 7))
    *_, waiting = scene.objects.waiting.pop()
    waiting.errback(StoreFull("no room for 2 GiB"))
    reason = decode_reason(scene.up[0][1])
    assert (reason.kind, reason.text) == ("store-full", "no room for 2 GiB")


def test_very_long_reasons_are_cut() -> None:
    scene = Scene()
    scene.handle(assign(A, 7))
    scene.objects.lose("x" * 10_000)
    assert len(decode_reason(scene.up[0][1]).text) <= 4096


def test_a_host_without_a_store_says_so() -> None:
    scene = Scene(objects=NoObjects())
    scene.handle(assign(A, 7), Free([oid(7)]), assign(A + 1))
    assert "no store" in decode_reason(scene.up[0][1]).text
    assert scene.at() == [A + 1]
    assert NoObjects().admit("engine:1:1") == ("", b"")
    scene.traffic.lost(scene.engine, None)


def test_an_internal_error_ends_the_task_and_not_the_daemon() -> None:
    scene = Scene()
    scene.handle(assign(A, 7))
    scene.objects.waiting.pop()[3].errback(ZeroDivisionError("oops"))
    assert scene.up[0][0].outcome is Outcome.LOST


# ---------------------------------------------------------------- taken back


def test_a_waiting_task_that_is_taken_back_waits_no_more() -> None:
    scene = Scene()
    scene.handle(assign(A, 7), assign(A + 1), Reclaim(0, [A]))
    assert scene.objects.cancelled == 1
    assert scene.up == [(Returned(0, [A]), b"")]
    assert scene.at() == [A + 1]


def test_what_waits_behind_can_be_taken_back() -> None:
    scene = Scene()
    scene.handle(assign(A, 7), assign(A + 1), Reclaim(0, [A + 1, A + 9]))
    assert scene.up == [(Returned(0, [A + 1]), b"")]
    scene.objects.bring()
    assert scene.at() == [A]
    assert not scene.engine.lane.held


def test_the_leases_of_a_task_that_is_taken_back_end() -> None:
    scene = Scene()
    scene.objects.there = {oid(7)}
    scene.handle(assign(B), assign(A, 7))
    assert scene.at() == [B]
    assert scene.objects.leased == [(oid(7), "engine:1:1")]
    scene.handle(Reclaim(0, [A]))
    assert scene.objects.leased == []
    assert scene.up == [(Returned(0, [A]), b"")]


def test_leases_of_a_task_that_was_sent_are_the_engines() -> None:
    scene = Scene()
    scene.objects.there = {oid(7)}
    scene.handle(assign(A, 7))
    scene.handle(Reclaim(0, [A]))
    assert scene.up == [(Returned(0, []), b"")]
    assert scene.objects.leased == [(oid(7), "engine:1:1")]
    assert not scene.engine.leases


def test_a_lost_controller_ends_waits_and_leases() -> None:
    scene = Scene()
    scene.handle(assign(B), assign(A, 7), assign(A + 1, 8), assign(A + 2))
    scene.objects.bring(0)
    scene.traffic.drop_waiting()
    assert scene.objects.cancelled == 1 and scene.objects.leased == []
    lane = scene.engine.lane
    assert not lane.held and not lane.waiting and not scene.engine.waits
    scene.done(B)
    assert scene.at() == [B]


# ---------------------------------------------------------------- lost engines


def test_a_lost_engine_drops_its_leases_and_its_tasks_go_back() -> None:
    scene = Scene()
    scene.objects.there = {oid(7), oid(8)}
    scene.handle(assign(A, 7), assign(A + 1, 8), assign(A + 2, 9), assign(A + 3))
    assert scene.traffic.lost(scene.engine, 1) == ([A], [A + 1, A + 2, A + 3])
    assert scene.objects.dropped == [("engine:1:1", [A])]
    assert scene.objects.leased == [] and scene.objects.cancelled == 1
    assert not scene.engine.waits and not scene.engine.leases


@pytest.mark.parametrize("needs", [(), (7,)])
def test_a_process_that_is_gone_gets_no_more_tasks(needs: tuple[int, ...]) -> None:
    scene = Scene()
    scene.engine.exit = Exit(1, None)
    scene.handle(assign(A, *needs, epoch=1))
    assert not scene.engine.lane.waiting and not scene.objects.waiting
    scene.engine.exit = None
    scene.engine.epoch = 2
    scene.handle(assign(A, *needs, epoch=1), assign(B, *needs, epoch=2))
    assert A not in scene.engine.lane.waiting
    assert len(scene.objects.waiting) == len(needs)


def test_a_dead_process_leases_nothing_even_for_tasks_of_any_epoch() -> None:
    scene = Scene()
    scene.engine.exit = Exit(1, None)
    scene.handle(assign(A, 7))
    assert not scene.objects.waiting


def test_messages_about_objects_are_passed_on_in_their_place() -> None:
    scene = Scene()
    scene.handle(Free([oid(1)]), Closing("bye"))
    assert scene.objects.handled == [Free([oid(1)]), Closing("bye")]


# ---------------------------------------------------------------- any order


class HeldLane(RuleBasedStateMachine):
    """However tasks come, wait and leave: each is in one place, and sessions keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()
        self.count = 0
        self.queues: dict[int, list[int]] = {1: [], 2: [], 3: []}
        self.lacking: list[int] = []

    def new(self, session: int, *needs: int) -> Assign:
        self.count += 1
        message = assign((session << 40) + self.count, *needs)
        self.queues[session].append(message.task)
        return message

    def gone(self, tasks: Iterable[int]) -> None:
        for task in tasks:
            self.queues[task >> 40].remove(task)
            if task in self.lacking:
                self.lacking.remove(task)

    def free(self, session: int) -> list[int]:
        queue = self.queues[session]
        stops = [queue.index(task) for task in self.lacking if task in queue]
        return queue[: min(stops)] if stops else queue

    @rule(session=st.sampled_from([1, 2, 3]))
    def add(self, session: int) -> None:
        self.lane.add(self.new(session), b"")

    @rule(session=st.sampled_from([1, 2, 3]))
    def hold(self, session: int) -> None:
        message = self.new(session, 1)
        self.lacking.append(message.task)
        self.lane.hold(message, b"")

    @precondition(lambda self: self.lacking)
    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.lacking))
        self.lacking.remove(task)
        self.lane.place(assign(task, 1))

    @rule()
    def take(self) -> None:
        taken = [message.task for message, _ in self.lane.take()]
        for task in taken:
            assert task == self.queues[task >> 40][0] and task not in self.lacking
            self.gone([task])
            assert self.lane.done(task, 0.0)

    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        every = [task for queue in self.queues.values() for task in queue]
        asked = data.draw(st.lists(st.sampled_from([*every, 1 << 50]), unique=True, max_size=4))
        assert self.lane.reclaim(asked) == [task for task in asked if task in every]
        self.gone(task for task in asked if task in every)

    @rule()
    def crash(self) -> None:
        begun, rest = self.lane.lost(None)
        assert begun == []
        for session, queue in self.queues.items():
            assert [task for task in rest if task >> 40 == session] == queue
            queue.clear()
        self.lacking.clear()

    @invariant()
    def agrees(self) -> None:
        for session, queue in self.queues.items():
            waiting = [task for task in self.lane.waiting if task >> 40 == session]
            held = list(self.lane.held.get(session, ()))
            assert waiting + held == queue
            assert waiting == self.free(session)
        assert all(self.lane.held.values())


HeldLane.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHeldLane = HeldLane.TestCase


@given(st.permutations(range(6)))
def test_any_order_of_arrival_keeps_the_order_of_the_session(order: list[int]) -> None:
    lane = Lane()
    for number in range(6):
        lane.hold(assign(A + number, 1), b"")
    for number in order:
        lane.place(assign(A + number, 1))
    assert list(lane.waiting) == [A + number for number in range(6)]
