"""The doctor's look at other hosts, behind an ssh that stays on this machine."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from ipkernel._version import __version__
from ipkernel.cli import common, ipcluster
from ipkernel.cluster import doctor, doctorhosts
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.doctor import OK, PROBLEM, WARNING
from ipkernel.errors import LauncherError
from ipkernel.launchers.sshtunnel import Tunnels

THERE = "Python {}.{}.{} ({})".format(*sys.version_info[:3], sys.executable)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    return tmp_path


def stand_in(home: Path, script: str = 'exec sh -c "$last"') -> str:
    """Make a program in place of ssh; ``$last`` is what it is to run."""
    path = home / "ssh-stand-in"
    lines = f'#!/bin/sh\nfor last; do :; done\nexport IPYTHONDIR="{home}"\n{script}\n'
    path.write_text(lines)
    path.chmod(0o700)
    return str(path)


def found(home: Path, *hosts: str, cluster: dict[str, Any] | None = None, **ssh: Any) -> list[Any]:
    """Return what is found about hosts, this one's findings left out."""
    given = {"python": sys.executable, "hosts": list(hosts), **ssh}
    if "ssh" not in given:
        given["ssh"] = stand_in(home)
    configured = load(
        ClusterDirectory.named("x"),
        given={**(cluster or {"controller_ip": "127.0.0.1"}), "engines": ["ssh"], "ssh": given},
    )
    return list(doctor.other_hosts(ClusterDirectory.named("x"), configured))


def test_a_host_where_all_is_well(home: Path) -> None:
    place, way = found(home, "a:2")
    assert place == doctor.Finding("host a", OK, f"{THERE}, ipkernel {__version__}")
    assert way.level == OK
    assert way.text.startswith("it reaches a port that was opened for the controller at 127.0.0.1:")
    assert not list(home.glob("cluster_*")), "looking leaves nothing"


def test_hosts_are_told_in_their_order(home: Path) -> None:
    names = [one.check for one in found(home, "b", "me@a:3", "c")]
    assert names == [f"host {name}" for name in "bbaacc"]


def test_each_host_by_its_own_options(home: Path) -> None:
    [first, _, second] = found(home, "a", "b", b={"python": "no-such-python"})
    assert (first.check, first.level) == ("host a", OK)
    assert (second.check, second.level) == ("host b", PROBLEM)
    assert second.text.startswith("there is no 'no-such-python': install Python there")


def test_another_version_of_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 1, "final", 0))
    place, way = found(home, "a")
    assert (place.level, way.level) == (WARNING, OK)
    assert "here it is 3.99.1" in place.advice


def test_another_version_of_ipkernel(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.launchers.sshlauncher.__version__", "99")
    [problem] = found(home, "a")
    assert problem.level == PROBLEM
    assert f"has ipkernel {__version__}, and this is 99" in problem.text
    place, _ = found(home, "a", push="yes")
    assert place.text == f"{THERE}, ipkernel is brought along"


def test_an_ssh_that_fails(home: Path) -> None:
    ssh = stand_in(home, "echo 'me@a: Permission denied (publickey).' >&2; exit 255")
    [problem] = found(home, "a", ssh=ssh)
    assert problem.level == PROBLEM
    assert "does not let you log in without a password" in problem.text


def test_an_ssh_that_is_not_there(home: Path) -> None:
    [problem] = found(home, "a", ssh="/no/such/ssh")
    assert problem.level == PROBLEM
    assert "/no/such/ssh" in problem.text


def test_a_host_that_does_not_answer(home: Path) -> None:
    ssh = stand_in(home, "exec sleep 600")
    [problem] = found(home, "a", ssh=ssh, connect_timeout=1)
    assert (problem.level, problem.text) == (
        PROBLEM,
        "it did not let anybody log in within 2 s",
    )


def test_who_stops_listening_ends_what_runs(home: Path) -> None:
    directory = ClusterDirectory.named("x")
    ssh = {"ssh": stand_in(home, "exec sleep 600"), "hosts": ["a", "b"]}
    configured = load(directory, given={"engines": ["ssh"], "ssh": ssh})
    looking = doctorhosts.examine_hosts(directory, configured, doctorhosts.hosts_of(configured))
    visits: list[Any] = []
    begin = doctorhosts.Visit.begin

    class Stop(Exception):
        pass

    def begins(visit: Any) -> None:
        begin(visit)
        visits.append(visit)
        if len(visits) == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(doctorhosts.Visit, "begin", begins)
        next(looking)
    assert not any(visit.running for visit in visits)


def unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctorhosts.Visit, "reaches", lambda *_: False)


def test_no_way_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreached(monkeypatch)
    _, way = found(home, "a", tunnel="no")
    assert way.level == PROBLEM
    assert way.text.startswith("it does not reach a port that was opened")
    assert "tunnel = auto" in way.advice


@pytest.mark.parametrize("tunnel", ["auto", "yes"])
def test_a_way_back_by_tunnel(home: Path, monkeypatch: pytest.MonkeyPatch, tunnel: str) -> None:
    unreached(monkeypatch)
    asked: list[tuple[str, int]] = []

    def to_here(self: Tunnels, host: str, port: int) -> int:
        asked.append((host, port))
        return 4711

    monkeypatch.setattr(Tunnels, "to_here", to_here)
    _, way = found(home, "a", tunnel=tunnel)
    assert way.level == OK
    assert way.text.endswith(" through a tunnel")
    assert asked[0][0] == "127.0.0.1"


def test_a_tunnel_that_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreached(monkeypatch)

    def refuse(self: Tunnels, host: str, port: int) -> int:
        raise LauncherError("its ssh server does not open a tunnel")

    monkeypatch.setattr(Tunnels, "to_here", refuse)
    _, way = found(home, "a")
    assert (way.level, way.text) == (PROBLEM, "its ssh server does not open a tunnel")


def test_where_the_controller_would_be(home: Path) -> None:
    _, way = found(home, "a", cluster={"controller_location": "127.0.0.1"})
    assert way.level == OK
    assert "for the controller at 127.0.0.1:" in way.text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = {"controller_ip": "127.0.0.1", "controller_port": port}
        [problem] = found(home, "a", cluster=cluster)
    assert problem.level == PROBLEM
    assert problem.text.startswith("they cannot be asked to come back: ")


# -- a controller that is to be on another host ----------------------------------------------------


def away(monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """Return options of a cluster whose controller is started by ssh, on a loopback interface."""
    # What stands in for ssh forwards nothing; on this machine the port itself can be reached.
    monkeypatch.setattr(Tunnels, "to_there", lambda self, host, port: port)
    return {"controller": "ssh", "controller_ip": "127.0.0.1", **more}


def test_a_controller_elsewhere_is_started_for_a_look(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, reached, other, way = found(
        home, "a", cluster=away(monkeypatch), controller_host="me@head"
    )
    assert place == doctor.Finding("host head", OK, f"{THERE}, ipkernel {__version__}")
    assert (reached.check, reached.level) == ("host head", OK)
    assert (
        reached.text == "a controller that was started there is reached from here through a tunnel"
    )
    assert (other.check, other.level) == ("host a", OK)
    assert way.level == OK
    assert way.text == "it reaches a controller that was started on host head"
    assert not list((home / "ssh").iterdir()), "looking leaves nothing"


def test_a_controller_that_does_not_start_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = away(monkeypatch, controller_port=taken.getsockname()[1])
        place, problem, other = found(home, "a", cluster=cluster, controller_host="head")
    assert (place.level, problem.check, problem.level) == (OK, "host head", PROBLEM)
    assert "is in use: another process listens there" in problem.text
    assert (other.check, other.level) == ("host a", OK), "there is nothing that it could reach"


def test_a_host_for_the_controller_that_cannot_have_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = {"controller_host": "head", "head": {"python": "no-such-python"}}
    problem, other = found(home, "a", cluster=away(monkeypatch), **ssh)
    assert (problem.check, problem.level) == ("host head", PROBLEM)
    assert problem.text.startswith("there is no 'no-such-python': install Python there")
    assert (other.check, other.level) == ("host a", OK)


def test_a_controller_without_a_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [problem] = found(home, "a", cluster=away(monkeypatch))
    assert (problem.check, problem.level) == ("controller", PROBLEM)
    assert "controller_host = head.example" in problem.text


def test_a_controller_of_a_batch_job(home: Path) -> None:
    place, other = found(home, "a", cluster={"controller": "slurm"})
    assert (place.check, place.level) == ("controller", OK)
    assert place.text.startswith("slurm is to start it: ")
    assert (other.check, other.level) == ("host a", OK)


def test_this_host_needs_no_port_for_a_controller_elsewhere(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "ipcluster.ini").write_text("[cluster]\ncontroller = slurm\n")
    assert {"name", "port"}.isdisjoint(checks(capsys))
    (home / "ipcluster.ini").write_text("[cluster]\ncontroller = local\n")
    assert {"name", "port"} <= set(checks(capsys))


def test_options_that_are_wrong(home: Path) -> None:
    [problem] = found(home, "a:0")
    assert (problem.check, problem.level) == ("hosts", PROBLEM)
    assert "'a:0'" in problem.text


def test_no_ssh_no_hosts() -> None:
    directory = ClusterDirectory.named("x")
    assert list(doctor.other_hosts(directory, load(directory))) == []


# -- the command --------------------------------------------------------------------------------


def checks(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    ipcluster.main(["doctor", "--json", *options])
    return [one["check"] for one in json.loads(capsys.readouterr().out)]


def test_hosts_of_the_command_line_or_of_the_configuration(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = f"[ssh]\nssh = {stand_in(home)}\npython = {sys.executable}\n"
    file = home / "ipcluster.ini"
    file.write_text(f"{ssh}hosts = a, b\n")
    assert "host a" not in checks(capsys), "engines do not use ssh"
    file.write_text(f"[cluster]\nengines = local:1, ssh\n{ssh}hosts = a, b\n")
    assert {"host a", "host b"} <= set(checks(capsys))
    assert not any("host " in one for one in checks(capsys, "--no-hosts"))
    given = checks(capsys, "--hosts", "c, me@d:2")
    assert [one for one in given if "host " in one] == ["host c", "host c", "host d", "host d"]


def test_hosts_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert ipcluster.main(["doctor", "--hosts", " , "]) != common.OK
    assert "--hosts names no hosts" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ipcluster.main(["doctor", "--hosts", "a", "--no-hosts"])
    assert "not allowed with" in capsys.readouterr().err
