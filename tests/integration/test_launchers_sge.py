"""Programs of a cluster as jobs of a real Grid Engine."""

from __future__ import annotations

import os

import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from tests.integration.faults_support import PATIENCE, wait_for
from tests.integration.jobs_support import Page, jobs_of
from tests.support.gridsite import GridSite, needs_grid_engine

pytestmark = needs_grid_engine


@pytest.fixture(scope="module")
def site():
    with GridSite() as site:
        yield site


@pytest.fixture
def jobs(tmp_path, site):
    directory = ClusterDirectory(tmp_path / "cluster_grid").create()
    with jobs_of(directory, "sge") as jobs:
        yield jobs
    wait_for(lambda: site.jobs() == [])


def test_engines_run_tasks(jobs, site):
    controller = jobs.controller()
    (job,) = jobs.engines(2, job_name="engines", **site.options)
    job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=jobs.directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        assert rc[:].apply_async(os.getenv, "JOB_ID").get(PATIENCE) == [job.job] * 2
        assert rc[:].apply_async(os.getenv, "JOB_NAME").get(PATIENCE) == ["engines"] * 2
        assert rc[:].apply_async(os.getenv, "NSLOTS").get(PATIENCE) == ["2", "2"]
    assert job.state() == "running on all.q@gridhost"
    # another process can watch and end it by what is recorded
    other = type(job).from_record(jobs.directory, job.record(), job.options)
    assert other.state() == "running on all.q@gridhost"
    other.close()
    # the controller tells all others to end
    controller.request_stop()
    assert job.wait(PATIENCE)
    assert (job.exit_code, job.state()) == (0, "ended: exited with code 0")


def test_a_job_that_waits_is_cancelled(jobs, site):
    (job,) = jobs.engines(1, extra=["-h"], **site.options)
    wait_for(lambda: job.state() == "pending (held back)")
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.exit_code == 0


@pytest.mark.parametrize("accounting", [{}, {"history": ""}, {"history": "false"}])
def test_a_job_that_fails_says_why(jobs, site, accounting):
    setup = ["echo no module for you >&2", "exit 3"]
    (job,) = jobs.engines(1, setup=setup, **{**site.options, **accounting})
    with pytest.raises(LauncherError) as info:
        job.wait_event("ready", PATIENCE)
    assert "exited with code 3" in str(info.value)
    assert "no module for you" in str(info.value)
    assert job.exit_code == 3


def test_a_job_whose_walltime_is_over_says_so(jobs, site):
    setup = ["echo this takes long >&2", "sleep 60"]
    (job,) = jobs.engines(1, walltime="00:00:02", setup=setup, **site.options)
    with pytest.raises(LauncherError) as info:
        job.wait_event("ready", PATIENCE)
    assert "ran out of walltime" in str(info.value)
    assert "this takes long" in str(info.value)


def test_what_grid_engine_refuses(jobs, site):
    with pytest.raises(LauncherError) as info:
        jobs.engines(1, queue="no such queue", **site.options)
    assert "cannot submit a job with ipdaemon to Grid Engine" in str(info.value)


def test_the_page_of_the_documentation(site, tmp_path, monkeypatch):
    for option, command in site.options.items():
        monkeypatch.setenv(f"IPKERNEL_SGE_{option.upper()}", command)
    page = Page("sge", tmp_path)
    page.check_python()
    page.configure()
    started, status, _ = page.check_commands()
    assert started.count("2 engines to come: sge job") == 2
    assert "sge job" in status
    wait_for(lambda: site.jobs() == [])
