"""A controller that ends at once, and another one with the same journal, certificate and port."""

from __future__ import annotations

from contextlib import asynccontextmanager

from twisted.internet import reactor
from twisted.internet.task import deferLater

from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.service import Controller
from ipkernel.controller.sqlitejournal import SqliteJournal
from ipkernel.errors import ConnectError
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Assign,
    Closing,
    EngineJoined,
    EngineLeft,
    Finished,
    Held,
    Holding,
    Kind,
    Started,
    Submit,
)
from ipkernel.wire.records import (
    ClientHello,
    HostGrant,
    HostHello,
    Resume,
    SessionGrant,
    pack,
    unpack,
)
from ipkernel.wire.tub import call, connect, make_tub, open_channel
from tests.support.reactor import inreactor
from tests.system.controller_support import FakeClient, FakeHost


async def reach(tub, furl):
    """Connect, as soon as there is somebody."""
    while True:
        try:
            return await connect(tub, furl)
        except ConnectError:
            await deferLater(reactor, 0.02)


class Host(FakeHost):
    """A host that comes back as the one that it was; it works when it is told to."""

    working = False

    async def back(self, furl, *, received=None, life=None, engines=None):
        self.door = await reach(self.tub, furl)
        grant = self.grant
        resume = Resume(
            number=grant.host_id,
            life=grant.life if life is None else life,
            received=len(self.inbox) if received is None else received,
        )
        engines = grant.engines if engines is None else engines
        hello = HostHello(host=self.name, pid=2, slots=len(engines), engines=engines, resume=resume)
        self.grant = unpack(HostGrant, await call(self.door, "register", self, pack(hello)))
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        return self.grant

    def tell(self, held):
        """Say what engines have, to a controller that was started again."""
        for number in self.grant.engines:
            self.channel.send(EngineJoined(number, self.name, 100 + number, 1))
            self.channel.send(Holding(number, 1, held.get(number, [])))
        self.channel.send(Held([], []))
        self.channel.send(Started([]))


class Client(FakeClient):
    """A client that comes back to its session."""

    async def back(self, furl):
        self.door = await reach(self.tub, furl)
        grant = self.grant
        resume = Resume(number=grant.session, life=grant.life, received=len(self.inbox))
        hello = pack(ClientHello(user="me", host="here", pid=1, resume=resume))
        self.grant = unpack(SessionGrant, await call(self.door, "open", self, hello))
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        self.channel.send(Held([]))
        return self.grant


class World:
    """Controllers that follow each other, and their peers."""

    def __init__(self, path):
        self.path = path
        self.identity = Identity.create()
        self.names = None
        self.port = 0
        self.tubs = []
        self.controller = self.journal = None

    async def start(self, **options):
        tub = make_tub(self.identity, reactor)
        self.port = await tub.listen(port=self.port)
        self.journal = SqliteJournal(self.path, cluster="test", reactor=reactor)
        self.controller = Controller(
            tub, cluster="test", journal=self.journal,
            scheduler=Scheduler(checked=True), **options,
        )  # fmt: skip
        furls = self.controller.open_doors(self.names)
        self.furls = furls
        self.names = {role: furl.swissnum for role, furl in furls.items()}

    async def end(self):
        """What is left of a killed one: nothing is said to anybody, and nothing written down."""
        controller, self.controller = self.controller, None
        journal = self.journal
        journal.commit = lambda records: None
        await controller._close()
        journal.close()

    def tub(self):
        tub = make_tub(Identity.create(), reactor)
        self.tubs.append(tub)
        return tub


@asynccontextmanager
async def world(path):
    w = World(path)
    await w.start()
    try:
        yield w
    finally:
        for tub in w.tubs:
            if tub.running:
                await tub.stopService()
        if w.controller is not None:
            await w.controller.stop()
            w.journal.close()


async def busy(w, tasks=3):
    host = await Host(w.tub()).join(w.furls["engine"], 2)
    client = await Client(w.tub()).open(w.furls["client"])
    for number in range(tasks):
        client.channel.send(Submit(client.tid(number), Kind.APPLY, 1), b"x")
    await host.until(lambda: len(host.of(Assign)) == min(2, tasks))
    return host, client


@inreactor
async def test_tasks_outlive_the_controller(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, client = await busy(w)
        life = w.controller.life
        begun, sent = host.of(Assign)
        await w.end()
        await w.start()
        assert w.controller.life == life + 1
        granted = await client.back(w.furls["client"])
        assert (granted.session, granted.life) == (client.session, life + 1)
        assert (granted.resumed.same, granted.resumed.taken) == (False, 3)
        old = host.grant
        grant = await host.back(w.furls["engine"])
        assert (grant.resumed.same, grant.resumed.taken) == (False, 0)
        assert (grant.host_id, grant.engines) == (old.host_id, old.engines)
        host.tell({begun.engine: [begun.task]})
        host.done(begun)
        await host.until(lambda: len(host.of(Assign)) == 4)
        again = host.of(Assign)[2:]
        assert {m.task for m in again} == {client.tid(n) for n in range(3)} - {begun.task}
        for message in again:
            host.done(message)
        await client.until(lambda: len(client.of(Finished)) == 3)
        assert sorted(m.task for m in client.of(Finished)) == [client.tid(n) for n in range(3)]


@inreactor
async def test_a_controller_that_was_stopped_in_good_order_begins_without_tasks(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, client = await busy(w)
        life = w.controller.life
        await w.controller.stop()
        w.journal.close()
        await w.start()
        assert w.controller.life == life + 1
        assert not w.controller.scheduler.tasks
        assert not w.controller.scheduler.sessions
        assert not w.controller.scheduler.hosts
        assert (await client.back(w.furls["client"])).resumed is None


@inreactor
async def test_numbers_of_those_who_are_forgotten_do_not_come_again(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        client = await Client(w.tub()).open(w.furls["client"])
        other = await Client(w.tub()).open(w.furls["client"])
        host = await FakeHost(w.tub()).join(w.furls["engine"])
        for peer in (other, host):
            peer.channel.send(Closing("enough"))
            await peer.tub.stopService()
        scheduler = w.controller.scheduler
        await client.until(lambda: client.of(EngineLeft))
        while other.session in scheduler.sessions or scheduler.hosts:
            await deferLater(reactor, 0.01)
        await w.end()
        await w.start()
        await client.back(w.furls["client"])
        new = await Client(w.tub()).open(w.furls["client"])
        assert new.session > other.session > client.session
        again = await FakeHost(w.tub()).join(w.furls["engine"])
        assert again.grant.host_id > host.grant.host_id


@inreactor
async def test_a_host_that_stays_away_after_a_restart_is_lost(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, client = await busy(w, 1)
        await w.end()
        await w.start(restart_grace=0.3)
        await client.back(w.furls["client"])
        await client.until(lambda: client.of(Finished))
        assert client.of(Finished)[0].attempts == 1
        grant = await host.back(w.furls["engine"])
        assert grant.resumed is None, "it comes too late"
        assert grant.host_id != 1


@inreactor
async def test_a_connection_that_is_lost_for_a_moment_costs_nothing(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, client = await busy(w)
        first, second = host.of(Assign)
        received = len(host.inbox)
        host.channel.abort("cut")
        await host.until(lambda: host.losses)
        grant = await host.back(w.furls["engine"])
        assert grant.resumed.same
        assert grant.resumed.taken == 2, "its engines were ready"
        host.done(first)
        await host.until(lambda: len(host.of(Assign)) == 3)
        assert len(host.inbox) == received + 1, "nothing came twice"
        host.done(second)
        host.done(host.of(Assign)[2])
        await client.until(lambda: len(client.of(Finished)) == 3)


@inreactor
async def test_a_host_that_names_an_engine_twice_has_it_once(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, _ = await busy(w)
        ours = host.grant.engines
        other = await FakeHost(w.tub()).join(w.furls["engine"], slots=1)
        host.channel.abort("cut")
        await host.until(lambda: host.losses)
        claimed = [ours[1], ours[1], *other.grant.engines, ours[0]]
        grant = await host.back(w.furls["engine"], engines=claimed)
        assert grant.resumed.same
        assert [grant.engines[0], grant.engines[3]] == [ours[1], ours[0]]
        assert len({*grant.engines, *other.grant.engines}) == 5
        known = w.controller.scheduler.hosts[grant.host_id].engines
        assert sorted(known) == sorted(grant.engines)


@inreactor
async def test_what_a_host_has_not_got_is_sent_again(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, _ = await busy(w)
        host.channel.abort("cut")
        await host.until(lambda: host.losses)
        sent = [m.task for m in host.of(Assign)]
        received = len(host.inbox) - 2
        host.inbox.clear()
        await host.back(w.furls["engine"], received=received)
        await host.until(lambda: len(host.of(Assign)) == 2)
        assert [m.task for m in host.of(Assign)] == sent


@inreactor
async def test_a_host_that_claims_what_cannot_be_begins_anew(tmp_path):
    async with world(tmp_path / "journal.sqlite") as w:
        host, client = await busy(w, 1)
        host.channel.abort("cut")
        await host.until(lambda: host.losses)
        grant = await host.back(w.furls["engine"], received=10_000)
        assert grant.resumed is None
        await client.until(lambda: client.of(Finished))
