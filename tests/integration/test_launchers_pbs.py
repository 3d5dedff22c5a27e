"""Programs of a cluster as jobs submitted by ``qsub``: the commands of Torque, as Slurm has them."""

from __future__ import annotations

import os

import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from tests.integration.faults_support import PATIENCE, wait_for
from tests.integration.jobs_support import Page, jobs_of
from tests.support.slurmsite import SlurmSite, needs_torque_commands

pytestmark = needs_torque_commands


@pytest.fixture(scope="module")
def site():
    with SlurmSite(nodes=1) as site:
        yield site


@pytest.fixture
def jobs(site, tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_of_pbs").create()
    with jobs_of(directory, "pbs") as jobs:
        yield jobs
    wait_for(lambda: site.jobs() == [])


def test_engines_of_two_jobs_run_tasks(jobs):
    jobs.controller()
    first, second = jobs.engines(3, engines_per_job=2, walltime="00:10:00")
    assert first.system.variant == "torque"
    for job in (first, second):
        job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(3, timeout=PATIENCE)
        found = rc[:].apply_async(os.getenv, "SLURM_JOB_ID").get(PATIENCE)
        assert sorted(found) == sorted([first.job, first.job, second.job])
    for job in (first, second):
        wait_for(lambda: job.state() == "running on n1")
    first.request_stop()
    assert first.wait(PATIENCE)
    assert first.exit_code == 0
    assert first.state().startswith("ended")
    assert second.running


def test_a_job_that_waits_can_be_cancelled_by_another_process(jobs):
    (job,) = jobs.engines(1, queue="closed")
    other = type(job).from_record(jobs.directory, job.record(), job.options)
    assert other.state() == job.state() == "pending"
    other.request_stop()
    assert other.wait(PATIENCE)
    other.close()
    assert job.wait(PATIENCE)


def test_the_errors_of_a_failed_job_are_shown(jobs):
    (job,) = jobs.engines(1, setup=["echo no module gcc >&2; exit 7"])
    with pytest.raises(LauncherError) as caught:
        job.wait_event("ready", PATIENCE)
    assert str(caught.value).startswith(f"ipdaemon (pbs job {job.job}) ")
    assert "exited with code 7" in str(caught.value)
    assert "no module gcc" in str(caught.value)
    assert job.exit_code == 7


def test_what_cannot_be_submitted(jobs):
    with pytest.raises(LauncherError, match="invalid partition specified: nowhere"):
        jobs.engines(1, queue="nowhere")


def test_the_page_about_pbs_is_true(site, tmp_path):
    page = Page("pbs", tmp_path)
    page.check_python()
    page.configure()
    _, status, stopped, *_ = page.check_commands()
    assert status.count("pbs job ") == 2
    assert "pbs job" in stopped
    wait_for(lambda: site.jobs() == [])
