"""Engines that are ranks of a real MPI job, which a real Slurm has started."""

from __future__ import annotations

import os
import signal

import pytest

from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import CompositeError
from tests.integration.faults_support import PATIENCE, wait_for
from tests.integration.test_launchers_mpi import of_all, wait_long
from tests.support.mpi import use_mpi
from tests.support.slurmsite import SlurmSite, needs_slurm

pytestmark = needs_slurm


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    use_mpi("mpich", tmp_path, monkeypatch)
    with SlurmSite() as site:
        yield site


def worlds(rc):
    return rc[:].apply_async(of_all).get(PATIENCE)


def test_srun_starts_ranks_as_a_job_that_lives_and_dies_as_one(site):
    options = {"command": "srun", "arguments": ["--mpi=pmi2"]}
    with Cluster(3, engines="mpi", mpi=options, engine_timeout=PATIENCE) as rc:
        found = worlds(rc)
        assert [one[:3] for one in found] == [(rank, 3, 111) for rank in range(3)]
        (job,) = site.jobs()
        assert rc[:].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE) == [job] * 3

        waiting = rc[:].apply_async(wait_long)
        wait_for(lambda: rc.cluster.status_sync().queue.running == 3)
        killed = found[1][3]
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(CompositeError) as caught:
            waiting.get(PATIENCE)
        for error in caught.value.errors:
            assert f"rank 1 (pid {killed} on host " in str(error)

        rc.wait_for_engines(3, timeout=PATIENCE)
        assert [one[:3] for one in worlds(rc)] == [(rank, 3, 111) for rank in range(3)]
    wait_for(lambda: site.jobs() == [])
