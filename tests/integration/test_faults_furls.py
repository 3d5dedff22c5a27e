"""FURLs that are stale, wrong, of another role or lie open; controllers that come and go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import attrs
import psutil
import pytest

import ipkernel
from ipkernel.errors import ConnectError, ControllerLost, SecurityError
from ipkernel.wire.furl import Furl
from tests.integration.faults_support import (
    PATIENCE,
    Controller,
    Program,
    command,
    run,
    wait_for,
)

ROLES = ("client", "engine", "monitor", "admin")


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    with Controller(tmp_path_factory.mktemp("furls") / "cluster_furls") as running:
        yield running
        running.stop()


def furl_of(controller, role="client"):
    return Furl.parse(controller.furl_file(role).read_text())


def refused(kind=ConnectError, *arguments, **options):
    """Return the text of the error that a client gets; whatever it is, it has no swissnum."""
    with pytest.raises(kind) as info:
        ipkernel.Client(*arguments, timeout=5, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def engine_refused(*arguments):
    """Return what ``ipengine`` complains about: one line."""
    code, out, err = run(*command("ipengine", *arguments, "--wait", "0.2"))
    assert (code, out) == (1, "")
    assert err.startswith("ipengine: ")
    assert err.count("\n") == 1
    return err.removeprefix("ipengine: ").rstrip()


def private_file(path, content):
    path.parent.chmod(0o700)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"swissnum": "a" * 32}, "unknown or revoked FURL: the controller at {} has no such door"),
        ({"pin": "a" * 52}, ("the FURL is stale: another controller answers at {}; use the FURL "
                            "file that the running one has written")),
        ({"tub_id": "a" * 32}, ("the FURL is stale: another controller answers at {}; use the FURL "
                               "file that the running one has written")),
        ({"hints": ()}, "the FURL has no address that can be used"),
        ({"hints": ("udp:127.0.0.1:1",)}, "the FURL has no address that can be used"),
    ],
)  # fmt: skip
def test_changed_furls(controller, tmp_path, changes, text):
    changed = str(attrs.evolve(furl_of(controller), **changes))
    expected = text.format(f"127.0.0.1:{controller.port}")
    assert refused(ConnectError, changed) == expected
    engine = attrs.evolve(furl_of(controller, "engine"), **changes)
    file = private_file(tmp_path / "engine.furl", str(engine).encode())
    assert engine_refused("--furl-file", file) == expected


NO_FURL = "this is not a FURL of an ipkernel controller (pb://...@.../...)"


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"pb://\n", os.urandom(100_000), b"a" * 1_000_000, b"\0"]
)
def test_files_that_hold_no_furl(tmp_path, content):
    file = private_file(tmp_path / "x.furl", content)
    assert refused(furl_file=file) == f"{file}: {NO_FURL}"
    assert refused(ConnectError, str(file)) == f"{file}: {NO_FURL}"


def test_engines_with_a_file_that_holds_no_furl(tmp_path):
    file = private_file(tmp_path / "x.furl", b"hello\n")
    assert engine_refused("--furl-file", file) == f"{file}: {NO_FURL}"


def test_texts_that_are_no_furl(tmp_path):
    assert refused(ConnectError, "pb://rubbish") == NO_FURL
    missing = tmp_path / "no.furl"
    text = f"there is no FURL file {missing}: is the controller running, and is this its directory?"
    assert refused(furl_file=missing) == text
    assert engine_refused("--furl-file", missing) == text
    nowhere = tmp_path / "cluster_none"
    assert refused(cluster_dir=nowhere).startswith(
        f"no cluster is running in {nowhere}: there is no"
    )
    assert "no cluster is running in" in refused(cluster="no-such-cluster")


def test_files_that_others_can_read(controller, tmp_path):
    file = private_file(tmp_path / "open.furl", str(furl_of(controller)).encode())
    file.chmod(0o644)
    text = (
        f"{file} is open to other users (mode 644): run 'chmod 600 {file}', and make new FURLs if "
        "somebody may have read it"
    )
    assert refused(SecurityError, furl_file=file) == text
    assert engine_refused("--furl-file", file) == text
    file.chmod(0o600)
    tmp_path.chmod(0o777)
    assert f"the directory {tmp_path} is open to other users" in refused(
        SecurityError, furl_file=file
    )
    tmp_path.chmod(0o700)
    with ipkernel.Client(furl_file=file) as rc:
        assert rc.ids == []


@pytest.mark.parametrize("role", ["engine", "monitor", "admin"])
def test_clients_with_a_furl_of_another_role(controller, role):
    assert refused(SecurityError, str(furl_of(controller, role))) == (
        f"this FURL is the {role} FURL, and gives no right to 'open': use the FURL file of the "
        "role that does"
    )


@pytest.mark.parametrize("role", ["client", "monitor", "admin"])
def test_engines_with_a_furl_of_another_role(controller, role):
    text = engine_refused("--furl-file", controller.furl_file(role))
    assert text == (
        f"the controller did not let this host join: this FURL is the {role} FURL, and gives no "
        "right to 'register': use the FURL file of the role that does"
    )
    with ipkernel.Client(cluster_dir=controller.directory) as rc:
        assert rc.status().hosts == []


INTRUDER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from foolscap.api import Referenceable
from ipkernel.wire.identity import Identity
from ipkernel.wire.tub import connect, make_tub
from ipkernel.wire.furl import Furl

async def attempt(furl, methods):
    tub = make_tub(Identity.create(), reactor)
    door = await connect(tub, furl)
    print(type(door).__name__)
    door.tracker.interface = None  # this side checks nothing any more
    door.tracker.interfaceName = None
    for method in methods:
        for arguments in ((b"",), (), (Referenceable(), b""), ({"a": 1}, [2])):
            try:
                print(method, "answered", await door.callRemote(method, *arguments))
            except Exception as error:
                remote = getattr(error, "failure", None)
                what = remote.type.__name__ if remote else f"here: {error!r}"
                print(method, "refused", what)
    await tub.stopService()

done = Deferred.fromCoroutine(attempt(Furl.parse(sys.argv[1]), sys.argv[2].split(",")))
done.addErrback(lambda failure: print("failed", failure))
done.addBoth(lambda _: reactor.stop())
reactor.callLater(20, reactor.stop)
reactor.run()
"""


@pytest.mark.parametrize(
    ("role", "methods"),
    [
        ("engine", "open,status,explain,signal_engines,restart_engines,start_engines,shutdown"),
        ("monitor", ("open,register,signal_engines,restart_engines,start_engines,stop_engines,"
                    "shutdown")),
        ("client", "register,start_engines,stop_engines,shutdown"),
        ("admin", "open,register"),
    ],
)  # fmt: skip
def test_the_server_checks_roles_itself(controller, role, methods):
    """Who changes the client's code gets no further: each role has its methods, and no more."""
    furl = str(furl_of(controller, role))
    code, out, err = run(sys.executable, "-c", INTRUDER, furl, methods)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "RemoteReference"
    assert len(lines) == 1 + 4 * len(methods.split(","))
    assert all(line.endswith(" refused Violation") for line in lines[1:]), lines
    with ipkernel.Client(cluster_dir=controller.directory) as rc:
        status = rc.status()
    assert (status.pid, status.hosts, status.engines) == (controller.pid, [], [])


def test_a_busy_port(controller, tmp_path):
    code, out, err = run(
        *command("ipcontroller", "--cluster-dir", tmp_path / "cluster_x", "--port", controller.port)
    )
    text = f"port {controller.port} of 127.0.0.1 is in use: another process listens there"
    assert code == 1
    assert out == f'{{"event": "error", "message": "{text}"}}\n'
    assert err == f"ipcontroller: {text}\n"


def test_a_second_controller_in_one_directory(controller):
    code, _, err = run(*command("ipcontroller", "--cluster-dir", controller.directory))
    assert (code, err) == (
        1,
        (
            f"ipcontroller: ipcontroller with pid {controller.pid} already runs here, says "
            f"{controller.directory}/pid/ipcontroller.json: stop it before you start another\n"
        ),
    )
    with ipkernel.Client(cluster_dir=controller.directory):
        pass  # the first one is as it was


def test_a_controller_that_stops_and_another_in_its_place(tmp_path):
    directory = tmp_path / "cluster_one"
    with Controller(directory) as first:
        port = first.port
        furl = str(furl_of(first))
        with ipkernel.Client(furl) as rc:
            waiting = rc.load_balanced_view().apply_async(abs, -1)
            wait_for(lambda: rc.explain(waiting.msg_ids)[0].state == "ready")
            first.stop()
            with pytest.raises(ControllerLost) as info:
                waiting.get(PATIENCE)
            assert str(info.value) == "the controller is lost: the controller was stopped"
            with pytest.raises(ControllerLost, match="the controller was stopped"):
                rc.load_balanced_view().apply_sync(abs, -1)
    gone = (
        f"nobody listens at 127.0.0.1:{port}: the controller is not running, or the FURL is stale"
    )
    assert refused(ConnectError, furl) == gone
    assert engine_refused("--furl-file", first.furl_file("engine")) == gone
    with Controller(tmp_path / "cluster_two", "--port", port) as other:
        stale = (
            f"the FURL is stale: another controller answers at 127.0.0.1:{port}; use the FURL file "
            "that the running one has written"
        )
        assert refused(ConnectError, furl) == stale
        assert refused(cluster_dir=directory) == stale
        assert engine_refused("--furl-file", first.furl_file("engine")) == stale
        code, _, err = run(*command("ipcontroller", "--cluster-dir", directory))
        assert code == 1
        assert f"port {port} of 127.0.0.1 is in use" in err
        assert f"(pid {other.pid}, " in err
        assert str(directory / "security" / "ipcontroller.json") in err
        other.stop()


def test_a_server_that_never_speaks():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        furl = f"pb://{'a' * 32}{'b' * 52}@tcp:127.0.0.1:{port}/{'c' * 32}"
        with pytest.raises(ConnectError) as info:
            ipkernel.Client(furl, timeout=0.3)
        assert str(info.value) == f"no answer from 127.0.0.1:{port} within 0.3 s"


def test_a_server_of_something_else():
    server = subprocess.Popen(
        [
            sys.executable, "-c",
            ("import socket\n"
            "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
            "while True:\n"
            "    c = s.accept()[0]; c.sendall(b'SSH-2.0-OpenSSH_9.7\\r\\n'); c.close()\n"),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = int(server.stdout.readline())
        text = refused(ConnectError, f"pb://{'a' * 32}{'b' * 52}@tcp:127.0.0.1:{port}/{'c' * 32}")
        assert text == (
            f"127.0.0.1:{port} closed the connection: it is no ipkernel controller, or does not "
            "let us in"
        )
    finally:
        server.kill()
        server.communicate()


# -------------------------------------------------------------------------- by hand, with engines


def joined(program, count):
    """Return the ids and process ids of engines that ``ipengine`` says are ready."""
    found = {}
    while len(found) < count:
        words = program.line().split()
        assert words[0] == "engine", words
        found[int(words[1])] = int(words[3].rstrip(")"))
    return found


def test_engines_that_join_by_hand_and_leave(controller):
    with ipkernel.Client(cluster_dir=controller.directory) as rc:
        with Program(
            *command("ipengine", "-n", 2, "--furl-file", controller.furl_file("engine"))
        ) as host:
            found = joined(host, 2)
            assert sorted(found) == [0, 1]
            rc.wait_for_engines(2, timeout=PATIENCE)
            assert dict(zip(rc.ids, rc[:].apply_sync(os.getpid), strict=True)) == found
            running = rc[0].apply_async(abs, -5)
            assert running.get(PATIENCE) == 5
            host.process.send_signal(signal.SIGINT)
            code, out, err = host.end()
            assert (code, out, err) == (0, "stopping: received SIGINT\n", "")
            wait_for(lambda: rc.ids == [])
            assert not any(psutil.pid_exists(pid) for pid in found.values())
        with pytest.raises(ipkernel.NoEnginesRegistered):
            rc[:].apply_sync(abs, -1)
        # Others may come later.
        furl = controller.furl_file("engine")
        with Program(*command("ipengine", "--furl-file", furl)) as host:
            assert sorted(joined(host, 1)) == [0]
            rc.wait_for_engines(1, timeout=PATIENCE)
            assert rc[:].apply_sync(abs, -6) == [6]
            host.process.terminate()
            assert host.end()[0] == 0
            wait_for(lambda: rc.ids == [])


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_controller_that_is_started_again(tmp_path, how):
    """FURLs and port are as before; engines join again when it was not stopped but killed."""
    directory = tmp_path / "cluster_again"
    with Controller(directory) as first:
        texts = [first.furl_file(role).read_text() for role in ROLES]
        host = Program(*command("ipengine", "--furl-file", first.furl_file("engine")))
        with host:
            (pid,) = joined(host, 1).values()
            first.process.send_signal(getattr(signal, how))
            first.end()
            if how == "SIGTERM":
                assert host.end()[0] == 0
                assert not psutil.pid_exists(pid)
            with Controller(directory) as second:
                assert second.port == first.port
                assert [second.furl_file(role).read_text() for role in ROLES] == texts
                with ipkernel.Client(texts[0].strip()) as rc:
                    if how == "SIGKILL":
                        rc.wait_for_engines(1, timeout=PATIENCE)
                        assert rc[:].apply_sync(os.getpid) == [pid]
                    else:
                        assert rc.ids == []
                second.stop()
                if how == "SIGKILL":
                    code, out, err = host.end()
                    assert code == 0
                    assert out.startswith("lost the controller (")
                    assert "looking for it" in out
                    assert err == ""


def test_engines_whose_controller_does_not_come_back(tmp_path):
    with Controller(tmp_path / "cluster_gone") as controller:
        furl = controller.furl_file("engine")
        with Program(*command("ipengine", "--furl-file", furl, "--grace", "0.5")) as host:
            (pid,) = joined(host, 1).values()
            controller.process.kill()
            controller.end()
            code, out, err = host.end()
            assert code == 1
            assert out.startswith("lost the controller")
            assert err.startswith(
                "ipengine: the controller is gone, and with it the engines end (nobody listens at"
            )
            assert err.count("\n") == 1
            assert not psutil.pid_exists(pid)
