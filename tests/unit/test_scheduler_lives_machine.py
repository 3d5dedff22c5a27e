"""Schedulers that end at any moment, and begin again with what was committed, in all orders of events.

A model of one client and some hosts lives on while the scheduler does not: hosts work on while
they are away, keep what they have to say, and tell it anew to a scheduler that knows them from the
journal only; the client sends again what that does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ipkernel.controller.events import (
    Event,
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
    Tick,
)
from ipkernel.controller.instructions import Commit, ToClient, ToHost
from ipkernel.controller.journal import Ended, Forgotten, LifeBegan, Record
from ipkernel.controller.retention import Retained
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
    Function,
    Held,
    Holding,
    Interrupt,
    Kind,
    Message,
    Outcome,
    Output,
    Past,
    Started,
    Stream,
    Submit,
    Terms,
)
from tests.support.hostmodels import EngineModel, HostModel, Said
from tests.support.journals import restored, stored
from tests.support.schedulerworld import machine_settings

SESSION = 1
FIRST = SESSION << 40
DIGEST = b"D" * 16
PICK = st.integers(0, 1 << 16)
ENGINES = st.lists(st.integers(0, 4), max_size=2, unique=True)


class _Crash(Exception):
    """The scheduler has ended."""


class Lives(RuleBasedStateMachine):
    """One client, some hosts, and a scheduler after the other."""

    @initialize()
    def start(self) -> None:
        self.now = 1000.0
        self.records: list[Record] = [LifeBegan(7, self.now)]
        self.s = self.scheduler()
        self.crash = ""
        self.hosts: dict[int, HostModel] = {}
        self.next_host = 1
        self.ended: dict[int, tuple[Outcome, bytes]] = {}
        self.forgotten: set[int] = set()
        self.retries: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.ran: dict[int, int] = {}  # task -> the host on which it ended
        # the client
        self.attached = True
        self.known = True  # by the scheduler of this life
        self.sent: list[Said] = []
        self.got: dict[int, tuple[Outcome, bytes]] = {}
        self.unread: list[Said] = []
        self.asking: dict[int, set[int]] = {}
        self.serial = 0
        self.do(SessionOpened(SESSION, self.now, "me", "tub"))
        self.say(Function(DIGEST, 3), b"abc")
        for _ in range(2):
            self.host_joins(2)
        for tid in range(FIRST, FIRST + 10):
            self.retries[tid] = tid % 2
            payload = b"%d" % tid
            self.say(Submit(tid, Kind.APPLY, len(payload), [], True, DIGEST, tid % 2), payload)
        for pick in range(3):
            self.begins(pick, output=True, flush=True)

    def scheduler(self) -> Scheduler:
        return Scheduler(checked=True, retained=Retained(size=1 << 30))

    # ------------------------------------------------------------------------ the scheduler

    def do(self, *events: Event) -> None:
        """Hand events over; what follows is written down, and then done, unless it ends before."""
        self.now += 0.001
        instructions = self.s.handle(*events)
        crash, self.crash = self.crash, ""
        if crash == "before":
            raise _Crash("before")
        for instruction in instructions:
            if isinstance(instruction, Commit):
                self.commit(instruction.records)
        if crash == "after":
            raise _Crash("after")
        for instruction in instructions:
            if isinstance(instruction, ToHost):
                self.to_host(instruction.host, instruction.items)
            elif isinstance(instruction, ToClient):
                assert instruction.session == SESSION and self.attached and self.known
                for message, payload in instruction.items:
                    self.at_client(message, bytes(payload))

    def commit(self, records: list[Record]) -> None:
        self.records += records
        for record in records:
            if isinstance(record, Ended):
                for finished, payload in record.items:
                    assert finished.task not in self.ended, "it ended twice"
                    assert finished.task in self.retries, "it never was submitted"
                    self.ended[finished.task] = finished.outcome, bytes(payload)
            elif isinstance(record, Forgotten):
                self.forgotten.update(record.tasks)

    @contextmanager
    def may_end(self) -> Iterator[None]:
        try:
            yield
        except _Crash as crash:
            self.restart(complete=str(crash) == "after")

    def restart(self, *, complete: bool = True) -> None:
        """Fold what was committed into the tables of a new scheduler.

        Args:
            complete: All that the old one knew was committed.
        """
        before = dict(self.s.tasks) if complete else {}
        loaded = restored(stored(self.records))
        self.s = self.scheduler()
        self.now += 1.0
        begun = self.s.restore(loaded, self.now, grace=10.0, keep=600.0)
        self.commit(begun.records)
        assert not complete or set(before) == set(self.s.tasks) | (set(before) & set(self.ended))
        for tid in before.keys() & self.s.tasks.keys():
            old, new = before[tid], self.s.tasks[tid]
            assert (old.attempts, old.target) == (new.attempts, new.target)
            assert old.submitted == new.submitted
        self.attached = self.known = False
        self.unread = []
        for number, host in list(self.hosts.items()):
            if number not in self.s.hosts:
                del self.hosts[number]  # it is told that nobody knows it, and ends all that it has
                continue
            host.connected = False
            host.stale = True
            host.inbox = []

    # ------------------------------------------------------------------------------- hosts

    def to_host(self, number: int, items: list[Any]) -> None:
        host = self.hosts[number]
        if host.stale:
            assert not any(isinstance(m, Assign) for m, _ in items), "it is away"
        elif host.connected:
            for message, payload in items:
                self.at_host(host, message, bytes(payload))
        else:
            host.inbox += [(m, bytes(p)) for m, p in items]

    def at_host(self, host: HostModel, message: Message, payload: bytes) -> None:
        if isinstance(message, Assign):
            assert message.task not in self.ended, "it has ended"
        if host.takes(message, payload):
            return
        assert isinstance(message, Interrupt), message
        assert self.cancelled.issuperset(message.tasks), "nobody wants them to end"
        engine = host.engines[message.engine]
        for tid in [t for t in message.tasks if t in engine.queue]:
            self.ends(host, message.engine, tid, Outcome.ABORTED)

    def ends(self, host: HostModel, number: int, tid: int, outcome: Outcome) -> None:
        if outcome is not Outcome.RETRY:  # else it may be run again
            self.ran[tid] = next(n for n, h in self.hosts.items() if h is host)
        host.ends(number, tid, outcome)

    def flush(self, number: int, count: int = 1 << 30) -> None:
        """Let a host say some of what it has to say."""
        host = self.hosts[number]
        if not host.connected:
            return
        items, host.outbox = host.outbox[:count], host.outbox[count:]
        if items:
            try:
                self.do(FromHost(number, items, self.now))  # type: ignore[arg-type]
            except _Crash:
                host.outbox = items + host.outbox  # nobody has said that it is safe
                raise
            host.said = (host.said + items)[-20:]

    def a_host(self, pick: int, *, connected: bool | None = None) -> int:
        """Return the number of a host, or 0."""
        found = [n for n, h in self.hosts.items() if connected in (None, h.connected)]
        return found[pick % len(found)] if found else 0

    @rule(engines=st.integers(1, 2))
    def host_joins(self, engines: int) -> None:
        if len(self.hosts) >= 3:
            return
        with self.may_end():
            number = self.next_host
            self.next_host += 1
            ids = self.s.take_ids(engines)
            host = self.hosts[number] = HostModel(ids)
            for one in ids:
                self.engine_is_ready(number, host, one)
            self.do(HostJoined(number, f"h{number}", 1, ids, self.now, f"t{number}"))
            self.flush(number)

    def engine_is_ready(self, number: int, host: HostModel, one: int) -> None:
        host.engines[one].ready = True
        host.outbox.append((EngineJoined(one, f"h{number}", 7, 1), b""))

    @rule(pick=PICK)
    def host_is_cut_off(self, pick: int) -> None:
        number = self.a_host(pick, connected=True)
        if number:
            with self.may_end():
                self.hosts[number].connected = False
                self.do(HostAway(number, "cut", self.now + 2.0, self.now))

    @rule(pick=PICK, count=st.integers(0, 6), repeated=st.integers(0, 5))
    def host_comes_back(self, pick: int, count: int, repeated: int) -> None:
        number = self.a_host(pick, connected=False)
        if not number:
            return
        with self.may_end():
            host = self.hosts[number]
            joined = None
            if host.stale:
                self.tell_again(number, host, repeated)
                ids = list(host.engines)
                joined = HostJoined(number, f"h{number}", 1, ids, self.now, f"t{number}")
            host.connected, host.stale = True, False
            inbox, host.inbox = host.inbox, []
            for message, payload in inbox:
                self.at_host(host, message, payload)
            self.do(HostBack(number, self.now, list(host.engines), joined))
            self.flush(number, count or 1 << 30)

    def tell_again(self, number: int, host: HostModel, repeated: int) -> None:
        """Prepare what a host says to a scheduler that knows nothing of what it was doing."""
        said = host.said[len(host.said) - min(repeated, len(host.said)) :]
        kept = [item for item in said if isinstance(item[0], Done | Output)]
        kept += [item for item in host.outbox if isinstance(item[0], Done | Output | EngineLeft)]
        left = {m.engine for m, _ in kept if isinstance(m, EngineLeft)}
        host.functions = set()
        host.outbox = []
        host.said = []
        for engine in host.engines.values():
            engine.queue = list(engine.begun)
        self.announce(number, host, [one for one in host.engines if one not in left])
        host.outbox.append((Held([], []), b""))
        host.outbox += kept
        self.announce(number, host, sorted(left))
        host.outbox.append((Started([]), b""))

    def announce(self, number: int, host: HostModel, engines: list[int]) -> None:
        for one in engines:
            if host.engines[one].ready:
                self.engine_is_ready(number, host, one)
                host.outbox.append((Holding(one, 1, list(host.engines[one].begun)), b""))

    @rule(pick=PICK)
    def host_is_given_up(self, pick: int) -> None:
        number = self.a_host(pick, connected=False)
        if number:
            with self.may_end():
                self.hosts_gone(number)

    def hosts_gone(self, number: int) -> None:
        host = self.hosts.pop(number)
        try:
            self.do(HostLost(number, "it did not come back", self.now))
        except _Crash:
            self.hosts[number] = host  # the next scheduler may know it
            raise

    @rule(pick=PICK, count=st.integers(1, 10))
    def host_speaks(self, pick: int, count: int) -> None:
        number = self.a_host(pick, connected=True)
        if number:
            with self.may_end():
                self.flush(number, count)

    # ----------------------------------------------------------------------------- engines

    def an_engine(self, pick: int) -> tuple[int, HostModel, int] | None:
        found = [
            (number, host, one)
            for number, host in self.hosts.items()
            for one, engine in host.engines.items()
            if engine.ready and engine.queue
        ]
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, output=st.booleans(), flush=st.booleans())
    def begins(self, pick: int, output: bool, flush: bool) -> None:
        found = self.an_engine(pick)
        if found is None:
            return
        number, host, one = found
        engine = host.engines[one]
        tid = engine.queue[0]
        if tid in engine.begun:
            return
        for other in self.hosts.values():
            assert not any(tid in e.begun for e in other.engines.values()), "two engines run it"
        assert self.ran.get(tid) not in self.hosts, "it has run, and its host is there to tell"
        engine.begun.append(tid)
        host.outbox.append((Started([tid]), b""))
        if output:
            host.outbox.append((Output(tid, one, Stream.STDOUT, 2, 1), b"hi"))
        if flush:
            with self.may_end():
                self.flush(number)

    @rule(
        pick=PICK,
        count=st.integers(1, 8),
        outcome=st.sampled_from([Outcome.OK, Outcome.ERROR, Outcome.RETRY]),
        flush=st.booleans(),
    )
    def done(self, pick: int, count: int, outcome: Outcome, flush: bool) -> None:
        found = self.an_engine(pick)
        if found is None:
            return
        number, host, one = found
        for tid in host.engines[one].queue[:count]:
            self.ends(host, one, tid, outcome)
        if flush:
            with self.may_end():
                self.flush(number)

    @rule(pick=PICK, flush=st.booleans())
    def engine_dies(self, pick: int, flush: bool) -> None:
        found = self.an_engine(pick)
        if found is None:
            return
        number, host, one = found
        begun = host.engines[one].begun
        host.engines[one] = EngineModel()
        host.outbox.append((EngineLeft(one, "killed", True, list(begun)), b""))
        self.engine_is_ready(number, host, one)
        if flush:
            with self.may_end():
                self.flush(number)

    # ------------------------------------------------------------------------------ client

    def say(self, message: Message, payload: bytes = b"") -> None:
        self.sent.append((message, payload))
        if self.attached:
            self.do(FromClient(SESSION, [(message, payload)], self.now))

    def at_client(self, message: Message, payload: bytes) -> None:
        if isinstance(message, Finished):
            tid = message.task
            result = message.outcome, payload
            assert self.got.setdefault(tid, result) == result, "another result"
            assert self.ended[tid] == result
            self.unread.append((message, payload))
        elif isinstance(message, Cancelled):
            left = self.asking[message.serial]
            for tid, fate in zip(message.tasks, message.fates, strict=True):
                left.discard(tid)
                if fate is Fate.UNKNOWN:
                    assert tid in self.got
                elif fate is not Fate.ENDED:
                    assert self.ended[tid][0] is Outcome.ABORTED
        else:
            assert isinstance(message, Output | EngineJoined | EngineLeft), message

    @rule(
        count=st.integers(1, 6),
        chosen=ENGINES,
        spread=st.booleans(),
        retries=st.integers(0, 2),
        digest=st.sampled_from([b"", DIGEST]),
        others=st.lists(PICK, max_size=2),
    )
    def submit(
        self,
        count: int,
        chosen: list[int],
        spread: bool,
        retries: int,
        digest: bytes,
        others: list[int],
    ) -> None:
        with self.may_end():
            for _ in range(count):
                tid = FIRST + len(self.retries)
                terms = None
                if spread and others and self.retries:
                    known = sorted(self.retries)
                    waits = {known[one % len(known)] for one in others}
                    past = [
                        Past(t, 0, self.got[t][0] is Outcome.OK) for t in waits if t in self.got
                    ]
                    open_ones = [t for t in waits if t not in self.got]
                    terms = Terms(after=Dependency(open_ones, past, True, True, True))
                targets = chosen[:1] if not spread else chosen
                self.retries[tid] = retries
                payload = b"%d" % tid
                self.say(
                    Submit(
                        tid, Kind.APPLY, len(payload), targets, spread, digest, retries, terms=terms
                    ),
                    payload,
                )

    @precondition(lambda self: self.retries)
    @rule(first=PICK, count=st.integers(1, 5))
    def cancel(self, first: int, count: int) -> None:
        tasks = sorted(self.retries)
        first %= len(tasks)
        wanted = tasks[first : first + count]
        self.cancelled.update(wanted)
        self.serial += 1
        self.asking[self.serial] = set(wanted)
        with self.may_end():
            self.say(Cancel(wanted, self.serial))

    @rule(count=st.integers(1, 20))
    def acknowledges(self, count: int) -> None:
        """The client has taken results: the journal may forget them."""
        gone = [m.task for m, _ in self.unread[:count] if isinstance(m, Finished)]
        self.unread = self.unread[count:]
        if gone:
            self.commit([Forgotten(self.now, gone)])

    @rule()
    def client_goes(self) -> None:
        if self.attached:
            undelivered, self.unread = self.unread, []
            self.attached = False
            with self.may_end():
                self.do(SessionDetached(SESSION, undelivered, self.now, 600.0))  # type: ignore[arg-type]

    @rule()
    def client_comes_back(self) -> None:
        if self.attached:
            return
        with self.may_end():
            self.resume()

    def resume(self) -> None:
        """The client comes back after a long time, or to another life, and says what it wants."""
        taken = self.s.sessions[SESSION].taken
        self.attached = self.known = True
        asked = [(serial, tasks) for serial, tasks in self.asking.items() if tasks]
        again: list[Said] = [
            (Held([], [], True), b""),
            *(item for item in self.sent[taken:] if isinstance(item[0], Function | Submit)),
            *((Cancel(sorted(tasks), serial), b"") for serial, tasks in asked),
        ]
        self.sent = [*self.sent[:taken], *again]
        said = FromClient(SESSION, again, self.now)  # type: ignore[arg-type]
        self.do(SessionResumed(SESSION, self.now), said)

    # ------------------------------------------------------------------------ ends and begins

    @rule()
    def ends_between_events(self) -> None:
        self.restart()

    @rule(when=st.sampled_from(["before", "after"]))
    def ends_with_the_next_event(self, when: str) -> None:
        """The next turn is not committed any more; or it is, and nobody hears of it."""
        self.crash = when

    @rule()
    def restart_is_over(self) -> None:
        with self.may_end():
            self.do(RestartOver(self.now))

    @rule()
    def ticks(self) -> None:
        with self.may_end():
            self.do(Tick(self.now))

    # ---------------------------------------------------------------------- what must hold

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "s"):
            self.s.validate()

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "s"):
            return
        known = set(self.s.tasks) | set(self.ended)
        assert not set(self.s.tasks) & set(self.ended)
        assert known <= set(self.retries)
        on_the_way = {
            m.task for m, _ in self.sent[self.s.sessions[SESSION].taken :] if isinstance(m, Submit)
        }
        assert set(self.retries) - known <= on_the_way, "a task is lost"
        for tid in self.ended:
            assert tid in self.got or tid in self.s.retained, "a result went nowhere"
        assert self.forgotten <= set(self.got)

    @invariant()
    def everything_has_a_reason(self) -> None:
        if not hasattr(self, "s"):
            return
        for tid, task in list(self.s.tasks.items())[:40]:
            story = self.s.explain(tid)
            assert story.state in ("waiting", "ready", "assigned", "running")
            assert story.reason and story.story
            assert task.attempts <= self.retries[tid]

    def teardown(self) -> None:
        """Let everybody come back, and everything run to its end."""
        if not hasattr(self, "s"):
            return
        self.crash = ""
        if not self.attached:
            self.resume()
        if not self.hosts:
            self.host_joins(2)
        for number in list(self.hosts):
            if not self.hosts[number].connected:
                self.host_comes_back(0, 0, 0)
        for _ in range(3_000):
            for number in list(self.hosts):
                self.flush(number)
            found = self.an_engine(0)
            if found is None:
                if not any(host.outbox for host in self.hosts.values()):
                    break
                continue
            _, host, one = found
            for tid in list(host.engines[one].queue):
                self.ends(host, one, tid, Outcome.OK)
        else:
            raise AssertionError("the scheduler and a host talk without end")
        self.s.validate()
        left = [self.s.explain(tid) for tid in self.s.tasks]
        assert not left, "tasks are left over though every engine is idle"
        assert set(self.got) == set(self.ended) == set(self.retries)
        assert not any(self.asking.values()), "nobody said what became of a cancelled task"
        for tid, (outcome, _) in self.got.items():
            assert outcome is not Outcome.ABORTED or tid in self.cancelled
        self.nothing_is_lost()


TestLives = Lives.TestCase
TestLives.settings = machine_settings(max_examples=50, stateful_step_count=50)
