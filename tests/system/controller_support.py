"""A real controller in this process, and pretended clients and hosts that speak the wire to it."""

from __future__ import annotations

from contextlib import asynccontextmanager

from foolscap.api import Referenceable
from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ipkernel.controller.service import Controller
from ipkernel.wire.channel import Channel
from ipkernel.wire.doors import RIClient, RIHost
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import Assign, Done, EngineJoined, Outcome
from ipkernel.wire.records import (
    ClientHello,
    EngineAnswer,
    EngineOrder,
    HostGrant,
    HostHello,
    SessionGrant,
    Status,
    pack,
    unpack,
)
from ipkernel.wire.tub import call, connect, make_tub, open_channel

tcp._reservedFD.reserve()  # Twisted opens it once, when the first port is opened


class Peer(Referenceable):
    """One end of a channel with an inbox, and a way to wait for what comes."""

    def __init__(self, tub):
        self.tub = tub
        self.door = None
        self.channel = None
        self.inbox = []
        self.losses = []
        self._waiting = []

    def make_channel(self):
        return Channel(reactor, received=self.received, lost=self.lost)

    def received(self, channel, items):
        self.inbox += items
        for message, payload in items:
            self.arrived(message, payload)
        self.changed()

    def arrived(self, message, payload):
        pass

    def lost(self, channel, why):
        self.losses.append(why)
        self.changed()

    def changed(self):
        for item in list(self._waiting):
            condition, deferred = item
            if condition():
                self._waiting.remove(item)
                deferred.callback(None)

    def until(self, condition):
        deferred = Deferred()
        self._waiting.append((condition, deferred))
        self.changed()
        return deferred

    def of(self, kind):
        return [m for m, _ in self.inbox if isinstance(m, kind)]

    async def ask(self, method, request, answer):
        data = b"" if request is None else pack(request)
        return unpack(answer, await call(self.door, method, data))

    async def status(self):
        return await self.ask("status", None, Status)


@implementer(RIClient)
class FakeClient(Peer):
    """A client."""

    reason = ""

    def remote_closing(self, reason):
        self.reason = reason.decode()

    async def open(self, furl):
        self.door = await connect(self.tub, furl)
        hello = pack(ClientHello(user="me", host="here", pid=1))
        self.grant = unpack(SessionGrant, await call(self.door, "open", self, hello))
        self.session = self.grant.session
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        return self

    def tid(self, count):
        return (self.session << 40) + count


@implementer(RIHost)
class FakeHost(Peer):
    """A host daemon whose engines answer every task with its payload in capitals."""

    working = True
    name = "fake"

    def __init__(self, tub):
        super().__init__(tub)
        self.orders = []
        self.stopped = ""
        self.problem = ""

    async def join(self, furl, slots=2, engines=(), store=None):
        self.door = await connect(self.tub, furl)
        hello = pack(
            HostHello(host=self.name, pid=2, slots=slots, engines=list(engines), store=store)
        )
        self.grant = unpack(HostGrant, await call(self.door, "register", self, hello))
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        for number in self.grant.engines:
            self.channel.send(EngineJoined(number, self.name, 100 + number, 1))
        return self

    def arrived(self, message, payload):
        if isinstance(message, Assign) and self.working:
            self.done(message, bytes(payload).upper())

    def done(self, message, result=b"result"):
        done = Done(message.task, message.engine, Outcome.OK, 1.0, 1.00001, len(result))
        self.channel.send(done, result)

    def _answer(self, what, order):
        request = unpack(EngineOrder, order)
        self.orders.append((what, request))
        engines = [] if self.problem else request.engines
        self.changed()
        return pack(EngineAnswer(engines=engines, problem=self.problem))

    def remote_start_engines(self, order):
        for number in unpack(EngineOrder, order).engines:
            self.channel.send(EngineJoined(number, self.name, 100 + number, 1))
        return self._answer("start", order)

    def remote_stop_engines(self, order):
        return self._answer("stop", order)

    def remote_restart_engines(self, order):
        return self._answer("restart", order)

    def remote_signal_engines(self, order):
        return self._answer("signal", order)

    def remote_stop(self, reason):
        self.stopped = reason.decode()
        self.leave()

    def leave(self):
        reactor.callLater(0, self.tub.stopService)


class World:
    """A controller and whatever was connected to it."""

    def __init__(self, controller, furls):
        self.controller = controller
        self.furls = furls
        self.tubs = []
        self.stopped = False

    def tub(self):
        tub = make_tub(Identity.create(), reactor)
        self.tubs.append(tub)
        return tub

    async def client(self, **options):
        return await FakeClient(self.tub()).open(self.furls["client"], **options)

    async def host(self, slots=2, kind=FakeHost, **options):
        return await kind(self.tub()).join(self.furls["engine"], slots, **options)

    async def door(self, role):
        peer = Peer(self.tub())
        peer.door = await connect(peer.tub, self.furls[role])
        return peer

    async def stop(self):
        self.stopped = True
        await self.controller.stop()


@asynccontextmanager
async def world(**options):
    tub = make_tub(Identity.create(), reactor)
    await tub.listen()
    controller = Controller(tub, cluster="test", **options)
    w = World(controller, controller.open_doors())
    try:
        yield w
    finally:
        for other in w.tubs:
            if other.running:
                await other.stopService()
        if not w.stopped:
            await w.stop()
