"""The sockets of a host's store, turned by hand: who gets in, and what becomes of bad manners."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.task import Clock

from ipkernel.objects import localserver
from ipkernel.objects import localwire as wire
from ipkernel.objects.localserver import HELLO_TIMEOUT, STRANGERS, LocalServer
from ipkernel.objects.memory import make_memory
from ipkernel.objects.store import HostStore
from ipkernel.objects.tickets import make_key, make_ticket
from ipkernel.wire.addresses import listen, native_sockets, parse_address

A = b"A" * 16


class FakeReactor(Clock):
    """Watches nothing by itself: :meth:`turn` reads whatever can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[Any, None] = {}

    def addReader(self, reader: Any) -> None:
        self.readers[reader] = None

    def removeReader(self, reader: Any) -> None:
        self.readers.pop(reader, None)

    def turn(self) -> None:
        """One turn: whatever is watched reads, and is told when it is over."""
        for reader in list(self.readers):
            if reader in self.readers and (why := reader.doRead()) is not None:
                assert why in (CONNECTION_DONE, CONNECTION_LOST)
                self.removeReader(reader)
                reader.connectionLost(why)


class Scene:
    """A server and those who connect to it."""

    def __init__(self, native: bool) -> None:
        self.reactor = FakeReactor()
        self.store = HostStore(
            self.reactor,
            make_memory(),
            limit=1 << 20,
            segment_size=1 << 17,
            defer_to_thread=lambda function, *args: succeed(function(*args)),
        )
        self.key = make_key()
        self.native = native
        self.server = LocalServer(self.reactor, self.store, self.key, native=native)
        self.sockets: list[socket.socket] = []

    def knock(self) -> socket.socket:
        address = parse_address(self.server.address)
        sock = socket.socket(address.family)
        self.sockets.append(sock)
        sock.settimeout(5)
        sock.connect(address.sockaddr)
        return sock

    def connect(self) -> socket.socket:
        before = list(self.server._peers)[-1:]
        sock = self.knock()
        self.until(lambda: list(self.server._peers)[-1:] != before)
        return sock

    def hello(self, subject: str = "x") -> bytes:
        proof = wire.proof(make_ticket(self.key, subject), bytes(16), "client")
        return wire.encode(wire.Hello(subject, bytes(16), proof))

    def peer(self, subject: str = "x") -> socket.socket:
        sock = self.connect()
        assert isinstance(self.ask(sock, self.hello(subject)), wire.Welcome)
        return sock

    def until(self, condition: Callable[[], Any]) -> None:
        """Turn until something is so. The loopback interface has a pace of its own."""
        for _ in range(1000):
            self.reactor.turn()
            if condition():
                return
            select.select(list(self.reactor.readers), [], [], 0.01)
        raise AssertionError("it did not happen")

    def ask(self, sock: socket.socket, data: bytes | wire.Request) -> Any:
        sock.sendall(data if isinstance(data, bytes) else wire.encode(data))
        [answer] = self.read(sock, 1)
        return answer

    def read(self, sock: socket.socket, count: int) -> list[Any]:
        """Read so many answers, and no more."""
        incoming = wire.replies()
        answers: list[Any] = []

        def enough() -> bool:
            if select.select([sock], [], [], 0)[0]:
                data = sock.recv(10_000)
                assert data, "the connection was closed"
                incoming.feed(data)
            while (answer := incoming.next()) is not None:
                answers.append(answer)
            return len(answers) >= count

        self.until(enough)
        assert len(answers) == count
        return answers

    def leases(self) -> int | None:
        info = self.store.info(A)
        return info.leases if info is not None else None

    def closed(self, sock: socket.socket) -> bool:
        """Whether the server has closed its end, all answers having been read."""
        if not select.select([sock], [], [], 0)[0]:
            return False
        try:
            return not sock.recv(1)
        except OSError:
            return True

    def closes(self, *socks: socket.socket) -> None:
        """Turn until the server has closed its end of all these."""
        self.until(lambda: all(map(self.closed, socks)))

    def close(self) -> None:
        self.server.close()
        self.store.close()
        for sock in self.sockets:
            sock.close()
        assert not self.reactor.readers
        assert not self.reactor.getDelayedCalls()


@pytest.fixture(params=["native", "portable"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.param == "native" and not native_sockets():
        pytest.skip("this system has no such sockets")
    made = Scene(request.param == "native")
    yield made
    made.close()


def test_it_says_where_it_is(scene: Scene) -> None:
    address = parse_address(scene.server.address)
    assert bool(address.name) is scene.native
    assert bool(address.port) is not scene.native
    assert [reader.logPrefix() for reader in scene.reactor.readers] == ["local store"]


def test_each_server_has_an_address_of_its_own(scene: Scene) -> None:
    other = LocalServer(scene.reactor, scene.store, scene.key, native=scene.native)
    assert other.address != scene.server.address
    other.close()
    other.close()


def test_a_socket_that_listens_already_is_taken_over(scene: Scene) -> None:
    sock, address = listen(scene.native)
    early = socket.socket(address.family)
    scene.sockets.append(early)
    early.connect(address.sockaddr)
    scene.server.close()
    scene.server = LocalServer(scene.reactor, scene.store, scene.key, listening=(sock, address))
    assert scene.server.address == str(address)
    scene.peer()
    assert len(scene.server._peers) == 2


def test_many_connect_and_are_served(scene: Scene) -> None:
    peers = [scene.peer(f"engine:{number}") for number in range(20)]
    assert isinstance(scene.ask(peers[3], wire.Create(A, 100, 1)), wire.Region)
    assert scene.ask(peers[3], wire.Seal(A)) == wire.Ok()
    for peer in peers:
        assert scene.ask(peer, wire.Get(A)).size == 100


def test_messages_may_be_cut_and_may_come_together(scene: Scene) -> None:
    peer = scene.connect()
    create = wire.encode(wire.Create(A, 100, 1))
    for byte in scene.hello() + create[:-1]:
        peer.sendall(bytes([byte]))
        scene.reactor.turn()
    [welcome] = scene.read(peer, 1)
    assert isinstance(welcome, wire.Welcome)
    peer.sendall(create[-1:] + wire.encode(wire.Seal(A)) + wire.encode(wire.Get(A)))
    assert list(map(type, scene.read(peer, 3))) == [wire.Region, wire.Ok, wire.Region]


def test_what_comes_ahead_of_an_answer_waits_for_it(scene: Scene) -> None:
    peer, writer = scene.peer(), scene.peer("y")
    scene.ask(writer, wire.Create(A, 100, 1))
    peer.sendall(wire.encode(wire.Get(A)) + wire.encode(wire.WaitFreed(b"B" * 16, 1.0)))
    scene.until(lambda: scene.store.stats().waiting)
    peer.sendall(wire.encode(wire.Release([A])))
    scene.reactor.turn()
    assert not scene.closed(peer)
    scene.ask(writer, wire.Seal(A))
    assert list(map(type, scene.read(peer, 2))) == [wire.Region, wire.Ok]
    scene.until(lambda: scene.leases() == 0)


def test_the_end_of_a_connection_ends_its_leases(scene: Scene) -> None:
    peer = scene.peer()
    scene.ask(peer, wire.Create(A, 100, 1))
    scene.ask(peer, wire.Seal(A))
    scene.ask(peer, wire.Get(A))
    assert scene.leases() == 1
    peer.sendall(wire.encode(wire.Kept(A)))
    peer.close()
    scene.until(lambda: scene.leases() == 0)


def test_the_server_ends_all_connections(scene: Scene) -> None:
    peers = [scene.peer(), scene.connect()]
    scene.ask(peers[0], wire.Create(A, 100, 1))
    scene.server.close()
    scene.closes(*peers)
    assert scene.store.info(A) is None
    assert not scene.reactor.readers


@pytest.mark.skipif(not native_sockets(), reason="no descriptors can be passed")
def test_a_segment_comes_as_a_descriptor() -> None:
    scene = Scene(True)
    peer = scene.peer()
    region = scene.ask(peer, wire.Create(A, 100, 1))
    peer.sendall(wire.encode(wire.Attach(region.segment)))
    scene.until(lambda: select.select([peer], [], [], 0)[0])
    data, descriptors, _, _ = socket.recv_fds(peer, 1000, 4)
    incoming = wire.replies()
    incoming.feed(data)
    assert incoming.next() == wire.Segment()
    [descriptor] = descriptors
    segment = scene.store.segment(region.segment)
    assert isinstance(segment, int)
    assert os.path.sameopenfile(descriptor, segment)
    os.close(descriptor)
    scene.close()


# ---------------------------------------------------------------- strangers


def test_a_stranger_has_some_seconds(scene: Scene) -> None:
    silent, slow, known = scene.connect(), scene.connect(), scene.peer()
    slow.sendall(scene.hello()[:20])
    scene.reactor.advance(HELLO_TIMEOUT - 0.1)
    assert not scene.closed(silent)
    scene.reactor.advance(0.2)
    scene.closes(silent, slow)
    assert not scene.closed(known)


def test_a_slow_server_blames_nobody_else(scene: Scene) -> None:
    prompt, gone = scene.connect(), scene.connect()
    prompt.sendall(scene.hello())
    gone.close()
    # It is in the other end's socket by now, also where that takes a moment.
    [served, _] = scene.server._peers
    assert select.select([served], [], [], 5)[0]
    scene.reactor.advance(HELLO_TIMEOUT)
    [welcome] = scene.read(prompt, 1)
    assert isinstance(welcome, wire.Welcome)
    assert list(scene.server._peers) == [served]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack("<I", wire.HELLO_LIMIT + 1),
        struct.pack("<I", 5) + b"wrong",
        b"\0\0\0\0",
        wire.encode(wire.Free([A])),
        wire.encode(wire.Release([A])),
    ],
)
def test_a_stranger_who_says_something_else_is_shown_out(scene: Scene, data: bytes) -> None:
    sock = scene.connect()
    sock.sendall(data)
    scene.closes(sock)


def test_a_wrong_ticket_is_answered(scene: Scene) -> None:
    sock = scene.connect()
    proof = wire.proof(make_ticket(make_key(), "x"), bytes(16), "client")
    answer = scene.ask(sock, wire.Hello("x", bytes(16), proof))
    assert answer.kind == "refused"
    scene.closes(sock)


def test_too_many_strangers_cost_the_oldest_its_place(scene: Scene) -> None:
    known = scene.peer()
    strangers = [scene.connect() for _ in range(STRANGERS)]
    assert not scene.closed(strangers[0])
    late = scene.peer()
    scene.closes(strangers[0])
    assert not any(map(scene.closed, [known, late, *strangers[1:]]))


@pytest.mark.skipif(not native_sockets(), reason="users are not known")
def test_other_users_are_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(True)
    monkeypatch.setattr(localserver, "peer_user", lambda sock: os.geteuid() + 1)
    scene.closes(scene.knock())
    monkeypatch.undo()
    assert not scene.closed(scene.peer())
    scene.close()


# ------------------------------------------------------------- bad manners


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"bad"])
def test_who_breaks_the_protocol_loses_everything(scene: Scene, data: bytes) -> None:
    peer = scene.peer()
    scene.ask(peer, wire.Create(A, 100, 1))
    peer.sendall(data)
    scene.closes(peer)
    assert scene.store.info(A) is None


def test_who_asks_on_and_on_is_shown_out(scene: Scene) -> None:
    peer = scene.peer()
    peer.sendall(wire.encode(wire.Get(A, bringer=1)))
    scene.until(lambda: scene.store.stats().waiting)
    release = wire.encode(wire.Release([A] * 1000))
    for _ in range(wire.LIMIT // len(release)):
        peer.sendall(release)
        scene.reactor.turn()
    assert not scene.closed(peer)
    peer.sendall(release)
    scene.closes(peer)
    assert scene.store.stats().waiting == 0


def test_who_does_not_take_his_answers_is_shown_out(scene: Scene) -> None:
    peer = scene.peer()
    [_, served] = scene.reactor.readers  # who listens, and the connection
    served._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    frees = wire.encode(wire.Free([])) * 1000
    peer.settimeout(0)

    def ask_on() -> bool:
        with contextlib.suppress(OSError):
            peer.send(frees)
        return served not in scene.reactor.readers

    scene.until(ask_on)


def test_a_connection_that_is_reset_is_over(scene: Scene) -> None:
    peer = scene.peer()
    scene.ask(peer, wire.Create(A, 100, 1))
    peer.sendall(wire.encode(wire.Get(b"B" * 16)))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scene.reactor.turn()
    peer.close()
    scene.until(lambda: scene.store.info(A) is None)


def test_an_answer_that_comes_after_the_end_goes_nowhere(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Deferred[Any] = Deferred(lambda _: None)
    monkeypatch.setattr(scene.store, "lease", lambda *args, **kwargs: answer)
    peer = scene.peer()
    peer.sendall(wire.encode(wire.Get(A)))
    scene.reactor.turn()
    peer.close()
    scene.until(lambda: len(scene.reactor.readers) == 1)
