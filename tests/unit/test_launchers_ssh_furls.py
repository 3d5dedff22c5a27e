"""How hosts reach the controller: its FURL as it is, or through the connection; and the way back."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process
from ipkernel.errors import ConfigurationError, ConnectError, LauncherError
from ipkernel.launchers import find_launcher, remote, ssh
from ipkernel.launchers.ssh import SSHControllerLauncher, SSHHostLauncher
from ipkernel.wire.furl import Furl, read_furl, write_furl

pytestmark = pytest.mark.skipif(os.name != "posix", reason="tunnels need a POSIX system")

ROLES = ("client", "engine", "monitor", "admin")
ELSEWHERE = {"machine": ["another", "boot", "network"]}
HERE = {"machine": remote.machine()}


class Tunnels:
    """Opens ports that are only numbers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def to_here(self, host: str, port: int) -> int:
        self.asked.append(("here", host, port))
        return 1000 + len(self.asked)

    def to_there(self, host: str, port: int) -> int:
        self.asked.append(("there", host, port))
        return 2000 + len(self.asked)


class Talk:
    """A host that says whether it reaches the controller."""

    def __init__(self, reached: bool = False) -> None:
        self.reached = reached
        self.stopped = False
        self.orders: list[dict[str, Any]] = []

    def order(self, answer: str, order: dict[str, Any]) -> dict[str, Any]:
        self.orders.append(order)
        return {"event": answer, "reached": self.reached}


def furl(*hints: str) -> Furl:
    return Furl("a" * 32, "b" * 52, hints, "swissnum")


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    return ClusterDirectory(tmp_path / "cluster").create()


def host(directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Return a launcher that counts as started."""
    options = {"hosts": ["a"], **options}
    (share,) = SSHHostLauncher.plan(None, options)
    launcher = SSHHostLauncher(directory, options=options, share=share)
    monkeypatch.setattr(SSHHostLauncher, "running", True)
    monkeypatch.setattr(ssh, "_LOOK", 0.0)
    if launcher.tunnels is not None:
        launcher.tunnels = Tunnels()  # type: ignore[assignment]
    return launcher


def sent(launcher: Any, talk: Talk, checked: dict[str, Any]) -> Furl:
    (content,) = launcher.files(talk, checked).values()
    return Furl.parse(content)


# ------------------------------------------------------------------------ host daemons


@pytest.mark.parametrize(
    ("tunnel", "hints", "checked", "reached", "asked", "tunnelled"),
    [
        ("auto", ("tcp:10.0.0.1:5", "tcp:127.0.0.1:5"), ELSEWHERE, True, ["10.0.0.1"], False),
        ("auto", ("tcp:10.0.0.1:5", "tcp:127.0.0.1:5"), ELSEWHERE, False, ["10.0.0.1"], True),
        ("auto", ("tcp:127.0.0.1:5",), ELSEWHERE, True, None, True),
        ("auto", ("tcp:127.0.0.1:5",), HERE, True, ["127.0.0.1"], False),
        ("auto", ("tcp:[::1]:5", "tcp:localhost:5"), ELSEWHERE, True, None, True),
        ("yes", ("tcp:10.0.0.1:5", "tcp:127.0.0.1:5"), ELSEWHERE, True, None, True),
        ("no", ("tcp:127.0.0.1:5",), ELSEWHERE, False, None, False),
    ],
)
def test_a_tunnel_is_made_where_it_is_wanted_or_needed(
    directory: ClusterDirectory,
    monkeypatch: pytest.MonkeyPatch,
    tunnel: str,
    hints: tuple[str, ...],
    checked: dict[str, Any],
    reached: bool,
    asked: list[str] | None,
    tunnelled: bool,
) -> None:
    launcher = host(directory, monkeypatch, tunnel=tunnel)
    write_furl(directory.furl_file("engine"), furl(*hints))
    talk = Talk(reached)
    found = sent(launcher, talk, checked)
    assert [[place[0] for place in order["places"]] for order in talk.orders] == (
        [] if asked is None else [asked]
    )
    assert found == (furl("tcp:127.0.0.1:1001") if tunnelled else furl(*hints))
    assert launcher.tunnelled is tunnelled
    if tunnelled:  # the shortest way to a controller of this machine
        (way,) = launcher.tunnels.asked
        assert way[0] == "here"
        assert ssh.is_loopback(way[1])
        assert {"event": "tunnel", "host": "a", "port": 1001} in launcher.events


def test_a_controller_that_is_elsewhere_is_reached_through_this_machine(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = host(directory, monkeypatch)
    write_furl(directory.furl_file("engine"), furl("tcp:10.0.0.1:5"))
    assert sent(launcher, Talk(False), ELSEWHERE) == furl("tcp:127.0.0.1:1001")
    assert launcher.tunnels.asked == [("here", "10.0.0.1", 5)]


def test_without_tunnels_what_cannot_be_reached_is_told(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = host(directory, monkeypatch)
    launcher.tunnels = None
    write_furl(directory.furl_file("engine"), furl("tcp:10.0.0.1:5"))
    with pytest.raises(LauncherError, match="tunnels need a POSIX system"):
        launcher.files(Talk(False), ELSEWHERE)
    launcher.tunnels = Tunnels()
    write_furl(directory.furl_file("engine"), furl())
    with pytest.raises(LauncherError, match="has not said where it listens"):
        launcher.files(Talk(False), ELSEWHERE)


def test_the_furl_of_an_earlier_controller_is_not_taken(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = host(directory, monkeypatch, start_timeout=1, tunnel="no")
    path = directory.furl_file("engine")
    write_furl(path, furl("tcp:10.0.0.1:5"))
    os.utime(path, (1000, 1000))
    running = Process("ipcontroller", 1, 5000.0, "")
    monkeypatch.setattr(ClusterDirectory, "controller", lambda self: running)
    clock = iter(range(100))
    monkeypatch.setattr(ssh.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(LauncherError, match="there was no controller within 1 s"):
        launcher.files(Talk(), ELSEWHERE)
    os.utime(path, (5000, 5000))
    assert sent(launcher, Talk(), ELSEWHERE).hints == ("tcp:10.0.0.1:5",)
    # Of another machine's clock nothing is known.
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(
        ClusterDirectory, "controller", lambda self: running._replace(host="elsewhere")
    )
    assert sent(launcher, Talk(), ELSEWHERE).hints == ("tcp:10.0.0.1:5",)


def test_a_launcher_that_is_stopped_waits_no_longer(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = host(directory, monkeypatch)
    talk = Talk()
    talk.stopped = True
    with pytest.raises(LauncherError, match="stopped while it waited for the controller"):
        launcher.files(talk, ELSEWHERE)


def test_paths_of_this_host_are_named_by_what_they_are_there(directory: ClusterDirectory) -> None:
    options = {"hosts": ["a"]}
    (share,) = SSHHostLauncher.plan(None, options)
    arguments = [
        "--cluster-dir", str(directory),
        "--furl-file", str(directory.furl_file("engine")),
        f"--other={directory}",
    ]  # fmt: skip
    launcher = SSHHostLauncher(directory, arguments, options=options, share=share)
    assert launcher._words() == [
        "--cluster-dir", {"at": ""},
        "--furl-file", {"at": "security/ipcontroller-engine.furl"},
        f"--other={directory}",
    ]  # fmt: skip


# ------------------------------------------------------------------- the controller


def controller(directory: ClusterDirectory, **options: Any) -> Any:
    launcher = SSHControllerLauncher(directory, options={"controller_host": "head", **options})
    if launcher.tunnels is not None:
        launcher.tunnels = Tunnels()  # type: ignore[assignment]
    return launcher


def files(*hints: str) -> dict[str, Any]:
    content = {f"security/ipcontroller-{role}.furl": f"{furl(*hints)}\n" for role in ROLES}
    return {"event": "@files", "files": content}


def test_both_launchers_are_found_by_their_name() -> None:
    assert find_launcher("engines", "ssh") is SSHHostLauncher
    assert find_launcher("controller", "SSH") is SSHControllerLauncher


def test_a_controller_that_only_its_host_reaches_is_led_here(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: tuple[str, int], timeout: float) -> Any:
        raise ConnectionRefusedError(address)

    monkeypatch.setattr(ssh.socket, "create_connection", refuse)
    launcher = controller(directory)
    assert launcher.label == "host head"
    launcher.heard(files("tcp:127.0.0.1:5", "tcp:10.99.9.9:5"))
    for role in ROLES:
        found = read_furl(directory.furl_file(role))
        assert found.hints == ("tcp:127.0.0.1:2001", "tcp:10.99.9.9:5")
        assert directory.furl_file(role).stat().st_mode & 0o777 == 0o600
    assert len(launcher.tunnels.asked) == 1  # one for all roles
    assert launcher.tunnels.asked[0][1:] == ("127.0.0.1", 5)
    assert [event["event"] for event in launcher.events] == ["tunnel"]


def test_a_controller_that_answers_here_needs_no_way_of_its_own(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "is_loopback", lambda host: False)
    launcher = controller(directory)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hint = f"tcp:127.0.0.1:{listening.getsockname()[1]}"
        launcher.heard(files(hint))
    assert read_furl(directory.furl_file("client")).hints == (hint,)
    assert launcher.tunnels.asked == []


@pytest.mark.parametrize(("tunnel", "count"), [("no", 0), ("yes", 1)])
def test_what_was_said_about_tunnels_holds_for_the_controller_too(
    directory: ClusterDirectory, tunnel: str, count: int
) -> None:
    launcher = controller(directory, tunnel=tunnel)
    launcher.heard(files("tcp:10.0.0.1:5"))
    hints = read_furl(directory.furl_file("client")).hints
    assert hints[-1] == "tcp:10.0.0.1:5"
    assert len(hints) == 1 + count


@pytest.mark.parametrize("content", ["", "garbage", "pb://x"])
def test_what_is_no_furl_is_not_kept(directory: ClusterDirectory, content: str) -> None:
    launcher = controller(directory)
    event = files("tcp:10.0.0.1:5")
    event["files"]["security/ipcontroller-client.furl"] = content
    with pytest.raises(ConnectError):
        launcher.heard(event)
    assert not directory.furl_file("client").exists()
    with pytest.raises(ConnectError):
        launcher.heard({"event": "@files", "files": {"../../client.furl": "x"}})


def test_a_controller_needs_a_host(directory: ClusterDirectory) -> None:
    with pytest.raises(ConfigurationError, match="controller_host"):
        SSHControllerLauncher(directory, options={"hosts": ["a"]})


# ------------------------------------------------------------------------ records


def test_a_record_leads_back_to_the_program(directory: ClusterDirectory) -> None:
    options = {"hosts": ["me@a:3"], "port": 23, "setup": ["export TOKEN=secret"]}
    (share,) = SSHHostLauncher.plan(None, options)
    launcher = SSHHostLauncher(directory, options=options, share=share)
    record = launcher.record()
    assert (record["n"], record["directory"]) == (3, "")
    assert "secret" not in str(record)
    nothing = SSHHostLauncher.from_record(directory, record, options)
    assert not nothing.started
    assert nothing.state() == "not started"
    there = SSHHostLauncher.from_record(
        directory, {**record, "directory": "/there", "python": "/py"}, {}
    )
    assert there.started
    assert there.running
    assert (there.label, there.pid, there.exit_code, there.share.n) == ("host a", 0, None, 3)
    assert (there.entry.user, there.entry.port) == ("me", 23)
    assert there.record()["directory"] == "/there"


def test_a_failure_is_told_as_such_and_not_by_the_exit_code_of_ssh(
    directory: ClusterDirectory,
) -> None:
    options = {"hosts": ["a"]}
    (share,) = SSHHostLauncher.plan(None, options)
    launcher = SSHHostLauncher(directory, options=options, share=share)
    launcher.tell({"event": "error", "host": "a", "message": "there is no host of this name"})
    assert launcher.how_ended() == "failed: there is no host of this name"
