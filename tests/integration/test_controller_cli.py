"""``ipcontroller`` as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipkernel.cli.ipcontroller import parser
from ipkernel.errors import ConfigurationError, ConnectError
from ipkernel.wire.furl import Furl, hints, read_furl
from ipkernel.wire.identity import Identity
from ipkernel.wire.records import Status, unpack

ROLES = ("client", "engine", "monitor", "admin")
LIMIT = 60


def command(directory: Path, *args: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ipkernel.cli.ipcontroller",
        "--cluster-dir",
        str(directory),
        *args,
    ]


class Process:
    """A controller and its first event."""

    def __init__(self, directory: Path, *args: str) -> None:
        self.directory = directory
        self.popen = subprocess.Popen(
            command(directory, *args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.popen.stdout is not None
        self.event: dict[str, Any] = json.loads(self.popen.stdout.readline() or b"null")

    def furls(self) -> dict[str, Furl]:
        return {role: read_furl(self.furl_file(role)) for role in ROLES}

    def furl_file(self, role: str) -> Path:
        return self.directory / "security" / f"ipcontroller-{role}.furl"

    def wait(self) -> tuple[int, str]:
        out, err = self.popen.communicate(timeout=LIMIT)
        return self.popen.returncode, err.decode()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.popen.send_signal(number)
        return self.wait()


@contextmanager
def controller(directory: Path, *args: str) -> Iterator[Process]:
    process = Process(directory, *args)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate(timeout=LIMIT)


def fail(directory: Path, *args: str) -> tuple[int, str]:
    """Run a controller that cannot start; return its status and the one thing that it said."""
    done = subprocess.run(command(directory, *args), capture_output=True, text=True, timeout=LIMIT)
    event = json.loads(done.stdout)
    assert event["event"] == "error"
    assert done.stderr == f"ipcontroller: {event['message']}\n"
    return done.returncode, event["message"]


def test_it_says_when_it_is_ready_and_stops_cleanly(tmp_path: Path) -> None:
    directory = tmp_path / "cluster_x"
    with controller(directory) as c:
        assert c.event["event"] == "ready"
        assert c.event["pid"] == c.popen.pid
        assert c.event["location"].startswith("tcp:127.0.0.1:")
        for role, furl in c.furls().items():
            mode = c.furl_file(role).stat().st_mode & 0o777
            assert mode == 0o600
            assert list(furl.hints) == [c.event["location"]]
        assert len({f.swissnum for f in c.furls().values()}) == 4
        for path in (directory, directory / "security", directory / "log", directory / "pid"):
            assert path.stat().st_mode & 0o777 == 0o700
        content = json.loads((directory / "pid" / "ipcontroller.json").read_text())
        assert content["pid"] == c.popen.pid
        assert content["cluster"] == "x"
        assert psutil.Process(c.popen.pid).cmdline()[0] == "ipcontroller [x]"
        assert c.stop() == (0, "")
    assert not (directory / "pid" / "ipcontroller.json").exists()
    log = (directory / "log" / "ipcontroller.log").read_text()
    assert "stopping" in log
    assert "Traceback" not in log
    secrets = [f.swissnum for f in map(read_furl, (directory / "security").glob("*.furl"))]
    assert not any(secret in log for secret in secrets)


def test_interrupt_is_as_good_as_terminate(tmp_path: Path) -> None:
    with controller(tmp_path / "c") as c:
        assert c.stop(signal.SIGINT) == (0, "")


def test_furls_and_port_survive_a_restart(tmp_path: Path) -> None:
    with controller(tmp_path / "c") as c:
        before = c.furls()
        c.stop(signal.SIGKILL)
    assert (tmp_path / "c" / "pid" / "ipcontroller.json").exists()  # it was killed
    with controller(tmp_path / "c") as c:
        assert c.event["event"] == "ready"
        assert c.furls() == before
        c.stop()


def test_a_kept_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with controller(tmp_path / "c") as c:
        port = int(c.event["location"].rpartition(":")[2])
        c.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        status, message = fail(tmp_path / "c")
    assert status == 1
    assert f"port {port} of 127.0.0.1 is in use" in message
    assert f"pid {os.getpid()}" in message
    assert "ipcontroller.json" in message
    assert not (tmp_path / "c" / "pid" / "ipcontroller.json").exists()


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, message = fail(tmp_path / "c", "--port", str(port))
    assert status == 1
    assert message == f"port {port} of 127.0.0.1 is in use: another process listens there"


def test_a_second_controller_is_refused(tmp_path: Path) -> None:
    with controller(tmp_path / "c") as c:
        status, message = fail(tmp_path / "c")
        assert status == 1
        assert f"ipcontroller with pid {c.popen.pid} already runs here" in message
        assert c.popen.poll() is None
        assert c.stop() == (0, "")


def test_the_end_of_the_lifeline_stops_it(tmp_path: Path) -> None:
    with controller(tmp_path / "c", "--lifeline") as c:
        assert c.event["event"] == "ready"
        assert c.wait() == (0, "")  # closes its standard input


def test_without_a_lifeline_the_end_of_the_input_means_nothing(tmp_path: Path) -> None:
    done = subprocess.Popen(
        command(tmp_path / "c"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert done.stdout is not None
        assert json.loads(done.stdout.readline())["event"] == "ready"
        done.send_signal(signal.SIGTERM)
        assert done.wait(LIMIT) == 0
    finally:
        done.kill()
        done.communicate()


def test_locations_are_as_told(tmp_path: Path) -> None:
    with controller(tmp_path / "c", "--location", "node1,tcp:10.0.0.1:99") as c:
        port = json.loads((tmp_path / "c" / "security" / "ipcontroller.json").read_text())["port"]
        assert c.event["location"] == f"tcp:node1:{port},tcp:10.0.0.1:99"
        assert c.furls()["client"].hints == (f"tcp:node1:{port}", "tcp:10.0.0.1:99")
        c.stop()


def test_an_open_security_directory_is_refused(tmp_path: Path) -> None:
    security = tmp_path / "c" / "security"
    security.mkdir(parents=True)
    security.chmod(0o755)
    (tmp_path / "c" / "pid").mkdir()
    status, message = fail(tmp_path / "c")
    assert status == 1
    assert f"chmod 700 {security}" in message


def test_without_a_log_file_it_logs_to_the_standard_error(tmp_path: Path) -> None:
    with controller(tmp_path / "c", "--no-log-file") as c:
        status, err = c.stop()
    assert status == 0
    assert "stopping" in err
    assert not list((tmp_path / "c" / "log").iterdir())


def test_a_stale_furl_is_told_from_a_missing_controller(tmp_path: Path) -> None:
    from twisted.internet import reactor

    from ipkernel.wire.tub import call, connect, make_tub
    from tests.support.reactor import run_in_reactor

    async def ask(furl: Furl) -> Status:
        tub = make_tub(Identity.create(), reactor)
        try:
            return unpack(Status, await call(await connect(tub, furl), "status", b""))
        finally:
            await tub.stopService()

    with controller(tmp_path / "c") as c:
        furl = c.furls()["monitor"]
        status = run_in_reactor(lambda: ask(furl))
        assert status.pid == c.popen.pid
        assert status.location == c.event["location"]
        c.stop()
        with pytest.raises(ConnectError, match="the controller is not running"):
            run_in_reactor(lambda: ask(furl))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("node1", ["tcp:node1:7"]),
        ("node1:8, node2", ["tcp:node1:8", "tcp:node2:7"]),
        ("tcp:a:1", ["tcp:a:1"]),
        ("::1", ["tcp:[::1]:7"]),
        ("[::1]", ["tcp:[::1]:7"]),
        ("[::1]:9", ["tcp:[::1]:9"]),
    ],
)
def test_hints_are_completed(text: str, found: list[str]) -> None:
    assert hints(text, 7) == found


@pytest.mark.parametrize(
    "text", ["a b", "node1:x", "node1, tcp:;:8", "tcp:node1", "a/b", ",", "[x]:7"]
)
def test_hints_that_lead_nowhere(text: str) -> None:
    with pytest.raises(ConfigurationError, match="others (cannot )?reach this host"):
        hints(text, 7)


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_a_port_is_a_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--port", port])
    assert "is not a port" in capsys.readouterr().err
