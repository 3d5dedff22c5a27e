"""What connections are told to do about networks that are down."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from ipkernel.controller.events import HostLost
from ipkernel.controller.hostlink import HostLink
from ipkernel.wire.messages import Started
from ipkernel.wire.outage import notice_outage


class Transport:
    """A transport like Twisted's: around a socket, or around another transport."""

    def __init__(self, inner: Any) -> None:
        if isinstance(inner, Transport):
            self.transport = inner
        else:
            self.socket = inner


def pair() -> tuple[socket.socket, socket.socket, socket.socket]:
    listening = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listening.getsockname())
    far, _ = listening.accept()
    return near, far, listening


@pytest.mark.parametrize("wrapped", ["plain", "tls", "twisted tls"])
def test_a_connection_is_told(wrapped: str) -> None:
    near, far, listening = pair()
    with near, far, listening:
        inner: Any = near
        if wrapped == "tls":
            inner = SSL.Connection(SSL.Context(SSL.TLS_METHOD), near)
        transport = Transport(inner)
        if wrapped == "twisted tls":
            transport = Transport(transport)
        assert notice_outage(transport, 10)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        told = {
            name: near.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            if hasattr(socket, name)
        }
        wanted = {
            "TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000,
        }  # fmt: skip
        assert told == {name: wanted[name] for name in told}


def test_what_is_no_connection_of_a_network() -> None:
    assert not notice_outage(None, 10)
    assert not notice_outage(Transport(object()), 10)
    one, other = socket.socketpair()
    with one, other:
        assert not notice_outage(Transport(one), 10)


def test_a_connection_that_is_lost_already() -> None:
    near, far, listening = pair()
    with far, listening:
        near.close()
        assert not notice_outage(Transport(near), 10)


# -------------------------------------------------------------------- what is said then


class Turn:
    """Takes events, at a time of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[Any] = []

    def now(self) -> float:
        return self.clock.seconds()

    def add(self, event: Any, source: Any = None, count: int = 0) -> None:
        self.events.append(event)


@pytest.mark.parametrize(
    ("silence", "said"),
    [(1.0, "connection lost"), (12.4, "connection lost; nothing was heard of it for 12 s")],
)
def test_how_long_nothing_was_heard_of_a_host(silence: float, said: str) -> None:
    turn = Turn()
    link = HostLink(turn.clock, turn, lambda link: None, 1, "tub")  # type: ignore[arg-type]
    turn.clock.advance(5.0)
    link._received(link.make_channel(), [(Started([]), b"")])
    turn.clock.advance(silence)
    link.lost("connection lost")
    lost = turn.events[-1]
    assert isinstance(lost, HostLost)
    assert (lost.host, lost.reason) == (1, said)
