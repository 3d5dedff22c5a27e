"""Peers that say anything, in any order: the scheduler believes what can be, and its tables agree."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.controller.events import (
    EnginesDraining,
    Event,
    FromClient,
    FromHost,
    HostAway,
    HostBack,
    HostJoined,
    HostLost,
    Item,
    RestartOver,
    SessionDetached,
    SessionHeld,
    SessionResumed,
    Tick,
)
from ipkernel.controller.instructions import EnginesDrained
from ipkernel.wire.messages import (
    Cancel,
    Closing,
    Copied,
    Dependency,
    Done,
    Draining,
    EngineJoined,
    EngineLeft,
    Fetch,
    Function,
    Held,
    Holding,
    HostGone,
    Kind,
    Measured,
    NotProvided,
    ObjectMade,
    Outcome,
    Output,
    Past,
    Reason,
    Recovery,
    Relay,
    Release,
    Resubmit,
    Returned,
    Seek,
    Started,
    Stream,
    Submit,
    Terms,
    Vitals,
)
from tests.support.scheduling import Cluster

OBJECTS = [bytes([number]) * 16 for number in range(1, 5)]
DIGEST = b"d" * 16


class Liars:
    """Two clients and three hosts, whose messages fit the schema and are otherwise by chance."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.cluster = Cluster(engines=2, clients=2)
        self.cluster.add_host(1, store=True)
        self.cluster.add_host(2, store=True)

    # ------------------------------------------------------------------------- parts

    def one_of(self, *what: Any) -> Any:
        return self.random.choice(what)

    def some(self, make: Callable[[], Any], most: int = 2) -> list[Any]:
        return [make() for _ in range(self.random.randint(0, most))]

    def maybe(self) -> bool:
        return self.random.random() < 0.5

    def task(self) -> int:
        known = list(self.cluster.scheduler.tasks)
        if known and self.random.random() < 0.6:
            return self.random.choice(known)
        return (self.random.randrange(4) << 40) + self.random.randrange(40)

    def tasks(self) -> list[int]:
        return self.some(self.task, 3)

    def engine(self) -> int:
        return int(self.one_of(-1, 0, 1, 2, 3, 4, 9))

    def host(self) -> int:
        return int(self.one_of(0, 1, 2, 3, 7))

    def object(self) -> bytes:
        return self.random.choice(OBJECTS)

    def objects(self) -> list[bytes]:
        return self.some(self.object)

    def time(self) -> float:
        return float(self.one_of(0.0, 1.0, self.cluster.now, self.cluster.now + 5, 1e11))

    def payload(self) -> bytes:
        return bytes(self.one_of(0, 1, 5))

    def past(self) -> Past:
        return Past(self.task(), self.engine(), self.maybe())

    def dependency(self) -> Dependency | None:
        if self.random.random() < 0.6:
            return None
        return Dependency(
            self.tasks(), self.some(self.past), self.maybe(), self.maybe(), self.maybe()
        )

    def terms(self) -> Terms | None:
        if self.maybe():
            return None
        return Terms(
            self.random.randint(-3, 3),
            self.one_of(0.0, 5.0),
            self.dependency(),
            self.dependency(),
            self.one_of(None, {}, {"gpu": 1.0}),
            self.one_of(None, {}, {"a": 1}),
            self.random.randrange(4),
            self.one_of(None, Recovery(b"", b"x"), Recovery(DIGEST, b"")),
        )

    # ---------------------------------------------------------------------- messages

    def submit(self) -> Item:
        payload = self.payload()
        message = Submit(
            self.task(),
            self.random.choice(list(Kind)),
            len(payload),
            self.some(self.engine),
            self.maybe(),
            self.one_of(b"", DIGEST),
            self.random.randrange(2),
            self.one_of("", "x"),
            self.some(self.object, 1),
            self.maybe(),
            self.maybe(),
            self.terms(),
        )
        return message, payload

    def done(self) -> Item:
        payload = self.payload()
        message = Done(
            self.task(),
            self.engine(),
            self.random.choice(list(Outcome)),
            self.time(),
            self.time(),
            len(payload),
            self.one_of(b"", b"short", *OBJECTS),
            self.one_of(0, 10),
        )
        return message, payload

    def output(self) -> Item:
        payload = self.payload()
        stream = self.random.choice(list(Stream))
        serial = self.random.randrange(3)
        return Output(self.task(), self.engine(), stream, len(payload), serial), payload

    def made(self) -> ObjectMade:
        return ObjectMade(self.object(), self.one_of(0, 10), self.host(), self.one_of(0, 1, 2, 9))

    def held(self) -> Held:
        return Held(self.objects(), self.one_of([], [1], [1, 2]), self.maybe())

    def left(self) -> EngineLeft:
        reason = self.one_of(None, Reason("engine", "x"))
        return EngineLeft(
            self.engine(), "gone", self.maybe(), self.tasks(), reason, self.maybe()
        )  # fmt: skip

    def of_client(self) -> Item:
        chance = self.random.random()
        if chance < 0.4:
            return self.submit()
        if chance < 0.95:
            message: Any = self.one_of(
                Cancel(self.tasks(), self.one_of(0, 1), self.one_of(0, 1000)),
                Fetch(self.tasks()),
                Release(self.objects()),
                Resubmit(self.task(), self.task()),
                Seek(self.object(), self.host(), "p"),
                NotProvided(self.object(), self.host(), "no"),
                Relay(self.host()),
                self.made(),
                self.held(),
            )
            return message, b""
        return self.one_of((Function(DIGEST, 1), b"f"), (Function(b"", 0), b""), self.of_host())

    def of_host(self) -> Item:
        chance = self.random.random()
        if chance < 0.3:
            return self.done()
        if chance < 0.4:
            return self.output()
        if chance < 0.98:
            message: Any = self.one_of(
                EngineJoined(self.engine(), "h", self.one_of(0, -1, 5), 1, self.host()),
                self.left(),
                Started(self.tasks()),
                Returned(self.engine(), self.tasks()),
                Holding(self.engine(), self.random.randrange(3), self.tasks()),
                self.held(),
                Copied(self.objects()),
                self.made(),
                Seek(self.object(), self.host(), "p"),
                Relay(self.host()),
                Draining("d"),
                Closing("c"),
                Measured([Vitals(self.engine())]),
            )
            return message, b""
        return self.of_client()

    # ------------------------------------------------------------------------ events

    def event(self) -> Event | None:
        now = self.cluster.now
        chance = self.random.random()
        number = self.random.randint(1, 3)
        host = self.cluster.scheduler.hosts.get(number)
        if chance < 0.45:
            items = self.some(self.of_host, 3)
            # A link says nothing of a host that is away.
            return FromHost(number, items, now) if host is None or host.away is None else None
        if chance < 0.85:
            return FromClient(number, self.some(self.of_client, 3), now)
        if chance < 0.92:
            if host is None:
                return None
            engines = list(host.engines)[: self.random.randrange(4)]
            engines += self.cluster.scheduler.take_ids(self.random.randrange(2))
            joined = HostJoined(number, "h", 5, engines, now, "t")
            return HostBack(number, now, engines, self.one_of(None, joined))
        event: Event = self.one_of(
            HostAway(number, "cut", now + 2, now),
            HostAway(number, "cut", now + 2, now),
            SessionDetached(number, [], now, self.one_of(0.0, 5.0)),
            SessionResumed(number, now),
            SessionHeld(number, self.maybe(), now),
            self.one_of(RestartOver(now), Tick(now), HostLost(number, "x", now)),
        )
        return event


@given(st.integers(0, 1 << 32))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_whatever_peers_say_the_tables_agree(seed: int) -> None:
    liars = Liars(seed)
    scheduler = liars.cluster.scheduler
    for _ in range(50):
        event = liars.event()
        if event is not None:
            liars.cluster.handle(event)  # which looks whether they do
        for task in list(scheduler.tasks)[:3]:
            assert scheduler.explain(task).reason


def test_a_task_that_is_to_wait_for_nothing_runs() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(targets=[1], terms=Terms(after=Dependency(), follow=Dependency(all=False)))
    assert c.engine_of(task) == 1


def test_a_task_with_the_id_of_one_that_has_ended_has_its_label_once() -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2, label="x")
    c.done(first)
    again = Submit(first, Kind.APPLY, 0, label="x")
    c.from_client((again, b""))
    assert c.scheduler.labelled("x", 10) == [second, first]


def anew(c: Cluster, host: int, engines: list[int]) -> HostBack:
    """A host is back that says it has spoken to another life of the controller."""
    return HostBack(
        host, c.now, engines, HostJoined(host, f"host-{host}", 5, engines, c.now, f"tub-{host}")
    )


def test_a_host_is_cut_off_twice_before_it_has_said_what_it_has() -> None:
    c = Cluster(engines=1)
    [task] = c.submit()
    c.handle(HostAway(1, "cut", c.now + 2, c.now))
    c.handle(anew(c, 1, [0]))
    c.handle(HostAway(1, "cut", c.now + 2, c.now))
    c.handle(HostBack(1, c.now, [0]))
    assert c.scheduler.engines[0].state == "away"
    c.from_host((EngineJoined(0, "h", 7), b""), (Holding(0, 0, [task]), b""), (Held([]), b""))
    c.done(task)
    assert c.finished(task).outcome is Outcome.OK


def test_an_engine_that_drains_still_does_when_its_host_begins_anew() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(targets=[0], spread=False)
    c.handle(EnginesDraining([0], "there are too many", c.now))
    c.handle(HostAway(1, "cut", c.now + 2, c.now))
    c.handle(anew(c, 1, [0]))
    c.from_host((EngineJoined(0, "h", 7), b""), (Holding(0, 0, [task]), b""), (Held([]), b""))
    c.done(task)
    assert [i.engines for i in c.last if isinstance(i, EnginesDrained)] == [[0]]


def test_hosts_are_told_of_the_end_of_one_whose_store_they_know() -> None:
    c = Cluster()
    for _ in range(2):
        c.add_host(1, store=True)
    c.made(OBJECTS[0], host=2)
    c.seek(1, OBJECTS[0])
    c.handle(HostAway(2, "cut", c.now + 2, c.now))
    c.handle(anew(c, 2, [1]))  # without a store
    c.lose_host(2)
    assert [m.host for m, _ in c.to_host(1) if isinstance(m, HostGone)] == [2]
