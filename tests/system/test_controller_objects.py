"""What the controller does for large objects, with real Tubs, channels and relays."""

from __future__ import annotations

import logging
import socket
import ssl
import tempfile
import threading

import pytest
from twisted.internet import reactor
from twisted.internet.task import deferLater

from ipkernel.controller import relays
from ipkernel.objects.tickets import is_ticket, make_key
from ipkernel.wire.identity import pin_of
from ipkernel.wire.messages import (
    Assign,
    Copied,
    Done,
    EngineJoined,
    Finished,
    Free,
    HostAccess,
    HostGone,
    Kind,
    NotProvided,
    ObjectMade,
    Outcome,
    Provide,
    Relay,
    Release,
    Seek,
    SessionGone,
    Source,
    Submit,
    decode_reason,
)
from ipkernel.wire.records import StoreAccess
from tests.support.reactor import inreactor
from tests.system.controller_support import FakeHost, world
from tests.system.relay_support import in_thread
from tests.system.wire_support import port_of

X, Y = bytes([0xAA]) * 16, bytes([0xBB]) * 16


class StoreHost(FakeHost):
    """A host with a store, whose engines do nothing by themselves."""

    working = False

    def __init__(self, tub):
        super().__init__(tub)
        self.key = make_key()

    async def join(self, furl, slots=1, **options):
        store = StoreAccess(
            pin=self.tub.identity.pin,
            key=self.key,
            hints=["tcp:10.1.2.3:999"],
            local="/run/x",
            machine="m",
        )
        await super().join(furl, slots, store=store, **options)
        return self

    @property
    def number(self):
        return self.grant.host_id

    @property
    def tub_id(self):
        return self.tub.identity.tub_id


def store_host(w, **options):
    return w.host(1, kind=StoreHost, **options)


def needs(client, count, *ids, **options):
    message = Submit(client.tid(count), Kind.APPLY, 0, needs=list(ids), stored=True, **options)
    client.channel.send(message)
    return message.task


# ------------------------------------------------------------------------------- access


@inreactor
async def test_clients_are_told_how_to_reach_stores_and_when_they_are_gone():
    async with world() as w:
        one = await store_host(w)
        client = await w.client()
        await w.host(1)  # which has no store
        two = await store_host(w)
        await client.until(lambda: len(client.of(HostAccess)) == 2)
        for host, access in zip((one, two), client.of(HostAccess), strict=True):
            assert (access.host, access.tub_id) == (host.number, host.tub_id)
            assert access.pin == host.tub.identity.pin
            assert (access.hints, access.local, access.machine) == (
                ["tcp:10.1.2.3:999"],
                "/run/x",
                "m",
            )
            assert is_ticket(host.key, client.tub.identity.tub_id, access.ticket)
        await one.tub.stopService()
        await client.until(lambda: client.of(HostGone))
        assert [m.host for m in client.of(HostGone)] == [one.number]


@inreactor
async def test_engines_are_listed_with_their_hosts():
    async with world() as w:
        one = await store_host(w)
        client = await w.client()
        two = await store_host(w)
        await client.until(lambda: len(client.of(EngineJoined)) >= 1)
        assert [(e.engine, e.host_id) for e in client.grant.engines] == [(0, one.number)]
        assert client.of(EngineJoined)[-1].host_id == two.number


@inreactor
async def test_hosts_are_told_when_a_client_is_gone():
    async with world(client_grace=0.0) as w:
        host = await store_host(w)
        client = await w.client()
        await client.tub.stopService()
        await host.until(lambda: host.of(SessionGone))
        assert host.of(SessionGone) == [SessionGone(client.session)]


@inreactor
async def test_keys_and_tickets_are_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    async with world() as w:
        host = await store_host(w)
        client = await w.client()
        other = await store_host(w)
        client.channel.send(ObjectMade(X, 10, host.number))
        other.channel.send(Seek(X))
        client.channel.send(Relay(host.number))
        await other.until(lambda: other.of(Source))
        await host.until(lambda: host.of(Relay))
        secrets = [host.key, other.key, host.of(Relay)[0].token, X]
        secrets += [m.ticket for m in client.of(HostAccess) + other.of(HostAccess)]
        for secret in secrets:
            assert secret.hex() not in caplog.text
            assert repr(secret)[2:-1] not in caplog.text


# --------------------------------------------------------------------------- the ways


@inreactor
async def test_an_object_goes_from_a_client_to_a_host_and_to_the_next():
    async with world() as w:
        one, two = await store_host(w), await store_host(w)
        client = await w.client()
        client.channel.send(ObjectMade(X, 70_000, 0, client.session))
        first = needs(client, 0, X, targets=[0], spread=False)
        second = needs(client, 1, X, targets=[1], spread=False)
        client.channel.send(Release([X]))
        for host in (one, two):
            await host.until(lambda host=host: host.of(Assign))
            assert host.of(Assign)[0].needs == [X]
            assert host.of(Assign)[0].stored
            host.channel.send(Seek(X))
            await deferLater(reactor, 0.02, lambda: None)
        await client.until(lambda: client.of(Provide))
        assert client.of(Provide) == [Provide(X, one.number)]
        await one.until(lambda: one.of(Source))
        assert one.of(Source) == [Source(X, 70_000, 0)]
        assert not two.of(Source)
        [story] = [w.controller.explain(second)]
        assert "waits for the copy that another host is getting" in story.reason
        one.channel.send(Copied([X]))
        await two.until(lambda: two.of(Source))
        assert two.of(Source) == [Source(X, 70_000, one.number)]
        [access] = two.of(HostAccess)
        assert is_ticket(one.key, two.tub_id, access.ticket)
        two.channel.send(Copied([X]))
        [info, _] = (await client.status()).hosts
        assert (info.objects, info.object_bytes) == (1, 70_000)
        for host, task in ((one, first), (two, second)):
            host.channel.send(Done(task, host.grant.engines[0], Outcome.OK, 1.0, 1.1, 0))
        await client.until(lambda: client.of(Free))
        assert client.of(Free) == [Free([X])]
        for host in (one, two):
            await host.until(lambda host=host: host.of(Free))
        assert (await client.status()).hosts[0].objects == 0


@inreactor
async def test_a_result_that_is_an_object():
    async with world() as w:
        host = await store_host(w)
        client = await w.client()
        client.channel.send(Submit(client.tid(0), Kind.APPLY, 1, keep=True), b"x")
        await host.until(lambda: host.of(Assign))
        assert host.of(Assign)[0].keep
        host.channel.send(Done(client.tid(0), 0, Outcome.OK, 1.0, 1.1, 0, X, 123))
        await client.until(lambda: client.of(Finished))
        [finished] = client.of(Finished)
        assert (finished.object, finished.length, finished.host) == (X, 123, host.number)
        client.channel.send(Release([X]))
        await host.until(lambda: host.of(Free))


@inreactor
async def test_what_cannot_be_had_is_said_at_once():
    async with world() as w:
        host = await store_host(w)
        client = await w.client()
        needs(client, 0, X)
        await client.until(lambda: client.of(Finished))
        [(finished, payload)] = [i for i in client.inbox if isinstance(i[0], Finished)]
        assert finished.outcome is Outcome.LOST
        assert decode_reason(bytes(payload)).kind == "object"
        host.channel.send(Seek(X))
        client.channel.send(Seek(X))
        for peer in (host, client):
            await peer.until(lambda peer=peer: peer.of(Source))
            assert "is not known" in peer.of(Source)[0].problem
        client.channel.send(ObjectMade(Y, 10, 0, client.session))
        host.channel.send(Seek(Y))
        await client.until(lambda: client.of(Provide))
        client.channel.send(NotProvided(Y, host.number, "cannot reach it"))
        await host.until(lambda: len(host.of(Source)) == 3)
        assert "cannot reach it" in host.of(Source)[-1].problem


# ------------------------------------------------------------------------------ relays


def connect_with(port, token):
    """Connect to the controller's port and show a token, as both sides of a relay do."""
    connection = socket.create_connection(("127.0.0.1", port), 20)
    connection.sendall(b"R" + token)
    return connection


def tls(identity, connection, *, server):
    """Speak TLS on a connection, with the certificate of a Tub."""
    kind = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with tempfile.NamedTemporaryFile() as file:
        file.write(identity.pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context.wrap_socket(connection, server_side=server)


@pytest.mark.parametrize("asker", ["client", "host"])
@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
@inreactor
async def test_two_peers_speak_tls_through_the_controller(asker, portable, monkeypatch):
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1" if portable else "0")
    async with world() as w:
        host = await store_host(w)
        who = await (w.client() if asker == "client" else store_host(w))
        who.channel.send(Relay(host.number))
        await who.until(lambda: who.of(Relay))
        await host.until(lambda: host.of(Relay))
        [mine], [theirs] = who.of(Relay), host.of(Relay)
        assert (mine.host, theirs.host) == (host.number, 0)
        assert mine.token == theirs.token
        assert len(mine.token) == 32
        port = port_of(w.controller.tub)
        data = bytes(range(256)) * 4000
        identity = host.tub.identity
        ready = threading.Event()

        def serve():
            with tls(identity, connect_with(port, mine.token), server=True) as connection:
                got = bytearray()
                while len(got) < len(data):
                    got += connection.recv(1 << 16)
                connection.sendall(bytes(got[::-1]))
                ready.wait(20)

        def ask():
            with tls(who.tub.identity, connect_with(port, mine.token), server=False) as connection:
                certificate = connection.getpeercert(binary_form=True)
                connection.sendall(data)
                got = bytearray()
                while len(got) < len(data):
                    got += connection.recv(1 << 16)
                ready.set()
                return certificate, bytes(got)

        serving, asking = in_thread(serve), in_thread(ask)
        certificate, got = await asking
        await serving
        assert got == data[::-1]
        assert pin_of(certificate) == identity.pin
        while len(w.controller.relays):
            await deferLater(reactor, 0.01, lambda: None)


def ended(connection):
    """Wait until a connection has ended, in whichever way."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@inreactor
async def test_relays_end_when_the_controller_stops():
    async with world() as w:
        host = await store_host(w)
        client = await w.client()
        client.channel.send(Relay(host.number))
        await client.until(lambda: client.of(Relay))
        token = client.of(Relay)[0].token
        port = port_of(w.controller.tub)
        one = await in_thread(lambda: connect_with(port, token))
        two = await in_thread(lambda: connect_with(port, token))
        with one, two:
            two.sendall(b"x")
            assert await in_thread(lambda: one.recv(1)) == b"x"
            ends = [in_thread(lambda each=each: ended(each)) for each in (one, two)]
            await w.stop()
            for end in ends:
                assert await end


@inreactor
async def test_a_host_that_is_gone_or_too_many_relays(monkeypatch):
    async with world() as w:
        host = await store_host(w)
        client = await w.client()
        client.channel.send(Relay(4711))
        await client.until(lambda: client.of(Relay))
        assert client.of(Relay) == [Relay(4711, b"", "host 4711 is gone")]
        monkeypatch.setattr(relays, "MAX_RELAYS", 1)
        client.channel.send(Relay(host.number))
        client.channel.send(Relay(host.number))
        await client.until(lambda: len(client.of(Relay)) == 3)
        answers = client.of(Relay)[1:]
        assert [bool(a.token) for a in answers] == [True, False]
        assert "relays 1 connections already" in answers[1].problem
