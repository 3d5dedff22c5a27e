"""Clusters of jobs of LSF and HTCondor, as their pages of the documentation show them."""

from __future__ import annotations

import pytest

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from tests.integration.faults_support import PATIENCE
from tests.integration.jobs_support import Page, jobs_of
from tests.support import fakejobs

SYSTEMS = ["lsf", "htcondor"]


@pytest.fixture(autouse=True)
def commands(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", fakejobs.install(tmp_path / "bin"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_page_of_the_documentation(system, tmp_path):
    page = Page(system, tmp_path)
    page.check_python()
    page.configure()
    started, status, stopped = page.check_commands()
    assert f"{system} job" in started
    assert f"{system} job" in status
    assert "stopped cluster default" in stopped


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_job_that_fails_says_why(system, tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    with jobs_of(directory, system) as jobs:
        (job,) = jobs.engines(1, setup=["echo no module for you >&2", "exit 3"])
        with pytest.raises(LauncherError) as info:
            job.wait_event("ready", PATIENCE)
        assert "exited with code 3" in str(info.value)
        assert "no module for you" in str(info.value)
        assert job.exit_code == 3
