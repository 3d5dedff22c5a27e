"""A scheduler with pretended clients and hosts around it, checked after every step."""

from __future__ import annotations

from random import Random

from ipkernel.controller.events import (
    Event,
    FromClient,
    FromHost,
    HostFacts,
    HostJoined,
    HostLost,
    Item,
    Result,
    SessionDetached,
    SessionOpened,
)
from ipkernel.controller.instructions import (
    Commit,
    Instruction,
    ToAllClients,
    ToClient,
    ToHost,
)
from ipkernel.controller.retention import Retained
from ipkernel.controller.scheduler import Scheduler
from ipkernel.wire.messages import (
    Assign,
    Copied,
    Done,
    EngineJoined,
    EngineLeft,
    Finished,
    Free,
    Kind,
    ObjectMade,
    Outcome,
    Reason,
    Reclaim,
    Release,
    Returned,
    Seek,
    Source,
    Submit,
    Terms,
)
from ipkernel.wire.records import StoreAccess

#: What every object here has, in bytes.
OBJECT_SIZE = 1_000_000


class Cluster:
    """Sessions 1..n and one host with some engines, driven by hand."""

    def __init__(
        self,
        engines: int = 0,
        clients: int = 1,
        *,
        checked: bool = True,
        retained: Retained | None = None,
        scheme: str = "leastload",
        random: Random | None = None,
    ) -> None:
        self.scheduler = Scheduler(checked=checked, retained=retained, scheme=scheme, random=random)
        self.now = 1_000_000.0
        self.last: list[Instruction] = []
        self.assigned: list[Assign] = []
        self.reclaims: list[Reclaim] = []
        self.told: list[Item] = []
        self.clients: list[int] = []
        self._sent_hosts: dict[int, list[Item]] = {}
        self._sent_clients: dict[int, list[Item]] = {}
        self._payloads: dict[int, bytes] = {}
        self._counts: dict[int, int] = {}
        self._hosts = 0
        if engines:
            self.add_host(engines)
        for number in range(1, clients + 1):
            self.clients.append(number)
            self.handle(SessionOpened(number, self.now, f"client {number}"))

    @property
    def session(self) -> int:
        return self.clients[0]

    # ------------------------------------------------------------------------ events

    def handle(self, *events: Event) -> list[Instruction]:
        self.now += 0.001
        self.last = self.scheduler.handle(*events)
        for index, instruction in enumerate(self.last):
            assert not isinstance(instruction, Commit) or index == 0
            self._follow(instruction)
        self.scheduler.validate()
        return self.last

    def _follow(self, instruction: Instruction) -> None:
        if isinstance(instruction, ToHost):
            self._sent_hosts.setdefault(instruction.host, []).extend(instruction.items)
            fresh: set[int] = set()
            for message, payload in instruction.items:
                assert message.size == len(payload)
                if isinstance(message, Assign):
                    self.assigned.append(message)
                    self._payloads[message.task] = bytes(payload)
                    fresh.add(message.engine)
                elif isinstance(message, Reclaim):
                    self.reclaims.append(message)
            for number in fresh:
                engine = self.scheduler.engines[number]
                assert len(engine.assigned) <= engine.window
        elif isinstance(instruction, ToClient):
            self._sent_clients.setdefault(instruction.session, []).extend(instruction.items)
        elif isinstance(instruction, ToAllClients):
            self.told += instruction.items

    def submit(
        self,
        count: int = 1,
        *,
        session: int | None = None,
        payload: bytes = b"payload",
        targets: list[int] | None = None,
        spread: bool = True,
        digest: bytes = b"",
        retries: int = 0,
        label: str = "",
        needs: list[bytes] | None = None,
        stored: bool = False,
        keep: bool = False,
        terms: Terms | None = None,
    ) -> list[int]:
        """Submit tasks in one event; return their ids."""
        session = self.session if session is None else session
        targets = targets or []
        each = 1 if spread or not targets else len(targets)
        start = (session << 40) + self._counts.get(session, 0)
        self._counts[session] = self._counts.get(session, 0) + count * each
        size = len(payload)
        items: list[Item] = [
            (
                Submit(
                    start + i * each,
                    Kind.APPLY,
                    size,
                    list(targets),
                    spread,
                    digest,
                    retries,
                    label,
                    needs or [],
                    stored,
                    keep,
                    terms,
                ),
                payload,
            )
            for i in range(count)
        ]
        self.from_client(*items, session=session)
        return list(range(start, start + count * each))

    def from_client(self, *items: Item, session: int | None = None) -> None:
        session = self.session if session is None else session
        self.handle(FromClient(session, list(items), self.now))

    # ----------------------------------------------------------------------- objects

    def made(self, object_id: bytes, *, host: int = 0, session: int | None = None) -> bytes:
        """Let a client say that there is an object; return its id."""
        self.from_client((ObjectMade(object_id, OBJECT_SIZE, host), b""), session=session)
        return object_id

    def release(self, *object_ids: bytes, session: int | None = None) -> None:
        self.from_client((Release(list(object_ids)), b""), session=session)

    def seek(self, host: int, object_id: bytes, failed: int = 0, problem: str = "") -> None:
        self.from_host((Seek(object_id, failed, problem), b""), host=host)

    def copied(self, host: int, *object_ids: bytes) -> None:
        self.from_host((Copied(list(object_ids)), b""), host=host)

    def freed(self, host: int) -> list[bytes]:
        """The objects that a host was told to free, in order."""
        return [o for m, _ in self.to_host(host) if isinstance(m, Free) for o in m.objects]

    def sources(self, host: int) -> list[Source]:
        return [m for m, _ in self.to_host(host) if isinstance(m, Source)]

    # ----------------------------------------------------------------------- messages

    def from_host(self, *items: Item, host: int | None = None) -> None:
        """Let a host send messages: by default the first, or that of the engine they name."""
        for message, _ in items:
            engine = self.scheduler.engines.get(getattr(message, "engine", -1))
            if host is None and engine is not None:
                host = engine.host.id
            if isinstance(message, Done | EngineLeft):
                task = message.task if isinstance(message, Done) else None
                self.assigned = [
                    a
                    for a in self.assigned
                    if a.engine != message.engine or task not in (None, a.task)
                ]
            elif isinstance(message, Returned):
                self.assigned = [a for a in self.assigned if a.task not in message.tasks]
        self.handle(FromHost(1 if host is None else host, list(items), self.now))

    def done(
        self,
        *tids: int,
        payload: bytes = b"r",
        outcome: Outcome = Outcome.OK,
        seconds: float = 1e-6,
        makes: bytes = b"",
    ) -> None:
        """Let engines end tasks that are assigned to them, in one event per host."""
        wanted = set(tids)
        ending = {a.task: a for a in self.assigned if a.task in wanted}
        assert set(ending) == wanted, "not assigned"
        self.assigned = [a for a in self.assigned if a.task not in wanted]
        hosts: dict[int, list[Item]] = {}
        for tid in tids:
            engine = ending[tid].engine
            host = self.scheduler.engines[engine].host.id
            message = Done(tid, engine, outcome, self.now, self.now + seconds, len(payload))
            if makes:
                payload = b""
                message = Done(
                    tid, engine, outcome, self.now, self.now + seconds, 0, makes, OBJECT_SIZE
                )
            hosts.setdefault(host, []).append((message, payload))
        self.handle(*[FromHost(host, items, self.now) for host, items in hosts.items()])

    def add_host(
        self,
        engines: int,
        *,
        join: bool = True,
        wanted: list[int] | None = None,
        store: bool = False,
        facts: HostFacts = HostFacts(),  # noqa: B008 - it is immutable
    ) -> list[int]:
        self._hosts += 1
        number = self._hosts
        ids = self.scheduler.take_ids(engines, wanted)
        access = StoreAccess(pin=f"pin-{number}", key=bytes([number]) * 32) if store else None
        self.handle(
            HostJoined(
                number,
                f"host-{number}",
                1000 + number,
                ids,
                self.now,
                f"tub-{number}",
                access,
                facts,
            )
        )
        if join:
            for engine in ids:
                self.join(engine)
        return ids

    def join(self, engine: int) -> None:
        host = self.scheduler.engines[engine].host
        self.handle(
            FromHost(host.id, [(EngineJoined(engine, host.name, 5000 + engine), b"")], self.now)
        )

    def leave(
        self,
        engine: int,
        reason: str,
        *,
        started: list[int],
        restarting: bool = False,
        loss: Reason | None = None,
    ) -> None:
        self.from_host((EngineLeft(engine, reason, restarting, started, loss), b""))

    def lose_host(self, host: int) -> None:
        lost = [n for n, e in self.scheduler.engines.items() if e.host.id == host]
        self.assigned = [a for a in self.assigned if a.engine not in lost]
        self.handle(HostLost(host, "connection lost", self.now))

    def detach(self, session: int) -> None:
        self.handle(SessionDetached(session, [], self.now))

    def warm_up(self) -> None:
        """Let every engine learn that tasks are tiny, so that it takes hundreds at once."""
        for _ in range(10):
            for number in list(self.scheduler.engines):
                tids = self.submit(
                    max(1, self.scheduler.engines[number].window), targets=[number], spread=True
                )
                self.done(*tids)
        for items in self._sent_clients.values():
            items.clear()

    # ----------------------------------------------------------------------- outcomes

    def forget(self) -> None:
        """Let go of all that was sent to anybody."""
        for kept in (self._sent_hosts, self._sent_clients, self._payloads, self.told, self.last):
            kept.clear()

    def to_host(self, host: int) -> list[Item]:
        return self._sent_hosts.get(host, [])

    def to_client(self, session: int) -> list[Item]:
        return self._sent_clients.get(session, [])

    def results(self, session: int | None = None) -> list[Result]:
        session = self.session if session is None else session
        return [(m, p) for m, p in self.to_client(session) if isinstance(m, Finished)]

    def finished(self, tid: int, session: int | None = None) -> Finished:
        [message] = [m for m, _ in self.results(session) if m.task == tid]
        return message

    def payload_for(self, tid: int) -> bytes:
        [payload] = [bytes(p) for m, p in self.results() if m.task == tid]
        return payload

    def payload_of(self, tid: int) -> bytes:
        return self._payloads[tid]

    def engine_of(self, tid: int) -> int:
        [engine] = [a.engine for a in self.assigned if a.task == tid]
        return engine
