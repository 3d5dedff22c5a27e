"""The controller's socket for questions: real sockets, a real controller, and hostile ends."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from contextlib import contextmanager

import msgspec
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ipkernel.cluster import doors, monitoring
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.controller.doors import monitor_methods
from ipkernel.controller.nearby import CONNECTIONS, NearDoor
from ipkernel.errors import KernelError
from ipkernel.wire import nearby
from ipkernel.wire.doors import RIMonitorDoor
from ipkernel.wire.nearby import Answer, NotNearby, ask, framed
from ipkernel.wire.records import TaskQuery, TaskStories
from tests.support.reactor import inreactor, run_in_reactor
from tests.system.controller_support import world

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """This is about the native way; the portable one is the door, which has tests of its own."""
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)


@contextmanager
def listening(path, methods):
    door = NearDoor(reactor, methods)
    assert run_in_reactor(lambda: door.listen(path))
    try:
        yield door
    finally:
        run_in_reactor(door.close)


def test_a_question_and_its_answer(tmp_path):
    path = tmp_path / "socket"
    with listening(path, {"status": lambda data: b"fine " + data}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(path, "status", b"today") == b"fine today"
        assert ask(path, "status") == b"fine "
    assert not path.exists()
    with pytest.raises(NotNearby):
        ask(path, "status")


def test_a_long_answer_arrives_whole(tmp_path):
    data = os.urandom(1 << 24)
    with listening(tmp_path / "socket", {"explain": lambda _: data}):
        assert ask(tmp_path / "socket", "explain", bytes(1 << 18)) == data


def test_a_long_path(tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    with listening(directory / "socket", {"status": lambda _: b"fine"}):
        assert ask(directory / "socket", "status") == b"fine"
    assert list(directory.iterdir()) == []


def test_many_ask_at_a_time(tmp_path):
    with listening(tmp_path / "socket", {"status": lambda data: data}):
        found = {}

        def work(number):
            for i in range(10):
                data = b"%d %d" % (number, i)
                found[data] = ask(tmp_path / "socket", "status", data, 60)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 80 and all(a == b for a, b in found.items())


def test_what_goes_wrong_is_told(tmp_path):
    def refuse(_):
        raise KernelError("not today")

    with listening(tmp_path / "socket", {"status": refuse}):
        with pytest.raises(KernelError, match="not today"):
            ask(tmp_path / "socket", "status")
        with pytest.raises(KernelError, match="does not know the question 'shutdown'"):
            ask(tmp_path / "socket", "shutdown")


def test_the_socket_of_a_killed_controller_is_replaced(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert path.exists()
    with pytest.raises(NotNearby, match="refused"):
        ask(path, "status")
    with listening(path, {"status": lambda _: b"fine"}):
        assert ask(path, "status") == b"fine"
    assert not path.exists()


def test_a_socket_that_was_removed_does_not_hurt(tmp_path):
    path = tmp_path / "socket"
    with listening(path, {"status": lambda _: b"fine"}):
        path.unlink()
    assert not path.exists()


def test_where_nothing_can_be_made_the_controller_goes_without(tmp_path):
    door = NearDoor(reactor, {})
    assert not run_in_reactor(lambda: door.listen(tmp_path / "no" / "socket"))
    assert run_in_reactor(door.close) is None


def test_silent_connections_lock_nobody_out(tmp_path):
    path = tmp_path / "socket"
    with listening(path, {"status": lambda _: b"fine"}):
        silent = []
        try:
            for _ in range(CONNECTIONS + 8):
                sock = socket.socket(socket.AF_UNIX)
                silent.append(sock)
                sock.connect(str(path))  # while it blocks: else it fails where it has to wait
                sock.settimeout(60)
            assert ask(path, "status", timeout=60) == b"fine"
            assert silent[0].recv(1) == b""
        finally:
            for sock in silent:
                sock.close()


def test_where_too_many_wait_the_door_is_for_the_others(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        try:
            with pytest.raises(NotNearby):
                for _ in range(8):  # nobody accepts them
                    sock = socket.socket(socket.AF_UNIX)
                    waiting.append(sock)
                    sock.setblocking(False)
                    try:
                        sock.connect(str(path))
                    except BlockingIOError:
                        ask(path, "status", timeout=60)
        finally:
            for sock in waiting:
                sock.close()


def test_whoever_says_too_much_is_cut(tmp_path):
    path = tmp_path / "socket"
    with listening(path, {}), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        sock.sendall(struct.pack(">I", 1 << 30))
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass


# ------------------------------------------------------------------ hostile and broken servers


@contextmanager
def server(path, serve):
    """Have a thread serve one connection on ``path``."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def run():
            sock, _ = listener.accept()
            with sock:
                serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 100) + b"too short",
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", 1) + msgspec.msgpack.encode(7),
    ],
)
def test_what_is_no_answer_is_no_controllers(tmp_path, said):
    with server(tmp_path / "socket", lambda sock: (sock.recv(1000), sock.sendall(said))):
        with pytest.raises(NotNearby):
            ask(tmp_path / "socket", "status", timeout=60)


def test_who_does_not_answer_is_not_waited_for_without_end(tmp_path):
    given_up = threading.Event()
    with server(tmp_path / "socket", lambda sock: given_up.wait(60)):
        with pytest.raises(TimeoutError, match=r"not answered within 0\.05 s"):
            ask(tmp_path / "socket", "status", timeout=0.05)
        given_up.set()


def test_who_answers_byte_by_byte_has_no_more_time_than_others(tmp_path):
    given_up = threading.Event()

    def drip(sock):
        sock.sendall(struct.pack(">I", 1 << 20))
        while not given_up.wait(0.001):
            try:
                sock.sendall(b"x")
            except OSError:
                return

    with server(tmp_path / "socket", drip):
        with pytest.raises(TimeoutError, match="not answered"):
            ask(tmp_path / "socket", "status", timeout=0.1)
        given_up.set()


def test_the_socket_of_another_user_is_not_talked_to(tmp_path, monkeypatch):
    monkeypatch.setattr(nearby, "peer_user", lambda sock: os.geteuid() + 1)
    heard = []
    with server(tmp_path / "socket", lambda sock: heard.append(sock.recv(100))):
        with pytest.raises(NotNearby, match=f"socket of user {os.geteuid() + 1}"):
            ask(tmp_path / "socket", "status")
    assert heard == [b""]


# --------------------------------------------------------------------- with a real controller


def test_all_that_the_monitor_role_may_ask_and_nothing_else():
    asked = monitor_methods(None)
    assert set(asked) == set(RIMonitorDoor.names())
    assert "status" in asked and "shutdown" not in asked and "open" not in asked


@inreactor
async def test_the_controller_answers_as_its_monitor_door_does(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    async with world() as cluster:
        near = NearDoor(reactor, monitor_methods(cluster.controller))
        assert near.listen(directory.question_socket)
        try:
            status = await deferToThread(monitoring.status, directory)
            assert status.pid == os.getpid()
            assert status.location == cluster.controller.status().location
            query = TaskQuery(tasks=[5])
            stories = await deferToThread(
                monitoring.ask, directory, "x", "explain", query, TaskStories
            )
            assert [one.task for one in stories.stories] == [5]
        finally:
            await near.close()


def test_without_the_socket_the_door_is_asked(tmp_path, monkeypatch):
    directory = ClusterDirectory(tmp_path / "cluster_x")
    asked = []
    monkeypatch.setattr(doors, "ask_monitor", lambda *given: asked.append(given) or "the state")
    assert monitoring.status(directory) == "the state"
    (where, what, method, request, _) = asked[0]
    assert (where, method, request) == (directory, "status", None)
    assert what == "asking cluster x for its state"


def test_a_controller_that_hangs_is_not_asked_again_by_its_door(tmp_path, monkeypatch):
    def late(path, method, request):
        raise TimeoutError("the controller has not answered within 10 s")

    monkeypatch.setattr(nearby, "ask", late)
    monkeypatch.setattr(doors, "ask_monitor", lambda *given: pytest.fail("it was asked again"))
    with pytest.raises(TimeoutError, match="cluster x for its state: the controller has not"):
        monitoring.status(ClusterDirectory(tmp_path / "cluster_x"))


def test_an_answer_can_be_one_of_a_later_turn(tmp_path):
    def later(_):
        answer: Deferred[bytes] = Deferred()
        reactor.callLater(0, answer.callback, framed(Answer("", b"x")))
        return answer

    with listening(tmp_path / "socket", {"status": later}):
        assert ask(tmp_path / "socket", "status") == framed(Answer("", b"x"))
