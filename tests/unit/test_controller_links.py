"""The controller's ends of channels, with a pretended network and clock."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ipkernel.controller.clientlink import ClientLink
from ipkernel.controller.events import HostJoined, SessionOpened
from ipkernel.controller.hostlink import HostLink
from ipkernel.controller.instructions import Instruction, ToAllClients, ToClient, ToHost
from ipkernel.controller.journal import Assigned, Forgotten, MemoryJournal, Submitted
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.wire.memory import MemoryChannel, memory_channels
from ipkernel.wire.messages import (
    Assign,
    Cancel,
    Done,
    EngineJoined,
    EngineLeft,
    Fetch,
    Finished,
    Function,
    Kind,
    Outcome,
    Output,
    Stream,
    Submit,
)


class SlowJournal(MemoryJournal):
    """Commits when it is told to."""

    def __init__(self) -> None:
        self.commits: list[list[Any]] = []  # type: ignore[assignment]
        self.waiting: list[Deferred[None]] = []

    def commit(self, records: Any) -> Deferred[None]:  # type: ignore[override]
        self.commits.append(list(records))
        done: Deferred[None] = Deferred()
        self.waiting.append(done)
        return done


class World:
    """A scheduler, a turn, one client and one host over memory channels."""

    def __init__(self, journal: Any = None, clients: int = 1) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.scheduler = Scheduler(checked=True)
        self.journal = journal or MemoryJournal()
        self.turn = Turn(self.clock, self.scheduler, self.journal, self.follow)
        self.ended: list[Any] = []
        self.clients: dict[int, ClientLink] = {}
        self.ends: dict[int, Any] = {}
        self.away: dict[int, ClientLink] = {}
        self.pumps: list[Any] = []
        for number in range(1, clients + 1):
            self.turn.add(SessionOpened(number, self.turn.now()))
            self.clients[number] = ClientLink(
                self.clock,
                self.turn,
                self.ended.append,
                number,
                self.scheduler.sessions.get,
                away=self.away,
            )
        self.host = HostLink(self.clock, self.turn, self.ended.append, 1, "tub")
        self.turn.add(HostJoined(1, "h", 1, self.scheduler.take_ids(1), self.turn.now()))

    def follow(self, instructions: list[Instruction]) -> None:
        for i in instructions:
            if isinstance(i, ToHost):
                self.host.deliver(i.items)
            elif isinstance(i, ToClient):
                self.clients[i.session].deliver(i.items)
            elif isinstance(i, ToAllClients):
                for client in self.clients.values():
                    client.deliver(i.items)

    def connect(self, link: Any, **options: Any) -> Any:
        far = MemoryChannel(self.clock, **options)
        near = link.make_channel()
        _, _, pump = memory_channels(self.clock, near, far)
        self.pumps.append(pump)
        link.opened(near)
        return far

    def connect_all(self) -> tuple[Any, Any]:
        client, host = self.connect(self.clients[1]), self.connect(self.host)
        host.send(EngineJoined(0, "h", 7))
        self.pump()
        return client, host

    def pump(self) -> None:
        for _ in range(6):
            for pump in self.pumps:
                pump()
        if not isinstance(self.journal, SlowJournal):
            self.scheduler.validate()


def tid(count: int, session: int = 1) -> int:
    return (session << 40) + count


def submit(count: int, payload: bytes = b"p", session: int = 1) -> tuple[Submit, bytes]:
    return Submit(tid(count, session), Kind.APPLY, len(payload)), payload


def done(assign: Assign, payload: bytes = b"r", seconds: float = 1e-5) -> tuple[Done, bytes]:
    message = Done(assign.task, assign.engine, Outcome.OK, 1.0, 1.0 + seconds, len(payload))
    return message, payload


def assigns(host: Any) -> list[Assign]:
    return [m for m, _ in host.inbox if isinstance(m, Assign)]


def results(client: Any) -> list[tuple[Finished, Any]]:
    return [(m, p) for m, p in client.inbox if isinstance(m, Finished)]


# --------------------------------------------------------------------------------- the way


def test_a_task_goes_from_channel_to_channel_and_back() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    [(assign, payload)] = [(m, p) for m, p in host.inbox if isinstance(m, Assign)]
    assert (assign.task, payload) == (tid(0), b"p")
    host.send(*done(assign))
    w.pump()
    assert [(m.task, p) for m, p in results(client)] == [(tid(0), b"r")]


def test_what_is_decided_before_a_channel_is_open_waits_for_it() -> None:
    w = World()
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    client = w.connect(w.clients[1])
    w.pump()
    assert [type(m) for m, _ in client.inbox] == [EngineJoined]


def test_all_messages_of_a_turn_leave_in_one_event() -> None:
    w = World()
    client, host = w.connect_all()
    commits = w.journal.commits
    for i in range(50):
        client.send(*submit(i))
    w.pump()
    assert w.journal.commits == commits + 1
    assert len(w.scheduler.tasks) == 50


def test_a_peer_that_does_not_open_its_channel_is_given_up() -> None:
    w = World()
    w.clock.advance(29)
    assert not w.ended
    w.clock.advance(2)
    w.clock.advance(0)
    assert set(w.ended) == {w.host, w.clients[1]}
    assert not w.scheduler.sessions
    assert not w.scheduler.hosts


def test_a_second_channel_is_refused() -> None:
    w = World()
    w.connect_all()
    other = w.connect(w.clients[1])
    w.pump()
    assert other.losses


def test_losing_a_peer_twice_is_losing_it_once() -> None:
    w = World()
    client, _ = w.connect_all()
    w.clients[1].lost("one", final=True)
    w.clients[1].lost("two", final=True)
    w.pump()
    assert w.ended == [w.clients[1]]
    assert len(client.losses) == 1


def test_a_lost_channel_is_a_lost_host() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    host.abort("gone")
    w.pump()
    w.clock.advance(0)
    assert not w.scheduler.hosts
    w.pump()
    assert [m.outcome for m, _ in results(client)] == [Outcome.LOST]


# ------------------------------------------------------------------------------- the journal


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


# ------------------------------------------------------------------------- clients that go


def test_results_that_were_not_acknowledged_wait_for_whoever_fetches_them() -> None:
    w = World(clients=2)
    client, host = w.connect_all()
    other = w.connect(w.clients[2])
    for i in range(5):
        client.send(*submit(i))
    w.pump()
    while len(results(client)) < 5:
        for assign in assigns(host):
            if assign.task in w.scheduler.tasks:
                host.send(*done(assign))
        w.pump()
    client.abort("gone")
    w.pump()
    other.send(Fetch([tid(i) for i in range(5)]))
    w.pump()
    assert [(m.task, m.outcome) for m, _ in results(other)] == [
        (tid(i), Outcome.OK) for i in range(5)
    ]


def test_results_decided_while_the_client_was_going_are_kept() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    [assign] = assigns(host)
    host.send(*done(assign))
    host.flush_now()
    link = w.clients[1]
    link.gone = True  # as if it was lost after the decision and before the release
    w.pump()
    assert tid(0) in w.scheduler.retained
    link.gone = False
    link.lost("gone", final=True)


# -------------------------------------------------------------------------- slow clients


def freeze(link: ClientLink) -> Any:
    transport = link.channel.transport  # type: ignore[union-attr]
    transport.frozen = True
    return transport


def test_a_frozen_client_does_not_fill_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 4 << 20)
    w = World()
    client, host = w.connect_all()
    link = w.clients[1]
    transport = freeze(link)
    for i in range(60):
        client.send(*submit(i))
    w.pump()
    result = bytes(500_000)
    while True:
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        if not todo:
            break
        for assign in todo:
            host.send(*done(assign, result, 0.1))
        w.pump()
    assert w.scheduler.sessions[1].held
    assert len(w.scheduler.tasks) > 30  # nothing more is started for it
    assert link.channel.backlog[1] <= (1 << 20) + 500_000  # type: ignore[union-attr]
    assert link.waiting[1] > 4 << 20
    transport.frozen = False
    for _ in range(3000):
        w.clock.advance(0.01)
        w.pump()
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        for assign in todo:
            host.send(*done(assign, result, 0.1))
        if len(results(client)) == 60:
            break
    assert [m.task for m, _ in results(client)] == [tid(i) for i in range(60)]
    assert link.waiting == (0, 0)
    assert not w.scheduler.sessions[1].held


def test_waiting_results_are_kept_when_a_frozen_client_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    w = World()
    client, host = w.connect_all()
    freeze(w.clients[1])
    for i in range(10):
        client.send(*submit(i))
    w.pump()
    while True:
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        if not todo:
            break
        for assign in todo:
            host.send(*done(assign, bytes(600_000)))
        w.pump()
    assert w.clients[1].waiting[0] > 0
    w.clients[1].lost("frozen", final=True)
    w.clock.advance(0)
    assert list(w.scheduler.retained) == [tid(i) for i in range(10)]


def test_output_for_a_frozen_client_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 1 << 20)
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    freeze(w.clients[1])
    for _ in range(200):
        host.send(Output(tid(0), 0, Stream.STDOUT, 60_000), bytes(60_000))
        w.pump()
    assert w.clients[1].waiting[1] < (1 << 20) + 60_000
    [assign] = assigns(host)
    host.send(*done(assign))
    w.pump()
    assert w.clients[1].waiting[0] > 0
    w.clients[1].lost("gone", final=True)
    w.clock.advance(0)
    assert tid(0) in w.scheduler.retained


def test_a_client_with_too_much_queued_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_QUEUED", 20 << 20)
    w = World()
    client = w.connect(w.clients[1])
    w.pump()
    payload = bytes(1 << 20)
    for i in range(120):
        client.send(*submit(i, payload))
    for _ in range(30):
        w.pump()
    taken = len(w.scheduler.tasks)
    assert taken < 120  # the rest is still with the client, whose window is closed
    assert client.link.acknowledged < 24
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    for _ in range(400):
        w.pump()
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        for assign in todo:
            host.send(*done(assign))
        for link in w.clients.values():
            if link.owes:
                link.acknowledge()
        if len(results(client)) == 120:
            break
    assert len(results(client)) == 120


def test_functions_reach_hosts_through_links() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(Function(b"d" * 16, 4), b"code")
    client.send(Submit(tid(0), Kind.APPLY, 0, digest=b"d" * 16))
    w.pump()
    assert [type(m) for m, _ in host.inbox] == [Function, Assign]


def test_a_host_may_report_absurd_times() -> None:
    for seconds in (float("nan"), float("inf"), -1.0):
        w = World()
        client, host = w.connect_all()
        for count in range(3):
            client.send(*submit(count))
            w.pump()
            for assign in [a for a in assigns(host) if a.task in w.scheduler.tasks]:
                host.send(*done(assign, seconds=seconds))
            w.pump()
        assert [m.task for m, _ in results(client)] == [tid(i) for i in range(3)]
        assert w.scheduler.engines[0].mean < float("inf")


def test_a_fault_of_the_scheduler_costs_only_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipkernel.controller import scheduler
    from ipkernel.controller.events import FromClient

    deal = scheduler._PARTS[FromClient]

    def fragile(core: Any, event: Any) -> None:
        if event.session == 1:
            raise RuntimeError("a fault")
        deal(core, event)

    monkeypatch.setitem(scheduler._PARTS, FromClient, fragile)
    w = World(clients=2)
    first, second = w.connect(w.clients[1]), w.connect(w.clients[2])
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    first.send(*submit(0))
    second.send(*submit(0, session=2))
    w.pump()
    assert [a.task for a in assigns(host)] == [tid(0, 2)]
    assert w.ended == [w.clients[1]]
    assert first.losses
    assert not second.losses


def test_a_link_that_ends_leaves_nothing_with_its_connection() -> None:
    class Reference:
        def __init__(self) -> None:
            self.watchers: list[Any] = []

        def notifyOnDisconnect(self, *watcher: Any) -> Any:
            self.watchers.append(watcher)
            return watcher

        def dontNotifyOnDisconnect(self, watcher: Any) -> None:
            self.watchers.remove(watcher)

    w = World()
    reference = Reference()
    w.clients[1].watch(reference)
    assert len(reference.watchers) == 1
    w.clients[1].lost("over")
    assert reference.watchers == []


@pytest.mark.parametrize("bound", ["MAX_EARLY", "MAX_EARLY_BYTES"])
def test_a_peer_that_opens_no_channel_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    limit = 5 if bound == "MAX_EARLY" else 6 * 128
    monkeypatch.setattr(f"ipkernel.controller.clientlink.{bound}", limit)
    w = World(clients=2)
    revoked: list[int] = []
    host = w.connect(w.host)
    w.clients[1].revoke = lambda: revoked.append(1)
    w.clients[2].revoke = lambda: revoked.append(2)
    opened = w.connect(w.clients[2])
    for _ in range(3):
        host.send(EngineJoined(0, "h", 7))
        host.send(EngineLeft(0, "gone", True))
        w.pump()
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    w.pump()
    assert w.ended == [w.clients[1]]
    assert revoked == [1]
    w.clients[1].deliver([(EngineJoined(0, "h", 7), b"")])
    assert w.clients[1].waiting == (0, 0)
    assert len(opened.inbox) == 7


def test_a_client_that_takes_no_answers_gets_no_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 14)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 1 << 16)
    w = World()
    client, _ = w.connect_all()
    freeze(w.clients[1])
    for _ in range(40):
        client.send(Fetch([tid(i) for i in range(100)]))
        w.pump()
    before = w.clients[1]._unprocessed
    assert before > 0  # its questions stay in its window
    w.clients[1].channel.transport.frozen = False  # type: ignore[union-attr]
    for _ in range(400):
        w.clock.advance(0.01)
        w.pump()
    assert len(results(client)) == 4000
    assert not w.clients[1].owes
    assert w.clients[1].waiting == (0, 0)


def test_a_client_that_floods_and_takes_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 14)
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_WAITING", 1000)
    w = World()
    client, _ = w.connect_all()
    freeze(w.clients[1])
    for _ in range(40):
        client.send(Fetch([tid(i) for i in range(100)]))
        w.pump()
    assert w.ended == [w.clients[1]]
    assert w.clients[1].waiting == (0, 0)
