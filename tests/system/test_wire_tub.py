"""Real Tubs on the loopback interface: references, calls, tickets and channels."""

from __future__ import annotations

import pytest
from twisted.internet import reactor
from twisted.internet.protocol import Factory

from ipkernel.errors import ConnectError, KernelError, SecurityError
from ipkernel.wire import connect as connect_module
from ipkernel.wire.furl import Furl
from ipkernel.wire.identity import Identity
from ipkernel.wire.link import Window
from ipkernel.wire.messages import Cancel, Kind, Submit
from ipkernel.wire.tub import call, connect, make_tub, open_channel, peer_tub_id
from tests.support.reactor import inreactor
from tests.system.wire_support import Door, Inbox, Raw, in_turn, port_of, tubs


async def ticket_for(client, reference):
    return await call(reference, "ticket", client.tubID.encode())


@inreactor
async def test_channel_by_ticket_echoes():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        assert peer_tub_id(reference) == server.tubID
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        assert channel.peer == server.tubID
        big = bytes(range(256)) * 4096
        channel.send(Cancel([1, 2]))
        channel.send(Submit(7, Kind.APPLY, 5), b"hello")
        channel.send(Submit(8, Kind.APPLY, len(big)), big)
        await inbox.until(lambda: len(inbox.messages) == 3)
        assert inbox.messages[0] == (Cancel([1, 2]), b"")
        assert inbox.messages[1] == (Submit(7, Kind.APPLY, 5), b"hello")
        assert inbox.messages[2][1] == big
        assert door.channels[0].peer == client.tubID
        assert client.channels(server.tubID) == [channel]
        channel.close("enough")
        await inbox.until(lambda: inbox.losses)
        await door.until(lambda: door.losses)
        assert inbox.losses == ["enough"]
        assert door.losses == ["closed by the other side"]
        assert client.channels() == [] and server.channels() == []
        assert len(server.doorstep) == 0 and len(server.tickets) == 0


@inreactor
async def test_connections_are_tls_1_3_and_both_ends_are_known():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        handle = reference.tracker.broker.transport.getHandle()
        assert handle.get_protocol_version_name() == "TLSv1.3"
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        assert channel.transport.getHandle().get_protocol_version_name() == "TLSv1.3"
        assert channel.transport.transport.getTcpNoDelay()


@inreactor
async def test_many_messages_in_both_directions():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        for i in range(20_000):
            channel.send(Submit(i, Kind.APPLY, 10), b"0123456789")
        await inbox.until(lambda: len(inbox.messages) == 20_000)
        assert [m.task for m, _ in inbox.messages] == list(range(20_000))


@inreactor
async def test_a_peer_that_does_not_read_stops_the_sender():
    async with tubs() as (server, client):
        door = Door(server, window=Window())
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        await door.until(lambda: door.channels)
        frozen = door.channels[0].transport.transport
        frozen.pauseProducing()
        chunk = bytes(1 << 20)
        for i in range(50):
            channel.send(Submit(i, Kind.APPLY, len(chunk)), chunk)
        for _ in range(200):  # until the kernel's buffers are full
            await in_turn()
        raw = channel.transport.transport
        held = len(raw.dataBuffer) - raw.offset + raw._tempDataLen
        assert held < 2 << 20
        assert channel.backlog[0] > 20
        frozen.resumeProducing()
        await inbox.until(lambda: len(inbox.messages) == 50)


@inreactor
async def test_a_stolen_ticket_is_refused_and_the_owner_can_still_use_it():
    async with tubs(3) as (server, client, thief):
        door = Door(server)
        furl = server.register(door)
        reference, other = await connect(client, furl), await connect(thief, furl)
        ticket = await ticket_for(client, reference)
        stolen = Inbox()
        await open_channel(thief, other, ticket, stolen.make)
        await stolen.until(lambda: stolen.losses)
        assert door.channels == []
        mine = Inbox()
        channel = await open_channel(client, reference, ticket, mine.make)
        channel.send(Cancel([1]))
        await mine.until(lambda: mine.messages)


@inreactor
async def test_tickets_work_once_and_unknown_or_expired_ones_never():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        ticket = await ticket_for(client, reference)
        first = Inbox()
        channel = await open_channel(client, reference, ticket, first.make)
        channel.send(Cancel([1]))
        await first.until(lambda: first.messages)
        expired = await call(reference, "ticket", client.tubID.encode(), -1)
        for bad in (ticket, bytes(32), expired):
            inbox = Inbox()
            await open_channel(client, reference, bad, inbox.make)
            await inbox.until(lambda inbox=inbox: inbox.losses)
            assert len(inbox.losses) == 1
        assert len(door.channels) == 1
        assert not first.losses


@inreactor
async def test_losing_the_foolscap_connection_ends_the_channels_of_both_sides():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        await open_channel(client, reference, await ticket_for(client, reference), inbox.make)
        await door.until(lambda: door.channels)
        reference.tracker.broker.transport.abortConnection()
        await inbox.until(lambda: inbox.losses)
        await door.until(lambda: door.losses)
        assert "lost" in inbox.losses[0] or "closed" in inbox.losses[0]
        with pytest.raises(ConnectError, match="connection was lost"):
            await call(reference, "length", b"")
        with pytest.raises(ConnectError, match="was lost"):
            await open_channel(client, reference, bytes(32), inbox.make)


@inreactor
async def test_stopping_closes_channels_with_their_data_out():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        channel.send(Cancel([1]))
        await inbox.until(lambda: inbox.messages)
        door.channels[0].send(Cancel([2]))
        stopping = server.stopService()
        await inbox.until(lambda: inbox.losses)
        assert inbox.messages[-1] == (Cancel([2]), b"")
        await stopping


# ------------------------------------------------------------------- connect errors


async def refused(client, furl, **options):
    with pytest.raises(ConnectError) as caught:
        await connect(client, furl, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@inreactor
async def test_what_connect_says():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        where = furl.hints
        assert "not a FURL" in await refused(client, "nonsense")
        assert "unknown or revoked" in await refused(
            client, Furl(furl.tub_id, furl.pin, where, "wrong")
        )
        other = Identity.create()
        assert "stale" in await refused(client, Furl(other.tub_id, other.pin, where, "x"))
        assert "no address" in await refused(client, Furl(furl.tub_id, furl.pin, (), "x"))
        assert "no address" in await refused(
            client, Furl(other.tub_id, furl.pin, ("quic:1.2.3.4:5",), "x")
        )
        server.revoke(furl)
        assert "unknown or revoked" in await refused(client, furl)
        with pytest.raises(KeyError):
            server.revoke(furl)


@inreactor
async def test_a_wrong_pin_is_a_stale_furl():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        wrong = Furl(furl.tub_id, Identity.create().pin, furl.hints, furl.swissnum)
        assert "stale" in await refused(client, wrong)
        assert server.brokers == {}
        await connect(client, furl)
        assert "stale" in await refused(client, wrong)  # on a connection that exists already


@inreactor
async def test_nobody_listens():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        gone = Furl(furl.tub_id, furl.pin, ("tcp:127.0.0.1:1",), furl.swissnum)
        assert "nobody listens at 127.0.0.1:1" in await refused(client, gone)
        both = Furl(furl.tub_id, furl.pin, (*gone.hints, *furl.hints), furl.swissnum)
        assert await call(await connect(client, both), "length", b"abc") == 3


@inreactor
async def test_a_server_that_says_nothing_or_something_else():
    client = make_tub(Identity.create(), reactor)
    other = Identity.create()
    raws = []
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda address: raws.append(Raw()) or raws[-1]
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    furl = Furl(other.tub_id, other.pin, (f"tcp:127.0.0.1:{port.getHost().port}",), "x")
    assert "no answer from 127.0.0.1" in await refused(client, furl, timeout=0.05)
    await raws[0].until(lambda: raws[0].gone)
    wrong = connect(client, furl)
    while len(raws) < 2 or not raws[1].up:
        await in_turn()
    raws[1].transport.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
    with pytest.raises(ConnectError, match="cannot connect"):
        await wrong
    await raws[1].until(lambda: raws[1].gone)
    closed = connect(client, furl)
    while len(raws) < 3 or not raws[2].up:
        await in_turn()
    raws[2].transport.loseConnection()
    with pytest.raises(ConnectError, match="closed the connection"):
        await closed
    await port.stopListening()
    await client.stopService()


@inreactor
async def test_a_controller_that_does_not_answer_the_look_up():
    async with tubs() as (server, client):
        furl = server.register(Door(server))
        server.registerNameLookupHandler(lambda name: None)
        original = server.getReferenceForName
        held = []
        server.getReferenceForName = lambda name: held.append(name) or Door(server).remote_never()
        assert "no answer" in await refused(client, furl, timeout=0.1)
        assert held
        server.getReferenceForName = original
        while client.brokers or server.brokers:
            await in_turn()
        assert await call(await connect(client, furl), "length", b"ab") == 2


@inreactor
async def test_an_allow_list_keeps_others_out():
    async with tubs(3) as (server, friend, stranger):
        server.allowed = {friend.tubID}
        furl = server.register(Door(server))
        await connect(friend, furl)
        why = await refused(stranger, furl)  # which of the two depends on who decides
        assert "not on the list" in why or "does not let us in" in why
        assert [peer.getTubID() for peer in server.brokers] == [friend.tubID]


# ------------------------------------------------------------------------- calls


@inreactor
async def test_what_calls_raise():
    async with tubs() as (server, client):
        reference = await connect(client, server.register(Door(server)))
        with pytest.raises(KernelError, match="KeyError") as caught:
            await call(reference, "fail")
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
        with pytest.raises(SecurityError, match="^you may not$"):
            await call(reference, "forbid")
        with pytest.raises(KernelError):
            await call(reference, "no_such_method")
        waiting = call(reference, "never")
        reference.tracker.broker.transport.abortConnection()
        with pytest.raises(ConnectError, match="'never'"):
            await waiting


def test_only_our_own_errors_keep_their_class():
    pick = connect_module._remote_class
    assert pick("ipkernel.errors.SecurityError") is SecurityError
    assert pick("builtins.SystemExit") is KernelError
    assert pick("ipkernel.errors.TimeoutError") is KernelError
    assert pick("ipkernel.errors._restore") is KernelError
    assert pick("evil.SecurityError") is KernelError


# ---------------------------------------------------------------------- listening


@inreactor
async def test_a_busy_port_is_named():
    async with tubs() as (server, client):
        with pytest.raises(ConnectError, match=f"port {port_of(server)} of 127.0.0.1 is in use"):
            await client.listen("127.0.0.1", port_of(server))
        with pytest.raises(ConnectError, match="not an address of this machine"):
            await client.listen("192.0.2.1", 0)
        with pytest.raises(ConnectError, match="no.such.name.invalid is not an address of this"):
            await client.listen("no.such.name.invalid", 0)
        with pytest.raises(ConnectError, match="cannot listen"):
            await client.listen("127.0.0.1", 700_000)
        with pytest.raises(ConnectError, match="does not listen"):
            client.register(Door(client))


@inreactor
async def test_the_same_swissnum_and_port_again_is_the_same_furl():
    identity = Identity.create()
    first = make_tub(identity, reactor)
    port = await first.listen("127.0.0.1")
    furl = first.register(Door(first), "kept")
    await first.stopService()
    second = make_tub(Identity.from_pem(identity.pem), reactor)
    assert await second.listen("127.0.0.1", port) == port
    assert second.register(Door(second), "kept") == furl
    client = make_tub(Identity.create(), reactor)
    assert await call(await connect(client, str(furl)), "length", b"a") == 1
    with pytest.raises(ValueError):
        second.register(Door(second), "a/b")
    await client.stopService()
    await second.stopService()


@inreactor
async def test_ipv6():
    server, client = (make_tub(Identity.create(), reactor) for _ in range(2))
    try:
        try:
            await server.listen("::1")
        except ConnectError:
            pytest.skip("no IPv6 on this machine")
        door = Door(server)
        reference = await connect(client, server.register(door))
        inbox = Inbox()
        channel = await open_channel(
            client, reference, await ticket_for(client, reference), inbox.make
        )
        channel.send(Cancel([6]))
        await inbox.until(lambda: inbox.messages)
    finally:
        await client.stopService()
        await server.stopService()


@inreactor
async def test_a_ticket_is_no_good_without_the_foolscap_connection():
    async with tubs() as (server, client):
        door = Door(server)
        reference = await connect(client, server.register(door))
        ticket = await ticket_for(client, reference)
        inbox = Inbox()
        server.brokers.clear()
        await open_channel(client, reference, ticket, inbox.make)
        await inbox.until(lambda: inbox.losses)
        assert door.channels == []
        reference.tracker.broker.transport.abortConnection()
        while client.brokers:
            await in_turn()


@inreactor
async def test_answers_may_be_as_long_as_the_doors_say():
    async with tubs() as (server, client):
        reference = await connect(client, server.register(Door(server)))
        assert len(await call(reference, "blob", 16 << 20)) == 16 << 20
        with pytest.raises(ConnectError):
            await call(reference, "blob", 18 << 20)
