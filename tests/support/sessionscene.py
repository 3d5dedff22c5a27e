"""A client's session, the controller's half of it and one host, on connections that can be cut anywhere.

Everything is in memory and moves when the test says so: the client side is a real session with its
courier, the controller's a real scheduler with links and sessions; the host is pretended.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ipkernel.client.asyncresult import AsyncResult
from ipkernel.client.courier import Courier
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.controller import clientele
from ipkernel.controller.clientele import Clients
from ipkernel.controller.events import (
    FromClient,
    FromHost,
    HostJoined,
    SessionDetached,
    SessionOpened,
)
from ipkernel.controller.instructions import (
    DropClient,
    ToAllClients,
    ToClient,
    ToHost,
)
from ipkernel.controller.journal import Ended, Forgotten, MemoryJournal, Printed, Submitted
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.serialize.calls import CallPayload
from ipkernel.serialize.payload import dumps
from ipkernel.wire.memory import memory_channels
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    Kind,
    Outcome,
    Output,
    Stream,
    Submit,
)
from ipkernel.wire.records import ClientHello, Resume, StoreAccess

#: Seconds that the controller waits for a client that is away.
GRACE = 60.0


class Reference:
    """Stands for the client's Foolscap object on one connection."""

    def __init__(self, tub_id: str) -> None:
        self.tub_id = tub_id
        self._watchers: dict[int, Any] = {}

    def notifyOnDisconnect(self, call: Any, *args: Any) -> int:
        self._watchers[len(self._watchers)] = (call, args)
        return len(self._watchers) - 1

    def dontNotifyOnDisconnect(self, watcher: int) -> None:
        del self._watchers[watcher]

    def disconnect(self) -> None:
        """Tell that the connection is lost."""
        for call, args in list(self._watchers.values()):
            call(*args)


class Connection:
    """One connection between them; its two ends may learn of its end at different times."""

    def __init__(self, scene: Scene, near: Any, link: Any, reference: Reference) -> None:
        self.near, self.far = near, link.make_channel()
        self.link = link
        self.reference = reference
        _, _, self.pump = memory_channels(scene.clock, near, self.far)

    def open(self) -> None:
        """The controller sees the ticket."""
        self.link.opened(self.far)

    def cut(self, client: bool = True, controller: bool = True) -> None:
        """End it; what is under way is lost. An end that is not told believes in it still."""
        for end in (self.near, self.far):
            end.transport.pending.clear()
            end.transport.frozen = True
        if client:
            self.near.connectionLost(Failure(ConnectionLost()))
        if controller:
            self.far.connectionLost(Failure(ConnectionDone()))


class KeptJournal(MemoryJournal):
    """A journal that keeps its records for the next controller."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def commit(self, records: Any) -> None:
        super().commit(records)
        self.kept += records


class Scene:
    """See the module.

    Attributes:
        session: The client's.
        clients: The controller's sessions.
        runs: How often each task was begun.
        to_host: What the host was sent.
        refused: Why the client was not let in again, or None.
        granted: For each connection how the session went on: True if exactly, False if it had to
            be told what is so, None for the first.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.patch(monkeypatch)
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.journal = KeptJournal()
        self.life = 0
        self.numbers = count(1)
        self.runs: Counter[int] = Counter()
        self.to_host: list[Any] = []
        self.refused: BaseException | None = None
        self.granted: list[bool | None] = []
        self.connection: Connection | None = None
        self.assigned: list[tuple[Assign, Any]] = []
        self.serial = 0
        self.courier: Courier
        self.session: Session
        self._opening: list[Any] = []  # shared with others
        self.start()
        self.connect()
        self.work()

    @staticmethod
    def patch(monkeypatch: Any) -> None:
        """Have peers known by what stands for them."""
        monkeypatch.setattr(clientele, "peer_tub_id", lambda reference: reference.tub_id)

    # ------------------------------------------------- the controller

    def start(self) -> None:
        """Start a controller with an engine."""
        self.life += 1
        self.scheduler = Scheduler(checked=True)
        self.turn = Turn(self.clock, self.scheduler, self.journal, self.follow)
        self.clients = Clients(
            self.clock,
            self.scheduler,
            self.turn,
            self.admit,
            life=self.life,
            number=self.numbers.__next__,
            grace=GRACE,
        )
        store = StoreAccess(pin="pin", key=bytes(32))
        engines = self.scheduler.take_ids(1)
        self.turn.add(HostJoined(1, "h", 1, engines, self.turn.now(), "host", store))
        self.from_host((EngineJoined(0, "h", 7, 1), b""))

    def restart(self) -> None:
        """Kill the controller, and start another one that knows what the journal has."""
        self.clock.advance(0)  # what hosts have said so far is in the journal
        if self.connection is not None:
            self.connection.cut()
        self.clients.close("killed")  # its timers end with it
        kept = self.journal.kept
        self.journal = KeptJournal()
        self.assigned = []  # what had begun has ended, and is in the journal
        self.start()
        number = self.session.number
        submitted = [r for r in kept if isinstance(r, Submitted)]
        ended = {item[0].task: item for r in kept if isinstance(r, Ended) for item in r.items}
        forgotten = {task for r in kept if isinstance(r, Forgotten) for task in r.tasks}
        printed = [i for r in kept if isinstance(r, Printed) for i in r.items]
        open_items = [
            item
            for r in submitted
            for item in r.items
            if not (isinstance(item[0], Submit) and item[0].task in ended)
        ]
        results = [item for task, item in ended.items() if task not in forgotten]
        now = self.turn.now()
        self.turn.add(SessionOpened(number, now, "", "client"))
        self.turn.add(FromClient(number, open_items, now))
        self.turn.add(SessionDetached(number, [*printed, *results], now, 600.0))
        self.clock.advance(0)
        self.scheduler.sessions[number].taken = submitted[-1].taken if submitted else 0
        self.journal.kept = kept  # the restored state is no news

    def from_host(self, *items: Any) -> None:
        self.turn.add(FromHost(1, list(items), self.turn.now()))

    def follow(self, instructions: Any) -> None:
        for one in instructions:
            if isinstance(one, ToHost):
                self.to_host += [message for message, _ in one.items]
                self.assigned += [item for item in one.items if isinstance(item[0], Assign)]
            elif isinstance(one, ToClient):
                self.clients.deliver(one.session, one.items)
            elif isinstance(one, ToAllClients):
                self.clients.deliver_to_all(one.items)
            elif isinstance(one, DropClient):
                self.clients.drop(one.session, one.reason)
        self.clients.acknowledge_late()

    def admit(self, link: Any, reference: Any) -> bytes:
        link.watch(reference)
        self._opening.append(link)
        return b""

    def finish(self, count: int = 1, printed: int = 1) -> None:
        """Have the host run so many of its tasks; each answers with its payload, and prints."""
        for _ in range(min(count, len(self.assigned))):
            message, payload = self.assigned.pop(0)
            self.runs[message.task] += 1
            for line in range(printed):
                self.serial += 1
                text = b"%d\n" % line
                output = Output(message.task, 0, Stream.STDOUT, len(text), self.serial)
                self.from_host((output, text))
            done = Done(message.task, 0, Outcome.OK, 1.0, 1.00001, message.size)
            self.from_host((done, payload))

    # ------------------------------------------------- the client

    def submit(self, value: object) -> AsyncResult:
        result = AsyncResult(self.session, True)
        self.session.submit(result, Kind.APPLY, CallPayload(b"", b"", dumps(value)))
        return result

    def connect(self) -> bool:
        """Make a connection, for the session if there is one; tell whether it came to that."""
        first = not hasattr(self, "courier")
        resume = None
        if not first:
            received = self.courier.received
            resume = Resume(number=self.session.number, life=self.known_life, received=received)
        reference = Reference("client")
        opened = self.clients.open(reference, ClientHello(resume=resume))
        granted: list[Any] = []
        opened.addCallbacks(granted.append, lambda failure: setattr(self, "refused", failure.value))
        self.clock.advance(0)
        if not granted:
            return False
        (grant,) = granted
        resumed = grant.resumed
        self.granted.append(None if resumed is None else resumed.same)
        if first:
            self.session = Session(grant.number, self._wake, Engines())
            self.courier = Courier(self.clock, self.session)
        elif resumed.same:
            self.courier.resume(resumed.taken)
        else:
            self.courier.renew(resumed.taken)
        self.known_life = self.life
        link = self._opening.pop()
        near = self.courier.make_channel(self._lost)
        self.connection = Connection(self, near, link, reference)
        self.connection.open()
        self.courier.drain()
        return True

    def _wake(self) -> None:
        self.clock.callLater(0, lambda: self.courier.drain())

    def _lost(self, why: str) -> None:
        self.courier.disconnect()
        self.connection = None

    def cut(self, controller: bool = True) -> None:
        """Cut the connection; the controller may not notice."""
        if self.connection is not None:
            self.connection.cut(controller=controller)

    # ------------------------------------------------- time

    def move(self, chunk: int = 65536, rounds: int | None = None) -> None:
        """Let bytes move: so many in each direction, so often."""
        self.clock.advance(0)
        if self.connection is not None:
            self.connection.pump(chunk, rounds)
        self.clock.advance(0)

    def work(self, turns: int = 4) -> None:
        """Let everything happen that can, without time passing."""
        for _ in range(turns):
            self.move()
            self.finish(1 << 20)
        self.move()

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(0.5)
            self.move()

    def of_other(self) -> Scene:
        """Return the same controller as another client sees it, which is connected to it."""
        other = Scene.__new__(Scene)
        other.__dict__.update(self.__dict__)
        del other.__dict__["courier"], other.__dict__["session"]
        other.connection = None
        other.connect()
        return other

    def close(self) -> None:
        """End both sides."""
        self.courier.stop()
        self.clients.close("the end")
        self.clock.advance(0)
