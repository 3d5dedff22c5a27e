"""Programs of a cluster as jobs of a real Slurm."""

from __future__ import annotations

import os
import time

import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from tests.integration.faults_support import PATIENCE, wait_for
from tests.integration.jobs_support import Page, jobs_of
from tests.support.slurmsite import SlurmSite, needs_slurm

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def site():
    with SlurmSite() as site:
        yield site


@pytest.fixture
def jobs(site, tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_of slurm").create()
    with jobs_of(directory, "slurm") as jobs:
        yield jobs
    wait_for(lambda: site.jobs() == [])


def test_engines_of_two_jobs_run_tasks(jobs):
    controller = jobs.controller()
    greeting = "it's $HOME \n"
    first, second = jobs.engines(3, engines_per_job=2, environment={"GREETING": greeting})
    for job in (first, second):
        assert job.wait_event("submitted", 0)["job"] == job.job
        job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        assert rc[:].apply_async(os.getenv, "GREETING").get(PATIENCE) == [greeting] * 3
        found = rc[:].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE)
        assert sorted(found) == sorted([first.job, first.job, second.job])
    for job in (first, second):
        wait_for(lambda: job.state().startswith("running on n"))
    # another process can watch and end them by what is recorded
    other = type(first).from_record(jobs.directory, first.record(), first.options)
    assert other.state().startswith("running on n")
    other.request_stop()
    assert other.wait(PATIENCE)
    other.close()
    assert first.wait(PATIENCE)
    assert other.exit_code == first.exit_code == 0
    assert first.state() == "ended: exited with code 0"
    # the controller tells all others to end
    controller.request_stop()
    assert second.wait(PATIENCE)
    assert second.exit_code == 0
    assert [path.read_text() for path in jobs.directory.log.glob("ipdaemon-*")] == []


def test_nodes_of_a_job_share_its_engines(jobs):
    jobs.controller()
    (job,) = jobs.engines(3, nodes=2)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        found = rc[:].apply_async(os.getenv, "SLURM_NODEID").get(PATIENCE)
        assert sorted(found) == ["0", "0", "1"]
    wait_for(lambda: job.state() == "running on n[1-2]")
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.state() == "ended: exited with code 0"


def test_a_controller_as_a_job(jobs):
    controller = jobs.launch("controller", options={"poll": 1.0})
    assert controller.wait_event("ready", PATIENCE)
    (job,) = jobs.engines(1)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(1, timeout=PATIENCE)
        assert rc[0].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE) == job.job
    controller.request_stop()
    assert controller.wait(PATIENCE)
    assert job.wait(PATIENCE)
    assert (controller.exit_code, job.exit_code) == (0, 0)


def test_a_job_that_waits_says_why_and_can_be_cancelled(jobs):
    (job,) = jobs.engines(2, queue="closed")
    assert job.label == f"slurm job {job.job}"
    wait_for(lambda: job.state() == "pending (PartitionDown)")
    with pytest.raises(TimeoutError, match="was not ready within"):
        job.wait_event("ready", 0.1)
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.state() == "ended: was cancelled"
    assert job.exit_code == 0  # that was wanted
    assert job.events[0] == {"event": "submitted", "job": job.job}


def test_the_errors_of_a_failed_job_are_shown(jobs):
    (job,) = jobs.engines(1, setup=["module() { echo no module $1 >&2; exit 7; }", "module gcc"])
    with pytest.raises(LauncherError) as caught:
        job.wait_event("ready", PATIENCE)
    assert str(caught.value).startswith(f"ipdaemon (slurm job {job.job}) exited with code 7; ")
    assert "no module gcc" in str(caught.value)
    assert job.exit_code == 7


def test_an_end_from_outside_is_told_in_words(site, jobs):
    jobs.controller()
    ended = []
    (job,) = jobs.engines(1, on_stop=ended.append)
    job.wait_event("ready", PATIENCE)
    site.run("scancel", job.job)
    assert job.wait(PATIENCE)
    assert job.problem().startswith(f"ipdaemon (slurm job {job.job}) was cancelled")
    assert job.exit_code != 0
    wait_for(lambda: ended == [job])


def elsewhere():
    """Return at once on this host, but take too long in a job."""
    if "SLURM_JOB_ID" in os.environ:
        time.sleep(60)
    return os.environ.get("SLURM_JOB_ID", "here")


def test_what_runs_when_the_walltime_is_over_is_run_elsewhere(site):
    slurm = {"walltime": "00:00:06", "drain_margin": 1, "poll": 1.0}
    cluster = Cluster(engines="slurm:1, local:1", slurm=slurm)
    with cluster as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        (job,) = site.jobs()
        (host,) = [host for host in cluster.status_sync().hosts if host.label]
        assert host.label == f"slurm job {job}"
        view = rc.load_balanced_view(retries=0)
        results = [view.apply_async(elsewhere) for _ in range(4)]
        assert [result.get(PATIENCE) for result in results] == ["here"] * 4
        wait_for(lambda: not site.jobs())
    assert not cluster.directory.exists  # nothing has gone wrong for which its logs would be kept


@pytest.mark.parametrize("options", [{}, {"walltime": "02:00:00", "nodes": 2}])
def test_a_limit_that_ipkernel_has_not_asked_for_is_known(jobs, options):
    jobs.controller()
    (job,) = jobs.engines(2, extra=["--time=30"], **options)
    job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        hosts, now = rc.status().hosts, time.time()
        assert len(hosts) == options.get("nodes", 1)
        assert all(0 < host.ends - now <= 1790 for host in hosts), hosts


def test_a_signal_reaches_the_program(jobs, tmp_path):
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\ntrap 'echo got it >&2; exit 5' USR1\n"
        """echo '{"event": "ready"}'\nwhile :; do sleep 0.1; done\n"""
    )
    program.chmod(0o700)
    (job,) = jobs.engines(1, python=str(program))
    job.wait_event("ready", PATIENCE)
    job.signal("SIGUSR1")
    assert job.wait(PATIENCE)
    assert "exited with code 5" in job.problem()
    assert "got it" in job.problem()


def test_what_cannot_be_submitted(jobs):
    with pytest.raises(LauncherError, match="invalid partition specified: nowhere"):
        jobs.engines(1, queue="nowhere")
    with pytest.raises(LauncherError, match="there is no command 'no-sbatch' on this host"):
        jobs.engines(1, submit="no-sbatch")
    assert os.listdir(jobs.directory.path / "jobs") == []


def test_the_page_about_slurm_is_true(site, tmp_path):
    page = Page("slurm", tmp_path)
    page.check_python()
    page.configure()
    started, status, stopped, *_ = page.check_commands()
    assert "2 engines to come: slurm job" in started or "4 engines" in started
    assert status.count("slurm job ") == 2
    assert "slurm job" in stopped
    wait_for(lambda: site.jobs() == [])


def test_the_page_about_batch_systems_is_true(site, tmp_path):
    page = Page("batch", tmp_path)
    page.check_python()
    cluster = page.home / "cluster_default"
    cluster.mkdir(mode=0o700)
    (cluster / "slurm.template").write_text(page.block("slurm.template"))
    page.configure()
    dry = page.run("ipcluster", "start", "--dry-run")
    assert dry.count("#SBATCH --time=08:00:00\n") == 4
    wait_for(lambda: site.jobs() == [])
    page.run("ipcluster", "start", "-n", "1", "--daemonize")
    assert len(site.jobs()) == 1
    page.run("ipcluster", "stop")
    wait_for(lambda: site.jobs() == [])
