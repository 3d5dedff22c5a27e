"""The session: queueing, ids, wake-ups, the end, and courier and channel in memory."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import threading
import time
import tracemalloc

import pytest
from twisted.internet.task import Clock

from ipkernel import errors
from ipkernel.client import session as session_module
from ipkernel.client import submission as submission_module
from ipkernel.client.asyncresult import AsyncResult
from ipkernel.client.courier import BATCH, TIDY, TURN, Courier
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.serialize.calls import CallPayload
from ipkernel.serialize.payload import dumps, dumps_bytes
from ipkernel.wire.memory import memory_channels
from ipkernel.wire.messages import (
    Cancel,
    Closing,
    EngineJoined,
    EngineLeft,
    Fetch,
    Finished,
    Function,
    HostAccess,
    Kind,
    Outcome,
    Release,
    Submit,
)
from ipkernel.wire.records import EngineInfo
from tests.support.fakecontroller import FakeController
from tests.support.fakestore import FakeConnector


def call(value=None, digest=b"", blob=b""):
    return CallPayload(digest, blob, dumps(value))


class Wakes:
    """Counts wake-ups and does nothing."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@pytest.fixture
def wakes():
    return Wakes()


@pytest.fixture
def session(wakes):
    return Session(5, wakes)


def submit(session, value=None, target=-1, **kwargs):
    result = AsyncResult(session, True)
    session.submit(result, Kind.APPLY, call(value, **kwargs), target)
    return result


def finished(task, value=None, engine=0, outcome=Outcome.OK):
    payload = dumps_bytes(value)
    return Finished(task, outcome, engine, 1.0, 2.0, len(payload)), payload


# ---------------------------------------------------------------- queueing


def test_ids_are_session_and_count(session):
    results = [submit(session) for _ in range(3)]
    assert [r.msg_ids for r in results] == [[(5 << 40) + i] for i in (1, 2, 3)]
    assert list(session.history) == [(5 << 40) + i for i in (1, 2, 3)]


def test_one_wake_up_for_a_whole_burst(session, wakes):
    for _ in range(100):
        submit(session)
    assert wakes.count == 1
    assert len(list(session.take())) == 100
    submit(session)
    assert wakes.count == 2


def test_submit_says_what_it_was_asked(session):
    result = AsyncResult(session, True)
    session.submit(result, Kind.PULL, call("x"), 3, (), 2, "label")
    session.submit(AsyncResult(session, True), Kind.APPLY, call(), -1, (4, 5), 1, "l")
    (first, payload), (second, _) = session.take()
    assert first == Submit((5 << 40) + 1, Kind.PULL, len(payload), [3], False, b"", 2, "label")
    assert second.targets == [4, 5] and second.spread and second.retries == 1


def test_function_goes_ahead_once(session):
    for _ in range(3):
        submit(session, digest=b"d" * 16, blob=b"function")
    messages = [message for message, _ in session.take()]
    assert [type(m) for m in messages] == [Function, Submit, Submit, Submit]
    assert messages[0] == Function(b"d" * 16, 8)


def test_functions_are_bounded(session, monkeypatch):
    monkeypatch.setattr(submission_module, "MAX_FUNCTIONS", 100)
    submit(session, digest=b"a" * 16, blob=b"x" * 60)
    submit(session, digest=b"b" * 16, blob=b"y" * 60)
    submit(session, digest=b"a" * 16, blob=b"x" * 60)
    sent = list(session.take())
    assert [type(message) for message, _ in sent] == [Function, Submit, Submit, Submit]
    assert [message.digest for message, _ in sent[1:]] == [b"a" * 16, b"", b"a" * 16]
    assert b"y" * 60 in sent[2][1]  # goes with its call: the client must not become useless


def test_ctrl_c_while_waking_the_reactor_loses_no_wake_up():
    calls = []

    def wake():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    session = Session(5, wake)
    with pytest.raises(KeyboardInterrupt):
        submit(session)
    assert len(calls) == 2
    assert len(session.queue) == len(session.pending) == 1


def test_a_result_that_is_not_waited_for_any_more_leaves_nothing(session):
    record = submit(session)._records[0]
    result = AsyncResult(session, False)
    session.watch([record], result)
    assert len(record.watchers) == 2
    session.unwatch(result)
    assert len(record.watchers) == 1


def test_small_buffers_may_be_changed_after_submitting(session):
    data = bytearray(b"x" * 5000)
    result = AsyncResult(session, True)
    session.submit(result, Kind.PUSH, CallPayload(b"", b"", [b"head", memoryview(data)]))
    data[:] = b"y" * 5000
    ((_, payload),) = session.take()
    assert payload == b"head" + b"x" * 5000


def test_large_buffers_are_not_copied(session):
    data = bytearray(2 << 20)
    result = AsyncResult(session, True)
    session.submit(result, Kind.PUSH, CallPayload(b"", b"", [b"head", memoryview(data)]))
    (made, _), (message, payload), _ = session.take()
    assert made.length == 4 + len(data) and not made.host
    assert message.needs == [made.object] and message.stored
    assert (message.size, payload) == (0, b"")
    assert session.objects.outbox.pieces(made.object)[1].obj is data


def test_same_task_for_many_is_one_message(session):
    result = AsyncResult(session, False)
    session.submit_same(result, Kind.APPLY, call(1), [2, 0, 1], "l", 3)
    ((message, _),) = session.take()
    assert message.targets == [2, 0, 1] and not message.spread
    assert result.msg_ids == [message.task + i for i in range(3)]
    session.received([finished(message.task + 2, "c", 1), finished(message.task, "a", 2)])
    assert not result.done()
    session.received([finished(message.task + 1, "b", 0)])
    assert result.get() == ["a", "b", "c"]


def test_each_is_complete_when_all_are_submitted(session):
    result = AsyncResult(session, False)
    tasks = []

    def calls():
        for i in range(3):
            yield call(i), -1
            message = list(session.take())[-1][0]
            tasks.append(message.task)
            session.received([finished(message.task, i)])
            assert not result.done(), "there may be more to come"

    session.submit_each(result, Kind.MAP, calls())
    assert result.done()
    assert result.get() == [0, 1, 2]


def test_nothing_to_submit_is_done(session):
    result = AsyncResult(session, False)
    session.submit_each(result, Kind.MAP, [])
    assert result.get() == []


def test_failing_input_aborts_what_was_submitted(session):
    def calls():
        yield call(1), -1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.submit_each(AsyncResult(session, False), Kind.MAP, calls())
    assert [type(m) for m, _ in session.take()] == [Submit, Cancel]


def test_many_cancellations_are_cut(session, monkeypatch):
    monkeypatch.setattr(submission_module, "MAX_LIST", 10)
    session.cancel(list(range(25)))
    assert [len(m.tasks) for m, _ in session.take()] == [10, 10, 5]
    session.cancel([])
    assert not list(session.take())


# ---------------------------------------------------------------- back-pressure


def test_submit_waits_for_room_and_goes_on(session, monkeypatch):
    monkeypatch.setattr(submission_module, "MAX_UNSENT", 1000)
    submit(session, b"x" * 2000)
    blocked = threading.Event()
    done = threading.Event()

    def more():
        blocked.set()
        submit(session)
        done.set()

    thread = threading.Thread(target=more, daemon=True)
    thread.start()
    blocked.wait(10)
    deadline = time.monotonic() + 10
    while not session.blocked and time.monotonic() < deadline:
        time.sleep(0.001)
    assert session.blocked and not done.is_set()
    list(session.take())
    session.sent(session.queued_bytes)
    assert done.wait(10)
    thread.join()


def test_waiting_for_room_ends_with_the_connection(session, monkeypatch):
    monkeypatch.setattr(submission_module, "MAX_UNSENT", 1000)
    submit(session, b"x" * 2000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(submit, session)
        deadline = time.monotonic() + 10
        while not session.blocked and time.monotonic() < deadline:
            time.sleep(0.001)
        session.lost(lambda: errors.ControllerLost("gone"))
        with pytest.raises(errors.ControllerLost):
            future.result(10)


def test_sent(session):
    first, second = submit(session, b"x"), submit(session, b"y" * 100)
    assert not first.sent
    session.sent(first._mark)
    assert first.sent and not second.sent
    assert first.wait_for_send(1) and not second.wait_for_send(0.01)


# ---------------------------------------------------------------- what arrives


def test_unknown_and_repeated_results_are_ignored(session):
    result = submit(session)
    task = result.msg_ids[0]
    session.received([finished(task + 99), finished(task, 1), finished(task, 2)])
    assert result.get() == 1


def test_engines_come_and_go(session):
    session.received([(EngineJoined(1, "h", 10), b""), (EngineJoined(0, "h", 11), b"")])
    assert session.engines.ids == (0, 1)
    session.received([(EngineLeft(0, "boom", True), b""), (EngineLeft(1, "over"), b"")])
    assert session.engines.ids == ()
    assert [str(e) for e in session.engines.known.values()] == [
        "engine 1 on h is dead: over",
        "engine 0 on h is restarting: boom",
    ]


def test_engines_from_the_grant():
    infos = [EngineInfo(engine=1), EngineInfo(engine=0), EngineInfo(engine=2, state="starting")]
    assert Engines(infos).ids == (0, 1)


def test_fetch_own_and_foreign(session):
    mine = submit(session)
    list(session.take())
    foreign = (9 << 40) + 4
    result = AsyncResult(session, False)
    session.fetch([mine.msg_ids[0], foreign], result)
    ((message, _),) = session.take()
    assert message == Fetch([foreign])
    session.received([finished(foreign, "theirs"), finished(mine.msg_ids[0], "mine")])
    assert result.get() == ["mine", "theirs"]
    assert mine.get() == "mine"


def test_recent_results_are_bounded(session, monkeypatch):
    monkeypatch.setattr(session_module, "RECENT", 100)
    held = [submit(session) for _ in range(1000)]
    session.received([finished(r.msg_ids[0]) for r in held])
    assert len(session._recent) <= 101
    assert session.find(held[-1].msg_ids[0]) is held[-1]._records[0]
    assert session.find(held[0].msg_ids[0]) is None
    assert held[0].get() is None


# ---------------------------------------------------------------- the end


def test_loss_fails_everything_with_its_reason(session):
    pending = [submit(session) for _ in range(3)]
    done = submit(session)
    session.received([finished(done.msg_ids[0], 4)])
    session.lost(lambda: errors.ControllerLost("the cable was cut"))
    for result in pending:
        with pytest.raises(errors.ControllerLost, match="the cable was cut"):
            result.get(0)
    assert done.get() == 4
    with pytest.raises(errors.ControllerLost, match="the cable was cut"):
        submit(session)
    with pytest.raises(errors.ControllerLost):
        session.submit_same(AsyncResult(session, False), Kind.APPLY, call(), [0])
    with pytest.raises(errors.ControllerLost):
        session.fetch([1], AsyncResult(session, False))
    assert not session.pending
    session.cancel([1])  # nothing to say any more, and no reason to complain


def test_loss_reaches_who_waits_for_many(session):
    result = AsyncResult(session, False)
    session.submit_same(result, Kind.APPLY, call(), [0, 1])
    session.received([finished(result.msg_ids[0])])
    session.lost(lambda: errors.ControllerLost("gone"))
    with pytest.raises(errors.ControllerLost, match="gone"):
        result.get(0)


def test_loss_wakes_waiting_threads(session):
    result = submit(session)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(result.get)
        session.lost(lambda: errors.ControllerLost("gone"))
        with pytest.raises(errors.ControllerLost):
            waiting.result(10)
    session.lost(lambda: errors.ControllerLost("twice"))
    assert "gone" in str(session.failure)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_of_a_fork_is_told(session):
    import ipkernel.client.reactor_thread  # noqa: F401 - every client has imported it

    pending = submit(session)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no pytest in here
        signal.alarm(20)
        said = b"nothing"
        try:
            for attempt in (pending.get, lambda: submit(session)):
                try:
                    attempt()
                except RuntimeError as error:
                    said = str(error).encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    assert b"made before os.fork()" in said
    assert not pending.done(), "the parent goes on"
    assert submit(session).msg_ids


# ---------------------------------------------------------------- courier and channel


class Wire:
    """A courier with a channel whose other end is ours."""

    def __init__(self, window=None):
        self.clock = Clock()
        self.lost = []
        self.session = Session(1, lambda: self.clock.callLater(0, lambda: self.courier.drain()))
        self.courier = Courier(self.clock, self.session)
        channel = self.courier.make_channel(self.lost.append)
        _, self.other, self.pump = memory_channels(self.clock, channel)
        self.channel = channel

    def settle(self):
        """Let the other side acknowledge, and this side see it."""
        for _ in range(2):
            self.clock.advance(0.25)
            self.pump()


def test_courier_carries_both_ways():
    wire = Wire()
    result = submit(wire.session, "hello")
    wire.pump()
    ((message, payload),) = wire.other.inbox
    assert message.task == result.msg_ids[0]
    wire.other.send(*finished(message.task, "answer"))
    wire.pump()
    assert result.get(0) == "answer"
    wire.settle()
    assert result.sent
    assert wire.session.sent_bytes == wire.session.queued_bytes


def test_courier_takes_turns():
    wire = Wire()
    count = 3 * TURN + BATCH + 1
    for _ in range(count):
        submit(wire.session)
    left = []
    drain = wire.courier.drain

    def counted():
        drain()
        left.append(len(wire.session.queue))

    wire.courier.drain = counted
    wire.clock.advance(0)
    assert left == [count - TURN, count - 2 * TURN, count - 3 * TURN, 0]
    submit(wire.session)
    wire.pump()
    assert len(wire.other.inbox) == count + 1
    wire.settle()
    assert wire.session.sent_bytes == wire.session.queued_bytes
    assert not wire.session._awake


def test_courier_looks_while_somebody_waits_for_bytes_to_leave():
    wire = Wire()
    wire.channel.pauseProducing()
    result = [submit(wire.session, b"x" * 60_000) for _ in range(70)][-1]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(result.wait_for_send, 30)
        while not wire.session.blocked:
            time.sleep(0.001)
        wire.clock.advance(0)
        assert not waiting.done()
        wire.channel.resumeProducing()
        wire.pump()
        wire.settle()
        assert waiting.result(10) is True


def is_looking(wire):
    """Whether the courier will look for references that were dropped."""
    return any("_tidy" in str(call) for call in wire.clock.getDelayedCalls())


def test_dropped_references_are_given_back_soon():
    wire = Wire()
    references = wire.session.objects.references
    result = submit(wire.session, bytearray(1 << 17))
    wire.pump()
    made, task, release = [message for message, _ in wire.other.inbox]
    assert task.needs == [made.object] == release.objects
    wire.clock.advance(TIDY)
    assert not is_looking(wire), "nothing is referred to"
    id_of_result = b"r" * 16
    wire.session.objects.hosts._connector = FakeConnector(near=[3])
    wire.other.send(HostAccess(3, "h", "t", "p"), b"")
    wire.other.send(Finished(result.msg_ids[0], Outcome.OK, 0, 1.0, 2.0, 0, 1, id_of_result, 9, 3))
    wire.pump()
    assert result.done() and id_of_result in references
    wire.clock.advance(TIDY)
    wire.pump()
    assert len(wire.other.inbox) == 3, "it is still in use"
    del result
    gc.collect()
    wire.clock.advance(TIDY)
    wire.pump()
    assert wire.other.inbox[-1][0] == Release([id_of_result])
    wire.clock.advance(TIDY)
    assert not is_looking(wire)


def test_nothing_is_given_back_after_the_end():
    wire = Wire()
    wire.session.objects.references.hold(b"x" * 16)
    submit(wire.session)
    wire.pump()
    assert is_looking(wire)
    wire.courier.stop()
    assert not is_looking(wire)
    submit(wire.session)
    wire.pump()
    assert not is_looking(wire)


def test_loss_of_the_channel_is_told():
    wire = Wire()
    wire.other.close("enough")
    wire.pump()
    assert len(wire.lost) == 1


def test_closing_is_remembered():
    fake = FakeController()
    fake.session.received([(Closing("maintenance"), b"")])
    assert fake.session.engines.closing == "maintenance"


def test_calls_that_have_ended_cost_nothing(monkeypatch):
    monkeypatch.setattr(session_module, "RECENT", 100)
    fake = FakeController(engines=2)
    view = fake.client().load_balanced_view()

    def run(count):
        for number in range(count):
            assert view.apply_async(abs, -number).get() == number
            fake.messages.clear()
        gc.collect()

    run(100)
    tracemalloc.start()
    try:
        run(2000)
        before = tracemalloc.get_traced_memory()[0]
        run(2000)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (after - before) / 2000 <= 64  # their numbers, of which a view keeps some
