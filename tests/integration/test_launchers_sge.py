"""Programs of a cluster as jobs of a real Grid Engine."""

from __future__ import annotations

import os

import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.local import LocalControllerLauncher
from tests.integration.faults_support import PATIENCE, wait_for
from tests.support.gridsite import GridSite, needs_grid_engine

pytestmark = needs_grid_engine


@pytest.fixture(scope="module")
def site():
    with GridSite() as site:
        yield site


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_grid").create()


@pytest.fixture
def launch(directory, site):
    """Make launchers, and see to it that nothing of them stays."""
    made = []

    def go(launcher_class, *arguments, **keywords):
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
    wait_for(lambda: site.jobs() == [])


@pytest.fixture
def launch_engines(directory, launch, site):
    def go(n, **options):
        launcher_class = find_launcher("engines", "sge")
        options = {**site.options, "poll": 0.5, **options}
        where = ["--furl-file", str(directory.furl_file("engine")), "--wait", "30"]
        (share,) = launcher_class.plan(n, options)
        return launch(launcher_class, *where, "-n", str(n), share=share, options=options)

    return go


def test_engines_run_tasks(directory, launch, launch_engines):
    controller = launch(LocalControllerLauncher)
    controller.wait_event("ready", PATIENCE)
    job = launch_engines(2, account="", job_name="engines")
    job.wait_event("ready", PATIENCE)
    with ipkernel.Client(cluster_dir=directory.path, timeout=PATIENCE) as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        assert rc[:].apply_async(os.getenv, "JOB_ID").get(PATIENCE) == [job.job] * 2
        assert rc[:].apply_async(os.getenv, "JOB_NAME").get(PATIENCE) == ["engines"] * 2
        assert rc[:].apply_async(os.getenv, "NSLOTS").get(PATIENCE) == ["2", "2"]
    assert job.state() == "running on all.q@gridhost"
    # another process can watch and end it by what is recorded
    other = type(job).from_record(directory, job.record(), job.options)
    assert other.state() == "running on all.q@gridhost"
    other.close()
    # the controller tells all others to end
    controller.request_stop()
    assert job.wait(PATIENCE)
    assert (job.exit_code, job.state()) == (0, "ended: exited with code 0")


def test_a_job_that_waits_is_cancelled(launch_engines):
    job = launch_engines(1, extra=["-h"])
    wait_for(lambda: job.state() == "pending (held back)")
    job.request_stop()
    assert job.wait(PATIENCE)
    assert job.exit_code == 0


def test_a_job_that_fails_says_why(launch_engines):
    job = launch_engines(1, setup=["echo no module for you >&2", "exit 3"])
    with pytest.raises(LauncherError) as info:
        job.wait_event("ready", PATIENCE)
    assert "exited with code 3" in str(info.value)
    assert "no module for you" in str(info.value)
    assert job.exit_code == 3


def test_what_grid_engine_refuses(launch_engines):
    with pytest.raises(LauncherError) as info:
        launch_engines(1, queue="no such queue")
    assert "cannot submit a job with ipdaemon to Grid Engine" in str(info.value)
