"""Accepting connections: handing them on, pausing without descriptors, the end."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from twisted.internet.task import Clock

from ipkernel.wire.accepting import PAUSE, TURN, Acceptor


class Readers(Clock):
    """A reactor that knows the time, and who wants to read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class Listener:
    """A socket that listens, with connections or failures that wait to be accepted."""

    def __init__(self, *waiting: Any) -> None:
        self.waiting = list(waiting)
        self.closed = False

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 7

    def fileno(self) -> int:
        return 3

    def accept(self) -> tuple[Any, None]:
        if not self.waiting:
            raise BlockingIOError
        one = self.waiting.pop(0)
        if isinstance(one, OSError):
            raise one
        return one, None

    def close(self) -> None:
        self.closed = True


class Connection:
    blocking = False

    def setblocking(self, blocking: bool) -> None:
        self.blocking = blocking


def acceptor(reactor: Readers, listener: Any, accepted: list[Any]) -> Acceptor:
    return Acceptor(reactor, listener, accepted.append, "front door")


@pytest.fixture
def reactor() -> Readers:
    return Readers()


def test_connections_are_handed_on(reactor: Readers) -> None:
    accepted: list[socket.socket] = []
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    one = acceptor(reactor, sock, accepted)
    assert reactor.readers == [one] and one.fileno() == sock.fileno()
    assert one.logPrefix() == "front door"
    one.doRead()
    with socket.create_connection(one.sockname):
        one.doRead()
        assert len(accepted) == 1 and accepted[0].getblocking()
        accepted[0].close()
    one.close()
    one.connectionLost(None)
    assert not reactor.readers and sock.fileno() == -1


def test_a_flood_leaves_time_for_others(reactor: Readers) -> None:
    accepted: list[Any] = []
    listener = Listener(*(Connection() for _ in range(TURN + 3)))
    one = acceptor(reactor, listener, accepted)
    one.doRead()
    assert len(accepted) == TURN
    one.doRead()
    assert len(accepted) == TURN + 3 and all(each.blocking for each in accepted)


def test_who_is_gone_again_before_he_is_accepted_is_passed_over(reactor: Readers) -> None:
    accepted: list[Any] = []
    listener = Listener(ConnectionAbortedError(), Connection())
    one = acceptor(reactor, listener, accepted)
    one.doRead()
    one.doRead()
    assert len(accepted) == 1 and reactor.readers == [one]


def test_without_descriptors_it_pauses(reactor: Readers, caplog: pytest.LogCaptureFixture) -> None:
    accepted: list[Any] = []
    listener = Listener(OSError(errno.EMFILE, "Too many open files"), Connection())
    one = acceptor(reactor, listener, accepted)
    one.doRead()
    assert not reactor.readers and not accepted
    assert "front door" in caplog.text and "Too many open files" in caplog.text
    reactor.advance(PAUSE)
    assert reactor.readers == [one]
    one.doRead()
    assert len(accepted) == 1


def test_it_can_be_closed_while_it_pauses(reactor: Readers) -> None:
    listener = Listener(OSError(errno.EMFILE, "Too many open files"))
    one = acceptor(reactor, listener, [])
    one.doRead()
    one.close()
    one.close()
    assert listener.closed and not reactor.readers and not reactor.getDelayedCalls()
