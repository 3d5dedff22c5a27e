"""What waits for the journal, and what happens when that cannot be written."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from ipkernel.controller.journal import Assigned, Forgotten, MemoryJournal, Submitted
from ipkernel.wire.messages import Cancel, EngineJoined, Submit
from tests.support.links import SlowJournal, World, assigns, done, submit, tid


def test_nothing_leaves_before_the_commit() -> None:
    journal = SlowJournal()
    w = World(journal)
    journal_done = lambda: [journal.waiting.pop(0).callback(None) for _ in list(journal.waiting)]  # noqa: E731
    client, host = w.connect(w.clients[1]), w.connect(w.host)
    w.pump()
    journal_done()
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    client.send(*submit(0))
    w.pump()
    [records] = journal.commits[1:]
    assert [type(r) for r in records] == [Submitted, Assigned]
    assert not assigns(host)
    client.send(*submit(1))  # gathers until the first is safe
    w.pump()
    assert len(journal.commits) == 2
    journal_done()
    w.pump()
    assert len(assigns(host)) == 1
    assert len(journal.commits) == 3


def test_messages_are_acknowledged_after_the_commit() -> None:
    journal = SlowJournal()
    w = World(journal)
    client = w.connect(w.clients[1])
    w.pump()
    journal.waiting.pop().callback(None)
    for i in range(40_000):
        client.send(*submit(i, b""))
    w.pump()
    assert client.link.acknowledged == 0
    while journal.waiting:
        journal.waiting.pop(0).callback(None)
        w.pump()
    assert client.link.acknowledged >= 40_000 * 3 // 4 - 1
    assert len(w.scheduler.tasks) == 40_000


class Failing(MemoryJournal):
    """A journal that cannot be written, until it can.

    Args:
        late: Whether its failures come with a Deferred that fires later.
    """

    def __init__(self, late: bool = False) -> None:
        self.problem = ""
        self.late = late
        self.kept: list[Any] = []
        self.attempts = 0
        self.waiting: list[Deferred[None]] = []

    def commit(self, records: Any) -> Deferred[None] | None:  # type: ignore[override]
        self.attempts += 1
        if not self.problem:
            self.kept += records
            return None
        if self.late:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return fail(OSError(28, self.problem))

    def fail_now(self) -> None:
        for deferred in self.waiting:
            deferred.errback(OSError(28, self.problem))
        self.waiting = []

    def submitted(self) -> list[int]:
        found = [r.items for r in self.kept if isinstance(r, Submitted)]
        return [m.task for items in found for m, _ in items if isinstance(m, Submit)]


@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_committed_is_neither_released_nor_dropped(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Failing(late)
    w = World(journal)
    client, host = w.connect_all()
    journal.problem = "No space left on device"
    client.send(*submit(0))
    w.pump()
    client.send(*submit(1))
    for _ in range(8):
        journal.fail_now()
        w.clock.advance(10.0)
        w.pump()
    assert not assigns(host)
    assert journal.attempts > 5
    assert "No space left on device" in w.turn.trouble
    assert caplog.text.count("cannot be written") == 1
    journal.problem = "Read-only file system"
    journal.fail_now()
    w.clock.advance(10.0)
    journal.fail_now()
    assert "Read-only" in w.turn.trouble
    assert caplog.text.count("cannot be written") == 2
    journal.problem = ""
    journal.fail_now()
    w.clock.advance(10.0)
    w.pump()
    assert not w.turn.trouble
    assert "can be written again" in caplog.text
    assert journal.submitted() == [tid(0), tid(1)]
    assert [a.task for a in assigns(host)] == [tid(0)]
    host.send(*done(assigns(host)[0]))
    w.pump()
    assert [a.task for a in assigns(host)] == [tid(0), tid(1)]


def test_whoever_sends_is_held_while_the_journal_cannot_be_written() -> None:
    journal = Failing()
    w = World(journal)
    client, host = w.connect_all()
    journal.problem = "No space left on device"
    for i in range(40_000):
        client.send(*submit(i, b""))
    before = client.link.acknowledged
    w.pump()
    assert client.link.acknowledged == before
    journal.problem = ""
    w.clock.advance(10.0)
    w.pump()
    assert journal.submitted() == [tid(i) for i in range(40_000)]
    assert client.link.acknowledged > 30_000


def test_a_journal_that_raises_is_tried_again() -> None:
    raised: list[int] = []

    class Raising(MemoryJournal):
        def commit(self, records: Any) -> None:
            if len(raised) < 3:
                raised.append(1)
                raise ValueError("a fault")

    w = World(Raising())
    w.clock.pump([0.0, 1.0, 1.0, 1.0])
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    assert len(assigns(host)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_turn_that_stops_waits_for_no_journal_that_cannot_be_written(late: bool) -> None:
    journal = Failing(late)
    w = World(journal)
    client, host = w.connect_all()
    journal.problem = "No space left on device"
    client.send(*submit(0))
    w.pump()
    fired: list[object] = []
    w.turn.settled().addCallback(fired.append)
    w.turn.stop().addCallback(fired.append)
    journal.fail_now()
    w.clock.advance(0)
    journal.fail_now()
    w.clock.advance(0)
    assert len(fired) == 2
    assert not assigns(host)
    journal.problem = ""
    w.turn.settled().addCallback(fired.append)
    w.clock.advance(0)
    assert len(fired) == 3
    assert not journal.submitted()


def test_a_turn_that_stops_writes_what_can_be_written_by_then() -> None:
    journal = Failing()
    w = World(journal)
    client, host = w.connect_all()
    journal.problem = "No space left on device"
    client.send(*submit(0))
    w.pump()
    journal.problem = ""
    fired: list[object] = []
    w.turn.stop().addCallback(fired.append)
    w.clock.advance(0)
    assert fired
    assert journal.submitted() == [tid(0)]


def test_a_fault_of_the_scheduler_is_logged_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    w = World()
    client, host = w.connect_all()
    handle = w.scheduler.handle

    def broken(*events: Any) -> Any:
        monkeypatch.setattr(w.scheduler, "handle", handle)
        raise RuntimeError("a fault")

    monkeypatch.setattr(w.scheduler, "handle", broken)
    client.send(Cancel([1]))
    w.pump()
    assert "a fault" in caplog.text
    client.send(*submit(0))
    w.pump()
    assert len(assigns(host)) == 1


def test_settled_means_committed_and_released() -> None:
    journal = SlowJournal()
    w = World(journal)
    fired: list[object] = []
    w.turn.settled().addCallback(fired.append)
    w.clock.advance(0)
    assert not fired
    journal.waiting.pop().callback(None)
    assert len(fired) == 1
    w.turn.settled().addCallback(fired.append)
    assert len(fired) == 2


def test_what_a_client_has_acknowledged_is_forgotten() -> None:
    noted: list[Any] = []

    class Journal(MemoryJournal):
        def commit(self, records: Any) -> None:
            noted.extend(records)

    w = World(Journal())
    client, host = w.connect_all()
    tasks = []
    for i in range(3):  # a client's own messages carry its acknowledgements
        client.send(*submit(i))
        w.pump()
        [assign] = assigns(host)[i:]
        host.send(*done(assign))
        w.pump()
        tasks.append(assign.task)
    w.clients[1].lost("gone", final=True)
    w.clock.advance(0)
    forgotten = [t for r in noted if isinstance(r, Forgotten) for t in r.tasks]
    assert forgotten == tasks[:2]
    assert list(w.scheduler.retained) == tasks[2:]
