"""What somebody can do who knows no more than the address: next to nothing."""

from __future__ import annotations

import logging

import pytest
from foolscap.referenceable import SturdyRef
from foolscap.tokens import RemoteException
from OpenSSL import SSL
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python import log as twisted_log
from zope.interface import implementer

from ipkernel.errors import ConnectError
from ipkernel.wire import negotiation
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import Cancel
from ipkernel.wire.negotiation import INBOUND_TOKEN, InboundBroker
from ipkernel.wire.security import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    TubTLS,
)
from ipkernel.wire.tub import call, connect, open_channel
from tests.support.reactor import inreactor
from tests.system.wire_support import Door, Inbox, Raw, in_turn, port_of, tubs

try:
    import resource
except ImportError:
    resource = None


@pytest.fixture(autouse=True)
def quiet(capfd, caplog):
    """Nothing that a stranger does shows as a traceback, an error or a line above debug level."""
    events = []
    twisted_log.addObserver(events.append)
    caplog.set_level(logging.DEBUG, "ipkernel")
    yield caplog
    twisted_log.removeObserver(events.append)
    errors = [e for e in events if e.get("isError")]
    assert errors == []
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []
    assert all(len(r.getMessage()) < 400 and "\n" not in r.getMessage() for r in caplog.records)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class OldTLS:
    """A client that cannot do better than TLS 1.2."""

    def __init__(self, identity):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.use_privatekey(identity.key)
        context.use_certificate(identity.certificate)
        self.context = context

    def clientConnectionForTLS(self, protocol):
        return SSL.Connection(self.context, None)

    serverConnectionForTLS = clientConnectionForTLS


@inreactor
async def test_garbage_is_dropped_in_one_debug_line(quiet):
    async with tubs(1) as (server,):
        for junk in (b"hello\r\n\r\n", b"\x00" * 5000, b"POST / HTTP/1.1\r\n\r\n", b"\x16junk"):
            raw = await Raw.connect(port_of(server))
            raw.transport.write(junk)
            await raw.until(lambda raw=raw: raw.gone)
        assert len(server.doorstep) == 0
        assert [r for r in quiet.records if "neither Foolscap" in r.getMessage()]


@inreactor
async def test_a_wrong_tub_id_and_endless_headers_are_dropped():
    async with tubs(1) as (server,):
        raw = await Raw.connect(port_of(server))
        raw.transport.write(b"GET /id/aaaa HTTP/1.1\r\nUpgrade: TLS/1.0\r\n\r\n")
        await raw.until(lambda: raw.gone)
        assert b"unknown TubID" in raw.data
        raw = await Raw.connect(port_of(server))
        raw.transport.write(b"GET /id/" + b"x" * 100_000)
        await raw.until(lambda: raw.gone)
        assert len(server.doorstep) == 0


@inreactor
async def test_silence_is_ended(monkeypatch):
    monkeypatch.setattr(negotiation.SecureNegotiation, "SERVER_TIMEOUT", 0.05)
    monkeypatch.setattr(negotiation, "NEGOTIATION_SECONDS", 0.05)
    async with tubs(1) as (server,):
        nothing = await Raw.connect(port_of(server))
        half = await Raw.connect(port_of(server))
        half.transport.write(b"GET /id/")
        mute = Identity.create()
        gate = await Raw.connect(
            port_of(server), lambda f: TLSMemoryBIOFactory(TubTLS(mute), True, f)
        )
        gate.transport.write(b"not yet 32 bytes")
        for raw in (nothing, half, gate):
            await raw.until(lambda raw=raw: raw.gone)
        assert len(server.doorstep) == 0


@inreactor(timeout=100)
async def test_a_flood_of_silence_keeps_nobody_out():
    flood = 2000
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = soft if soft != resource.RLIM_INFINITY else 1 << 20
        flood = max(300, min(flood, (limit - 1000) * 2 // 3))
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        raws = []
        for start in range(0, flood, 100):
            for _ in range(min(100, flood - start)):
                raws.append(await Raw.connect(port_of(server)))
            assert len(server.doorstep._silent) <= 256
        while sum(not raw.gone for raw in raws) > 256:
            await in_turn()
        assert await call(await connect(client, furl), "length", b"in") == 2
        for raw in raws:
            await raw.close()


@inreactor
async def test_tls_1_2_is_refused_for_channels_and_for_foolscap():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        raw = await Raw.connect(
            port_of(server), lambda f: TLSMemoryBIOFactory(OldTLS(client.identity), True, f)
        )
        await raw.until(lambda: raw.gone)
        assert raw.data == b""
        client.tls = OldTLS(client.identity)
        with pytest.raises(ConnectError):
            await connect(client, furl)
        assert server.brokers == {}


@inreactor
async def test_no_certificate_is_refused():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        bare = TubTLS(client.identity)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_verify(SSL.VERIFY_NONE, lambda *args: True)
        bare._context = context
        client.tls = bare
        with pytest.raises(ConnectError):
            await connect(client, furl)
        assert server.brokers == {}


async def as_stranger(client, server):
    """A Foolscap connection to the server, with nothing looked up yet."""
    furl = server.register(Door(server))
    broker = await client.getBrokerForTubRef(SturdyRef(furl.plain).getTubRef())
    while not server.brokers:
        await in_turn()
    return broker, next(iter(server.brokers.values()))


async def lost(client, server):
    while client.brokers or server.brokers:
        await in_turn()


@inreactor
async def test_an_oversized_name_costs_nothing():
    async with tubs() as (server, client):
        broker, theirs = await as_stranger(client, server)
        assert isinstance(theirs, InboundBroker)
        peak = []
        original = type(theirs).dataReceived

        def watched(chunk):
            original(theirs, chunk)
            peak.append(len(theirs.buffer))

        # The transport hands data to the negotiation, which was redirected to the broker.
        theirs._guest.dataReceived = watched
        d = broker.getYourReferenceByName(b"x" * (64 << 20))
        with pytest.raises(Exception):
            await d
        await lost(client, server)
        assert peak and max(peak) <= negotiation.STRANGER_BYTES
        assert len(server.doorstep) == 0


@inreactor
async def test_a_wrong_name_is_answered_once_and_the_connection_dropped():
    async with tubs() as (server, client):
        broker, theirs = await as_stranger(client, server)
        first = broker.getYourReferenceByName(b"guess1")
        with pytest.raises(RemoteException) as caught:
            await first
        assert "unable to find" in str(caught.value.failure.value)
        await lost(client, server)
        assert theirs.connectionAbandoned


@inreactor
async def test_a_peer_that_looks_nothing_up_is_dropped(monkeypatch):
    monkeypatch.setattr(negotiation, "STRANGER_SECONDS", 0.05)
    async with tubs() as (server, client):
        await as_stranger(client, server)
        await lost(client, server)
        assert len(server.doorstep) == 0


@inreactor
async def test_those_who_know_a_door_are_still_bounded():
    async with tubs() as (server, client):
        reference = await connect(client, server.register(Door(server)))
        assert await call(reference, "length", bytes(INBOUND_TOKEN - 1000)) == INBOUND_TOKEN - 1000
        with pytest.raises(ConnectError):
            await call(reference, "length", bytes(INBOUND_TOKEN + 100_000))
        await lost(client, server)


@inreactor
async def test_banana_garbage_from_those_who_know_a_door_is_dropped():
    async with tubs() as (server, client):
        reference = await connect(client, server.register(Door(server)))
        reference.tracker.broker.transport.write(b"\x01" * 100)
        await lost(client, server)


@inreactor
async def test_garbage_on_a_channel_ends_it_and_only_it():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        ticket = await call(reference, "ticket", client.tubID.encode())
        channel = await open_channel(client, reference, ticket, inbox.make)
        channel.transport.write(b"\xee" * 100)
        await inbox.until(lambda: inbox.losses)
        assert door.losses[0].startswith("the other side broke the protocol")
        ticket = await call(reference, "ticket", client.tubID.encode())
        again = Inbox()
        (await open_channel(client, reference, ticket, again.make)).send(Cancel([1]))
        await again.until(lambda: again.messages)


@inreactor
async def test_gifts_are_not_accepted():
    async with tubs(3) as (server, client, third):
        await third.listen("127.0.0.1")
        theirs = await connect(client, third.register(Door(third)))
        reference = await connect(client, server.register(Door(server)))
        with pytest.raises(Exception):
            await call(reference, "length", theirs)
        assert len(third.brokers) == 1  # the server has not been made to connect to it
