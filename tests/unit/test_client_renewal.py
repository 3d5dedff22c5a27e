"""What a controller that was started again is told of a session that goes on."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ipkernel.client import renewal
from ipkernel.client import submission as submission_module
from ipkernel.client.asyncresult import AsyncResult
from ipkernel.client.courier import Courier
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.serialize.calls import CallPayload
from ipkernel.serialize.payload import dumps, dumps_bytes
from ipkernel.wire.memory import memory_channels
from ipkernel.wire.messages import (
    Cancel,
    Cancelled,
    Dependency,
    EngineJoined,
    Fate,
    Fetch,
    Finished,
    Function,
    Held,
    Kind,
    Moving,
    ObjectMade,
    Outcome,
    Output,
    Past,
    Release,
    Resubmit,
    Seek,
    Source,
    Stream,
    Submit,
    Terms,
)
from ipkernel.wire.records import EngineInfo

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))


@pytest.fixture
def session():
    return Session(5, lambda: None)


def submit(session, value=None, digest=b"", blob=b""):
    result = AsyncResult(session, True)
    session.submit(result, Kind.APPLY, CallPayload(digest, blob, dumps(value)))
    return result


def sent(session):
    return list(session.take())


def told(session, kept=()):
    return [message for message, _ in renewal.items(session, list(kept))]


def finished(task, value=None):
    payload = dumps_bytes(value)
    return Finished(task, Outcome.OK, 0, 1.0, 2.0, len(payload)), payload


def test_what_the_journal_does_not_have_is_sent_again(session):
    submit(session, 1, b"d" * 16, b"function")
    submit(session, 2)
    session.tell(Release([A]))
    kept = sent(session)
    again = told(session, kept)
    assert again == [Held([]), *[m for m, _ in kept[:-1]]]
    assert [type(m) for m in again] == [Held, Function, Submit, Submit]


def test_tasks_that_were_to_run_again_are_asked_for_again(session):
    def again(of):
        result = AsyncResult(session, True)
        session.submit_again(result, [(of, Kind.APPLY, -1, "", False)])
        return result.msg_ids[0]

    first = again(77)
    kept = sent(session)
    queued = again(78)
    # Neither is asked for as if the controller knew it; the other one is sent after all of this.
    assert told(session, kept) == [Held([]), Resubmit(first, 77)]
    assert [m for m, _ in sent(session)] == [Resubmit(queued, 78)]
    assert told(session) == [Held([]), Fetch([first, queued])]


def test_how_others_ended_meanwhile_is_told_with_a_task_that_waits_for_them(session):
    first, second = submit(session, 1), submit(session, 2)
    tasks = [first.msg_ids[0], second.msg_ids[0]]
    waits = Terms(after=Dependency(tasks), follow=Dependency([tasks[1]]))
    result = AsyncResult(session, True)
    call = CallPayload(b"", b"", dumps(3))
    session.submit(result, Kind.APPLY, call, terms=waits)
    kept = sent(session)[-1:]
    assert told(session, kept)[1] == kept[0][0]
    session.received([finished(tasks[0])])
    again = told(session, kept)[1]
    assert again.terms == Terms(
        after=Dependency([tasks[1]], [Past(tasks[0], 0, True)]), follow=Dependency([tasks[1]])
    )


def test_references_are_told_of_first(session):
    references = session.objects.references
    references.hold(A)
    references.hold(B)
    references.hold(B)
    assert told(session) == [Held([A, B])]


def test_many_references_are_told_of_in_parts(session, monkeypatch):
    monkeypatch.setattr(renewal, "MAX_LIST", 2)
    for number in range(5):
        session.objects.references.hold(bytes([number]) * 16)
    messages = told(session)
    assert [len(m.objects) for m in messages] == [2, 2, 1]
    assert [m.last for m in messages] == [False, False, True]


def test_objects_that_only_tasks_need_are_held_until_they_are_told_of(session):
    outgoing = session.objects.outbox.add(A, [b"x" * 10], 10)
    task = Submit(session._next, Kind.APPLY, 0, needs=[A, B], stored=True)
    session.objects.references.hold(B)
    assert told(session, [(task, b"")]) == [
        Held([B, A]),
        ObjectMade(A, outgoing.size, 0, 5),
        task,
        Release([A]),
    ]


def test_an_object_that_was_not_told_of_is_told_of_once(session):
    session.objects.outbox.add(A, [b"x" * 10], 10)
    made = ObjectMade(A, 10, 0, 5)
    assert told(session, [(made, b"")]) == [Held([A]), made, Release([A])]


def test_an_object_that_is_not_used_any_more_is_given_back(session):
    made = ObjectMade(C, 10, 1, 5)
    kept = [(made, b""), (Release([C]), b"")]
    assert told(session, kept) == [Held([C]), made, Release([C])]


def test_results_that_were_asked_for_are_asked_for_again(session):
    foreign = [(9 << 40) + 1, (9 << 40) + 2]
    result = AsyncResult(session, False)
    session.fetch(foreign, result)
    kept = sent(session)
    assert told(session, kept) == [Held([]), Fetch(foreign)]
    session.received([finished(foreign[0])])
    assert told(session) == [Held([]), Fetch(foreign[1:])]
    session.received([finished(foreign[1])])
    assert told(session) == [Held([])]


def test_tasks_that_the_controller_should_know_are_asked_for(session):
    """What is not known any more fails, as whoever asks for it is told."""
    old = submit(session, 1)
    same = AsyncResult(session, False)
    session.submit_same(same, Kind.APPLY, CallPayload(b"", b"", dumps(2)), [3, 4])
    sent(session)
    submit(session, 3)
    several = AsyncResult(session, False)
    session.submit_same(several, Kind.APPLY, CallPayload(b"", b"", dumps(2)), [3, 4])
    kept = sent(session)
    submit(session, 4)  # is queued
    again = told(session, kept)
    assert again[-1] == Fetch(old.msg_ids + same.msg_ids)
    assert [type(m) for m in again] == [Held, Submit, Submit, Fetch]


def test_abortions_that_were_asked_for_are_asked_for_again(session):
    first, second = submit(session), submit(session)
    tasks = first.msg_ids + second.msg_ids
    answer = session.aborts.request(tasks, 0.5)
    session.cancel(second.msg_ids)
    sent(session)
    assert told(session)[1] == Fetch(tasks)
    (asked, gentle) = told(session)[2:]
    assert asked == Cancel(tasks, 1, 500)
    assert gentle.tasks == second.msg_ids
    session.received([finished(tasks[0])])
    assert told(session)[2:] == [asked, gentle], "somebody waits for the answer"
    session.received([(Cancelled(1, tasks, [Fate.ENDED, Fate.DEQUEUED]), b"")])
    assert answer[tasks[1]] == "dequeued"
    session.received([finished(tasks[1])])
    assert told(session) == [Held([])]


def test_what_was_asked_for_does_not_pile_up(session, monkeypatch):
    monkeypatch.setattr(submission_module, "NOTED", 10)
    pending = submit(session)
    session.cancel(pending.msg_ids)
    for _ in range(50):
        result = submit(session)
        session.cancel(result.msg_ids)
        session.received([finished(result.msg_ids[0])])
    assert len(session._cancels) <= 12
    assert [m.tasks for m in session.cancels] == [pending.msg_ids]


def test_questions_are_asked_again(session):
    asking = session.objects._asking
    first = asking.ask((Source, A), Seek(A))
    second = asking.ask((Source, B), Seek(B))
    sent(session)
    assert told(session) == [Held([]), Seek(A), Seek(B)]
    session.received([(Source(A, 1, 1), b"")])
    assert first.done()
    assert told(session) == [Held([]), Seek(B)]
    session.received([(Source(B, 1, 1), b"")])
    assert second.done()
    assert session.objects.unanswered == []


# ---------------------------------------------------------------- what comes twice


def test_output_that_comes_twice_is_heard_once(session):
    result = submit(session)
    (task,) = result.msg_ids
    record = session.find(task)

    def printed(engine, serial):
        session.received([(Output(task, engine, Stream.STDOUT, 1, serial), b"%d" % serial)])

    for serial in (3, 5, 3, 5, 6):
        printed(0, serial)
    assert record.output.text(Stream.STDOUT) == "356"
    printed(1, 4)  # it was given to an engine of another host
    printed(1, 4)
    assert record.output.text(Stream.STDOUT) == "3564"
    printed(0, 0)  # nobody counts
    printed(0, 0)
    assert record.output.text(Stream.STDOUT) == "356400"


def test_a_result_that_is_being_fetched_is_not_fetched_again(session):
    result = submit(session)
    (task,) = result.msg_ids
    began = []
    message = Finished(task, Outcome.OK, 0, 1.0, 2.0, 0, 1, A, 9, 3)
    session.objects.fetcher._fetching[task] = None
    session.objects.fetcher.result = began.append
    session.received([(message, b"")])
    assert not began
    del session.objects.fetcher._fetching[task]
    session.received([(message, b"")])
    assert began == [message]


# ---------------------------------------------------------------- engines


def test_engines_are_those_that_the_new_controller_knows():
    engines = Engines([EngineInfo(engine=0), EngineInfo(engine=1), EngineInfo(engine=2)])
    engines.renew([EngineInfo(engine=1, state="away"), EngineInfo(engine=3)])
    assert engines.ids == (1, 3)  # that the host of one is away is over soon, or told
    known = engines.known
    assert known[1].state == "ready"
    assert (known[0].state, known[2].state) == ("dead", "dead")
    assert "was started again and does not know it" in str(known[0])
    engines.joined(EngineJoined(0, "h", 1))
    assert engines.ids == (0, 1, 3)
    engines.renew([EngineInfo(engine=0), EngineInfo(engine=4, state="away")])
    assert engines.ids == (0,)  # what was not there before has to come first


# ---------------------------------------------------------------- the courier


class Wire:
    """A courier, and the other ends of its channels."""

    def __init__(self):
        self.clock = Clock()
        self.session = Session(1, lambda: self.clock.callLater(0, lambda: self.courier.drain()))
        self.courier = Courier(self.clock, self.session)
        self.connect()

    def connect(self):
        near = self.courier.make_channel(lambda why: None)
        _, self.other, self.pump = memory_channels(self.clock, near)

    def settle(self):
        for _ in range(4):
            self.clock.advance(0.25)
            self.pump()

    def close(self):
        self.courier.stop()


@pytest.fixture
def wire():
    wire = Wire()
    yield wire
    wire.close()


def test_another_life_gets_what_it_does_not_know(wire):
    known, unknown = submit(wire.session, 1), submit(wire.session, 2)
    wire.settle()
    assert len(wire.other.inbox) == 2
    later = submit(wire.session, 3)
    wire.courier.disconnect()
    wire.clock.advance(0)
    wire.courier.received = 7
    wire.session.received([(Moving(bytes(16), 20, 100, 1), b"")])
    # It had acknowledged both, but only one is in its journal: the other ended before.
    wire.courier.renew(1)
    assert wire.courier.received == 0
    assert not wire.session.objects.transfers(), "the other knows of no fetches"
    wire.connect()
    wire.courier.drain()
    wire.pump()
    held, fetch, task = [m for m, _ in wire.other.inbox]
    assert held == Held([])
    assert [task.task] == later.msg_ids
    assert fetch == Fetch(known.msg_ids + unknown.msg_ids)
    assert not known.done() and not unknown.done()
    wire.settle()
    assert wire.session.sent_bytes == wire.session.queued_bytes


def test_what_is_on_the_way_goes_to_another_life_as_well(wire):
    wire.other.transport.frozen = True
    results = [submit(wire.session, i) for i in range(3)]
    wire.clock.advance(0)
    wire.courier.disconnect()
    wire.courier.renew(1)
    wire.connect()
    wire.pump()
    tasks = [m.task for m, _ in wire.other.inbox if isinstance(m, Submit)]
    assert tasks == [task for r in results[1:] for task in r.msg_ids]
    wire.courier.disconnect()
    wire.courier.renew(1)  # it did not arrive, and yet another life asks
    wire.connect()
    wire.pump()
    again = [m for m, _ in wire.other.inbox]
    assert [type(m) for m in again] == [Held, Submit, Submit, Fetch]


def test_a_life_that_knows_too_much_is_refused(wire):
    submit(wire.session)
    wire.pump()
    wire.courier.disconnect()
    with pytest.raises(ValueError, match="5 messages cannot be known: 1 were sent"):
        wire.courier.renew(5)
    with pytest.raises(ValueError, match="cannot have been taken"):
        wire.courier.resume(5)


def test_what_is_acknowledged_is_let_go_of_though_nothing_else_happens(wire):
    submit(wire.session, b"x" * 1000)
    wire.settle()
    assert len(wire.courier._replay) == 0
    assert not wire.clock.getDelayedCalls()


def test_late_messages_of_an_old_channel_are_ignored(wire):
    result = submit(wire.session, 1)
    wire.pump()
    old, pump = wire.other, wire.pump
    wire.courier.disconnect()
    wire.connect()
    old.send(*finished(result.msg_ids[0], 1))
    pump()
    assert not result.done()
    assert wire.courier.received == 0
    wire.other.send(*finished(result.msg_ids[0], 1))
    wire.pump()
    assert result.get(0) == 1
    assert wire.courier.received == 1
