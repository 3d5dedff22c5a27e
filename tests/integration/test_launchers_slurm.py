"""Programs of a cluster as jobs of a real Slurm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.local import LocalControllerLauncher
from tests.integration.faults_support import PATIENCE, wait_for
from tests.support.slurmsite import SlurmSite, needs_slurm

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def site():
    with SlurmSite() as site:
        yield site


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_of slurm").create()


@pytest.fixture
def launch(directory, site):
    """Make launchers, and see to it that nothing of them stays."""
    made = []

    def go(launcher_class, *arguments, n=0, **keywords):
        common = ["--cluster-dir", str(directory), "--cluster", directory.name, *arguments]
        launcher = launcher_class(directory, common, **keywords)
        made.append(launcher)
        launcher.start()
        return launcher

    yield go
    for launcher in made:
        launcher.kill()
    for launcher in made:
        assert launcher.wait(PATIENCE)
        launcher.close()
    assert site.jobs() == []
    assert os.listdir(directory.path / "jobs") == []


@pytest.fixture
def launch_engines(directory, launch):
    def go(n, *arguments, environment=None, on_stop=None, **options):
        launcher_class = find_launcher("engines", "slurm")
        options = {"poll": 1.0, **options}
        where = ["--furl-file", str(directory.furl_file("engine")), "--wait", "30"]
        return [
            launch(
                launcher_class, *where, "-n", str(share.n), *arguments,
                share=share, options=options, environment=environment, on_stop=on_stop,
            )
            for share in launcher_class.plan(n, options)
        ]  # fmt: skip

    return go


def test_engines_of_two_jobs_run_tasks(site, directory, launch, launch_engines):
    controller = launch(LocalControllerLauncher)
    controller.wait_event("ready", PATIENCE)
    jobs = launch_engines(3, engines_per_job=2, environment={"GREETING": "it's $HOME \n"})
    for job in jobs:
        assert job.wait_event("submitted", 0)["job"] == job.job
        job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        assert rc[:].apply_async(os.getenv, "GREETING").get(PATIENCE) == ["it's $HOME \n"] * 3
        found = rc[:].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE)
        assert sorted(found) == sorted([jobs[0].job, jobs[0].job, jobs[1].job])
        labels = {host.label for host in rc.hosts_info()} if hasattr(rc, "hosts_info") else None
        assert labels in (None, {job.label for job in jobs})
    assert [job.state() for job in jobs] == ["running on n1", "running on n1"]
    # another process can watch and end them by what is recorded
    other = type(jobs[0]).from_record(directory, jobs[0].record(), jobs[0].options)
    assert other.state() == "running on n1"
    other.request_stop()
    assert other.wait(PATIENCE)
    other.close()
    assert jobs[0].wait(PATIENCE)
    assert other.exit_code == jobs[0].exit_code == 0
    assert jobs[0].state() == "ended: exited with code 0"
    # the controller tells all others to end
    controller.request_stop()
    assert jobs[1].wait(PATIENCE)
    assert jobs[1].exit_code == 0
    assert [path.read_text() for path in directory.log.glob("ipdaemon-*")] == []


def test_nodes_of_a_job_share_its_engines(directory, launch, launch_engines):
    controller = launch(LocalControllerLauncher)
    controller.wait_event("ready", PATIENCE)
    (job,) = launch_engines(3, nodes=2)
    with ipkernel.Client(cluster_dir=directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        found = rc[:].apply_async(os.getenv, "SLURM_NODEID").get(PATIENCE)
        assert sorted(found) == ["0", "0", "1"]
    assert job.state() == "running on n[1-2]"
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.state() == "ended: exited with code 0"


def test_a_controller_as_a_job(directory, launch, launch_engines):
    controller = launch(find_launcher("controller", "slurm"), options={"poll": 1.0})
    assert controller.wait_event("ready", PATIENCE)
    (job,) = launch_engines(1)
    with ipkernel.Client(cluster_dir=directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(1, timeout=PATIENCE)
        assert rc[0].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE) == job.job
    controller.request_stop()
    assert controller.wait(PATIENCE)
    assert job.wait(PATIENCE)
    assert (controller.exit_code, job.exit_code) == (0, 0)


def test_a_job_that_waits_says_why_and_can_be_cancelled(launch_engines):
    seen = []
    (job,) = launch_engines(2, queue="closed")
    assert job.label == f"slurm job {job.job}"
    assert job.state() == "pending (PartitionDown)"
    with pytest.raises(TimeoutError, match="was not ready within"):
        job.wait_event("ready", 0.1)
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.state() == "ended: was cancelled"
    assert job.exit_code == 0  # that was wanted
    assert [event["event"] for event in job.events][0] == "submitted"


def test_the_errors_of_a_failed_job_are_shown(launch_engines):
    (job,) = launch_engines(1, setup=["module() { echo no module $1 >&2; exit 7; }", "module gcc"])
    with pytest.raises(LauncherError) as caught:
        job.wait_event("ready", PATIENCE)
    assert str(caught.value).startswith(f"ipdaemon (slurm job {job.job}) exited with code 7; ")
    assert "no module gcc" in str(caught.value)
    assert job.exit_code == 7


def test_an_end_from_outside_is_told_in_words(site, directory, launch, launch_engines):
    launch(LocalControllerLauncher).wait_event("ready", PATIENCE)
    ended = []
    (job,) = launch_engines(1, on_stop=ended.append)
    job.wait_event("ready", PATIENCE)
    site.run("scancel", job.job)
    assert job.wait(PATIENCE)
    assert job.problem().startswith(f"ipdaemon (slurm job {job.job}) was cancelled")
    assert job.exit_code != 0
    wait_for(lambda: ended == [job])


def test_a_signal_reaches_the_program(launch_engines, tmp_path):
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\ntrap 'echo got it >&2; exit 5' USR1\n"
        """echo '{"event": "ready"}'\nwhile :; do sleep 0.1; done\n"""
    )
    program.chmod(0o700)
    (job,) = launch_engines(1, python=str(program))
    job.wait_event("ready", PATIENCE)
    job.signal("SIGUSR1")
    assert job.wait(PATIENCE)
    assert "exited with code 5" in job.problem()
    assert "got it" in job.problem()


def test_what_cannot_be_submitted(directory, launch_engines):
    with pytest.raises(LauncherError, match="invalid partition specified: nowhere"):
        launch_engines(1, queue="nowhere")
    with pytest.raises(LauncherError, match="there is no command 'no-sbatch' on this host"):
        launch_engines(1, submit="no-sbatch")
    assert os.listdir(directory.path / "jobs") == []
