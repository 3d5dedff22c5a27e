"""An MPI job on several hosts; a stand-in for ``mpiexec`` runs them here."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import ClusterError, CompositeError
from tests.integration.faults_support import PATIENCE, wait_for

FAKE = Path(__file__).resolve().parents[1] / "support" / "fakempi.py"


@pytest.fixture
def hosts():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # a short path, for sockets
        yield Path(directory)


@pytest.fixture
def command(tmp_path, hosts, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    program = tmp_path / "mpiexec"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {hosts} "$@"\n')
    program.chmod(0o700)
    return str(program)


def place():
    return int(os.environ["OMPI_COMM_WORLD_RANK"]), os.path.basename(os.environ["TMPDIR"])


def wait_long():
    import time

    time.sleep(1000)


def test_a_job_on_two_hosts_is_one(command, hosts):
    with Cluster(4, engines="mpi", mpi={"command": command}, engine_timeout=PATIENCE) as rc:
        assert rc.ids == [0, 1, 2, 3]
        assert len(rc.cluster.status_sync().hosts) == 2
        found = rc[:].apply_async(place).get(PATIENCE)
        assert found == [(0, "n0"), (1, "n1"), (2, "n0"), (3, "n1")]

        with pytest.raises(ClusterError, match="engines 0, 2 belong to an MPI job with"):
            rc.cluster._order("stop_engines", [0, 2])  # all of one host
        pids = [engine.pid for engine in rc.cluster.status_sync().engines]
        waiting = rc[:].apply_async(wait_long)
        wait_for(lambda: rc.cluster.status_sync().queue.running == 4)
        os.kill(pids[2], signal.SIGKILL)
        with pytest.raises(CompositeError) as caught:
            waiting.get(PATIENCE)
        for error in caught.value.errors:  # on both hosts
            assert f"rank 2 (pid {pids[2]} on host " in str(error)
            assert "was killed by SIGKILL (9); MPI then ended the other 3 ranks" in str(error)

        rc.wait_for_engines(4, timeout=PATIENCE)
        assert rc[:].apply_async(place).get(PATIENCE) == found
    assert [list(host.iterdir()) for host in hosts.glob("n?")] == [[], []]


def test_ids_beside_other_engines(command):
    engines = "local:1, mpi:2"
    with Cluster(engines=engines, mpi={"command": command}, engine_timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        ranks = rc[:].apply_async(os.getenv, "OMPI_COMM_WORLD_RANK").get(PATIENCE)
        assert [rank for rank in ranks if rank is not None] == ["0", "1"]
        first = ranks.index("0")
        assert ranks[first + 1] == "1"
