"""Clusters over hosts with real ssh servers: start, loss, tunnels, keys, and what is left: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipkernel._version import __version__
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers.ssh import SSHHostLauncher
from tests.integration.faults_support import PATIENCE, Program, wait_for
from tests.support.sshsite import SshSite, needs_sshd

#: Seconds after which even a loaded machine has noticed that a network is gone.
LOSS = 120.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSite]:
    """Two hosts; ``b`` forwards no ports."""
    directory = tmp_path_factory.mktemp("ssh")
    with SshSite(directory / "site", {"a": [], "b": ["AllowTcpForwarding no"]}) as made:
        yield made


def job(site: SshSite, name: str, **arguments: Any) -> Program:
    """Start a job of :mod:`tests.integration.ssh_jobs` on the machine ``here``."""
    words = [sys.executable, "-m", "tests.integration.ssh_jobs", name, json.dumps(arguments)]
    return Program(*site.command(*words), **site.environment())


def done(site: SshSite, name: str, **arguments: Any) -> list[Any]:
    """Do a job to its end; return what it said."""
    with job(site, name, **arguments) as program:
        code, out, err = program.end(2 * PATIENCE)
    assert code == 0, err
    assert not err
    return [json.loads(line) for line in out.splitlines()]


def assert_empty(site: SshSite) -> None:
    """Nothing of ipkernel is on the hosts, after a moment."""
    wait_for(lambda: not any(site.processes(name) + site.left(name) for name in "ab"))


def names(events: list[Any], where: str) -> list[str]:
    """Return the names of the events of one place, up to the one that says it is ready."""
    found = [event["event"] for event in events if event.get("where") == where]
    return found[: found.index("ready") + 1]


@needs_sshd
def test_one_statement_starts_engines_on_two_hosts_and_shows_no_secret(
    site: SshSite, tmp_path: Path
) -> None:
    directory = tmp_path / "cluster"
    first, last = done(
        site,
        "statement",
        secret="a secret of the engines",
        hosts=["a:2", "b:2"],
        ssh=site.options(),
        cluster_dir=str(directory),
    )
    assert sorted(first["places"]) == [[host, "a secret of the engines"] for host in "aabb"]
    assert first["seen"] == []
    own = [line for line in first["ssh"] if str(site.ssh_config) in line]
    assert len(own) == 2  # one connection for each host, and they were seen
    for host in "ab":
        assert names(last["events"], f"host {host}") == [
            "connecting", "checking", "copying", "started", "registered", "ready",
        ]  # fmt: skip
    assert_empty(site)
    assert [path.read_text() for path in directory.glob("log/*.err")] == ["", "", ""]


@needs_sshd
def test_one_command_starts_engines_on_two_hosts_and_another_one_stops_them(
    site: SshSite,
) -> None:
    def ipcluster(*words: str) -> str:
        command = site.command(sys.executable, "-m", "ipkernel.cli.ipcluster", *words)
        ended = subprocess.run(
            command, env=site.environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    configuration = site.home("here") / ".ipython" / "ipcluster.ini"
    configuration.parent.mkdir()
    lines = [f"{name} = {value}\n" for name, value in site.options().items()]
    configuration.write_text(f"[ssh]\n{''.join(lines)}")
    assert "3 engines" in ipcluster("start", "--hosts", "a:2,b:1", "--daemonize")
    try:
        status = json.loads(ipcluster("status", "--json"))
        assert sorted(host["host"] for host in status["hosts"]) == ["a", "b"]
    finally:
        ipcluster("stop")
    assert_empty(site)


@needs_sshd
def test_a_host_that_cannot_dial_in_has_a_tunnel_and_data_goes_by_relay(
    site: SshSite, tmp_path: Path
) -> None:
    (said,) = done(
        site,
        "data",
        size=8_000_000,
        hosts=["a:1"],
        engines=["ssh", "local:1"],
        ssh=site.options(),
        cluster_dir=str(tmp_path / "cluster"),
        # No way leads there; on this machine the second one does.
        controller_location="10.99.9.9,127.0.0.1",
    )
    assert said["size"] == 8_000_000
    assert said["there"][1] == 8_000_000
    assert "tunnel" in names(said["events"], "host a")
    assert_empty(site)


@needs_sshd
def test_a_lost_network_is_told_with_the_name_of_the_host_and_tasks_move(
    site: SshSite, tmp_path: Path
) -> None:
    directory = ClusterDirectory(tmp_path / "cluster")
    options = site.options(alive_interval=1)
    arguments = {"hosts": ["a:1", "b:1"], "ssh": options, "cluster_dir": str(directory)}
    with job(site, "lose", **arguments) as program:

        def next_line(wanted: str) -> Any:
            while True:
                said = json.loads(program.line(LOSS))
                if wanted in (next(iter(said)), said.get("event", {}).get("event")):
                    return said

        assert sorted(next_line("running")["running"]) == ["a", "b"]
        site.net.unplug("a")
        try:
            event = next_line("ended")["event"]
            assert event["where"] == "host a"
            lost = "ipdaemon (host a) ended: the connection was lost: it has not answered for 3 s"
            assert event["message"].startswith(lost)
            results = next_line("results")["results"]
        finally:
            site.net.plug("a")
        code, _, err = program.end(LOSS)
    assert (code, err) == (0, "")
    assert len(results) == 24
    assert [host for host, _ in results].count("b") > 12
    wait_for(lambda: not any(site.processes(name) + site.left(name) for name in "ab"), LOSS)


@needs_sshd
def test_nothing_is_left_on_hosts_when_the_owner_is_killed(site: SshSite, tmp_path: Path) -> None:
    arguments = {"ssh": site.options(), "cluster_dir": str(tmp_path / "cluster")}
    with job(site, "hold", hosts=["a:2", "b:1"], **arguments) as program:
        assert len(json.loads(program.line())["places"]) == 3
        program.process.kill()
        assert_empty(site)


@needs_sshd
def test_what_outlives_its_starter_ends_by_its_record_or_with_the_controller(
    site: SshSite, tmp_path: Path
) -> None:
    directory = str(tmp_path / "cluster")
    options = site.options(hosts=["a:1"])
    tunnels = ["no", "no", "yes", "yes"]
    (left,) = done(site, "leave", options=options, cluster_dir=directory, tunnels=tunnels)
    try:
        assert left["running"] == [True] * 4
        assert len(site.left("a")) == 4
        hows = ["request_stop", "kill", "terminate"]
        orders = list(zip(left["records"], hows, strict=False))
        (ended,) = done(site, "end", cluster_dir=directory, orders=orders)
        assert ended == {"before": ["running"] * 3, "ended": [True] * 3, "after": ["ended"] * 3}
        assert [left["records"][3]["directory"]] == [
            str(site.home("a") / ".ipython" / "ssh" / name) for name in site.left("a")
        ]
    finally:
        os.kill(left["controller"], signal.SIGTERM)
    assert_empty(site)
    wait_for(lambda: ClusterDirectory(directory).controller() is None)


@needs_sshd
def test_the_controller_can_be_on_a_host_as_well(site: SshSite, tmp_path: Path) -> None:
    first, last = done(
        site,
        "statement",
        secret="unseen",
        controller="ssh",
        hosts=["b:1", "a:1"],
        ssh=site.options(controller_host="a"),
        cluster_dir=str(tmp_path / "cluster"),
        # The client goes through the connection; the hosts reach each other.
        controller_ip=site.net.address("a"),
    )
    assert sorted(host for host, _ in first["places"]) == ["a", "b"]
    assert first["seen"] == []
    assert_empty(site)


@needs_sshd
def test_a_controller_on_a_host_is_looked_at_and_stopped_from_here(site: SshSite) -> None:
    def ipcluster(*words: str) -> tuple[int, str]:
        given = (*words, "--cluster", "away")
        command = site.command(sys.executable, "-m", "ipkernel.cli.ipcluster", *given)
        ended = subprocess.run(
            command,
            env=site.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return ended.returncode, ended.stdout + ended.stderr

    options = [f"--set=ssh.{name}={value}" for name, value in site.options().items()]
    start = ["start", "--controller", "ssh", "--set=ssh.controller_host=a", "--hosts", "b:1"]
    code, out = ipcluster(*start, *options, "--daemonize")
    assert code == 0, out
    try:
        code, out = ipcluster("status", "--json")
        assert code == 0, out
        assert [json.loads(out)["host"], json.loads(out)["hosts"][0]["host"]] == ["a", "b"]
        assert ipcluster("scale", "2") == (0, "scaled cluster away to 2 engines\n")
        code, out = ipcluster("start", "--daemonize")
        assert (code, "is already running (controller: ssh, host a, running)" in out) == (1, True)
    finally:
        code, out = ipcluster("stop")
    assert code == 0, out
    assert ipcluster("status")[0] == ipcluster("stop")[0] == 3
    assert_empty(site)


@needs_sshd
def test_a_start_that_is_killed_leaves_a_cluster_that_can_be_stopped(
    site: SshSite, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    lines = "".join(f"{name} = {value}\n" for name, value in site.options().items())
    # Nobody starts anything on host b before we say so.
    wait = f"[[b]]\nsetup = until [ -e {go_on} ]; do sleep 0.1; done\n"
    directory = tmp_path / "cluster"
    words = [sys.executable, "-m", "ipkernel.cli.ipcluster"]

    def ipcluster(command: str, *more: str) -> subprocess.CompletedProcess[str]:
        given = site.command(*words, command, "--cluster-dir", directory, *more)
        return subprocess.run(
            given, env=site.environment(), capture_output=True, text=True, timeout=PATIENCE
        )

    def missing() -> list[Any]:
        done = ipcluster("status", "--json")
        if done.returncode:
            return []
        found = json.loads(done.stdout)
        return found["missing"] if [one["host"] for one in found["hosts"]] == ["a"] else []

    assert ipcluster("create").returncode == 0
    (directory / "ipcluster.ini").write_text(
        f"[cluster]\ncontroller = ssh\n[ssh]\ncontroller_host = a\nhosts = a:1, b:1\n{lines}{wait}"
    )
    start = [*words, "start", "--engines", "ssh", "--daemonize", "--cluster-dir", str(directory)]
    try:
        with Program(*site.command(*start), **site.environment()) as program:
            [one] = wait_for(missing)
            assert one["title"] == "ssh, host b"
            assert one["state"].endswith("not connected yet")
            program.process.kill()
        [one] = missing()
        stopped = ipcluster("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert "ssh, host a" in stopped.stdout
    finally:
        go_on.touch()
    assert_empty(site)


@needs_sshd
def test_ipkernel_comes_along_to_a_python_without_it(site: SshSite, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    # PYTHONPATH of the tests would make the engines find the sources.
    options = site.options(python=str(bare / "bin" / "python"), setup=["unset PYTHONPATH"])
    arguments = {"hosts": ["a:2"], "cluster_dir": str(tmp_path / "cluster"), "secret": "unseen"}
    copied = []
    for _ in range(2):
        first, last = done(site, "statement", ssh={**options, "push": "yes"}, **arguments)
        assert [host for host, _ in first["places"]] == ["a", "a"]
        copied.append([e["what"] for e in last["events"] if e["event"] == "copying"])
    assert copied == [["ipkernel", "keys"], ["keys"]]
    assert_empty(site)


class Broken:
    """Launchers that cannot succeed, all started at once.

    Args:
        site: The hosts.
        directory: The cluster's.
    """

    def __init__(self, site: SshSite, directory: Path) -> None:
        self._site = site
        self._directory = ClusterDirectory(directory).create()
        self._launchers: dict[str, SSHHostLauncher] = {}
        ssh = directory.parent / "ssh-here"
        ssh.write_text(f'#!/bin/sh\nexec {" ".join(site.command("ssh"))} "$@"\n')
        ssh.chmod(0o700)
        self._ssh = str(ssh)

    def add(self, case: str, host: str = "a", **options: Any) -> None:
        """Start one more."""
        section = self._site.options(ssh=self._ssh, hosts=[host], **options)
        (share,) = SSHHostLauncher.plan(1, section)
        launcher = SSHHostLauncher(self._directory, ["-n", "1"], options=section, share=share)
        self._launchers[case] = launcher
        launcher.start()

    def problems(self) -> dict[str, str]:
        """Return how each of them failed, without the name of the host and what all have."""
        found = {}
        for case, launcher in self._launchers.items():
            with pytest.raises(LauncherError) as caught:
                launcher.wait_event("ready", PATIENCE)
            begin = f"ipdaemon (host {launcher.entry.host}) failed: "
            text = str(caught.value)
            assert text.startswith(begin), text
            assert "\n" not in text
            found[case] = text.removeprefix(begin)
            assert launcher.wait(PATIENCE)
            launcher.close()
        return found


@needs_sshd
def test_each_way_to_fail_has_one_plain_sentence(site: SshSite, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    # A Python that says it is too old: the real one with another version.
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2)\n$2"\n'
    )
    old.chmod(0o700)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    other = tmp_path / "other" / "ipkernel"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "_version.py").write_text('__version__ = "0.1"\n')
    unknown = tmp_path / "config"
    unknown.write_text(site.ssh_config.read_text().replace("known_hosts", "nobody"))
    stranger = tmp_path / "stranger"
    stranger.write_text(
        site.ssh_config.read_text().replace(str(site.key("user")), str(site.key("stranger")))
    )
    broken = Broken(site, tmp_path / "cluster")
    broken.add("name", "nowhere.invalid")
    broken.add("user", "nobody@a")
    broken.add("key", ssh_config=str(stranger))
    broken.add("host key", ssh_config=str(unknown))
    broken.add("port", port=2222)
    broken.add("silence", "10.213.0.99", connect_timeout=1)
    broken.add("route", "10.99.9.9")
    broken.add("no python", python="/nowhere/python3")
    broken.add("old python", python=str(old))
    broken.add("no ipkernel", python=str(bare / "bin" / "python"), setup=["unset PYTHONPATH"])
    broken.add("other ipkernel", setup=[f"export PYTHONPATH={other.parent}"])
    broken.add("setup", setup=["true", "echo no such module >&2; false"])
    broken.add("slow", setup=["sleep 3"], start_timeout=1)
    broken.add("directory", directory="/proc/nowhere")
    said = broken.problems()
    bare_python = bare / "bin" / "python"
    expected = {
        "name": "there is no host of this name: check it in 'hosts'",
        "user": "it does not let user 'nobody' log in without a password: check the name",
        "key": "it does not let you log in without a password: check the name, put your public",
        "host key": "its host key is not known: log in once by hand to check it ('ssh a')",
        "port": "it takes no ssh connections on port 2222: start its ssh server",
        "silence": ("it did not answer within 1 s", "there is no way to it over the network"),
        "route": "there is no way to it over the network: check its address",
        "no python": "there is no '/nowhere/python3': install Python there, or write python =",
        "old python": f"its '{old}' is Python 3.9.2, and ipkernel needs 3.11 or newer",
        "no ipkernel": f"ipkernel is not installed for {bare_python}: run '{bare_python} -m pip",
        "other ipkernel": f"{sys.executable} has ipkernel 0.1, and this is {__version__}: run",
        "setup": "command 2 of 'setup' has failed there with code 1: no such module; try it in",
        "slow": "'setup', the checks and copying took longer than 1 s: raise start_timeout",
        "directory": "cannot make the directory /proc/nowhere: ",
    }
    assert said.keys() == expected.keys()
    for case, begin in expected.items():
        assert said[case].startswith(begin), f"{case}: {said[case]}"
    assert_empty(site)


@needs_sshd
def test_a_server_that_forwards_no_ports_is_named(site: SshSite, tmp_path: Path) -> None:
    arguments = {"ssh": site.options(tunnel="yes"), "cluster_dir": str(tmp_path / "cluster")}
    with job(site, "hold", hosts=["b:1"], **arguments) as program:
        code, _, err = program.end()
    assert code == 1
    assert "host b" in err
    assert "its ssh server does not open a tunnel to the controller" in err
    assert "AllowTcpForwarding" in err
    assert_empty(site)
