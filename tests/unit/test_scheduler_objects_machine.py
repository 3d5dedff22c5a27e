"""The scheduler in all orders of events, with tasks that need objects and make some.

To the clients, hosts and engines of the other machine come stores, searches and references. Whatever
happens, an object is not freed while a task, a session or a result that waits refers to it; and in the
end nothing is left, neither in the directory nor in any store.
"""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from ipkernel.controller.defaults import SCHEMES
from ipkernel.controller.events import FromClient, FromHost, Item, SessionDetached, Tick
from ipkernel.controller.keeping import PASSES
from ipkernel.controller.retention import RETAIN_SECONDS
from ipkernel.wire.messages import (
    Copied,
    Done,
    EngineJoined,
    EngineLeft,
    Finished,
    Free,
    HostAccess,
    HostGone,
    Kind,
    Message,
    NotProvided,
    ObjectMade,
    Outcome,
    Output,
    Provide,
    Release,
    Seek,
    SessionGone,
    Source,
    Submit,
)
from ipkernel.wire.records import StoreAccess
from tests.support.schedulerworld import machine_settings
from tests.unit.test_scheduler_machine import ENGINES, PICK, Machine

SIZE = 1000


class ObjectMachine(Machine):
    """The same, with objects."""

    store = StoreAccess(pin="", key=bytes(32))

    @initialize(
        scheme=st.sampled_from(SCHEMES),
        random=st.randoms(use_true_random=False),
        passes=st.sampled_from([1, PASSES]),
    )
    def start(self, scheme: str, random: Random, passes: int) -> None:
        self.ids: list[bytes] = []
        self.stores: dict[int, set[bytes]] = {}
        self.searches: dict[int, dict[bytes, int]] = {}  # -1 waits for a client, 0 for an answer
        self.told: dict[int, set[int]] = {}
        self.outboxes: dict[int, set[bytes]] = {}
        self.provides: dict[int, list[tuple[bytes, int]]] = {}
        self.references: dict[int, set[bytes]] = {}
        self.needs: dict[int, list[bytes]] = {}
        self.made_by: dict[int, bytes] = {}
        super().start(scheme, random, passes)
        self.join_host(2, [])
        for _ in range(2):
            self.engine_joins(1)
        self.client_makes_one(0, 0, True)
        self.client_makes_one(1, 1, False)
        for session in (0, 1):
            self.submit_needy(session, [1, 9], [], True, 1, 4, False)

    # ------------------------------------------------------------------- the world

    def sync(self) -> None:
        """Hosts and clients may have come and gone."""
        for host in self.hosts:
            self.stores.setdefault(host, set())
            self.searches.setdefault(host, {})
            self.told.setdefault(host, set())
        for host in self.stores.keys() - self.hosts.keys():
            for table in (self.stores, self.searches, self.told):
                del table[host]
            for session, provides in self.provides.items():
                self.provides[session] = [(o, h) for o, h in provides if h != host]
        for session in self.attached:
            self.outboxes.setdefault(session, set())
            self.references.setdefault(session, set())
            self.provides.setdefault(session, [])
        for session in self.outboxes.keys() - self.attached.keys():
            for object_id, host in self.provides[session]:
                if self.searches[host].get(object_id) == -1:
                    self.searches[host][object_id] = 0
            for table in (self.outboxes, self.references, self.provides):
                del table[session]

    def do(self, *events) -> None:
        self.sync()
        super().do(*events)
        self.sync()

    def new_object(self) -> bytes:
        object_id = (len(self.ids) + 1).to_bytes(16, "big")
        self.ids.append(object_id)
        return object_id

    def some(self, pick: int) -> bytes:
        entries = sorted(self.s.objects.entries)
        among = entries if entries and pick % 8 else self.ids
        return among[pick // 8 % len(among)]

    def a_host(self, pick: int) -> int | None:
        hosts = sorted(self.hosts)
        return hosts[pick % len(hosts)] if hosts else None

    def check_may_be_freed(self, object_id: bytes) -> None:
        for tid, needs in self.needs.items():
            assert tid not in self.s.tasks or object_id not in needs, "a task needs it"
        for session in self.attached:
            assert object_id not in self.references.get(session, ()), "a session refers to it"
        for tid in self.s.retained:
            assert self.made_by.get(tid) != object_id, "it is a result that waits"

    def about_objects_at_host(self, host: int, message: Message) -> None:
        searches = self.searches[host]
        if isinstance(message, Free):
            for object_id in message.objects:
                self.check_may_be_freed(object_id)
                assert object_id in self.stores[host] or object_id in searches, "freed twice"
                self.stores[host].discard(object_id)
                searches.pop(object_id, None)
        elif isinstance(message, Source):
            assert searches[message.object] == 0
            if message.problem:
                del searches[message.object]
            elif message.host:
                assert message.host in self.told[host], "how is it reached?"
                searches[message.object] = message.host
            else:
                searches[message.object] = -1
        elif isinstance(message, HostAccess):
            assert message.host in self.hosts
            self.told[host].add(message.host)
        elif isinstance(message, HostGone):
            self.told[host].remove(message.host)
        else:
            assert isinstance(message, SessionGone)
            assert message.session not in self.attached

    def about_objects_at_client(self, session: int, message: Message) -> None:
        if isinstance(message, Free):
            for object_id in message.objects:
                self.check_may_be_freed(object_id)
                self.outboxes[session].remove(object_id)
        elif isinstance(message, Provide):
            assert message.object in self.outboxes[session]
            self.provides[session].append((message.object, message.host))
        else:
            assert isinstance(message, HostAccess | Source | Output)

    def at_client(self, session: int, items: list[Item]) -> None:
        super().at_client(session, items)
        for message, _ in items:
            if isinstance(message, Finished) and message.object:
                gone = message.host not in self.hosts
                assert gone or message.object in self.stores[message.host]
                self.references[session].add(message.object)

    def at_all_clients(self, items: list[Item]) -> None:
        assert all(isinstance(m, EngineJoined | EngineLeft | HostGone) for m, _ in items)

    # --------------------------------------------------------------------- clients

    @rule(pick=PICK, other=PICK, at_host=st.booleans())
    def client_makes_one(self, pick: int, other: int, at_host: bool) -> None:
        session = self.a_session(pick)
        host = self.a_host(other) if at_host else 0
        if session is None or host is None or len(self.s.objects.entries) > 6:
            return
        object_id = self.new_object()
        self.references[session].add(object_id)
        (self.stores[host] if host else self.outboxes[session]).add(object_id)
        self.do(FromClient(session, [(ObjectMade(object_id, SIZE, host, session), b"")], self.now))

    @precondition(lambda self: self.ids)
    @rule(pick=PICK, other=PICK)
    def another_client_refers(self, pick: int, other: int) -> None:
        session, object_id = self.a_session(pick), self.some(other)
        entry = self.s.objects.entries.get(object_id)
        if session is not None and entry is not None and entry.holders:
            self.references[session].add(object_id)
            message = ObjectMade(object_id, SIZE, min(entry.holders), session)
            self.do(FromClient(session, [(message, b"")], self.now))

    @rule(pick=PICK, other=PICK)
    def client_releases(self, pick: int, other: int) -> None:
        session = self.a_session(pick)
        if session is not None and self.references[session]:
            mine = sorted(self.references[session])
            released = mine[other % len(mine) :][:3]
            self.references[session].difference_update(released)
            results = self.attached[session]  # what came up to these has reached it
            have = [at for at, (message, _) in enumerate(results, 1) if message.object in released]
            del results[: max(have, default=0)]
            self.do(FromClient(session, [(Release(released), b"")], self.now))

    @precondition(lambda self: self.ids)
    @rule(
        pick=PICK,
        picks=st.lists(PICK, min_size=1, max_size=3),
        chosen=st.lists(ENGINES, max_size=3, unique=True),
        spread=st.booleans(),
        retries=st.integers(0, 2),
        count=st.integers(1, 8),
        release=st.booleans(),
    )
    def submit_needy(
        self,
        pick: int,
        picks: list[int],
        chosen: list[int],
        spread: bool,
        retries: int,
        count: int,
        release: bool,
    ) -> None:
        session = self.a_session(pick)
        if session is None:
            return
        needs = [self.some(p) for p in picks]
        items: list[Item] = []
        for _ in range(count):
            each = 1 if spread or not chosen else len(chosen)
            first = (session << 40) + self.counts.get(session, 0)
            self.counts[session] = self.counts.get(session, 0) + each
            for tid in range(first, first + each):
                self.submitted[tid] = retries
                self.needs[tid] = needs
            submit = Submit(
                first, Kind.APPLY, 0, chosen, spread, b"", retries, needs=needs, stored=True
            )
            items.append((submit, b""))
        if release:
            self.references[session].difference_update(needs)
            items.append((Release(needs), b""))
        self.do(FromClient(session, items, self.now))
        for host in range(len(self.hosts)):
            self.host_looks_for_what_its_tasks_need(host)

    @precondition(lambda self: self.ids)
    @rule(pick=PICK, other=PICK)
    def client_asks(self, pick: int, other: int) -> None:
        session = self.a_session(pick)
        if session is not None:
            self.do(FromClient(session, [(Seek(self.some(other)), b"")], self.now))

    @rule(pick=PICK, fails=st.booleans())
    def client_provides(self, pick: int, fails: bool) -> None:
        sessions = [s for s in sorted(self.attached) if self.provides[s]]
        if sessions:
            session = sessions[pick % len(sessions)]
            object_id, host = self.provides[session].pop()
            if object_id not in self.searches[host] or object_id not in self.outboxes[session]:
                return
            if not fails:
                self.arrives(host, object_id)
                return
            if self.searches[host][object_id] == -1:
                self.searches[host][object_id] = 0
            message = NotProvided(object_id, host, "no route")
            self.do(FromClient(session, [(message, b"")], self.now))

    # ----------------------------------------------------- what would end it too soon

    @rule(pick=PICK)
    def lose_host(self, pick: int) -> None:
        if pick % 4 == 0:
            super().lose_host(pick // 4)

    @rule(pick=PICK, keep=st.integers(0, 30))
    def detach(self, pick: int, keep: int) -> None:
        if pick % 4 == 0:
            super().detach(pick // 4, keep)

    @rule(pick=PICK, held=st.booleans())
    def hold(self, pick: int, held: bool) -> None:
        if pick % 4 == 0 or not held:
            super().hold(pick // 4, held)

    @rule(pick=PICK, begun=st.integers(0, 3), restarting=st.booleans(), excused=st.booleans())
    def engine_leaves(self, pick: int, begun: int, restarting: bool, excused: bool) -> None:
        if pick % 3 == 0:
            super().engine_leaves(pick // 3, begun, restarting or pick % 2 > 0, excused)

    @rule(pick=PICK)
    def host_is_to_go(self, pick: int) -> None:
        if pick % 4 == 0:
            super().host_is_to_go(pick // 4)

    @rule(pick=PICK, ready=st.booleans(), ending=st.booleans())
    def engine_is_to_end(self, pick: int, ready: bool, ending: bool) -> None:
        if pick % 4 == 0 or not ending:
            super().engine_is_to_end(pick // 4, ready, ending)

    # ----------------------------------------------------------------------- hosts

    def arrives(self, host: int, object_id: bytes) -> None:
        del self.searches[host][object_id]
        self.stores[host].add(object_id)
        self.do(FromHost(host, [(Copied([object_id]), b"")], self.now))

    @rule(pick=PICK)
    def host_looks_for_what_its_tasks_need(self, pick: int) -> None:
        host = self.a_host(pick)
        if host is None:
            return
        queued = [tid for engine in self.hosts[host].values() for tid in engine.queue]
        items: list[Item] = []
        for object_id in sorted({o for tid in queued for o in self.needs.get(tid, ())}):
            if object_id not in self.stores[host] and object_id not in self.searches[host]:
                self.searches[host][object_id] = 0
                items.append((Seek(object_id), b""))
        if items:
            self.do(FromHost(host, items, self.now))

    @rule(pick=PICK, fails=st.booleans())
    def fetch_ends(self, pick: int, fails: bool) -> None:
        going = [
            (host, object_id, source)
            for host, searches in sorted(self.searches.items())
            for object_id, source in sorted(searches.items())
            if source > 0
        ]
        if not going:
            return
        host, object_id, source = going[pick % len(going)]
        if fails or object_id not in self.stores.get(source, ()):
            self.searches[host][object_id] = 0
            self.do(FromHost(host, [(Seek(object_id, source, "cut"), b"")], self.now))
        else:
            self.arrives(host, object_id)

    @rule(pick=PICK, count=st.integers(1, 5), bad=st.booleans())
    def done_with_objects(self, pick: int, count: int, bad: bool) -> None:
        found = self.an_engine(pick, True)
        if found is None:
            return
        host, number, engine = found
        ending, engine.queue = engine.queue[:count], engine.queue[count:]
        engine.begun -= set(ending)
        items: list[Item] = []
        for tid in ending:
            object_id = self.made_by[tid] = self.new_object()
            self.stores[host].add(object_id)
            outcome = Outcome.ERROR if bad else Outcome.OK
            message = Done(tid, number, outcome, self.now, self.now, 0, object_id, SIZE)
            items.append((message, b""))
        if items:
            self.do(FromHost(host, items, self.now))

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def stores_are_known(self) -> None:
        if hasattr(self, "s"):
            at_host = self.s.objects.at_host
            assert {host: set(there) for host, there in at_host.items()} == self.stores

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "s"):
            return
        entries = self.s.objects.entries
        for host, searches in self.searches.items():
            for object_id, source in searches.items():
                assert bool(entries[object_id].seekers[host].asked) == (source == 0)

    def teardown(self) -> None:
        """When all tasks have ended, all clients go, and results expire: nothing may be left."""
        super().teardown()
        if not hasattr(self, "s"):
            return
        for session in sorted(self.attached):
            del self.attached[session]
            self.do(SessionDetached(session, [], self.now))
        self.now += RETAIN_SECONDS + 1
        self.do(Tick(self.now))
        if self.s.tasks:
            return  # there is no engine that could have run them
        assert not self.s.objects.entries
        assert not self.s.objects.references
        assert not any(self.stores.values())
        assert not any(self.searches.values())
        self.s.validate()


TestSchedulerWithObjects = ObjectMachine.TestCase
TestSchedulerWithObjects.settings = machine_settings(max_examples=60, stateful_step_count=60)
