"""Clients of a host's store on the same machine, when something goes wrong; and forks."""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.objects import localconnection, new_object_id
from ipkernel.objects import localwire as wire
from ipkernel.objects.local import LocalStore
from ipkernel.objects.tickets import make_key, make_ticket
from ipkernel.wire.addresses import LocalAddress
from ipkernel.wire.messages import Placed
from tests.support.localstores import Served, in_thread, native_sockets
from tests.support.reactor import run_in_reactor

MB = 1 << 20
TICKET = make_ticket(make_key(), "client")


@pytest.fixture(params=["native", "portable"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "native" and not native_sockets():
        pytest.skip("this system has no such sockets")
    made = Served(native=request.param == "native", limit=8 * MB)
    yield made
    gc.collect()
    made.close()


# ------------------------------------------------------------------- no store


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:1", "unix:@ipkernel-nobody"])
def test_where_nobody_listens_there_is_an_error(address: str) -> None:
    if address.startswith("unix") and not native_sockets():
        pytest.skip("this system has no such sockets")
    client = LocalStore(address, "client", TICKET)
    with pytest.raises(ConnectError, match=rf"{address} cannot be reached: Connection refused"):
        client.get(new_object_id())
    with pytest.raises(ConnectError):
        client.map_placed(Placed(new_object_id(), 1, 0, 10))
    client.close()


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ValueError, match="not the address of a store on this machine"):
        LocalStore("tcp:192.0.2.1:80", "client", TICKET)


def test_a_system_without_such_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalAddress, "usable", False)
    client = LocalStore("unix:@x", "client", TICKET)
    with pytest.raises(ConnectError, match="this system cannot connect to a store at unix:@x"):
        client.free([new_object_id()])
    client.close()


def test_the_wrong_ticket_is_refused(served: Served) -> None:
    client = LocalStore(served.server.address, "client", TICKET)
    with pytest.raises(ConnectError, match="the ticket is not good for this store"):
        client.get(new_object_id())
    client.close()


@pytest.mark.skipif(not native_sockets(), reason="users are not known")
def test_the_store_of_another_user_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(native=True)
    client = served.client()
    user = os.geteuid()
    monkeypatch.setattr(localconnection.os, "geteuid", lambda: user + 1)
    with pytest.raises(ConnectError, match=rf"belongs to another user \({user}\)"):
        client.get(new_object_id())
    monkeypatch.undo()
    served.close()


def test_a_store_that_ends_is_gone_for_everybody(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, b"hello")
    view = client.get(object_id)
    wait = in_thread(client.get, new_object_id(), bringer=7)
    served.waiting()
    run_in_reactor(served.server.close)
    with pytest.raises(ConnectError, match="cannot be reached: it has closed the connection"):
        wait.result(10)
    for _ in range(3):
        with pytest.raises(ConnectError, match="cannot be reached"):
            client.get(object_id)
    with pytest.raises(ConnectError, match="cannot be reached"):
        client.put(new_object_id(), [b"x"], 1, owner=1)
    run_in_reactor(served.store.close)
    assert bytes(view) == b"hello"
    view[:] = b"HELLO"


# ---------------------------------------------------------------- false stores


class FakeStore:
    """Listens like a store, and says what it is given to whoever asks."""

    def __init__(self, answers: list[Callable[[bytes], bytes]]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers = answers
        self.client = LocalStore(self.address, "client", TICKET)
        self.threads = [threading.Thread(target=self.run)]
        self.threads[0].start()

    def run(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            data = sock.recv(10_000)
            if data == b"end":
                sock.close()
                return
            self.threads.append(threading.Thread(target=self.serve, args=[sock, data]))
            self.threads[-1].start()

    def serve(self, sock: socket.socket, data: bytes) -> None:
        with sock:
            for answer in self.answers:
                sock.sendall(answer(data))
                if not (data := sock.recv(10_000)):
                    break

    def close(self) -> None:
        self.client.close()
        with socket.create_connection(self.listener.getsockname()) as sock:
            sock.sendall(b"end")
        for thread in self.threads:
            thread.join()
        self.listener.close()


def welcome(data: bytes) -> bytes:
    incoming = wire.requests()
    incoming.feed(data)
    hello = incoming.next()
    assert isinstance(hello, wire.Hello)
    return wire.encode(wire.Welcome(wire.proof(TICKET, hello.nonce, "store")))


def saying(message: wire.Reply | bytes) -> Callable[[bytes], bytes]:
    return lambda data: message if isinstance(message, bytes) else wire.encode(message)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (wire.Welcome(bytes(32)), "is not the store it should be"),
        (wire.Ok(), "cannot be reached: it answers Ok to Hello"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "cannot be reached: a message of"),
        (struct.pack("<I", 3) + b"bad", "cannot be reached: not a message"),
        (wire.Problem("refused", "go away"), "^go away$"),
    ],
)
def test_what_is_no_store_gets_nothing(answer: wire.Reply | bytes, error: str) -> None:
    store = FakeStore([saying(answer)])
    with pytest.raises(ConnectError, match=error):
        store.client.put(new_object_id(), [b"secret"], 6, owner=1)
    store.close()


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore([saying(b"")])
    with monkeypatch.context() as patch:
        patch.setattr(localconnection, "CONNECT_TIMEOUT", 0.05)
        with pytest.raises(ConnectError, match="does not answer"):
            store.client.get(new_object_id())
    store.answers = [welcome, saying(b"")]
    monkeypatch.setattr(localconnection, "GRACE", 0.05)
    with pytest.raises(TimeoutError, match="does not answer"):
        store.client.get(new_object_id(), bringer=1, timeout=0.05)
    store.close()


@pytest.mark.parametrize(
    ("segment", "error"),
    [
        (wire.Segment(), "too many files are open"),
        (wire.Segment("ipk-no-such-name"), "the memory of the store cannot be used"),
        (wire.Problem("error", "no segment"), "no segment"),
    ],
)
def test_memory_that_cannot_be_had_is_an_error(segment: wire.Reply, error: str) -> None:
    region = wire.Region(1, 0, 100)
    store = FakeStore([welcome, saying(region), saying(segment)])
    with pytest.raises(ObjectError, match=error):
        store.client.get(new_object_id())
    store.answers = [welcome, saying(region), saying(segment), saying(wire.Ok())]
    with pytest.raises(ObjectError, match=error):
        store.client.put(new_object_id(), [bytes(100)], 100, owner=1)
    store.close()


# --------------------------------------------------- leases that may be lost


def test_a_lease_is_kept_when_its_connection_ends(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, bytes(100))
    view = client.get(object_id)
    [connection] = client._idle
    connection.cut()
    with pytest.raises(ConnectError):
        client.get(object_id)
    assert client.get(object_id) == view
    connections = client._idle[:]
    client.close()
    assert [one.broken for one in connections] == [True]
    served.until(lambda: len(served.server._peers) == 1)
    assert served.leases(object_id) == 1
    del view
    served.until(lambda: not served.server._peers)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_lease_is_given_back_when_nobody_took_it(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*args: Any) -> None:
        raise error

    client = served.client()
    object_id = served.put(client, bytes(100))
    held = client.get(object_id)
    with monkeypatch.context() as patch:
        patch.setattr(client, "_map", fail)
        with pytest.raises(error):
            client.get(object_id)
        assert len(client._idle) == 0
    again = client.get(object_id)
    del again, held
    served.idle(object_id)


def test_an_interrupted_question_ends_its_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    client = served.client()
    object_id = served.put(client, bytes(100))
    with monkeypatch.context() as patch:
        patch.setattr(localconnection.Connection, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.get(object_id)
        other = new_object_id()
        with pytest.raises(KeyboardInterrupt):
            client.put(other, [b"x"], 1, owner=1)
    served.idle(object_id)
    client.put(other, [b"x"], 1, owner=1)
    assert bytes(client.get(other)) == b"x"


def test_releases_that_could_not_be_sent_are_sent_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served.client()
    client._leases._pause = 1e6  # the thread has no part in this
    object_id = served.put(client, bytes(100))
    view, other = client.get(object_id), client.get(object_id)
    del view, other
    [connection] = client._idle
    connection._socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectError):
        client.get(new_object_id())
    assert client.wait_freed(new_object_id(), 1.0)
    assert served.leases(object_id) == 0


# ------------------------------------------------------------------- closing


def test_what_is_mapped_stays_valid_after_closing(served: Served) -> None:
    client, other = served.client(), served.client("other")
    data = os.urandom(3 * MB)
    object_id = served.put(client, data)
    view = client.get(object_id)
    client.close()
    client.close()
    other.free([object_id])
    for _ in range(3):
        other.free([served.put(other, bytes(3 * MB))])
    assert view == data
    del view
    served.until(lambda: served.store.stats().holders == {})


def test_a_closed_client_says_so(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, b"x")
    wait = in_thread(client.get, new_object_id(), bringer=7)
    served.waiting()
    client.close()
    closed = f"the store at {served.server.address} was closed in this process"
    with pytest.raises(ConnectError, match=closed):
        wait.result(10)
    with pytest.raises(ConnectError, match=closed):
        client.get(object_id)
    with pytest.raises(ConnectError, match=closed):
        client.put(new_object_id(), [b"x"], 1, owner=1)
    served.waiting(0)


def test_a_client_that_was_never_used_leaves_nothing(served: Served) -> None:
    LocalStore(served.server.address, "client", TICKET).close()
    assert not served.server._peers


# ------------------------------------------------------------ other processes

CHILD = """
import sys
from ipkernel.objects.local import LocalStore
client = LocalStore(sys.argv[1], "child", bytes.fromhex(sys.argv[2]))
view = client.get(bytes.fromhex(sys.argv[3]))
client.put(bytes(16), [view], len(view), owner=1)
assert not {"twisted", "asyncio", "numpy"} & set(sys.modules), sys.modules
print(bytes(view[:5]).decode(), flush=True)
sys.stdin.read()
"""


def test_another_process_maps_the_same_memory_until_it_is_killed(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, b"hello" + bytes(MB))
    ticket = make_ticket(served.key, "child").hex()
    arguments = [served.server.address, ticket, object_id.hex()]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"hello\n"
        assert served.leases(object_id) == 1
        child.send_signal(signal.SIGKILL)
    served.idle(object_id)
    assert client.get(bytes(16)) == client.get(object_id)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


class Forked:
    """A child that is to check something when it is told to."""

    def __init__(self, check: Callable[[], Any]) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                ours.close()
                theirs.recv(1)
                os._exit(0 if check() else 1)
            finally:
                os._exit(2)
        theirs.close()
        self.socket = ours

    def result(self) -> int:
        self.socket.send(b"x")
        self.socket.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@needs_fork
@pytest.mark.parametrize("freed", ["before", "after"])
def test_a_forked_child_keeps_what_it_has_mapped(served: Served, freed: str) -> None:
    client = served.client()
    data = os.urandom(3 * MB)
    object_id = served.put(client, data)
    views = [client.get(object_id)]
    if freed == "before":
        client.free([object_id])
    child = Forked(lambda: views[0] == data)
    views.clear()
    client.free([object_id])
    served.until(lambda: list(served.store.stats().holders) == ["client/1"])
    for _ in range(3):
        client.free([served.put(client, bytes(3 * MB))])
    assert child.result() == 0
    served.until(lambda: served.store.stats().used == 0)


@needs_fork
def test_a_forked_child_has_no_part_in_the_connections(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, b"hello")
    views = [client.get(object_id), client.get(object_id)]

    def check() -> bool:
        del views[0]
        gc.collect()
        with pytest.raises(ConnectError, match="a process that was forked cannot use the store"):
            client.get(object_id)
        with pytest.raises(ConnectError):
            client.map_placed(Placed(object_id, 1, 0, 5))
        client.close()
        return bytes(views[0]) == b"hello"

    before = len(served.server._peers)
    child = Forked(check)
    served.until(lambda: len(served.server._peers) == before + 1)
    assert bytes(client.get(object_id)) == b"hello"
    assert child.result() == 0
    served.until(lambda: len(served.server._peers) == before)
    assert bytes(client.get(object_id)) == b"hello"
    assert [bytes(view) for view in views] == [b"hello"] * 2


@needs_fork
def test_a_fork_with_nothing_mapped_costs_no_connection(served: Served) -> None:
    client = served.client()
    served.put(client, b"hello")
    before = len(served.server._peers)
    child = Forked(lambda: True)
    assert len(served.server._peers) == before
    assert child.result() == 0


@needs_fork
def test_a_fork_after_the_store_has_ended_still_works(served: Served) -> None:
    client = served.client()
    view = client.get(served.put(client, b"hello"))
    run_in_reactor(served.server.close)
    child = Forked(lambda: bytes(view) == b"hello")
    assert child.result() == 0


@needs_fork
def test_a_fork_of_a_closed_client_keeps_what_is_mapped(served: Served) -> None:
    client = served.client()
    data = os.urandom(MB)
    object_id = served.put(client, data)
    views = [client.get(object_id)]
    client.close()
    child = Forked(lambda: views[0] == data)
    views.clear()
    served.until(lambda: list(served.store.stats().holders) == ["client/1"])
    assert child.result() == 0
    served.idle(object_id)
