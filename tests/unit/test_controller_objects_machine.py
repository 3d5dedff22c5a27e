"""The directory of objects in all the orders of events that hypothesis can think of.

A model of hosts, clients and tasks drives it: hosts fetch what they are told to fetch, clients
bring what they are asked for, and any of it may fail. After every step the directory's tables must
agree with each other; nothing is freed while somebody refers to it, nobody who looks for an object
is forgotten, and in the end nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ipkernel.controller.objectchecks import validate_objects
from ipkernel.controller.objects import Directory
from ipkernel.controller.sources import MAX_RECEIVERS
from ipkernel.wire.messages import Free, Provide, Source

PICK = st.integers(0, 1 << 16)
TASKS = 1 << 40  # ids of tasks are far from those of sessions


class HostModel:
    """A store, and what is looked for: the place that was named, 0 for none yet, -1 for a client."""

    def __init__(self) -> None:
        self.store: set[bytes] = set()
        self.searches: dict[bytes, int] = {}


class ClientModel:
    """What a client keeps, refers to, was asked to provide, and has asked for."""

    def __init__(self) -> None:
        self.outbox: set[bytes] = set()
        self.references: set[bytes] = set()
        self.provides: list[tuple[bytes, int]] = []
        self.questions: dict[bytes, int] = {}


class Machine(RuleBasedStateMachine):
    """Hosts, clients and tasks at random."""

    @initialize()
    def start(self) -> None:
        self.d = Directory()
        self.hosts: dict[int, HostModel] = {}
        self.clients: dict[int, ClientModel] = {}
        self.tasks: dict[int, list[bytes]] = {}
        self.results: dict[int, bytes] = {}
        self.known: list[bytes] = []
        self.next = 1
        for _ in range(5):
            self.host_joins()
        for _ in range(2):
            self.client_comes()
            self.client_keeps_one(self.next)
        self.task_comes([1, 5], {0, 1, 2, 3})

    # ------------------------------------------------------------------- the world

    def number(self) -> int:
        self.next += 1
        return self.next

    def new_object(self) -> bytes:
        object_id = self.number().to_bytes(16, "big")
        self.known.append(object_id)
        return object_id

    def pick(self, among, pick: int):
        among = sorted(among)
        return among[pick % len(among)] if among else None

    def some(self, pick: int) -> bytes:
        """An object: mostly one that there is, sometimes one that was freed."""
        return self.pick(self.d.entries if pick % 4 and self.d.entries else self.known, pick // 4)

    def full(self) -> bool:
        """So few objects are enough, and more happens to each."""
        return len(self.d.entries) >= 5

    def wanted(self, object_id: bytes) -> bool:
        return (
            any(object_id in c.references for c in self.clients.values())
            or any(object_id in needs for needs in self.tasks.values())
            or object_id in self.results.values()
        )

    def settle(self) -> None:
        self.d.settle()
        for task, text in self.d.missing:
            assert text
            assert self.tasks[task]
        self.d.missing.clear()
        for place, message in self.d.take_out():
            if place > 0:
                self.at_host(place, message)
            else:
                self.at_client(-place, message)
        assert not self.d.busy

    def at_host(self, number: int, message) -> None:
        host = self.hosts[number]
        if isinstance(message, Free):
            for object_id in message.objects:
                assert not self.wanted(object_id), "freed, but somebody refers to it"
                had = object_id in host.store or object_id in host.searches
                assert had, "freed twice, or where it never was"
                host.store.discard(object_id)
                host.searches.pop(object_id, None)
            return
        assert isinstance(message, Source)
        assert host.searches[message.object] == 0, "answered twice"
        if message.problem:
            del host.searches[message.object]
        elif message.host:
            assert message.host in self.hosts and message.host != number
            host.searches[message.object] = message.host
        else:
            host.searches[message.object] = -1

    def at_client(self, number: int, message) -> None:
        client = self.clients[number]
        if isinstance(message, Free):
            for object_id in message.objects:
                assert not self.wanted(object_id)
                client.outbox.remove(object_id)
        elif isinstance(message, Provide):
            assert message.object in client.outbox
            assert message.object not in [o for o, _ in client.provides], "two at a time"
            client.provides.append((message.object, message.host))
        else:
            assert isinstance(message, Source)
            assert bool(message.host) != bool(message.problem)
            client.questions[message.object] -= 1
            assert client.questions[message.object] >= 0

    # --------------------------------------------------------------- coming and going

    @rule()
    def host_joins(self) -> None:
        if len(self.hosts) < 7:
            number = self.number()
            self.hosts[number] = HostModel()
            self.d.host_joined(number, f"h{number}")
            self.settle()

    @rule(pick=PICK)
    def host_is_lost(self, pick: int) -> None:
        number = self.pick(self.hosts, pick // 3)
        if number is not None and not pick % 3:
            del self.hosts[number]
            for client in self.clients.values():
                client.provides = [(o, h) for o, h in client.provides if h != number]
            self.d.host_lost(number, "gone")
            self.settle()

    @rule()
    def client_comes(self) -> None:
        if len(self.clients) < 3:
            self.clients[self.number()] = ClientModel()

    @rule(pick=PICK)
    def client_goes(self, pick: int) -> None:
        number = self.pick(self.clients, pick // 3)
        if number is not None and not pick % 3:
            for object_id, host in self.clients.pop(number).provides:
                if self.hosts[host].searches.get(object_id) == -1:
                    self.hosts[host].searches[object_id] = 0
            self.d.client_gone(number)
            self.d.leave(number)
            self.settle()

    # ---------------------------------------------------------------- objects come

    @rule(pick=PICK)
    def client_keeps_one(self, pick: int) -> None:
        number = self.pick(self.clients, pick)
        if number is not None and not self.full():
            object_id = self.new_object()
            self.clients[number].outbox.add(object_id)
            self.clients[number].references.add(object_id)
            assert self.d.made(object_id, 100, 0, number)
            self.d.refer(number, object_id)
            self.settle()

    @rule(pick=PICK, other=PICK)
    def client_puts_one(self, pick: int, other: int) -> None:
        number, host = self.pick(self.clients, pick), self.pick(self.hosts, other)
        if number is not None and host is not None and not self.full():
            object_id = self.new_object()
            self.hosts[host].store.add(object_id)
            self.clients[number].references.add(object_id)
            assert self.d.made(object_id, 100, host, number)
            self.d.refer(number, object_id)
            self.settle()

    @precondition(lambda self: self.known)
    @rule(pick=PICK, other=PICK, at=PICK)
    def client_puts_an_old_one(self, pick: int, other: int, at: int) -> None:
        """Whatever became of it meanwhile."""
        number, host = self.pick(self.clients, pick), self.pick(self.hosts, at)
        object_id = self.some(other)
        if number is None or host is None or object_id in self.hosts[host].searches:
            return
        self.hosts[host].store.add(object_id)
        if self.d.made(object_id, 100, host, number):
            self.clients[number].references.add(object_id)
            self.d.refer(number, object_id)
        self.settle()

    @precondition(lambda self: self.known)
    @rule(pick=PICK, other=PICK)
    def another_client_refers(self, pick: int, other: int) -> None:
        number, object_id = self.pick(self.clients, pick), self.some(other)
        if number is not None and object_id in self.d.entries:
            self.clients[number].references.add(object_id)
            self.d.refer(number, object_id)
            self.d.refer(number, object_id)
            self.settle()

    @rule(pick=PICK, kept=st.booleans(), other=PICK)
    def task_makes_one(self, pick: int, kept: bool, other: int) -> None:
        """The result is for a client, or waits for one, or for nobody."""
        host = self.pick(self.hosts, pick)
        if host is None or self.full():
            return
        object_id = self.new_object()
        self.hosts[host].store.add(object_id)
        self.d.made(object_id, 100, host)
        number = self.pick(self.clients, other)
        if kept:
            task = TASKS + self.number()
            self.results[task] = object_id
            self.d.refer(task, object_id)
        elif number is not None:
            self.clients[number].references.add(object_id)
            self.d.refer(number, object_id)
        self.settle()

    # ------------------------------------------------------------------- references

    @rule(pick=PICK, other=PICK)
    def client_releases(self, pick: int, other: int) -> None:
        number = self.pick(self.clients, pick)
        object_id = None if number is None else self.pick(self.clients[number].references, other)
        if object_id is not None:
            self.clients[number].references.discard(object_id)
            self.d.release(number, [object_id, object_id])
            self.settle()

    @precondition(lambda self: self.results)
    @rule(pick=PICK, other=PICK)
    def result_is_fetched_or_expires(self, pick: int, other: int) -> None:
        task = self.pick(self.results, pick)
        object_id = self.results.pop(task)
        number = self.pick(self.clients, other)
        if number is not None and other % 3:
            self.d.refer(number, object_id)
            self.clients[number].references.add(object_id)
        self.d.leave(task)
        self.settle()

    @precondition(lambda self: self.known)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3), hosts=st.sets(PICK, max_size=6))
    def task_comes(self, picks: list[int], hosts: set[int]) -> None:
        """Some hosts are to run it, or others like it."""
        needs = [self.some(pick) for pick in picks]
        problem = self.d.problem(needs)
        if not problem:
            task = TASKS + self.number()
            self.tasks[task] = needs
            self.d.need(task, needs)
            self.settle()
            for object_id in needs:
                self.seek(object_id, hosts)
        else:
            assert any(o not in self.d.entries or self.d.entries[o].lost for o in needs)

    @precondition(lambda self: self.tasks)
    @rule(pick=PICK)
    def task_ends(self, pick: int) -> None:
        task = self.pick(self.tasks, pick)
        self.d.need_no_more(task, self.tasks.pop(task))
        self.settle()

    # --------------------------------------------------------------------- searches

    @precondition(lambda self: self.known)
    @rule(pick=PICK, hosts=st.sets(PICK, min_size=1, max_size=6))
    def hosts_seek(self, pick: int, hosts: set[int]) -> None:
        self.seek(self.some(pick), hosts)

    def seek(self, object_id: bytes, hosts: set[int]) -> None:
        for number in {self.pick(self.hosts, h) for h in hosts} - {None}:
            host = self.hosts[number]
            if object_id not in host.store and object_id not in host.searches:
                host.searches[object_id] = 0
                self.d.seek(number, object_id)
        self.settle()

    @precondition(lambda self: self.known)
    @rule(pick=PICK, other=PICK, times=st.integers(1, 2), failed=st.booleans())
    def client_seeks(self, pick: int, other: int, times: int, failed: bool) -> None:
        number, object_id = self.pick(self.clients, pick), self.some(other)
        if number is None:
            return
        client = self.clients[number]
        entry = self.d.entries.get(object_id)
        from_where = min(entry.holders, default=0) if failed and entry is not None else 0
        for _ in range(times):
            client.questions[object_id] = client.questions.get(object_id, 0) + 1
            self.d.seek(-number, object_id, from_where, "no way" if from_where else "")
        self.settle()

    def fetches(self) -> Iterator[tuple[int, bytes, int]]:
        for number, host in sorted(self.hosts.items()):
            for object_id, source in sorted(host.searches.items()):
                if source > 0:
                    yield number, object_id, source

    @rule(pick=PICK, fails=st.booleans())
    def fetch_ends(self, pick: int, fails: bool) -> None:
        found = self.pick(self.fetches(), pick)
        if found is not None:
            self.end_fetch(*found, fails)

    def end_fetch(self, number: int, object_id: bytes, source: int, fails: bool) -> None:
        host = self.hosts[number]
        there = self.hosts.get(source)
        if fails or there is None or object_id not in there.store:
            host.searches[object_id] = 0
            self.d.seek(number, object_id, source, "no route")
        else:
            del host.searches[object_id]
            host.store.add(object_id)
            self.d.copied(number, [object_id])
        self.settle()

    @precondition(lambda self: self.known)
    @rule(pick=PICK, other=PICK)
    def copy_comes_too_late(self, pick: int, other: int) -> None:
        """A host had got all of an object when it was freed; its message and that one crossed."""
        number, object_id = self.pick(self.hosts, pick), self.pick(self.known, other)
        if number is not None and object_id not in self.d.entries:
            self.hosts[number].store.add(object_id)
            self.d.copied(number, [object_id])
            self.settle()
            assert object_id not in self.hosts[number].store

    @rule(pick=PICK, fails=st.booleans(), other=PICK)
    def client_provides(self, pick: int, fails: bool, other: int) -> None:
        number = self.pick([n for n, c in self.clients.items() if c.provides], pick)
        if number is not None:
            provides = self.clients[number].provides
            self.provide(number, *provides.pop(other % len(provides)), fails)

    def provide(self, number: int, object_id: bytes, at: int, fails: bool) -> None:
        host = self.hosts[at]
        if object_id not in self.clients[number].outbox or object_id not in host.searches:
            return  # freed meanwhile; the transfer is cancelled
        if fails:
            if host.searches[object_id] == -1:
                host.searches[object_id] = 0
            self.d.not_provided(number, object_id, at, "too far")
        else:
            host.store.add(object_id)
            del host.searches[object_id]
            self.d.copied(at, [object_id])
        self.settle()

    @rule(pick=PICK, other=PICK)
    def host_finds_that_it_lost_one(self, pick: int, other: int) -> None:
        number = self.pick(self.hosts, pick)
        object_id = None if number is None else self.pick(self.hosts[number].store, other)
        if object_id is not None:
            self.hosts[number].store.discard(object_id)
            self.hosts[number].searches[object_id] = 0
            self.d.seek(number, object_id)
            self.settle()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "d"):
            validate_objects(self.d)

    @invariant()
    def what_is_referred_to_is_there(self) -> None:
        if not hasattr(self, "d"):
            return
        for object_id in self.known:
            assert self.wanted(object_id) == (object_id in self.d.entries)
        for number, host in self.hosts.items():
            assert set(self.d.at_host[number]) == host.store

    @invariant()
    def nobody_serves_too_many(self) -> None:
        if hasattr(self, "d"):
            receivers: dict[int, set[int]] = {}
            for number, _, source in self.fetches():
                receivers.setdefault(source, set()).add(number)
            assert all(len(some) <= MAX_RECEIVERS for some in receivers.values())

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Who waits is known to the directory, which says why; the rest follows from its tables."""
        if not hasattr(self, "d"):
            return
        for number, host in self.hosts.items():
            for object_id, source in host.searches.items():
                seeker = self.d.entries[object_id].seekers[number]
                assert bool(seeker.asked) == (source == 0)
                assert self.d.why(number, [object_id])
        for number, client in self.clients.items():
            for object_id, count in client.questions.items():
                if count:
                    assert self.d.entries[object_id].seekers[-number].asked == count

    def teardown(self) -> None:
        """Let all moves come to their end, then everybody go: nothing may be left."""
        if not hasattr(self, "d"):
            return
        for _ in range(5000):
            fetch = next(self.fetches(), None)
            if fetch is not None:
                self.end_fetch(*fetch, False)
                continue
            providing = [n for n, c in self.clients.items() if c.provides]
            if not providing:
                break
            number = providing[0]
            self.provide(number, *self.clients[number].provides.pop(), False)
        else:
            raise AssertionError("the directory and the hosts talk without end")
        assert not [h for h in self.hosts.values() if h.searches], "somebody waits in vain"
        assert not any(any(c.questions.values()) for c in self.clients.values())
        for task in list(self.results):
            del self.results[task]
            self.d.leave(task)
        for task in list(self.tasks):
            self.task_ends(0)
        for number, client in list(self.clients.items()):
            references, client.references = sorted(client.references), set()
            self.d.release(number, references)
        self.settle()
        assert not self.d.entries
        assert not self.d.references
        assert not self.d.with_client
        assert not self.d.sources.servers
        assert not any(host.store for host in self.hosts.values())
        assert not any(client.outbox for client in self.clients.values())


TestDirectory = Machine.TestCase
TestDirectory.settings = settings(
    deadline=None,
    max_examples=80,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
