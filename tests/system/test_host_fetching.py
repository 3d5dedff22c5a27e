"""Objects between the stores of two hosts: real stores, data ports and TLS; a controller that is a class."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.tcp import _reservedFD
from twisted.internet.threads import deferToThread

from ipkernel.errors import ObjectLost
from ipkernel.host.storage import Storage, make_storage
from ipkernel.host.storeoptions import StoreOptions
from ipkernel.objects.local import LocalStore
from ipkernel.objects.remote import RemoteStore
from ipkernel.objects.tickets import make_ticket
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Copied,
    Free,
    HostAccess,
    HostGone,
    Placed,
    Relay,
    Seek,
    SessionGone,
    Source,
)
from tests.support.reactor import inreactor, reactor

MB = 1 << 20

# Twisted opens /dev/null when a process listens for the first time, and keeps it.
_reservedFD.reserve()


class Relayed(Protocol):
    """The controller's end of one half of a relayed connection."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.head = b""
        self.other: Relayed | None = None

    def connectionMade(self) -> None:
        self.net.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)  # type: ignore[union-attr]
            return
        self.head += data
        if len(self.head) < 33 or self.net.halves.get(self.head[1:33]) is self:
            return  # the rest, or the other half, is still to come
        assert self.head[:1] == b"R"
        partner = self.net.halves.pop(self.head[1:33], None)
        if partner is None:
            self.net.halves[self.head[1:33]] = self
            return
        self.other, partner.other = partner, self
        for one, other in ((self, partner), (partner, self)):
            one.transport.registerProducer(other.transport, True)  # type: ignore[union-attr]
            if one.head[33:]:
                other.transport.write(one.head[33:])  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        self.net.open.discard(self)
        if self.other is not None:
            self.other.transport.loseConnection()  # type: ignore[union-attr]


class Host:
    """One host: its store, and what it tells the controller."""

    backlog = 0

    def __init__(self, net: Net, number: int, **options: Any) -> None:
        self.net = net
        self.number = number
        self.identity = Identity.create()
        options.setdefault("memory", "256MB")
        storage = make_storage(reactor(), self.identity, self, StoreOptions(**options))
        assert storage is not None
        self.storage: Storage = storage
        self.access = storage.access("127.0.0.1")
        storage.joined(number, "127.0.0.1", net.port)
        self.sent: list[Any] = []
        address, ticket = storage.admit("client")
        self.client = LocalStore(address, "client", ticket)

    @property
    def store(self) -> Any:
        return self.storage._plane.store  # type: ignore[union-attr]

    def send(self, message: Any, payload: Any = b"") -> None:
        self.sent.append(message)
        reactor().callLater(0, self.net.told, self, message)

    def require(self, *ids: bytes) -> Deferred[list[Placed]]:
        return self.storage.require(ids, "engine:1:1", 5)

    async def put(self, data: bytes, object_id: bytes = b"") -> bytes:
        object_id = object_id or os.urandom(16)
        await deferToThread(self.client.put, object_id, [data], len(data), owner=5)
        self.net.holders.setdefault(object_id, []).append(self.number)
        self.net.sizes[object_id] = len(data)
        return object_id

    async def get(self, object_id: bytes) -> bytes:
        return bytes(await deferToThread(self.client.get, object_id))


class Net:
    """Hosts, and a controller that knows where everything is and relays what it is asked to."""

    def __init__(self) -> None:
        self.hosts: dict[int, Host] = {}
        self.holders: dict[bytes, list[int]] = {}
        self.sizes: dict[bytes, int] = {}
        self.failed: list[Seek] = []
        self.hints: dict[int, list[str]] = {}
        self.halves: dict[bytes, Relayed] = {}
        self.open: set[Relayed] = set()
        self.relays = True
        self.listening: Any = None
        self.port = 0

    async def start(self, *options: dict[str, Any]) -> None:
        factory = Factory.forProtocol(lambda: Relayed(self))  # type: ignore[arg-type]
        factory.noisy = False
        endpoint = TCP4ServerEndpoint(reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(factory)
        self.port = self.listening.getHost().port
        for number, chosen in enumerate(options, 1):
            self.hosts[number] = Host(self, number, **chosen)

    async def stop(self) -> None:
        for host in self.hosts.values():
            host.client.close()
            await host.storage.close()
        await self.listening.stopListening()
        for half in list(self.open):
            half.transport.abortConnection()  # type: ignore[union-attr]
        while self.open:
            await deferLater(reactor(), 0.01)

    def introduce(self, to: Host, other: int) -> None:
        host = self.hosts[other]
        ticket = make_ticket(host.access.key, to.identity.tub_id)
        hints = self.hints.get(other, list(host.access.hints))
        to.storage.handle(
            HostAccess(
                other, f"n{other}", host.identity.tub_id, host.access.pin, hints,
                host.access.local, host.access.machine, ticket,
            )
        )  # fmt: skip

    def told(self, host: Host, message: Any) -> None:
        if isinstance(message, Seek):
            self.seek(host, message)
        elif isinstance(message, Copied):
            for object_id in message.objects:
                self.holders[object_id].append(host.number)
        elif isinstance(message, Relay):
            if not self.relays:
                host.storage.handle(Relay(message.host, b"", "relays are switched off"))
                return
            token = os.urandom(32)
            host.storage.handle(Relay(message.host, token))
            self.hosts[message.host].storage.handle(Relay(0, token))

    def seek(self, host: Host, message: Seek) -> None:
        if message.failed:
            self.failed.append(message)
            holders = self.holders[message.object]
            if message.failed in holders:
                holders.remove(message.failed)
        for holder in self.holders.get(message.object, []):
            self.introduce(host, holder)
            host.storage.handle(Source(message.object, self.sizes[message.object], holder))
            return
        host.storage.handle(Source(message.object, problem="nobody has it"))


def net_test(*options: dict[str, Any]) -> Any:
    """Run a test with hosts of these options, two by default."""

    def decorate(test: Any) -> Any:
        async def wrapped() -> None:
            net = Net()
            await net.start(*(options or ({}, {})))
            try:
                await test(net, *net.hosts.values())
            finally:
                await net.stop()
                gc.collect()  # errors that were raised in threads refer to the memory they filled

        wrapped.__name__ = test.__name__
        return inreactor(wrapped)

    return decorate


@net_test()
async def test_an_object_comes_from_the_other_host(net: Net, one: Host, two: Host) -> None:
    data = os.urandom(9 * MB + 7)
    blob = await one.put(data)
    placed = await two.require(blob)
    assert placed[0].size == len(data)
    assert two.sent == [Seek(blob), Copied([blob])]
    info = two.store.info(blob)
    assert info.digest and info.leases == 1
    two.storage.give_back([one.object for one in placed], "engine:1:1")
    assert two.store.stats().leased == 0 and not net.failed
    assert await two.get(blob) == data


@net_test({}, {}, {})
async def test_copies_are_handed_on(net: Net, one: Host, two: Host, three: Host) -> None:
    data = os.urandom(MB)
    blob = await one.put(data)
    await two.require(blob)
    one.storage.handle(Free([blob]))
    net.holders[blob] = [2]
    await three.require(blob)
    assert await three.get(blob) == data


@net_test()
async def test_many_objects_at_once(net: Net, one: Host, two: Host) -> None:
    blobs = [await one.put(bytes([n]) * (100_000 + n)) for n in range(20)]
    placed = await two.require(*blobs)
    assert [one.size for one in placed] == [100_000 + n for n in range(20)]
    for number in (0, 7, 19):
        assert await two.get(blobs[number]) == bytes([number]) * (100_000 + number)


@net_test()
async def test_an_empty_object(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(b"")
    assert (await two.require(blob))[0].size == 0


@net_test()
async def test_a_source_that_does_not_have_it(net: Net, one: Host, two: Host) -> None:
    missing = os.urandom(16)
    net.holders[missing], net.sizes[missing] = [1], MB
    with pytest.raises(ObjectLost, match="nobody has it"):
        await two.require(missing)
    assert [seek.failed for seek in net.failed] == [1]
    assert two.store.info(missing) is None


@net_test()
async def test_a_wrong_length_is_no_copy(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(b"x" * MB)
    net.sizes[blob] = MB + 1
    with pytest.raises(ObjectLost):
        await two.require(blob)
    assert two.store.info(blob) is None and net.failed


@net_test({}, {"memory": "1MB", "spill_limit": 0})
async def test_a_store_that_is_too_small(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(b"x" * (4 * MB))
    with pytest.raises(Exception, match="does not fit|no room|larger"):
        await two.require(blob)
    while not net.failed:  # the source is told, for it may serve somebody else
        await deferLater(reactor(), 0.01)
    assert net.failed[0].failed == 1


@net_test()
async def test_a_relay_when_the_host_cannot_be_dialled(net: Net, one: Host, two: Host) -> None:
    net.hints[1] = []
    data = os.urandom(5 * MB)
    blob = await one.put(data)
    await two.require(blob)
    assert Relay(1) in two.sent
    assert await two.get(blob) == data
    another = await one.put(data[:MB])
    await two.require(another)
    assert await two.get(another) == data[:MB]


@net_test()
async def test_neither_way(net: Net, one: Host, two: Host) -> None:
    net.hints[1] = []
    net.relays = False
    blob = await one.put(b"x" * MB)
    with pytest.raises(ObjectLost):
        await two.require(blob)
    assert "relays are switched off" in net.failed[0].problem


@net_test()
async def test_a_ticket_of_somebody_else(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(b"x" * MB)
    real = one.identity.tub_id

    def introduce(to: Host, other: int) -> None:
        access = net.hosts[other].access
        ticket = make_ticket(access.key, real)  # not the receiver's
        to.storage.handle(
            HostAccess(other, "n1", real, access.pin, list(access.hints), ticket=ticket,
                       machine=access.machine)
        )  # fmt: skip

    net.introduce = introduce  # type: ignore[method-assign]
    net.relays = False
    with pytest.raises(ObjectLost):
        await two.require(blob)
    assert net.failed


@net_test()
async def test_another_host_at_the_address(net: Net, one: Host, two: Host) -> None:
    """The certificate has to be the one that the controller has named."""
    blob = await one.put(b"x" * MB)
    net.hints[1] = list(two.access.hints)
    net.relays = False
    with pytest.raises(ObjectLost):
        await two.require(blob)


@net_test()
async def test_an_object_that_a_client_of_another_machine_brings(
    net: Net, one: Host, two: Host
) -> None:
    """Through the data port, while a task waits for it."""
    identity = Identity.create()
    access = HostAccess(
        1, "n1", one.identity.tub_id, one.access.pin, list(one.access.hints),
        machine=one.access.machine, ticket=make_ticket(one.access.key, identity.tub_id),
    )  # fmt: skip
    store = RemoteStore(access, identity)
    blob, data = os.urandom(16), os.urandom(2 * MB)
    net.seek = lambda host, message: host.storage.handle(Source(blob, len(data)))  # type: ignore[method-assign]
    waiting = one.require(blob)
    net.holders[blob] = []
    await deferToThread(store.put, blob, [data], len(data), owner=5)
    assert (await waiting)[0].size == len(data)
    assert one.sent == [Seek(blob), Copied([blob])]
    one.storage.handle(SessionGone(5))
    assert one.store.info(blob) is not None
    store.close()


@net_test()
async def test_a_fetch_that_nobody_wants_any_more(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(os.urandom(40 * MB))
    waiting = two.require(blob)
    failures: list[Any] = []
    waiting.addErrback(lambda failure: failures.append(failure.type))
    while two.storage._plane.objects.searches._searches[blob].transfer is None:  # type: ignore[union-attr]
        await deferLater(reactor(), 0)
    two.storage.handle(Free([blob]))
    assert failures == [ObjectLost]
    for _ in range(1000):
        stats = two.store.stats()
        if not (stats.objects or stats.leased):
            break
        await deferLater(reactor(), 0.01)
    assert (stats.objects, stats.leased, stats.used) == (0, 0, 0)


@net_test()
async def test_a_host_that_is_lost_while_it_is_fetched_from(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(os.urandom(40 * MB))
    waiting = two.require(blob)
    while two.storage._plane.objects.searches._searches[blob].transfer is None:  # type: ignore[union-attr]
        await deferLater(reactor(), 0)
    net.holders[blob] = []
    net.relays = False
    two.storage.handle(HostGone(1, "killed"))
    try:
        await waiting
    except ObjectLost:
        assert two.store.info(blob) is None
    else:  # it was there in time
        assert two.sent[-1] == Copied([blob])


@net_test()
async def test_closing_in_the_middle_of_a_fetch(net: Net, one: Host, two: Host) -> None:
    blob = await one.put(os.urandom(40 * MB))
    waiting = two.require(blob)
    failures: list[Any] = []
    waiting.addErrback(lambda failure: failures.append(failure.type))
    while two.storage._plane.objects.searches._searches[blob].transfer is None:  # type: ignore[union-attr]
        await deferLater(reactor(), 0)
    two.client.close()
    await two.storage.close()
    assert failures


@net_test()
async def test_a_controller_that_comes_back_knows_of_nothing(
    net: Net, one: Host, two: Host
) -> None:
    blob = await one.put(b"x" * MB)
    placed = await two.require(blob)
    two.storage.disconnected()
    assert two.store.info(blob) is not None  # results may still be told of
    two.storage.joined(7, "127.0.0.1", net.port)
    assert two.store.info(blob) is None
    two.storage.give_back([one.object for one in placed], "engine:1:1")
    assert two.store.stats().used == 0
