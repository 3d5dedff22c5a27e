"""``ipcluster doctor`` and hosts with real ssh servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.faults_support import PATIENCE, wait_for
from tests.support.sshsite import SshSite, needs_sshd


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSite]:
    """Two hosts; ``b`` forwards no ports."""
    directory = tmp_path_factory.mktemp("doctor")
    with SshSite(directory / "site", {"a": [], "b": ["AllowTcpForwarding no"]}) as made:
        yield made


def run(site: SshSite, *words: str) -> subprocess.CompletedProcess[str]:
    command = site.command(sys.executable, "-m", "ipkernel.cli.ipcluster", *words)
    return subprocess.run(
        command,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def configure(site: SshSite, cluster: str = "", more: str = "") -> None:
    place = site.home("here") / ".ipython"
    place.mkdir(exist_ok=True)
    lines = "".join(f"{name} = {value}\n" for name, value in site.options().items())
    (place / "ipcluster.ini").write_text(f"[cluster]\n{cluster}\n[ssh]\n{lines}{more}\n")


def examined(site: SshSite, *words: str) -> dict[str, list[tuple[str, str]]]:
    """Return what was found about each host: levels and texts."""
    ended = run(site, "doctor", "--json", *words)
    assert ended.stderr == ""
    found: dict[str, list[tuple[str, str]]] = {}
    every: list[dict[str, Any]] = json.loads(ended.stdout)
    for one in every:
        if one["check"].startswith("host "):
            found.setdefault(one["check"], []).append((one["level"], one["text"]))
    problem = any(one["level"] == "problem" for one in every)
    assert ended.returncode == int(problem)
    return found


@needs_sshd
def test_hosts_and_their_ways_back(site: SshSite) -> None:
    configure(site, more="hosts = a, b, c\n[[b]]\npython = /no/such/python")
    assert examined(site) == {}, "engines do not use ssh yet"
    found = examined(site, "--hosts", "a,b,c")
    [(level, place), (reached, way)] = found["host a"]
    assert (level, reached) == ("ok", "ok")
    assert sys.executable in place
    assert f"the controller at {site.net.address('here')}:" in way
    [(level, text)] = found["host b"]
    assert (level, text[:32]) == ("problem", "there is no '/no/such/python': i")
    [(level, text)] = found["host c"]
    assert (level, text[:29]) == ("problem", "there is no host of this name")


@needs_sshd
def test_a_controller_that_only_tunnels_reach(site: SshSite) -> None:
    configure(site, "controller_ip = 127.0.0.1\nhosts = a, b")
    found = examined(site)
    level, text = found["host a"][1]
    assert level == "ok"
    assert text.endswith("through a tunnel")
    level, text = found["host b"][1]
    assert level == "problem"
    assert "permit AllowTcpForwarding" in text


@needs_sshd
def test_the_way_to_a_controller_that_runs(site: SshSite) -> None:
    configure(site, "controller_ip = 0.0.0.0\nengines = local")
    started = run(site, "start", "-n", "1", "--daemonize")
    assert started.returncode == 0, started.stderr
    try:
        location = json.loads(run(site, "status", "--json").stdout)["location"]
        [_, (level, text)] = examined(site, "--hosts", "b")["host b"]
        assert level == "ok"
        assert text.startswith("it reaches the controller at ")
        assert text.rpartition(":")[2] == location.rpartition(":")[2]
    finally:
        assert run(site, "stop").returncode == 0


@needs_sshd
def test_a_controller_on_a_host_before_it_runs_and_then(site: SshSite) -> None:
    configure(site, "controller = ssh", "controller_host = a")
    address = site.net.address("a")
    found = examined(site, "--hosts", "b")
    assert [level for level, _ in found["host a"] + found["host b"]] == ["ok"] * 4
    assert found["host a"][1][1] == "a controller that was started there is reached from here"
    assert found["host b"][1][1] == "it reaches a controller that was started on host a"
    started = run(site, "start", "--hosts", "b:1", "--daemonize")
    assert started.returncode == 0, started.stderr
    try:
        found = examined(site)
        assert list(found) == ["host b"], "the host that the cluster uses, though no file names it"
        assert found["host b"][1][1].startswith(f"it reaches the controller at {address}:")
        every = json.loads(run(site, "doctor", "--json", "--no-hosts").stdout)
        [controller] = [one for one in every if one["check"] == "controller"]
        assert controller["level"] == "ok"
        assert f" on a at tcp:{address}:" in controller["text"]
    finally:
        assert run(site, "stop").returncode == 0
    for name in "ab":
        wait_for(lambda name=name: not site.processes(name) + site.left(name))
