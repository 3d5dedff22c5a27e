"""A scheduler with a client and a host over channels in memory, and what they say."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ipkernel.controller.clientlink import ClientLink
from ipkernel.controller.events import HostJoined, SessionOpened
from ipkernel.controller.hostlink import HostLink
from ipkernel.controller.instructions import Instruction, ToAllClients, ToClient, ToHost
from ipkernel.controller.journal import MemoryJournal
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.wire.memory import MemoryChannel, memory_channels
from ipkernel.wire.messages import Assign, Done, EngineJoined, Finished, Kind, Outcome, Submit


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
        far.watch()
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
