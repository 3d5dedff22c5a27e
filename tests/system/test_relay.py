"""Connections that the controller passes on, with real sockets, natively and portably."""

from __future__ import annotations

import logging
import os
import socket
import zlib

import psutil
import pytest
from twisted.internet import reactor
from twisted.internet.task import deferLater

from ipkernel.controller import relays as relays_module
from ipkernel.errors import TransferError
from ipkernel.wire import relay as relay_module
from tests.support.reactor import inreactor
from tests.system.relay_support import noise, relaying
from tests.system.wire_support import Raw, in_turn

both = pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])


async def until(condition):
    """Wait for something that no message tells of."""
    while not condition():
        await deferLater(reactor, 0.01, lambda: None)


def pause(seconds):
    return deferLater(reactor, seconds, lambda: None)


# --------------------------------------------------------------------------- what passes


@both
@inreactor
async def test_bytes_pass_both_ways(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        await one.send(b"hello")
        assert await two.receive(5) == b"hello"
        await two.send(b"you")
        assert await one.receive(3) == b"you"


@both
@inreactor
async def test_what_comes_with_the_token_and_before_the_partner_is_passed_on_first(portable):
    async with relaying(portable) as port:
        token = port.relays.open("x")
        early = noise(30_000)
        one = await port.connect(token, early)
        await one.send(b"and more")
        await in_turn()
        two = await port.connect(token, b"mine")
        assert await two.receive(len(early) + 8) == early + b"and more"
        assert await one.receive(4) == b"mine"


@both
@inreactor
async def test_a_token_that_comes_in_pieces(portable):
    async with relaying(portable) as port:
        token = port.relays.open("x")
        one = await port.connect(b"")
        for piece in (b"R", token[:10], token[10:31], token[31:] + b"first"):
            await one.send(piece)
            await pause(0.02)
        two = await port.connect(token)
        assert await two.receive(5) == b"first"


@both
@inreactor(timeout=100)
async def test_200_mb_pass_in_both_directions_in_little_memory(portable):
    size = 200_000_000
    data = os.urandom(size)
    expected = zlib.crc32(data)
    async with relaying(portable) as port:
        one, two = await port.pair()
        process = psutil.Process()
        peak = base = process.memory_info().rss
        going = [two.check(size), one.check(size), one.send(data), two.send(data)]
        while not all(done.called for done in going):
            peak = max(peak, process.memory_info().rss)
            await pause(0.02)
        assert [await done for done in going[:2]] == [expected, expected]
        assert peak - base < 20_000_000


@both
@inreactor
async def test_one_side_may_end_and_still_receive(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        await one.send(b"question", end=True)
        assert await two.receive(100) == b"question"
        answer = noise(3_000_000)
        await two.send(answer, end=True)
        assert await one.receive(len(answer) + 1) == answer
        await until(lambda: len(port.relays) == 0)


@both
@inreactor
async def test_both_sides_end_at_once(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        first, second = one.receive(10**7), two.receive(10**7)
        data = noise(2_000_000)
        await one.send(data, end=True)
        await two.send(data[::-1], end=True)
        assert await second == data
        assert await first == data[::-1]
        await until(lambda: len(port.relays) == 0)


@both
@inreactor
async def test_a_slow_receiver_makes_the_sender_wait(portable):
    """All buffers of the way together hold so much, and the rest stays with the sender."""
    async with relaying(portable) as port:
        one, two = await port.pair()
        one.socket.settimeout(0.7)
        sent = 0
        block = noise(1 << 16)
        one.socket.setblocking(False)
        idle = 0
        while idle < 20:
            try:
                sent += one.socket.send(block)
                idle = 0
            except BlockingIOError:
                idle += 1
                await pause(0.02)
        assert sent < 40_000_000
        assert len(await two.receive(sent)) == sent
        one.socket.setblocking(True)
        one.socket.settimeout(20)
        await one.send(b"more")
        assert await two.receive(4) == b"more"


@both
@inreactor
async def test_relays_do_not_disturb_each_other(portable):
    async with relaying(portable) as port:
        pairs = [await port.pair() for _ in range(8)]
        stuck, _ = pairs[0]
        stuck.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                stuck.socket.send(bytes(1 << 16))
        data = noise(1_000_000)
        waiting = [two.receive(len(data)) for _, two in pairs[1:]]
        for one, _ in pairs[1:]:
            await one.send(data)
        for done in waiting:
            assert await done == data


# ----------------------------------------------------------------------------- the end


@both
@inreactor
async def test_when_one_side_vanishes_the_other_one_is_ended(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        await one.send(b"x")
        assert await two.receive(1) == b"x"
        ended = two.end()
        one.reset()
        outcome = await ended
        assert outcome == b"" or isinstance(outcome, OSError)
        await until(lambda: len(port.relays) == 0)


@both
@inreactor
async def test_when_one_side_closes_the_other_one_sees_the_end(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        await two.send(b"unread")
        await one.send(b"last words")
        one.close()
        assert await two.receive(100) in (b"last words", b"")
        two.close()
        await until(lambda: len(port.relays) == 0)


@both
@inreactor
async def test_a_side_that_vanishes_while_the_other_one_is_stuck(portable):
    async with relaying(portable) as port:
        one, two = await port.pair()
        one.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                one.socket.send(bytes(1 << 16))
        two.reset()
        await until(lambda: len(port.relays) == 0)


@both
@inreactor
async def test_all_relays_end_with_the_controller(portable):
    async with relaying(portable) as port:
        pairs = [await port.pair() for _ in range(3)]
        waiting = port.relays.open("x")
        lonely = await port.connect(waiting)
        ends = [peer.end() for pair in pairs for peer in pair]
        await pause(0.05)
        await port.relays.close()
        await port.relays.close()
        assert len(port.relays) == 0
        for ended in [*ends, lonely.end()]:
            outcome = await ended
            assert outcome == b"" or isinstance(outcome, OSError)
        with pytest.raises(TransferError, match="stopping"):
            port.relays.open("x")


@both
@inreactor
async def test_they_end_at_once_even_while_they_are_being_joined(portable):
    async with relaying(portable) as port:
        token = port.relays.open("x")
        one = await port.connect(token)
        joined = []
        join = port.relays._join
        port.relays._join = lambda *args: (join(*args), joined.append(1))
        connecting = port.connect(token)
        peer = await connecting
        await until(lambda: joined)
        await port.relays.close()
        assert (await one.end()) is not None
        peer.close()


@both
@inreactor
async def test_a_line_is_logged_for_each_relay(portable, caplog):
    caplog.set_level(logging.INFO, "ipkernel")
    async with relaying(portable) as port:
        one, two = await port.pair()
        await one.send(noise(1_500_000), end=True)
        await two.receive(1_500_000)
        await two.send(b"ok", end=True)
        await one.receive(10)
        await until(lambda: len(port.relays) == 0)
        lines = [r.getMessage() for r in caplog.records if "relay" in r.getMessage()]
        assert len(lines) == 1
        assert lines[0].startswith("relay for one with another ended after ")
        assert "1.5 MB passed (1500000 + 2 bytes)" in lines[0]


# ------------------------------------------------------------------------------ strangers


@both
@inreactor
async def test_a_bad_token_is_refused(portable, caplog):
    caplog.set_level(logging.DEBUG, "ipkernel")
    async with relaying(portable) as port:
        token = port.relays.open("x")
        for bad in (os.urandom(32), token[:-1] + bytes([token[-1] ^ 1]), bytes(32)):
            peer = await port.connect(bad, b"let me in")
            outcome = await peer.end()
            assert outcome == b"" or isinstance(outcome, OSError)
        assert len(port.relays) == 1
        assert len(port.tub.doorstep) == 0
        assert [r for r in caplog.records if "no such token" in r.getMessage()]
        assert all(r.levelno == logging.DEBUG for r in caplog.records)
        assert token.hex() not in caplog.text


@both
@inreactor
async def test_a_token_is_good_for_two_connections(portable):
    async with relaying(portable) as port:
        token = port.relays.open("x")
        one, two = await port.connect(token), await port.connect(token)
        await one.send(b"x")
        assert await two.receive(1) == b"x"
        third = await port.connect(token)
        outcome = await third.end()
        assert outcome == b"" or isinstance(outcome, OSError)
        await two.send(b"y")
        assert await one.receive(1) == b"y"


@both
@inreactor
async def test_a_token_expires(portable, monkeypatch):
    monkeypatch.setattr(relays_module, "TOKEN_LIFE", 0.05)
    async with relaying(portable) as port:
        token = port.relays.open("x")
        one = await port.connect(token)
        outcome = await one.end()
        assert outcome == b"" or isinstance(outcome, OSError)
        assert len(port.relays) == 0
        late = await port.connect(token)
        outcome = await late.end()
        assert outcome == b"" or isinstance(outcome, OSError)


@both
@inreactor
async def test_half_a_token_is_not_waited_for(portable, monkeypatch):
    monkeypatch.setattr(relay_module, "TOKEN_SECONDS", 0.05)
    async with relaying(portable) as port:
        token = port.relays.open("x")
        peer = await port.connect(b"")
        await peer.send(b"R" + token[:31])
        outcome = await peer.end()
        assert outcome == b"" or isinstance(outcome, OSError)
        assert len(port.tub.doorstep) == 0


@inreactor
async def test_strangers_stand_on_the_doorstep_until_they_have_shown_a_token():
    async with relaying(True) as port:
        token = port.relays.open("x")
        raw = await Raw.connect(port.port)
        raw.transport.write(b"R" + token[:5])
        await until(lambda: len(port.tub.doorstep._speaking) == 1)
        raw.transport.write(token[5:])
        await until(lambda: len(port.tub.doorstep) == 0)
        assert not raw.gone
        await raw.close()


@inreactor
async def test_a_tub_that_does_not_relay_drops_such_connections():
    async with relaying(True) as port:
        token = port.relays.open("x")
        port.tub.relays = None
        peer = await port.connect(token)
        outcome = await peer.end()
        assert outcome == b"" or isinstance(outcome, OSError)


@both
@inreactor
async def test_there_are_so_many_relays_at_a_time(portable, monkeypatch):
    monkeypatch.setattr(relays_module, "MAX_RELAYS", 2)
    async with relaying(portable) as port:
        one, two = await port.pair()
        port.relays.open("y")
        with pytest.raises(TransferError, match="relays 2 connections already"):
            port.relays.open("z")
        one.close()
        two.close()
        await until(lambda: len(port.relays) == 1)
        port.relays.open("z")


# ------------------------------------------------------------------------------- faults


@inreactor
async def test_no_more_descriptors(monkeypatch, caplog):
    async with relaying(False) as port:
        token = port.relays.open("x")
        one = await port.connect(token)

        def no_more(*args):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(relay_module.os, "dup", no_more)
        two = await port.connect(token)
        for peer in (one, two):
            outcome = await peer.end()
            assert outcome == b"" or isinstance(outcome, OSError)
        monkeypatch.undo()
        assert len(port.relays) == 0
        assert "Too many open files" in caplog.text


@inreactor
async def test_no_more_pipes(monkeypatch, caplog):
    from ipkernel.controller import splicing

    async with relaying(False) as port:
        pipes = []
        pipe = os.pipe

        def no_more():
            if pipes:
                raise OSError(24, "Too many open files")
            pipes.append(pipe())
            return pipes[0]

        monkeypatch.setattr(splicing.os, "pipe", no_more)
        one, two = await port.pair()
        for peer in (one, two):
            outcome = await peer.end()
            assert outcome == b"" or isinstance(outcome, OSError)
        await until(lambda: len(port.relays) == 0)
        assert pipes
        assert "Too many open files" in caplog.text


@inreactor
async def test_no_more_threads(monkeypatch, caplog):
    from ipkernel.controller import splicing

    class NoThread:
        def __init__(self, **options):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    async with relaying(False) as port:
        token = port.relays.open("x")
        one = await port.connect(token)
        two = await port.connect(b"")
        monkeypatch.setattr(splicing.threading, "Thread", NoThread)
        two.socket.sendall(b"R" + token)
        await until(lambda: len(port.relays) == 0)
        monkeypatch.undo()
        for peer in (one, two):
            outcome = await peer.end()
            assert outcome == b"" or isinstance(outcome, OSError)
        assert "can't start new thread" in caplog.text


def test_what_forces_the_portable_way(monkeypatch):
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
    assert relays_module.must_be_portable() is not hasattr(os, "splice")
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert relays_module.must_be_portable()


def test_a_peer_that_dies_silently_is_noticed_by_the_system():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as one:
            relays_module._keep_alive(one)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
