"""A lightened reactor: what is ready is called, and a fault costs one connection."""

from __future__ import annotations

import os
import socket

import pytest
from twisted.internet import task
from twisted.python import log

from ipkernel.wire.lean import lighten, soon

epollreactor = pytest.importorskip("twisted.internet.epollreactor")


class Reader:
    """One end of a pair of sockets, which the reactor watches."""

    def __init__(self, reactor):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.got = []
        self.lost = None
        self.answer = None
        self.fault = None
        self.reactor = reactor
        reactor.addReader(self)

    def fileno(self):
        return self.near.fileno()

    def logPrefix(self):
        raise AssertionError("nobody asks for a place in the log")

    def doRead(self):
        self.got.append(self.near.recv(100))
        if self.fault is not None:
            raise self.fault
        return self.answer

    def doWrite(self):
        self.got.append("writable")
        self.reactor.removeWriter(self)

    def connectionLost(self, reason):
        self.lost = reason
        self.reactor.removeReader(self)
        self.close()

    def close(self):
        self.near.close()
        self.far.close()


@pytest.fixture
def reactor():
    made = epollreactor.EPollReactor()
    lighten(made)
    yield made
    for reader in made.removeAll():
        if isinstance(reader, Reader):
            reader.close()
    for reader in list(made._internalReaders):
        made.removeReader(reader)
        reader.connectionLost(None)
    made._poller.close()


def test_what_is_ready_is_called(reactor):
    one, two = Reader(reactor), Reader(reactor)
    one.far.send(b"hello")
    reactor.addWriter(two)
    reactor.doIteration(0)
    assert (one.got, two.got) == ([b"hello"], ["writable"])
    reactor.doIteration(0)
    assert (one.got, two.got) == ([b"hello"], ["writable"])


def test_timed_calls_are_made_and_waiting_ends_with_them(reactor):
    called = []
    reactor.callLater(0.001, called.append, 1)
    while not called:
        reactor.doIteration(reactor.timeout())  # as its main loop does
        reactor.runUntilCurrent()
    assert called == [1]


def test_nothing_to_watch_is_no_error():
    made = epollreactor.EPollReactor()
    lighten(made)
    for reader in made.removeAll() + list(made._internalReaders):
        made.removeReader(reader)
        reader.connectionLost(None)
    made.doIteration(0)
    made._poller.close()


def test_a_connection_that_says_it_is_over_is_taken_out(reactor):
    reader = Reader(reactor)
    reader.answer = OSError("over")
    reader.far.send(b"x")
    reactor.doIteration(0)
    assert isinstance(reader.lost.value, OSError)
    assert reader not in reactor.getReaders()


def test_a_descriptor_that_is_gone_is_taken_out(reactor):
    reader = Reader(reactor)
    reader.far.send(b"x")
    reader.fileno = lambda: -1
    reactor.doIteration(0)
    assert (reader.got, reader.lost is None) == ([], False)


def test_the_other_end_hangs_up(reactor):
    reader = Reader(reactor)
    reader.answer = OSError("over")
    reader.far.close()
    reactor.doIteration(0)
    assert reader.lost is not None
    assert reader not in reactor.getReaders()


def test_a_fault_is_logged_and_costs_only_its_connection(reactor):
    failures = []

    def observe(event):
        if event.get("isError"):
            failures.append(event["failure"].value)

    faulty, other = Reader(reactor), Reader(reactor)
    faulty.fault = ValueError("a fault")
    faulty.connectionLost = lambda reason: reactor.removeReader(faulty) or 1 / 0
    faulty.far.send(b"x")
    other.far.send(b"y")
    log.addObserver(observe)
    try:
        reactor.doIteration(0)
    finally:
        log.removeObserver(observe)
        faulty.close()
    assert [type(f) for f in failures] == [ValueError, ZeroDivisionError]
    assert other.got == [b"y"]


def test_one_that_was_removed_by_an_earlier_one_is_not_called(reactor):
    readers = [Reader(reactor), Reader(reactor)]
    for reader, other in (readers, readers[::-1]):
        reader.doRead = lambda r=reader, o=other: (r.got.append(1), reactor.removeReader(o))[1]
        reader.far.send(b"x")
    reactor.doIteration(0)
    assert sorted(map(len, (r.got for r in readers))) == [0, 1]
    for reader in readers:
        reactor.removeReader(reader)
        reader.close()


def test_reactors_of_other_kinds_stay_as_they_are():
    clock = task.Clock()
    before = dict(vars(clock))
    lighten(clock)
    assert vars(clock) == before


def test_a_reactor_of_somebody_elses_class_stays_as_it_is():
    class Own(epollreactor.EPollReactor):
        def __init__(self):
            self._poller = self._selectables = self._doReadOrWrite = os

    own = Own()
    lighten(own)
    assert "doIteration" not in vars(own)


def test_what_is_due_soon_is_called_when_all_that_is_ready_was_read(reactor):
    one, two = Reader(reactor), Reader(reactor)
    seen = []

    def doRead(reader):
        reader.got.append(reader.near.recv(100))
        soon(reactor, lambda: seen.append((len(one.got), len(two.got))))

    one.doRead = lambda: doRead(one)
    two.doRead = lambda: doRead(two)
    one.far.send(b"1")
    two.far.send(b"2")
    reactor.doIteration(0)
    assert seen == [(1, 1), (1, 1)]
    assert not reactor.getDelayedCalls()


def test_what_a_timer_wants_soon_is_not_waited_for(reactor):
    called = []
    reactor.callLater(0, lambda: soon(reactor, lambda: called.append(1)))
    reactor.runUntilCurrent()
    reactor.doIteration(60)
    assert called == [1]
    reactor.doIteration(0)
    assert called == [1]


def test_what_is_wanted_soon_by_what_is_due_comes_next(reactor):
    called = []
    soon(reactor, lambda: (called.append(1), soon(reactor, lambda: called.append(2))))
    reactor.doIteration(60)
    assert called == [1, 2]


def test_a_call_that_fails_costs_itself_only(reactor):
    called = []
    seen = []
    log.addObserver(seen.append)
    try:
        soon(reactor, lambda: 1 / 0)
        soon(reactor, lambda: called.append(1))
        reactor.doIteration(60)
    finally:
        log.removeObserver(seen.append)
    assert called == [1]
    assert [event["failure"].type for event in seen if event["isError"]] == [ZeroDivisionError]


def test_with_any_other_reactor_it_is_a_timer():
    clock = task.Clock()
    called = []
    soon(clock, lambda: called.append(1))
    assert not called
    clock.advance(0)
    assert called == [1]
