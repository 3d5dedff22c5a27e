"""The scheduler in all the orders of events that hypothesis can think of.

A model of clients, hosts and engines drives it. After every step the scheduler's tables must
agree with each other and with the model: nothing lost, nothing ended twice, nobody without a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
)

from ipkernel.controller import keeping
from ipkernel.controller.defaults import SCHEMES
from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDescribed,
    EnginesDraining,
    EnginesEnding,
    EnginesGone,
    FromClient,
    FromHost,
    HostFacts,
    HostJoined,
    HostLost,
    Item,
    SessionDetached,
    SessionHeld,
    SessionOpened,
    Tick,
)
from ipkernel.wire.messages import (
    Cancel,
    Done,
    Draining,
    EngineJoined,
    EngineLeft,
    Fate,
    Fetch,
    Function,
    Kind,
    Outcome,
    Output,
    Reason,
    Recovery,
    Returned,
    Simple,
    Started,
    Stream,
    Submit,
    Terms,
    encode_reason,
)
from tests.support.schedulerworld import EngineModel, World, machine_settings

ENGINES = st.integers(0, 6)
DURATIONS = st.sampled_from([1e-6, 1e-4, 0.003, 0.03, 2.0])
PICK = st.integers(0, 1 << 16)
NAMES = st.sampled_from(["gpu", "memory"])
TERMS = st.one_of(
    st.none(),
    st.none(),
    st.builds(Terms, priority=st.integers(-2, 2)),
    st.just(Terms(recovery=Recovery(b"", b"instead"))),
    st.builds(
        Terms,
        priority=st.integers(0, 1),
        resources=st.dictionaries(NAMES, st.sampled_from([0.5, 1.0, 2.0, 3.0]), max_size=2),
        where=st.dictionaries(st.just("os"), st.sampled_from(["a", "b"]), max_size=1),
    ),
)


class Machine(World):
    """Clients, hosts and engines at random."""

    @initialize(
        scheme=st.sampled_from(SCHEMES),
        random=st.randoms(use_true_random=False),
        passes=st.sampled_from([1, 3, keeping.PASSES]),
    )
    def start(self, scheme: str, random: Random, passes: int) -> None:
        self.begin(scheme, random, passes)
        for _ in range(2):
            self.open_session()
        self.join_host(3, [])
        self.engine_joins(0)
        self.engine_joins(0)

    # --------------------------------------------------------------------- clients

    @rule()
    def open_session(self) -> None:
        if len(self.attached) < 3:
            number = self.next_session
            self.next_session += 1
            self.attached[number] = []
            self.functions[number] = set()
            self.do(SessionOpened(number, self.now))

    @rule(
        pick=PICK,
        count=st.integers(1, 40),
        chosen=st.lists(ENGINES, max_size=3, unique=True),
        spread=st.booleans(),
        retries=st.integers(0, 2),
        digest=st.sampled_from([b"", b"", b"A" * 16, b"B" * 16]),
        size=st.sampled_from([0, 10, 5 << 20]),
        terms=TERMS,
        others=st.lists(PICK, max_size=3),
        follows=st.booleans(),
    )
    def submit(
        self,
        pick: int,
        count: int,
        chosen: list[int],
        spread: bool,
        retries: int,
        digest: bytes,
        size: int,
        terms: Terms | None = None,
        others: Sequence[int] = (),
        follows: bool = False,
    ) -> None:
        session = self.a_session(pick)
        if session is None:
            return
        payload = bytes(size)
        if not spread and chosen and terms is not None:
            terms = Terms(terms.priority)
        if others and spread and self.submitted:
            known = sorted(self.submitted)
            waits = self.a_dependency([known[other % len(known)] for other in others])
            terms = Terms(follow=waits) if follows else Terms(after=waits)
        items: list[Item] = []
        if digest == b"A" * 16 and digest not in self.functions[session]:
            self.functions[session].add(digest)
            items.append((Function(digest, 3), b"abc"))
        for _ in range(count if size < 1000 else 2):
            each = 1 if spread or not chosen else len(chosen)
            first = (session << 40) + self.counts.get(session, 0)
            self.counts[session] = self.counts.get(session, 0) + each
            recovers = terms is not None and terms.recovery is not None
            for tid in range(first, first + each):
                self.submitted[tid] = 2 * retries + 1 if recovers else retries
            items.append(
                (
                    Submit(first, Kind.APPLY, size, chosen, spread, digest, retries, terms=terms),
                    payload,
                )
            )
        self.do(FromClient(session, items, self.now))

    @precondition(lambda self: self.submitted)
    @rule(pick=PICK, other=PICK, count=st.integers(1, 20))
    def cancel(self, pick: int, other: int, count: int) -> None:
        session = self.a_session(pick)
        if session is not None:
            tasks = sorted(self.submitted)
            start = other % len(tasks)
            wanted = tasks[start : start + count]
            self.cancelled.update(wanted)
            self.serial += 1
            serial = self.serial if count % 3 else 0
            if serial:
                self.asking[session, serial] = set(wanted)
            self.do(FromClient(session, [(Cancel(wanted, serial), b"")], self.now))

    @rule(pick=PICK, fate=st.sampled_from([Fate.INTERRUPTED, Fate.KILLED, None]))
    def ends_what_runs(self, pick: int, fate: Fate | None) -> None:
        """A host has interrupted a task, or its engine does not react and is killed."""
        found = [e for e in self.ready_engines() if e[2].queue and e[2].queue[0] in e[2].doomed]
        if not found:
            return
        host, number, engine = found[pick % len(found)]
        tid = engine.queue.pop(0)
        engine.begun.discard(tid)
        payload = encode_reason(Reason("aborted", "cancelled", fate=fate)) if fate else b"?"
        done = Done(tid, number, Outcome.ABORTED, self.now, self.now, len(payload))
        items: list[Item] = [(done, payload)]
        if fate is Fate.KILLED:
            self.hosts[host][number] = EngineModel()
            if self.s.engines[number].ending:
                del self.hosts[host][number]
                self.draining.pop(number, None)
            for other in engine.begun:
                self.begun_count[other] = self.begun_count.get(other, 0) + 1
            items.append((EngineLeft(number, "killed", True, sorted(engine.begun)), b""))
        self.do(FromHost(host, items, self.now))

    @precondition(lambda self: self.submitted)
    @rule(pick=PICK, other=PICK, count=st.integers(1, 20))
    def fetch(self, pick: int, other: int, count: int) -> None:
        session = self.a_session(pick)
        if session is not None:
            tasks = sorted(self.submitted)
            start = other % len(tasks)
            self.do(FromClient(session, [(Fetch(tasks[start : start + count]), b"")], self.now))

    @rule(pick=PICK, keep=st.integers(0, 30))
    def detach(self, pick: int, keep: int) -> None:
        """A client goes, and the last few results had not reached it."""
        session = self.a_session(pick)
        if session is None:
            return
        results = self.attached.pop(session)
        self.asking = {key: tasks for key, tasks in self.asking.items() if key[0] != session}
        self.held.discard(session)
        undelivered = list(results[len(results) - min(keep, len(results)) :])
        undelivered = [(m, p) for m, p in undelivered if m.task in self.submitted]
        for message, _ in undelivered:
            self.delivered[message.task] -= 1
        self.do(SessionDetached(session, undelivered, self.now))

    @rule(pick=PICK, held=st.booleans())
    def hold(self, pick: int, held: bool) -> None:
        session = self.a_session(pick)
        if session is not None:
            (self.held.add if held else self.held.discard)(session)
            self.do(SessionHeld(session, held, self.now))

    # ----------------------------------------------------------------------- hosts

    @rule(
        slots=st.integers(0, 3),
        wanted=st.lists(ENGINES, max_size=3, unique=True),
        left=st.sampled_from([0.0, 0.0, 1000.0, 0.01]),
        resources=st.sampled_from([{}, {"gpu": 1.0}, {"gpu": 2.0, "memory": 1.5}]),
        shared=st.sampled_from([{}, {"memory": 4.0}, {"gpu": 2.0}]),
    )
    def join_host(
        self,
        slots: int,
        wanted: list[int],
        left: float = 0.0,
        resources: Mapping[str, float] = MappingProxyType({}),
        shared: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if len(self.hosts) < 3:
            host = self.next_host
            self.next_host += 1
            ids = self.s.take_ids(slots, wanted)
            assert len(set(ids)) == slots
            self.hosts[host] = {number: EngineModel() for number in ids}
            self.known[host] = set()
            facts = HostFacts(left=left, resources=dict(resources), shared=dict(shared))
            self.ends[host] = self.now + left if left else 0.0
            self.do(HostJoined(host, f"h{host}", 1, ids, self.now, f"t{host}", self.store, facts))

    @rule(pick=PICK)
    def engine_joins(self, pick: int) -> None:
        found = self.an_engine(pick, False)
        if found is not None:
            host, number, engine = found
            engine.ready = True
            self.do(FromHost(host, [(EngineJoined(number, f"h{host}", 7), b"")], self.now))

    @rule(pick=PICK, begun=st.integers(0, 3), restarting=st.booleans(), excused=st.booleans())
    def engine_leaves(self, pick: int, begun: int, restarting: bool, excused: bool) -> None:
        found = self.an_engine(pick, True)
        if found is None:
            return
        host, number, engine = found
        started = [*engine.begun, *[t for t in engine.queue if t not in engine.begun][:begun]]
        self.hosts[host][number] = EngineModel()
        ending = self.s.engines[number].ending
        if ending:
            del self.hosts[host][number]
            self.draining.pop(number, None)
        if not excused or host not in self.leaving:  # no host may excuse what it likes
            for tid in started:
                self.begun_count[tid] = self.begun_count.get(tid, 0) + 1
        message = EngineLeft(number, "killed", restarting, started, None, excused)
        self.do(FromHost(host, [(message, b"")], self.now))

    @rule(pick=PICK)
    def lose_host(self, pick: int) -> None:
        if self.hosts:
            host = sorted(self.hosts)[pick % len(self.hosts)]
            ends = self.ends.pop(host)
            excused = host in self.leaving or 0.0 < ends <= self.now
            self.leaving.discard(host)
            engines = self.hosts.pop(host)
            for engine in () if excused else engines.values():
                for tid in {*engine.begun, *engine.queue[:1]}:
                    self.begun_count[tid] = self.begun_count.get(tid, 0) + 1
            for number in engines:
                self.draining.pop(number, None)
            self.do(HostLost(host, "gone", self.now))
            assert not self.busy.intersection(engines)

    @rule(pick=PICK)
    def add_engine(self, pick: int) -> None:
        if self.hosts:
            host = sorted(self.hosts)[pick % len(self.hosts)]
            [number] = self.s.take_ids(1)
            self.hosts[host][number] = EngineModel()
            if host in self.leaving:
                self.draining[number] = set()
            self.do(EnginesAdded(host, [number], self.now))

    @rule(pick=PICK, ready=st.booleans(), ending=st.booleans())
    def engine_is_to_end(self, pick: int, ready: bool, ending: bool) -> None:
        found = self.an_engine(pick, ready)
        if found is not None:
            host, number, _ = found
            if not ending and host not in self.leaving:
                self.draining.pop(number, None)
                self.busy.discard(number)
            self.do(EnginesEnding([number], self.now, ending))

    @rule(pick=PICK, ready=st.booleans())
    def engine_is_to_drain(self, pick: int, ready: bool) -> None:
        found = self.an_engine(pick, ready)
        if found is not None:
            self.drain(found[1])
            self.do(EnginesDraining([found[1]], "there are too many", self.now))
            self.submit(pick, 3, [], True, 1, b"", 0)  # they must go elsewhere

    @rule(pick=PICK)
    def host_is_to_go(self, pick: int) -> None:
        if self.hosts:
            host = sorted(self.hosts)[pick % len(self.hosts)]
            self.leaving.add(host)
            for number in self.hosts[host]:
                self.drain(number)
            self.do(FromHost(host, [(Draining("time is nearly over"), b"")], self.now))

    @rule(pick=PICK)
    def engine_is_gone(self, pick: int) -> None:
        found = self.an_engine(pick, False)
        if found is not None:
            host, number, _ = found
            del self.hosts[host][number]
            self.draining.pop(number, None)
            self.do(EnginesGone([number], "stopped", self.now))
            assert number not in self.busy

    @rule(number=ENGINES, put=st.sampled_from([{"os": "a"}, {"os": "b"}, {}]), gone=st.booleans())
    def describe(self, number: int, put: dict[str, Simple], gone: bool) -> None:
        self.do(EnginesDescribed([number], put, ["os"] if gone else [], self.now))

    # ------------------------------------------------------------------------ work

    @rule(
        pick=PICK,
        count=st.integers(1, 30),
        seconds=DURATIONS,
        outcome=st.sampled_from(
            [
                Outcome.OK,
                Outcome.OK,
                Outcome.OK,
                Outcome.ERROR,
                Outcome.REJECTED,
                Outcome.RETRY,
                Outcome.RETRY_ITEMS,
            ]  # fmt: skip
        ),
    )
    def done(self, pick: int, count: int, seconds: float, outcome: Outcome) -> None:
        found = self.an_engine(pick, True)
        if found is None:
            return
        host, number, engine = found
        ending = engine.queue[:count]
        engine.queue = engine.queue[count:]
        engine.begun -= set(ending)
        items: list[Item] = [
            (Done(tid, number, outcome, self.now, self.now + seconds, 3), b"res") for tid in ending
        ]
        if items:
            items.append(items[0])  # a host may repeat itself
            self.do(FromHost(host, items, self.now))

    @rule(pick=PICK, output=st.booleans())
    def begins(self, pick: int, output: bool) -> None:
        found = self.an_engine(pick, True)
        if found is None or not found[2].queue:
            return
        host, number, engine = found
        head = engine.queue[0]
        engine.begun.add(head)
        items: list[Item] = [(Started([head]), b"")]
        if output:
            items.append((Output(head, number, Stream.STDOUT, 2), b"hi"))
        self.do(FromHost(host, items, self.now))

    @rule(pick=PICK, late=st.booleans())
    def gives_back(self, pick: int, late: bool) -> None:
        asked = [e for e in self.ready_engines() if e[2].asked]
        if not asked:
            return
        host, number, engine = asked[pick % len(asked)]
        wanted = engine.asked.pop(0)
        # The head of the queue may run already, whether the controller knows it or not.
        free = [] if late else [t for t in wanted if t in engine.queue[1:]]
        free = [t for t in free if t not in engine.begun]
        engine.queue = [t for t in engine.queue if t not in free]
        self.do(FromHost(host, [(Returned(number, free), b"")], self.now))

    @rule()
    def ticks(self) -> None:
        self.do(Tick(self.now))

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "s"):
            self.s.validate()

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "s"):
            return
        assert set(self.submitted) == set(self.s.tasks) | set(self.ended)
        assert not set(self.s.tasks) & set(self.ended)
        for tid in self.ended:
            waits = tid in self.s.retained
            assert waits or self.delivered.get(tid, 0) > 0, "a result went nowhere"

    @invariant()
    def hosts_have_what_is_assigned(self) -> None:
        if not hasattr(self, "s"):
            return
        for engines in self.hosts.values():
            for number, model in engines.items():
                assert list(self.s.engines[number].assigned) == model.queue

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "s"):
            return
        c = self.s.counts()
        assert c.waiting + c.ready + c.assigned + c.running == len(self.s.tasks)
        assert c.finished + c.failed + c.aborted == len(self.ended)
        assert c.finished == sum(o is Outcome.OK for o in self.ended.values())
        assert c.aborted == sum(o is Outcome.ABORTED for o in self.ended.values())

    @invariant()
    def everything_has_a_reason(self) -> None:
        if not hasattr(self, "s"):
            return
        for tid in list(self.s.tasks)[:50]:
            story = self.s.explain(tid)
            assert story.state in ("waiting", "ready", "assigned", "running")
            assert story.reason
            assert story.story

    @invariant()
    def retries_are_kept(self) -> None:
        if not hasattr(self, "s"):
            return
        for tid in self.s.tasks:
            assert self.begun_count.get(tid, 0) <= self.submitted[tid]
        for tid, outcome in self.ended.items():
            if outcome is Outcome.ABORTED:
                assert tid in self.cancelled

    def teardown(self) -> None:
        """Let everything run to its end: all engines come up, all hosts work, none is lost."""
        if not hasattr(self, "s"):
            return
        self.patch.undo()
        for session in sorted(self.held & set(self.attached)):
            self.held.discard(session)
            self.do(SessionHeld(session, False, self.now))
        starting = [
            number for host in self.hosts.values() for number, e in host.items() if not e.ready
        ]
        for number in starting:
            host = self.s.engines[number].host.id
            self.hosts[host][number].ready = True
            self.do(FromHost(host, [(EngineJoined(number, f"h{host}", 7), b"")], self.now))
        for number, engine in sorted(self.s.engines.items()):
            if engine.ending:
                if not engine.host.draining:
                    self.draining.pop(number, None)
                    self.busy.discard(number)
                self.do(EnginesEnding([number], self.now, False))
        if not any(engine.usable for engine in self.s.engines.values()):
            while len(self.hosts) > 2:
                self.lose_host(0)
            self.join_host(1, [])
            self.engine_joins(0)
        for _ in range(2_000):
            busy = [e for e in self.ready_engines() if e[2].queue or e[2].asked]
            if not busy:
                break
            host, number, engine = busy[0]
            if engine.asked:
                self.do(FromHost(host, [(Returned(number, []), b"")], self.now))
                engine.asked.pop(0)
                continue
            items: list[Item] = [
                (Done(tid, number, Outcome.OK, self.now, self.now, 1), b"r") for tid in engine.queue
            ]
            engine.queue = []
            engine.begun = set()
            self.do(FromHost(host, items, self.now))
        else:
            raise AssertionError("the scheduler and a host talk without end")
        self.s.validate()
        assert not self.s.tasks, "tasks are left over though every engine is idle"
        assert not self.busy, "nobody was told that an engine has drained"
        assert not any(self.asking.values()), "nobody said what became of a cancelled task"
        assert not self.s._core.askers
        self.nothing_is_lost()


TestScheduler = Machine.TestCase
TestScheduler.settings = machine_settings(max_examples=60, stateful_step_count=60)
