"""One cluster with engines on three machines: here, by ssh, and in jobs of a Slurm."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import mixed_jobs as jobs
from tests.integration.faults_support import PATIENCE, command, marked_with, wait_for
from tests.integration.hosts_support import Station
from tests.support import leaks
from tests.support.slurmsite import SlurmSite, needs_slurm
from tests.support.sshsite import HERE, SshSite, needs_sshd

LOCAL = socket.gethostname()
BY_SSH = "a"
BY_SLURM = "n1"


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshSite]:
    with SshSite(tmp_path / "site", {BY_SSH: []}, others=[BY_SLURM]) as made:
        yield made


@pytest.fixture
def slurm(ssh: SshSite) -> Iterator[SlurmSite]:
    with SlurmSite(nodes=1, net=ssh.net, head=HERE) as made:
        yield made


class Mixed:
    """The cluster, seen from the machine where it was started.

    Args:
        ssh: The machines.
        directory: Of the cluster.
    """

    def __init__(self, ssh: SshSite, directory: Path) -> None:
        self._ssh = ssh
        self._directory = directory
        self._cookie = secrets.token_hex(16)

    def start(self) -> Station:
        """Start it with an engine at each place; return the script that has it."""
        arguments = {
            "engines": ["local:1", "ssh", "slurm:1"],
            "hosts": [f"{BY_SSH}:1"],
            "ssh": self._ssh.options(alive_interval=3),
            "slurm": {"poll": 1.0},
            "cluster_dir": str(self._directory),
            "environment": {leaks.COOKIE: self._cookie},
        }
        words = [sys.executable, "-m", "tests.integration.mixed_jobs", json.dumps(arguments)]
        return Station(*self._ssh.command(*words), **self._ssh.environment())

    def status(self, *options: str) -> str:
        """Return what ``ipcluster status`` says."""
        words = command("ipcluster", "status", "--cluster-dir", self._directory, *options)
        done = subprocess.run(
            self._ssh.command(*words),
            env=self._ssh.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def hosts(self) -> dict[tuple[str, str, str], int]:
        """Return how many engines are there, by host, launcher and place, as the status says."""
        found: dict[Any, int] = {}
        for one in json.loads(self.status("--json"))["hosts"]:
            if one["connected"]:
                found[one["host"], one["launcher"], one["label"]] = len(one["engines"])
        return found

    def missing(self) -> dict[str, str]:
        """Return where the programs stand whose hosts are not there, as the status says."""
        return {one["title"]: one["state"] for one in json.loads(self.status("--json"))["missing"]}

    def processes(self) -> set[int]:
        """Return the processes of the cluster, wherever they are."""
        return {process.pid for process in marked_with(self._cookie)}

    def known(self) -> set[int]:
        """Return those that the status shows."""
        said = json.loads(self.status("--json"))
        return {said["pid"], *(one["pid"] for one in [*said["hosts"], *said["engines"]])}


@needs_sshd
@needs_slurm
@pytest.mark.timeout(240)
def test_engines_of_three_launchers_are_one_cluster(
    ssh: SshSite, slurm: SlurmSite, tmp_path: Path
) -> None:
    mixed = Mixed(ssh, tmp_path / "cluster")
    with mixed.start() as script:
        assert json.loads(script.line()) == "ready"
        (first,) = slurm.jobs()
        here, by_ssh, by_slurm = [LOCAL, ""], [BY_SSH, ""], [BY_SLURM, first]
        assert script.do(jobs.places, 3) == sorted([here, by_ssh, by_slurm])
        rows = [line.split() for line in mixed.status().splitlines()]
        for host, *launcher in ((LOCAL, "local"), (BY_SSH, "host", BY_SSH), (BY_SLURM, "slurm")):
            (row,) = [r for r in rows if r[:1] == [host]]
            assert row[2 : 2 + len(launcher)] == launcher
            assert "connected" in row

        # More of them are another job.
        script.do(jobs.scale, 4)
        (second,) = set(slurm.jobs()) - {first}
        assert script.do(jobs.places, 4) == sorted([here, by_ssh, by_slurm, [BY_SLURM, second]])
        local, host_a = (LOCAL, "local", ""), (BY_SSH, "ssh", f"host {BY_SSH}")
        batch = [(BY_SLURM, "slurm", f"slurm job {one}") for one in (first, second)]
        assert mixed.hosts() == dict.fromkeys([local, host_a, *batch], 1)
        known = mixed.known()
        assert len(known) == 9  # controller, four daemons, four engines
        assert known <= mixed.processes()

        # Both jobs are cancelled while they work: the others do it.
        path = tmp_path / "cancelled"
        script.do(jobs.work, str(path), BY_SLURM, 8)
        wait_for(Path(f"{path}-{BY_SLURM}").exists)
        slurm.run("scancel", first, second)
        results = script.do(jobs.results)
        assert len(results) == 8
        assert set(results) <= {LOCAL, BY_SSH}
        cancelled = {f"slurm job {one}": "ended: was cancelled" for one in (first, second)}
        wait_for(lambda: mixed.missing() == cancelled)
        assert mixed.hosts() == {local: 1, host_a: 1}

        # The network of the host is gone, too, and comes back.
        path = tmp_path / "cut"
        script.do(jobs.work, str(path), BY_SSH, 4)
        wait_for(Path(f"{path}-{BY_SSH}").exists)
        ssh.net.unplug(BY_SSH)
        assert script.do(jobs.results) == [LOCAL] * 4
        title = f"ssh, host {BY_SSH}"
        wait_for(lambda: "; the one before " in mixed.missing().get(title, ""))
        assert mixed.missing().keys() == {title, *cancelled}
        ssh.net.plug(BY_SSH)
        assert script.do(jobs.places, 2) == sorted([here, by_ssh])
        assert mixed.hosts() == {local: 1, host_a: 1}
        why = script.do(jobs.ended)[0]
        lost = f"ipdaemon (host {BY_SSH}) ended: the connection was lost: it has not answered"
        assert why.startswith(lost)
        script.leave()
    wait_for(lambda: not mixed.processes())
    wait_for(lambda: not slurm.jobs())
