"""Channels over an in-memory connection: turns, pauses, closing, faults."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ipkernel.wire.channel import ACK_TIME, BEAT, BEATS, CLOSE_TIME, Channel, describe_loss
from ipkernel.wire.link import Window
from ipkernel.wire.memory import HIGH_WATER, MemoryChannel, memory_channels
from ipkernel.wire.messages import Cancel, Function, Kind, Submit


def blob(size: int, task: int = 1) -> tuple[Submit, bytes]:
    return Submit(task, Kind.APPLY, size), bytes(size)


@pytest.fixture
def clock():
    return Clock()


def test_what_is_sent_in_one_turn_leaves_together(clock):
    a, b, pump = memory_channels(clock)
    for i in range(10):
        a.send(Cancel([i]))
    assert len(clock.getDelayedCalls()) == 1
    assert a.backlog == (10, 0)
    written = []
    write = a.transport.write
    a.transport.write = lambda data: (written.append(len(data)), write(data))
    pump()
    assert len(written) == 1
    assert [m.tasks for m, _ in b.inbox] == [[i] for i in range(10)]
    assert a.backlog == (0, 0)


def test_flush_now_does_not_wait_for_the_turn(clock):
    a, b, pump = memory_channels(clock)
    a.send(Cancel([1]))
    a.flush_now()
    assert a.transport.pending
    pump()
    assert len(b.inbox) == 1


def test_what_is_queued_waits_for_a_flush_and_asks_the_reactor_for_nothing(clock):
    a, b, pump = memory_channels(clock)
    a.queue(Cancel([1]))
    a.queue(*blob(10))
    assert (clock.getDelayedCalls(), a.backlog) == ([], (2, 10))
    a.flush_now()
    pump()
    assert b.inbox == [(Cancel([1]), b""), blob(10)]
    with pytest.raises(ValueError, match="10 bytes"):
        a.queue(blob(10)[0], b"")
    a.close()
    a.queue(Cancel([2]))
    assert a.backlog == (0, 0)


@pytest.mark.parametrize("chunk", [1, 3, 100, 65536])
def test_delivery_in_any_chunks(clock, chunk):
    a, b, pump = memory_channels(clock)
    a.send(*blob(3000))
    b.send(Function(b"d" * 16, 4), b"code")
    pump(chunk)
    assert b.inbox == [blob(3000)]
    assert a.inbox == [(Function(b"d" * 16, 4), b"code")]


def test_answers_from_inside_received(clock):
    def echo(channel, messages):
        for message, payload in messages:
            channel.send(message, payload)

    losses = []
    server = Channel(clock, received=echo, lost=lambda c, why: losses.append(why))
    a, _, pump = memory_channels(clock, None, server)
    for i in range(300):
        a.send(*blob(5000, i))
    pump()
    assert [m.task for m, _ in a.inbox] == list(range(300))


def test_a_frozen_peer_costs_bounded_memory(clock):
    a, b, pump = memory_channels(clock)
    a.transport.frozen = True
    for i in range(500):
        a.send(*blob(100_000, i))
    pump()
    assert len(a.transport.pending) <= HIGH_WATER + 270_000
    assert a.backlog[1] >= 49_000_000  # still counted, so that the sender can hold back
    a.transport.frozen = False
    pump()
    assert len(b.inbox) == 500
    assert a.backlog == (0, 0)


def test_a_consumer_that_does_not_acknowledge_stops_the_sender(clock):
    window = Window(count=10, size=1 << 20)
    slow = MemoryChannel(clock, auto_acknowledge=False, window=window)
    a, b, pump = memory_channels(clock, None, slow, window=window)
    for i in range(25):
        a.send(*blob(10, i))
    pump()
    assert len(b.inbox) == 10
    b.acknowledge(5)
    pump()
    assert len(b.inbox) == 15
    b.acknowledge()
    pump()
    b.acknowledge()
    pump()
    assert [m.task for m, _ in b.inbox] == list(range(25))


def test_channels_that_are_watched_live_on_without_messages(clock):
    a, b, pump = memory_channels(clock)
    a.watch()
    b.watch()
    for _ in range(10 * BEATS):
        clock.advance(BEAT)
        assert pump() > 0
    assert a.alive and b.alive and not a.losses + b.losses
    a.close("done with it")
    pump()
    assert not clock.getDelayedCalls()


def test_what_is_said_anyway_is_enough(clock):
    a, b, pump = memory_channels(clock)
    a.watch()
    b.watch()
    for number in range(3 * BEATS):
        a.send(*blob(10, number))
        b.send(*blob(10, number))
        pump()
        clock.advance(ACK_TIME)
        pump()
        clock.advance(BEAT - ACK_TIME)
        assert not a.transport.pending and not b.transport.pending
    a.close()
    pump()


@pytest.mark.parametrize("talks", [False, True])
def test_a_channel_on_which_nothing_is_heard_any_more_is_ended(clock, talks):
    a, b, pump = memory_channels(clock)
    a.watch()
    b.send(*blob(10))
    pump()
    b.transport.frozen = True  # what it says goes nowhere
    for number in range(BEATS):
        clock.advance(BEAT)
        assert not a.losses
        if talks:
            a.send(*blob(10, number))
        pump()
    clock.advance(BEAT)
    pump()
    assert a.losses == ["connection lost: nothing was heard for 40 s"]
    b.transport.frozen = False
    pump()
    assert not clock.getDelayedCalls()


def test_a_channel_that_is_not_watched_may_be_silent(clock):
    a, b, pump = memory_channels(clock)
    clock.advance(100 * BEAT)
    pump()
    assert a.alive and b.alive


def test_close_lets_queued_data_out_first(clock):
    a, b, pump = memory_channels(clock)
    for i in range(30):
        a.send(*blob(100_000, i))
    a.close("done with it")
    a.send(Cancel([1]))  # goes nowhere
    pump()
    assert len(b.inbox) == 30
    assert a.losses == ["done with it"]
    assert b.losses == ["closed by the other side"]
    assert not clock.getDelayedCalls()
    a.close("again")
    a.abort("again")
    assert a.losses == ["done with it"]


def test_close_does_not_wait_for_ever(clock):
    a, b, pump = memory_channels(clock)
    a.transport.frozen = True
    for i in range(30):
        a.send(*blob(100_000, i))
    a.close("bye")
    pump()
    assert not a.losses
    clock.advance(CLOSE_TIME)
    pump()
    assert a.losses == ["bye"]
    assert not clock.getDelayedCalls()


def test_close_of_an_idle_channel_does_not_wait_for_the_peer(clock):
    a, b, pump = memory_channels(clock)
    a.transport.frozen = True
    a.send(Cancel([1]))
    a.close()
    clock.advance(CLOSE_TIME)
    pump()
    assert a.losses == ["closed"]


def test_abort_drops_what_is_queued(clock):
    a, b, pump = memory_channels(clock)
    a.send(Cancel([1]))
    a.abort("enough of it")
    pump()
    assert a.losses == ["enough of it"]
    assert b.inbox == []
    assert len(b.losses) == 1


def test_abort_later(clock):
    a, b, pump = memory_channels(clock)
    a.abort_later(0.25, "the other connection is gone")
    pump()
    a.send(Cancel([1]))
    pump()
    assert len(b.inbox) == 1
    clock.advance(0.25)
    pump()
    assert a.losses == ["the other connection is gone"]


def test_a_violation_ends_the_channel_and_only_it(clock):
    a, b, pump = memory_channels(clock)
    b.dataReceived(b"\xff" * 100)
    b.dataReceived(b"\xff" * 100)
    pump()
    assert len(b.losses) == 1
    assert b.losses[0].startswith("the other side broke the protocol: a frame of")
    assert "\n" not in b.losses[0]
    assert a.losses == ["closed by the other side"]


def test_a_fault_of_the_receiver_ends_the_channel(clock, caplog):
    def broken(channel, messages):
        raise RuntimeError("cannot cope")

    losses = []
    server = Channel(clock, received=broken, lost=lambda c, why: losses.append(why))
    a, _, pump = memory_channels(clock, None, server)
    a.send(Cancel([1]))
    pump()
    assert losses == ["internal error: RuntimeError: cannot cope"]
    assert "could not be dealt with" in caplog.text


def test_a_fault_of_lost_is_logged_and_lost_is_not_called_again(clock, caplog):
    calls = []

    def broken(channel, why):
        calls.append(why)
        raise RuntimeError("cannot cope")

    server = Channel(clock, received=lambda c, m: None, lost=broken)
    a, _, pump = memory_channels(clock, None, server)
    a.close()
    pump()
    server.connectionLost(Failure(ConnectionDone()))
    assert len(calls) == 1
    assert "cannot cope" in caplog.text


def test_sent_before_the_connection_leaves_with_it(clock):
    early = MemoryChannel(clock)
    early.send(Cancel([5]))
    _, b, pump = memory_channels(clock, early)
    pump()
    assert b.inbox == [(Cancel([5]), b"")]


def test_closed_before_the_connection_ends_with_it(clock):
    early = MemoryChannel(clock)
    early.close("never mind")
    _, b, pump = memory_channels(clock, early)
    pump()
    assert early.losses == ["never mind"]


def test_acks_leave_without_data_when_due(clock):
    window = Window(count=4, size=1 << 20)
    a, b, pump = memory_channels(clock, window=window)
    for i in range(4):
        a.send(Cancel([i]))
    pump()
    assert a.link.acknowledged == 4


def test_a_few_messages_are_acknowledged_in_a_while(clock):
    a, b, pump = memory_channels(clock)
    a.send(Cancel([1]))
    pump()
    assert a.link.acknowledged == 0
    clock.advance(ACK_TIME)
    pump()
    assert a.link.acknowledged == 1
    assert not clock.getDelayedCalls()


def test_unprocessed_messages_are_never_acknowledged(clock):
    slow = MemoryChannel(clock, auto_acknowledge=False)
    a, b, pump = memory_channels(clock, None, slow)
    a.send(Cancel([1]))
    pump()
    clock.advance(10)
    pump()
    assert a.link.acknowledged == 0
    b.acknowledge()
    clock.advance(ACK_TIME)
    pump()
    assert a.link.acknowledged == 1


def test_reasons_are_one_line():
    assert describe_loss(Failure(ConnectionDone())) == "closed by the other side"
    lost = describe_loss(Failure(ConnectionLost("reset\nby  peer.")))
    assert lost.startswith("connection lost: ")
    assert "\n" not in lost


def test_pump_counts_and_stops_after_rounds(clock):
    a, b, pump = memory_channels(clock)
    a.send(*blob(1000))
    assert pump(100, rounds=2) == 200
    assert b.inbox == []
    assert pump() > 800
    assert pump() == 0
