"""The data port and strangers: who is let in, how long it takes at most, and how many there may be."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from OpenSSL import SSL

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.objects import dataport, new_object_id, serving, tlsstream
from ipkernel.objects.courtesy import STRIDE
from ipkernel.objects.datawire import (
    Done,
    Get,
    Go,
    Hello,
    Ok,
    Problem,
    Put,
    PutRange,
    Release,
    Sending,
    WaitFreed,
    decode_reply,
    encode,
)
from ipkernel.objects.dialing import Dialling, Hint, dial_relay
from ipkernel.objects.digests import digest_of
from ipkernel.objects.line import Line
from ipkernel.objects.lines import Guard, HostLine
from ipkernel.objects.ranges import PIECE
from ipkernel.objects.tickets import make_ticket
from ipkernel.objects.tlsstream import StreamBroken, TlsStream
from ipkernel.wire.identity import Identity
from ipkernel.wire.security import TubTLS
from tests.support.datascene import DataScene, data_scene


@pytest.fixture
def scene() -> Iterator[DataScene]:
    with data_scene() as scene:
        yield scene


def dial(scene: DataScene) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scene.port.port), timeout=20)


def tls(scene: DataScene, identity: Identity | None = None) -> Line:
    identity = identity or Identity.create()
    stream = TlsStream(dial(scene), TubTLS(identity), server=False)
    return Line(stream.handshake(), decode_reply)


def connections(scene: DataScene) -> int:
    count: int = scene.call(lambda: scene.port.connections)
    return count


def wait_for(scene: DataScene, count: int) -> None:
    while connections(scene) != count:
        time.sleep(0.005)


def let_in(scene: DataScene) -> tuple[HostLine, Guard]:
    guard = Guard()
    return scene.client()._lines.open(guard), guard


# ---------------------------------------------------------------- strangers


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01" + bytes(500)])
def test_who_does_not_speak_tls_is_dropped(scene: DataScene, data: bytes) -> None:
    with dial(scene) as sock:
        sock.sendall(data)
        with contextlib.suppress(OSError):  # it may have been dropped already
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    wait_for(scene, 0)


def test_who_says_nothing_is_dropped_after_a_while(
    scene: DataScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataport, "HELLO_TIMEOUT", 0.2)
    with dial(scene) as sock:
        assert sock.recv(1) == b""
    line = tls(scene)
    with pytest.raises(StreamBroken):
        line.hear()
    line.close()
    wait_for(scene, 0)


def test_who_says_it_byte_by_byte_is_dropped_too(
    scene: DataScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataport, "HELLO_TIMEOUT", 0.3)
    with dial(scene) as sock, pytest.raises(OSError):  # noqa: PT011
        for _ in range(500):
            sock.sendall(b"\x16")
            time.sleep(0.02)
    wait_for(scene, 0)


def test_who_shows_no_certificate_is_dropped(scene: DataScene) -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    sock = dial(scene)
    sock.settimeout(None)
    connection = SSL.Connection(context, sock)
    connection.set_connect_state()
    with pytest.raises(SSL.Error):
        connection.do_handshake()
        connection.recv(1)
    sock.close()


def test_old_tls_is_refused(scene: DataScene) -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    sock = dial(scene)
    sock.settimeout(None)
    connection = SSL.Connection(context, sock)
    connection.set_connect_state()
    with pytest.raises(SSL.Error):
        connection.do_handshake()
    sock.close()


@pytest.mark.parametrize(
    "hello",
    [
        encode(Put(bytes(16), 1, 1)),
        encode(Ok()),
        b"\xff\xff\xff\x7f",
        b"\0\x10\0\0" + bytes(4096),
        bytes(3000),
    ],
)
def test_who_does_not_say_who_he_is_is_dropped(scene: DataScene, hello: bytes) -> None:
    line = tls(scene)
    line.stream.send(hello)
    with pytest.raises(StreamBroken):
        line.hear()
    line.close()


def test_another_version_of_the_protocol(scene: DataScene) -> None:
    identity = Identity.create()
    line = tls(scene, identity)
    ticket = make_ticket(scene.key, identity.tub_id)
    line.tell(Hello(identity.tub_id, ticket, 99))
    answer = line.hear()
    assert isinstance(answer, Problem)
    assert "it speaks version 99 of the protocol, not 1" in answer.text
    line.close()


def test_strangers_are_few(scene: DataScene) -> None:
    waiting = [dial(scene) for _ in range(dataport.STRANGERS)]
    wait_for(scene, dataport.STRANGERS)
    with dial(scene) as one_more:
        assert one_more.recv(1) == b""
    for sock in waiting:
        sock.close()
    wait_for(scene, 0)
    scene.client().free([])


# ---------------------------------------------------------------- too many


def test_the_one_that_was_idle_for_longest_makes_room() -> None:
    with data_scene(connections=3) as scene:
        one = new_object_id()
        scene.keep(one, b"x" * 1000)
        clients = [scene.client() for _ in range(8)]
        for _ in range(2):
            for client in clients:
                assert client.get(one) == b"x" * 1000
                assert connections(scene) <= 4  # the evicted one may still be going


def test_those_that_are_busy_are_left_alone() -> None:
    with data_scene(connections=2) as scene, ThreadPoolExecutor(2) as pool:
        coming = [
            pool.submit(scene.client().get, one, bringer=7)
            for one in (new_object_id(), new_object_id())
        ]
        while scene.call(lambda: scene.store.stats().waiting) < 2:
            time.sleep(0.005)
        with pytest.raises(ConnectError, match="host n1 cannot be reached"):
            scene.client().get(new_object_id())
        scene.call(scene.store.session_gone, 7)
        assert all(isinstance(future.exception(20), ObjectError) for future in coming)


def test_who_asks_for_nothing_is_let_go(scene: DataScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE", 0.1)
    client = scene.client()
    client.free([new_object_id()])
    wait_for(scene, 0)
    client.free([new_object_id()])  # and can come again


# ---------------------------------------------------------------- against the rules


@pytest.mark.parametrize(
    "request_",
    [PutRange(bytes(16), 0, 10), Done(), Hello("a", b"")],
    ids=lambda r: type(r).__name__,
)
def test_what_makes_no_sense_ends_the_connection(scene: DataScene, request_) -> None:
    line, guard = let_in(scene)
    line.tell(request_)
    with pytest.raises(StreamBroken):
        line.hear()
    line.close()
    wait_for(scene, 0)


@pytest.mark.parametrize(("offset", "length"), [(1, 99), (0, 50), (0, 101), (100, 0), (1 << 40, 1)])
def test_what_is_no_piece_ends_the_connection(scene: DataScene, offset: int, length: int) -> None:
    one = new_object_id()
    line, guard = let_in(scene)
    line.ask(Put(one, 100, 7), Go)
    line.tell(PutRange(one, offset, length))
    answer = line.hear()
    assert isinstance(answer, Problem) and "not a piece" in answer.text
    with pytest.raises(StreamBroken):
        line.hear()
    line.close()


def test_an_unknown_codec_ends_the_connection(scene: DataScene) -> None:
    one = new_object_id()
    line, guard = let_in(scene)
    line.ask(Put(one, 100, 7), Go)
    line.tell(PutRange(one, 0, 100, "rot13"))
    answer = line.hear()
    assert isinstance(answer, Problem) and "no codec 'rot13'" in answer.text
    line.close()


def test_a_codec_that_only_the_asker_knows_is_not_used(scene: DataScene) -> None:
    one = new_object_id()
    scene.keep(one, bytes(PIECE))
    line, guard = let_in(scene)
    sending = line.ask(Get(one, 0, PIECE, codecs=["rot13"]), Sending)
    assert sending.codec == ""
    line.close()
    line, guard = let_in(scene)
    sending = line.ask(Get(one, 0, PIECE, codecs=["rot13", "zstd"]), Sending)
    assert sending.codec == "zstd"
    line.close()


def test_leases_are_few(scene: DataScene) -> None:
    line, guard = let_in(scene)
    ids = [new_object_id() for _ in range(17)]
    for one in ids:
        scene.keep(one, b"x")
    for one in ids[:16]:
        line.ask(Get(one), Sending)
        line.answer(Done)
    with pytest.raises(ObjectError, match="more than 16 objects"):
        line.ask(Get(ids[16]), Sending)
    line.tell(Release(ids[0]), Release(ids[0]), Get(ids[16]))
    assert line.answer(Sending).size == 1
    line.close()


def test_bytes_beyond_the_end(scene: DataScene) -> None:
    one = new_object_id()
    scene.keep(one, b"abc")
    line, guard = let_in(scene)
    with pytest.raises(ObjectError, match="byte 4 of an object with 3 bytes"):
        line.ask(Get(one, 4, 1), Sending)
    assert line.ask(Get(one, 3, 10), Sending).length == 0
    line.answer(Done)
    assert line.ask(Get(one, 1, 1), Sending).length == 1
    target = bytearray(1)
    line.receive_range(memoryview(target), lambda n: None)
    assert target == b"b"
    line.close()


# ---------------------------------------------------------------- signs of life


def test_an_answer_that_takes_long_is_waited_for() -> None:
    with data_scene(timeout=0.3) as scene:
        # Frozen after 0.5 s, if the host did not show that it is alive.
        client = scene.client(timeout=0.5)
        assert not client.wait_freed(keep_one(scene), 1.2)
        assert connections(scene) == 1


def keep_one(scene: DataScene) -> bytes:
    one = new_object_id()
    scene.keep(one, b"here")
    return one


def test_who_does_not_wait_any_more_is_noticed(scene: DataScene) -> None:
    line, guard = let_in(scene)
    line.tell(WaitFreed(keep_one(scene), 3600.0))
    while not scene.call(lambda: scene.store.stats().waiting):
        time.sleep(0.005)
    line.close()
    while scene.call(lambda: scene.store.stats().waiting):
        time.sleep(0.005)
    wait_for(scene, 0)


# ---------------------------------------------------------------- compression


@pytest.mark.parametrize("streams", [1, 2])
def test_slow_networks_get_compressed_bytes(scene: DataScene, streams: int) -> None:
    client = scene.client(compression="auto", streams=streams)
    for pace in (client._sending, client._receiving):
        assert pace is not None
        pace.note(PIECE, 10.0, packed=False)
    packed: list[bool] = []
    for pace in (client._sending, client._receiving):
        pace.note = lambda length, seconds, *, packed: noted.append(packed)
    noted = packed
    data = b"much the same, again and again. " * (17 * PIECE // 32)
    one = new_object_id()
    client.put(one, [data], len(data), owner=7)
    info = scene.info(one)
    assert info is not None and info.digest == digest_of(data)
    assert client.get(one) == data
    assert len(packed) == 34
    assert all(packed)


def test_what_cannot_be_compressed_is_not(scene: DataScene) -> None:
    client = scene.client(compression="auto")
    noted: list[bool] = []
    for pace in (client._sending, client._receiving):
        assert pace is not None
        pace.note(PIECE, 10.0, packed=False)
        pace.note = lambda length, seconds, *, packed: noted.append(packed)
    one, data = new_object_id(), os.urandom(2 * PIECE)
    client.put(one, [data], len(data), owner=7)
    assert client.get(one) == data
    assert noted == [False] * 4


# ---------------------------------------------------------------- ports and addresses


def test_hints_name_the_port(scene: DataScene) -> None:
    assert scene.port.hints == [f"tcp:127.0.0.1:{scene.port.port}"]
    with data_scene(interface="0.0.0.0") as everywhere:
        assert everywhere.port.hints[-1] == f"tcp:127.0.0.1:{everywhere.port.port}"
        everywhere.client().free([])
    with data_scene(location=["tcp:gateway:4711"]) as elsewhere:
        assert elsewhere.port.hints == ["tcp:gateway:4711"]


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with data_scene(interface="::1") as scene:
        assert scene.port.hints == [f"tcp:[::1]:{scene.port.port}"]
        one = keep_one(scene)
        assert scene.client().get(one) == b"here"


def test_a_port_that_is_taken(scene: DataScene) -> None:
    with pytest.raises(OSError, match="in use"):
        scene.call(
            dataport.DataPort(
                scene.port._reactor, scene.identity, scene.store, b"", port=scene.port.port
            ).start
        )


def test_stopping_twice_and_a_socket_that_comes_too_late(scene: DataScene) -> None:
    scene.call(scene.port.stop)
    scene.call(scene.port.stop)
    near, far = socket.socketpair()
    scene.port.accept_socket(far)
    with near:
        assert near.recv(1) == b""
    assert scene.port.hints == []


# ---------------------------------------------------------------- dialling


def test_the_first_address_that_answers_is_taken(scene: DataScene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = sock.getsockname()[1]
    hints = [Hint("127.0.0.1", closed), Hint("127.0.0.1", scene.port.port)]
    with Dialling(hints) as dialling:
        sock = next(iter(dialling))
        assert sock.getpeername()[1] == scene.port.port
        sock.close()
    assert dialling.problems == [f"127.0.0.1:{closed}: Connection refused"]


def test_all_that_answer_have_their_turn(scene: DataScene) -> None:
    hints = [Hint("127.0.0.1", scene.port.port), Hint("localhost", scene.port.port)]
    with Dialling(hints) as dialling:
        for sock in dialling:
            sock.close()
    assert not [problem for problem in dialling.problems if problem.startswith("127.")]


def test_a_name_that_means_nothing() -> None:
    with Dialling([Hint("no-such-host.invalid", 80), Hint("x" * 300, 80)]) as dialling:
        assert list(dialling) == []
    assert len(dialling.problems) == 2


@pytest.fixture
def silent() -> Iterator[Hint]:
    """An address at which connections are neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        waiting = []
        for _ in range(20):
            sock = socket.socket()
            waiting.append(sock)
            sock.settimeout(0.2)
            try:
                sock.connect(address)
            except TimeoutError:
                break
        else:
            pytest.skip("this system accepts any number of connections")
        yield Hint(*address)
        for sock in waiting:
            sock.close()


def test_an_address_that_does_not_answer_is_given_up(
    silent: Hint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipkernel.objects.dialing.ATTEMPT", 0.1)
    with Dialling([silent]) as dialling:
        assert list(dialling) == []
    assert dialling.problems == [f"{silent}: no answer within 0.1 s"]


def test_an_address_that_does_not_answer_does_not_hold_up_the_others(
    scene: DataScene, silent: Hint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipkernel.objects.dialing.ATTEMPT", 3600.0)
    with Dialling([silent, Hint("127.0.0.1", scene.port.port)]) as dialling:
        sock = next(iter(dialling))
        assert sock.getpeername()[1] == scene.port.port
        sock.close()


def test_the_wrong_peer_costs_only_its_own_address(scene: DataScene) -> None:
    with data_scene() as other:
        hints = [other.port.hints[0], *scene.port.hints]
        client = scene.client(changes={"hints": hints})
        one = keep_one(scene)
        assert client.get(one) == b"here"


def test_a_relay_is_told_the_token() -> None:
    token = os.urandom(32)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = dial_relay([f"tcp:127.0.0.1:{server.getsockname()[1]}"], token)
        accepted, _ = server.accept()
        accepted.settimeout(20)
        with sock, accepted:
            assert accepted.recv(100) == b"R" + token
            accepted.sendall(b"ok")
            assert sock.recv(10) == b"ok"


def test_a_controller_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ConnectError, match=r"as a relay: 127.0.0.1:\d+: Connection refused"):
        dial_relay([f"tcp:127.0.0.1:{port}"], bytes(32))


# ---------------------------------------------------------------- streams


def streams() -> tuple[TlsStream, TlsStream]:
    near, far = socket.socketpair()
    server = TlsStream(far, TubTLS(Identity.create()), server=True, timeout=20)
    thread = threading.Thread(target=server.handshake)
    thread.start()
    client = TlsStream(near, TubTLS(Identity.create()), server=False, timeout=20).handshake()
    thread.join()
    return client, server


@pytest.mark.parametrize("size", [1, STRIDE, STRIDE + 1, 3 * STRIDE, 5 * STRIDE + 7])
@pytest.mark.parametrize("courteous", [True, False])
def test_threads_with_many_bytes_stop_for_others(
    monkeypatch: pytest.MonkeyPatch, size: int, courteous: bool
) -> None:
    stops: list[int] = []

    def stop() -> None:
        stops.append(threading.get_ident())

    monkeypatch.setattr(tlsstream, "give_way", lambda: stop if courteous else None)
    client, server = streams()
    data, target = os.urandom(size), bytearray(size)
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    try:
        server.receive_into(memoryview(target))
    finally:
        sender.join()
        client.close()
        server.close()
    assert target == data
    if not courteous or size <= STRIDE:
        assert stops == []
    else:
        assert stops.count(threading.get_ident()) == size // STRIDE  # the one that receives
        assert len(stops) == 2 * (size // STRIDE)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals")
def test_signals_do_not_look_like_a_frozen_peer() -> None:
    client, server = streams()
    hits: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: hits.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)

    def answer() -> None:
        while len(hits) < 10:
            time.sleep(0.005)
        server.send(b"late")

    thread = threading.Thread(target=answer)
    try:
        thread.start()
        assert client.receive(4) == b"late"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        thread.join()
        client.close()
        server.close()


def test_cutting_wakes_who_reads_and_who_writes() -> None:
    for work in (lambda s: s.receive(1), lambda s: s.send(bytes(64 << 20))):
        client, server = streams()
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(work, client)
            time.sleep(0.05)
            client.cut()
            with pytest.raises(StreamBroken, match="the connection was lost"):
                going.result(20)
        client.close()
        client.cut()  # does no harm
        server.close()


def test_a_peer_that_has_gone_is_seen() -> None:
    client, server = streams()
    server.send(b"x")
    client.receive(1)
    assert not client.peer_is_gone
    server.close()
    assert client.peer_is_gone
    client.close()
    assert client.peer_is_gone
