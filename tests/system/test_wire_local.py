"""Channels on local sockets: real Tubs whose control connection is TLS, as always."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import asynccontextmanager

import pytest
from twisted.internet import reactor

from ipkernel.wire import addresses, localport
from ipkernel.wire.addresses import listen, parse_address
from ipkernel.wire.link import Window
from ipkernel.wire.messages import Kind, Submit
from ipkernel.wire.tickets import TICKET_SIZE
from ipkernel.wire.tub import call, connect, open_channel
from tests.support.reactor import inreactor
from tests.system.wire_support import Door, Inbox, in_turn, tubs

pytestmark = pytest.mark.skipif(
    not addresses.native_sockets(), reason="channels of this machine use TLS here"
)


class Scene:
    """A server with a local port, a client, and what the client gets."""

    def __init__(self, server, client, door, reference):
        self.server, self.client = server, client
        self.door, self.reference = door, reference
        self.inbox = Inbox()

    async def ticket(self):
        return await call(self.reference, "ticket", self.client.tubID.encode())

    async def open(self, local=None, ticket=None):
        """Open a channel, by the server's local port or another."""
        if ticket is None:
            ticket = await self.ticket()
        if local is None:
            local = self.server.local_address
        make = self.inbox.make
        return await open_channel(self.client, self.reference, ticket, make, local=local)

    async def echo(self, channel, data=b"hello"):
        before = len(self.inbox.messages)
        channel.send(Submit(7, Kind.APPLY, len(data)), data)
        await self.inbox.until(lambda: len(self.inbox.messages) > before)
        assert self.inbox.messages[-1][1] == data


@asynccontextmanager
async def scene(**options):
    async with tubs() as (server, client):
        assert server.listen_locally()
        door = Door(server, **options)
        yield Scene(server, client, door, await connect(client, server.register(door)))


def is_local(channel):
    return isinstance(channel.transport, localport.LocalTransport)


def knock(server):
    """Connect to the local port as somebody without a ticket does."""
    address = parse_address(server.local_address)
    sock = socket.socket(address.family)
    sock.connect(address.sockaddr)
    sock.setblocking(False)
    return sock


async def hung_up(sock):
    """Wait until the other side has hung up."""
    while True:
        try:
            data = sock.recv(1)
        except BlockingIOError:
            await in_turn()
            continue
        except ConnectionResetError:
            data = b""
        assert data == b""
        sock.close()
        return


@inreactor
async def test_a_channel_of_this_machine_is_a_local_one():
    async with scene() as one:
        channel = await one.open()
        assert is_local(channel) and channel.peer == one.server.tubID
        await one.echo(channel)
        [there] = one.door.channels
        assert is_local(there) and there.peer == one.client.tubID
        assert one.client.channels(one.server.tubID) == [channel]
        big = os.urandom(3 << 20)
        await one.echo(channel, big)
        channel.close("enough")
        await one.inbox.until(lambda: one.inbox.losses)
        await one.door.until(lambda: one.door.losses)
        assert one.inbox.losses == ["enough"]
        assert one.door.losses == ["closed by the other side"]
        assert one.client.channels() == [] and one.server.channels() == []
        assert len(one.server.doorstep) == 0 and len(one.server.tickets) == 0


@inreactor
async def test_its_ends_have_no_addresses_but_say_so():
    async with scene() as one:
        channel = await one.open()
        assert channel.transport.getPeer().name is None
        assert channel.transport.getHost().name is None
        assert channel.transport.logPrefix()


@inreactor
async def test_a_server_without_a_local_port():
    async with tubs() as (server, client):
        assert server.local_address == ""
        door = Door(server)
        one = Scene(server, client, door, await connect(client, server.register(door)))
        channel = await one.open()
        assert not is_local(channel)
        await one.echo(channel)


@inreactor
async def test_asked_twice_there_is_one_port():
    async with scene() as one:
        address = one.server.local_address
        assert one.server.listen_locally() and one.server.local_address == address


@pytest.mark.parametrize(
    "address",
    [
        "unix:@ipkernel-nobody-listens-here",
        "tcp:127.0.0.1:9",
        "tcp:192.0.2.1:80",
        "unix:@" + "x" * 300,
        "nonsense",
    ],
)
@inreactor
async def test_where_there_is_no_such_port_tls_is_used(address):
    async with scene() as one:
        channel = await one.open(address)
        assert not is_local(channel)
        await one.echo(channel)


@inreactor
async def test_a_socket_of_another_user_gets_no_ticket(monkeypatch, caplog):
    async with scene() as one:
        sock, address = listen(native=True)
        monkeypatch.setattr(localport, "peer_user", lambda sock: os.geteuid() + 1)
        channel = await one.open(str(address))
        assert not is_local(channel)
        await one.echo(channel)
        taken, _ = sock.accept()
        assert taken.recv(100) == b""  # it has heard nothing
        taken.close()
        sock.close()
        assert "TLS is used" in caplog.text


@inreactor
async def test_another_user_is_not_let_in(monkeypatch, caplog):
    async with scene() as one:
        monkeypatch.setattr(localport, "peer_user", lambda sock: os.geteuid() + 1)
        for _ in range(3):
            await hung_up(knock(one.server))
        assert caplog.text.count("may not open local channels") == 1, "who tries again is known"
        assert len(one.server.doorstep) == 0


@inreactor
async def test_who_has_no_ticket_is_dropped():
    async with scene() as one:
        sock = knock(one.server)
        sock.send(b"x" * TICKET_SIZE)
        await hung_up(sock)
        assert one.door.channels == [] and len(one.server.doorstep) == 0


@inreactor
async def test_a_ticket_is_good_once():
    async with scene() as one:
        ticket = await one.ticket()
        channel = await one.open(ticket=ticket)
        await one.echo(channel)
        sock = knock(one.server)
        sock.send(ticket)
        await hung_up(sock)
        await one.echo(channel)


@inreactor
async def test_a_ticket_may_come_byte_by_byte():
    async with scene() as one:
        ticket = await one.ticket()
        sock = knock(one.server)
        for i in range(TICKET_SIZE):
            sock.send(ticket[i : i + 1])
            await in_turn()
        await one.door.until(lambda: one.door.channels)
        sock.close()
        await one.door.until(lambda: one.door.losses)


@inreactor
async def test_a_process_that_dies_is_told_from_one_that_closes():
    async with scene() as one:
        ticket = await one.ticket()
        sock = knock(one.server)
        sock.send(ticket)
        await one.door.until(lambda: one.door.channels)
        sock.close()
        await one.door.until(lambda: one.door.losses)
        assert one.door.losses == ["connection lost: the other side is gone"]


@inreactor
async def test_a_stranger_who_leaves_is_forgotten():
    async with scene() as one:
        sock = knock(one.server)
        while len(one.server.doorstep) == 0:
            await in_turn()
        sock.close()
        while len(one.server.doorstep):
            await in_turn()


@inreactor
async def test_a_peer_that_does_not_read_stops_the_sender():
    async with scene(window=Window()) as one:
        channel = await one.open()
        await one.door.until(lambda: one.door.channels)
        frozen = one.door.channels[0].transport
        frozen.pauseProducing()
        chunk = bytes(1 << 20)
        for i in range(50):
            channel.send(Submit(i, Kind.APPLY, len(chunk)), chunk)
        for _ in range(200):  # until the kernel's buffers are full
            await in_turn()
        raw = channel.transport
        assert len(raw.dataBuffer) - raw.offset + raw._tempDataLen < 2 << 20
        assert channel.backlog[0] > 20
        frozen.resumeProducing()
        await one.inbox.until(lambda: len(one.inbox.messages) == 50)


@inreactor
async def test_many_messages_in_both_directions():
    async with scene() as one:
        channel = await one.open()
        for i in range(20_000):
            channel.send(Submit(i, Kind.APPLY, 10), b"0123456789")
        await one.inbox.until(lambda: len(one.inbox.messages) == 20_000)
        assert [m.task for m, _ in one.inbox.messages] == list(range(20_000))


@inreactor
async def test_an_abort_is_the_end_on_both_sides():
    async with scene() as one:
        channel = await one.open()
        await one.echo(channel)
        channel.send(Submit(1, Kind.APPLY, 4), b"lost")
        channel.abort("no more of this")
        await one.inbox.until(lambda: one.inbox.losses)
        await one.door.until(lambda: one.door.losses)
        assert one.inbox.losses == ["no more of this"]


@inreactor
async def test_losing_the_foolscap_connection_ends_it():
    async with scene() as one:
        await one.open()
        await one.door.until(lambda: one.door.channels)
        one.reference.tracker.broker.transport.abortConnection()
        await one.inbox.until(lambda: one.inbox.losses)
        await one.door.until(lambda: one.door.losses)
        assert one.inbox.losses == ["the connection to the other side was lost"]


@inreactor
async def test_stopping_lets_data_out_and_closes_the_port():
    async with scene() as one:
        channel = await one.open()
        await one.echo(channel)
        address = one.server.local_address
        one.door.channels[0].send(Submit(9, Kind.APPLY, 3), b"bye")
        await one.server.stopService()
        await one.inbox.until(lambda: one.inbox.losses)
        assert one.inbox.messages[-1][1] == b"bye"
        assert one.server.local_address == "" and localport.dial(address) is None


@inreactor
async def test_a_channel_that_is_closed_ends_when_the_other_side_has_taken_all():
    async with scene() as one:
        channel = await one.open()
        await one.echo(channel)
        there = one.door.channels[0].transport
        there.pauseProducing()
        channel.send(Submit(9, Kind.APPLY, 4), b"last")
        channel.close("enough")
        for _ in range(100):
            await in_turn()
        assert one.inbox.losses == [] and one.door.losses == []
        there.resumeProducing()
        await one.inbox.until(lambda: one.inbox.losses)
        assert one.door.losses == ["closed by the other side"]
        assert one.inbox.losses == ["enough"]


@inreactor
async def test_who_does_not_take_it_is_not_waited_for_long():
    async with scene() as one:
        channel = await one.open()
        await one.echo(channel)
        one.door.channels[0].transport.pauseProducing()
        channel.close("enough")
        await one.inbox.until(lambda: one.inbox.losses)
        assert one.inbox.losses == ["enough"]
        one.door.channels[0].transport.resumeProducing()
        await one.door.until(lambda: one.door.losses)


@inreactor
async def test_a_connection_that_is_lost_while_it_is_written_to():
    async with scene() as one:
        channel = await one.open()
        await one.echo(channel)
        channel.transport.socket.shutdown(socket.SHUT_WR)
        channel.send(Submit(1, Kind.APPLY, 4), b"lost")
        await one.inbox.until(lambda: one.inbox.losses)
        assert one.inbox.losses[0].startswith(("connection lost", "closed"))


@inreactor
async def test_portable_processes_use_tls(monkeypatch):
    async with scene() as one:
        monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
        channel = await one.open()
        assert not is_local(channel)
        await one.echo(channel)


@inreactor
async def test_no_descriptor_for_a_port(monkeypatch, caplog):
    def none_left(tub):
        raise OSError(24, "Too many open files")

    async with tubs() as (server, _):
        monkeypatch.setattr(localport, "LocalPort", none_left)
        assert not server.listen_locally() and server.local_address == ""
        assert "Too many open files" in caplog.text


def test_nothing_is_left_of_connections_that_were_refused():
    before = len(reactor.getReaders())
    gc.collect()
    assert localport.dial("unix:@ipkernel-nobody-listens-here") is None
    assert len(reactor.getReaders()) == before
