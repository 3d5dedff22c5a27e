"""Engines that are ranks of real MPI jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ClusterError, CompositeError, LauncherError
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.mpi import MPILauncher
from tests.integration.faults_support import PATIENCE, wait_for
from tests.support.mpi import FLAVOURS, use_mpi
from tests.system.test_docs import promised, script

PAGE = Path(__file__).resolve().parents[2] / "docs" / "launchers" / "mpi.rst"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.fixture(params=FLAVOURS)
def options(request, tmp_path, monkeypatch):
    return use_mpi(request.param, tmp_path, monkeypatch)


def of_all():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.rank, world.size, world.allreduce(10**world.rank), os.getpid()


def wait_long():
    from mpi4py import MPI

    MPI.COMM_WORLD.recv(source=MPI.ANY_SOURCE)


def test_ranks_are_engines_and_live_and_die_together(options):
    with Cluster(3, engines="mpi", mpi=options, engine_timeout=PATIENCE) as rc:
        assert rc.ids == [0, 1, 2]
        found = rc[:].apply_async(of_all).get(PATIENCE)
        assert [one[:3] for one in found] == [(rank, 3, 111) for rank in range(3)]
        pids = [one[3] for one in found]

        with pytest.raises(
            ClusterError, match="engines 1 belong to an MPI job with the engines 0, 1, 2"
        ):
            rc.cluster.restart_engine_sync(1)
        with pytest.raises(ClusterError, match="began with, and no others"):
            rc.cluster.start_engines_sync(1)

        waiting = rc[:].apply_async(wait_long)
        wait_for(lambda: rc.cluster.status_sync().queue.running == 3)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(CompositeError) as caught:
            waiting.get(PATIENCE)
        for error in caught.value.errors:
            assert f"rank 1 (pid {pids[1]} on host " in str(error)
            assert "MPI then ended the other 2 ranks" in str(error)

        rc.wait_for_engines(3, timeout=PATIENCE)
        again = rc[:].apply_async(of_all).get(PATIENCE)
        assert [one[:3] for one in again] == [(rank, 3, 111) for rank in range(3)]
        assert not set(pids) & {one[3] for one in again}


def test_a_job_is_restarted_as_a_whole(tmp_path, monkeypatch):
    options = use_mpi("mpich", tmp_path, monkeypatch)
    with Cluster(2, engines="mpi", mpi=options, engine_timeout=PATIENCE) as rc:
        before = rc[:].apply_async(of_all).get(PATIENCE)
        rc[:].apply_async(subprocess.Popen, ["sleep", "1000"])
        rc.cluster.restart_engines_sync()
        rc.wait_for_engines(2, timeout=PATIENCE)
        after = rc[:].apply_async(of_all).get(PATIENCE)
        assert [one[:3] for one in after] == [(0, 2, 11), (1, 2, 11)]
        assert not {one[3] for one in before} & {one[3] for one in after}


def test_what_mpi_says_about_a_job_that_does_not_begin_is_told(tmp_path, monkeypatch):
    options = use_mpi("openmpi", tmp_path, monkeypatch)
    directory = ClusterDirectory(tmp_path / "cluster_none").create()
    launcher = MPILauncher(
        directory,
        ["--furl-file", str(directory.furl_file("engine"))],
        options={**options, "python": "/no/such/python"},
        share=Share(2),
    )
    launcher.start()
    with pytest.raises(
        LauncherError, match=r"which ran this MPI job, exited with code .*/no/such/python"
    ):
        launcher.wait_event("ready", PATIENCE)
    assert launcher.wait(PATIENCE)
    launcher.close()


def test_the_page_is_true(tmp_path, monkeypatch):
    use_mpi("openmpi", tmp_path, monkeypatch)
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "1")
    page = PAGE.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", script(page)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == promised(page)
