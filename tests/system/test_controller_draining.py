"""Engines drained by order, through real doors, with pretended hosts."""

from __future__ import annotations

import os
import socket

import pytest
from twisted.internet.defer import ensureDeferred

from ipkernel.errors import ConnectError, KernelError
from ipkernel.wire.messages import (
    Assign,
    Draining,
    EngineJoined,
    EngineLeft,
    Finished,
    Kind,
    Measured,
    Outcome,
    Submit,
    Vitals,
)
from ipkernel.wire.records import EngineAnswer, EngineOrder, HostGrant, HostHello, pack, unpack
from ipkernel.wire.tub import call, connect, open_channel
from tests.support.reactor import inreactor
from tests.system.controller_support import FakeHost, world


class SlowHost(FakeHost):
    """Its engines finish a task when they are told to; of itself it says more than others."""

    working = False

    async def join(self, furl, slots=2, **more):
        self.door = await connect(self.tub, furl)
        hello = pack(HostHello(host=self.name, pid=2, slots=slots, **more))
        self.grant = unpack(HostGrant, await call(self.door, "register", self, hello))
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        for number in self.grant.engines:
            self.channel.send(EngineJoined(number, self.name, 100 + number, 1))
        return self


async def busy(w, slots=2):
    """A host, a client, and a task for each engine."""
    host = await w.host(slots, SlowHost)
    client = await w.client()
    await client.until(lambda: len(client.of(EngineJoined)) + len(client.grant.engines) >= slots)
    for number in range(slots):
        message = Submit(client.tid(number), Kind.APPLY, 1, targets=[number], spread=False)
        client.channel.send(message, b"x")
    await host.until(lambda: len(host.of(Assign)) == slots)
    return host, client


def drain(admin, *engines, limit=0.0):
    order = EngineOrder(engines=list(engines), drain=True, limit=limit)
    return ensureDeferred(admin.ask("stop_engines", order, EngineAnswer))


def stops(host):
    return [order.engines for what, order in host.orders if what == "stop"]


@inreactor
async def test_an_engine_is_stopped_when_it_has_finished():
    async with world() as w:
        host, client = await busy(w)
        admin = await w.door("admin")
        answer = drain(admin, 1, 7)
        await client.until(lambda: client.of(EngineLeft))
        assert not stops(host) and not answer.called
        [task] = [m for m in host.of(Assign) if m.engine == 1]
        host.done(task)
        found = await answer
        assert (found.engines, found.problem) == ([1], "there is no engine 7")
        assert stops(host) == [[1]]
        await client.until(lambda: client.of(Finished))
        assert client.of(Finished)[0].outcome is Outcome.OK
        assert [e.engine for e in (await admin.status()).engines] == [0]


@inreactor
async def test_each_engine_is_stopped_as_soon_as_it_can_be():
    async with world() as w:
        host, _ = await busy(w)
        admin = await w.door("admin")
        answer = drain(admin)
        for number in (1, 0):
            host.done(next(m for m in host.of(Assign) if m.engine == number))
            await host.until(lambda number=number: [number] in stops(host))
        assert (await answer).engines == [0, 1]


@inreactor
async def test_two_who_want_the_same_engine_drained():
    async with world() as w:
        host, _ = await busy(w)
        admin = await w.door("admin")
        first, second = drain(admin, 0), drain(admin, 0)
        await admin.status()
        host.done(next(m for m in host.of(Assign) if m.engine == 0))
        assert (await first).engines == [0]
        assert (await second).engines == [0]


@inreactor
async def test_patience_has_an_end():
    async with world() as w:
        host, client = await busy(w)
        admin = await w.door("admin")
        answer = await drain(admin, 0, limit=0.05)
        assert (answer.engines, stops(host)) == ([0], [[0]])
        await client.until(lambda: client.of(Finished))
        assert client.of(Finished)[0].outcome is Outcome.LOST


@inreactor
async def test_an_engine_that_could_not_be_stopped_works_again():
    async with world() as w:
        host, client = await busy(w)
        admin = await w.door("admin")
        host.problem = "out of order"
        answer = drain(admin, 0)
        await client.until(lambda: client.of(EngineLeft))
        host.done(next(m for m in host.of(Assign) if m.engine == 0))
        assert (await answer).problem == "out of order"
        joined = len(client.of(EngineJoined))
        await client.until(lambda: len(client.of(EngineJoined)) >= max(1, joined))
        states = {e.engine: e.state for e in (await admin.status()).engines}
        assert states == {0: "ready", 1: "ready"}


@inreactor
async def test_a_host_that_is_lost_has_drained():
    async with world() as w:
        host, _ = await busy(w)
        admin = await w.door("admin")
        answer = drain(admin)
        await admin.status()
        await host.tub.stopService()
        assert (await answer).engines == [0, 1]


@inreactor
async def test_a_controller_that_stops_answers_as_long_as_it_can():
    async with world() as w:
        await busy(w)
        admin = await w.door("admin")
        answer = drain(admin)
        await admin.status()
        await w.stop()
        try:
            found = await answer
        except ConnectError:
            return  # the connection was gone first
        assert "stopped while engines" in found.problem


@inreactor
async def test_nothing_is_started_on_a_host_that_is_about_to_go():
    async with world() as w:
        host = await w.host(1, SlowHost, left=5.0)
        host.channel.send(Draining("time is nearly over"))
        admin = await w.door("admin")

        async def status():
            return (await admin.status()).hosts[0]

        while not (await status()).draining:
            pass
        answer = await admin.ask("start_engines", EngineOrder(count=1), EngineAnswer)
        assert "hosts that are about to go take no more" in answer.problem
        assert [what for what, _ in host.orders] == []


@inreactor
async def test_status_shows_what_processes_use():
    async with world(restarts=3) as w:
        host = await w.host(
            1, SlowHost, launcher="slurm", label="slurm job 17", left=100.0, restarts=1
        )
        used = [Vitals(-1, 10.0, 5000, 6, 1.0), Vitals(0, 20.0, 7000, 8, 2.0)]
        host.channel.send(Measured(used))
        admin = await w.door("admin")
        status = await admin.status()
        while not status.engines[0].memory:
            status = await admin.status()
        [shown], [engine] = status.hosts, status.engines
        assert (shown.launcher, shown.label, shown.restarts) == ("slurm", "slurm job 17", 1)
        assert (shown.cpu, shown.memory, shown.files, shown.started) == (10.0, 5000, 6, 1.0)
        assert 0.0 < shown.ends - shown.since <= 100.0
        assert (engine.cpu, engine.memory, engine.files, engine.started) == (20.0, 7000, 8, 2.0)
        assert (status.pid, status.host, status.restarts) == (os.getpid(), socket.gethostname(), 3)
        assert status.memory > 1_000_000 and status.files > 3 and status.started > 1e9


@inreactor
async def test_a_host_may_have_the_ids_that_it_had_if_they_are_free():
    async with world() as w:
        first = await w.host(2)
        assert first.grant.engines == [0, 1]
        await first.tub.stopService()
        admin = await w.door("admin")
        while (await admin.status()).hosts:
            pass
        other = await w.host(1)
        again = await w.host(3, engines=[1, 0, 5])
        assert (other.grant.engines, again.grant.engines) == ([0], [1, 2, 5])


@inreactor
async def test_a_host_may_not_claim_a_negative_time():
    async with world() as w:
        with pytest.raises(KernelError, match="left"):
            await w.host(1, SlowHost, left=-1.0)
