"""What strangers on the network can do: nothing, and nobody notices that they try."""

from __future__ import annotations

import os
import random
import socket
import ssl
import stat
import sys
import time

import psutil
import pytest

from ipkernel.errors import ConnectError
from ipkernel.wire import nearby
from ipkernel.wire.addresses import native_sockets
from tests.integration.faults_support import PATIENCE, Program, shared_cluster, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with shared_cluster(tmp_path_factory.mktemp("network"), n=2) as cluster:
        yield cluster


@pytest.fixture
def rc(shared):
    yield shared.rc
    shared.check()


@pytest.fixture
def port(shared):
    return int(shared.rc.status().location.rpartition(":")[2])


def family(shared):
    """Return all processes of the cluster by what they are."""
    return {
        "controller": psutil.Process(shared.cluster.controller.pid),
        "daemon": (daemon := psutil.Process(shared.cluster.engine_set.launcher.pid)),
        **{f"below {child.pid}": child for child in daemon.children(recursive=True)},
    }


def test_one_listening_socket(shared, rc, port):
    """On this machine: the controller's port, and two ways to the store of the host daemon.

    Beside them there are only the controller's local sockets, which are for its own user.
    """
    processes = family(shared)
    assert len(processes) == 2 + 1 + 2  # with zygote and engines
    rc[:].apply_sync(abs, -1)
    listening = [
        (who, connection.laddr.ip, connection.laddr.port)
        for who, process in processes.items()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    ]
    assert listening[:1] == [("controller", "127.0.0.1", port)]
    store = [(who, address) for who, address, _ in listening[1:]]
    own = [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert own == []  # a client listens nowhere
    named = {
        (who, connection.laddr)
        for who, process in processes.items()
        for connection in process.net_connections("unix")
        if connection.laddr
    }
    # Questions from this machine, without a port; see ipkernel/wire/nearby.py.
    near = shared.cluster.directory.question_socket
    assert near.exists() == nearby.supported()
    if near.exists():
        assert stat.S_IMODE(near.stat().st_mode) == 0o600
        assert stat.S_IMODE(near.parent.stat().st_mode) == 0o700
        named.remove(("controller", str(near)))
    # Channels of this machine; see ipkernel/wire/localport.py.
    channels = [one for one in named if one[0] == "controller"]
    assert len(channels) == native_sockets()
    named.difference_update(channels)
    # For other hosts, and for processes of this one; see ipkernel/host/storage.py.
    assert set(store) == {("daemon", "127.0.0.1")} and len(store) + len(named) == 2
    assert all(who == "daemon" and name.startswith("@ipkernel-") for who, name in named)


def everything(sock):
    """Return what a peer sends until it closes."""
    data = b""
    sock.settimeout(PATIENCE)
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


GARBAGE = {
    "zeros": bytes(100_000),
    "noise": random.Random(1).randbytes(200_000),
    "web": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\r\n",
    "long line": b"GET " + b"a" * 1_000_000,
    "negotiation": b"GET /id/" + b"a" * 32 + b" HTTP/1.1\r\n\r\nxxxxxxxxxxxxxxxxx" * 50,
    "tls header": b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000,
    "pickle": b"\x80\x04cposix\nsystem\n(S'touch /tmp/x'\ntR.",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage(rc, port, data):
    """The connection is closed; nothing but an alert or an error line comes back."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already
        assert len(everything(sock)) < 2048


def tls_context(version=ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    return context


def test_tls_without_a_certificate(rc, port):
    """The controller wants to know who speaks before it says or takes anything."""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        received = b""
        with pytest.raises(OSError):  # noqa: PT012
            with tls_context().wrap_socket(raw) as sock:
                sock.settimeout(PATIENCE)
                sock.sendall(os.urandom(32))  # no ticket either
                while piece := sock.recv(4096):
                    received += piece
                raise ConnectionError("closed")
        assert received == b""


def test_old_tls(rc, port):
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(PATIENCE)
        with pytest.raises(OSError):
            tls_context(ssl.TLSVersion.TLSv1_2).wrap_socket(raw)


def test_silence_is_ended_by_the_controller(rc, port):
    """Who has not said within seconds what he wants has to go."""
    with (
        socket.create_connection(("127.0.0.1", port)) as silent,
        socket.create_connection(("127.0.0.1", port)) as slow,
        socket.create_connection(("127.0.0.1", port)) as encrypted,
    ):
        slow.sendall(b"GET /id/")
        encrypted.sendall(b"\x16\x03\x01\x02\x00")
        assert everything(silent) == b""
        assert len(everything(slow)) < 2048
        assert len(everything(encrypted)) < 2048


CROWD = """
import resource, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, refused = [], 0
batch = min(count, hard - 100, 1000)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    try:
        held.append(socket.create_connection(("127.0.0.1", port), timeout=10))
    except OSError:
        refused += 1
    if len(held) >= batch:
        for sock in held[: batch // 2]:
            sock.close()
        del held[: batch // 2]
print("done", count - refused, flush=True)
sys.stdin.readline()
"""


def test_thousands_of_connections_that_never_speak(shared, rc, port):
    """10,000 in all, from several processes, while a client goes on and another one comes."""
    controller = psutil.Process(shared.cluster.controller.pid)
    before = controller.num_fds()
    crowd = [Program(sys.executable, "-c", CROWD, str(port), "2500") for _ in range(4)]
    try:
        for program in crowd:
            assert program.line() == "ready"
        for program in crowd:
            program.process.stdin.write(b"\n")
        answers, most, newcomers = 0, 0, 0
        deadline = time.monotonic() + 2 * PATIENCE
        pending = list(crowd)
        made = 0
        while pending:
            assert time.monotonic() < deadline
            assert rc[:].apply_async(abs, -answers).get(PATIENCE) == [answers, answers]
            answers += 1
            most = max(most, controller.num_fds())
            if answers % 50 == 1:
                newcomers += comes_anew(shared.cluster)
            for program in list(pending):
                if has_line(program):
                    words = program.line().split()
                    assert words[0] == "done"
                    made += int(words[1])
                    pending.remove(program)
        assert made > 9_000  # the others found the queue of the port full
        assert answers > 0
        assert newcomers > 0
        assert most < before + 600  # most of those that say nothing were turned out again
        shared.bystander.check()
    finally:
        for program in crowd:
            program.__exit__()
    wait_for(lambda: controller.num_fds() <= before + 2)
    assert shared.cluster.controller.running


def comes_anew(cluster):
    """Connect in the midst of the crowd; who is pushed aside is told so at once and tries again."""
    for _ in range(20):
        try:
            with cluster.connect_client_sync(timeout=PATIENCE) as other:
                assert other[0].apply_async(abs, -3).get(PATIENCE) == 3
                return 1
        except ConnectError as error:
            assert "\n" not in str(error)
    return 0


def has_line(program):
    import select

    return b"\n" in program._read or bool(select.select([program.process.stdout], [], [], 0)[0])


def test_connections_that_come_and_go_at_once(shared, rc, port):
    for _ in range(300):
        socket.create_connection(("127.0.0.1", port)).close()
    controller = psutil.Process(shared.cluster.controller.pid)
    shared.check()
    size = controller.memory_info().rss
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /id/x HTTP/1.1\r\n")
    shared.check()
    assert controller.memory_info().rss - size < 30 << 20
