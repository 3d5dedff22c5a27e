"""Whole clusters whose engines are jobs of HPC Pack and Xgrid; stand-ins run the jobs here."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from tests.integration.faults_support import PATIENCE
from tests.integration.jobs_support import Page, jobs_of

FAKE = Path(__file__).resolve().parents[1] / "support" / "fakescheduler.py"
COMMANDS = {"windows_hpc": "job", "xgrid": "xgrid"}


@pytest.fixture(params=COMMANDS)
def system(request):
    return request.param


@pytest.fixture
def place(system, tmp_path, monkeypatch):
    """Where the stand-in for the system's command keeps what it is given."""
    place = tmp_path / "scheduler"
    place.mkdir()
    name = COMMANDS[system]
    program = place / name
    words = shlex.join([sys.executable, str(FAKE), str(place), name])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def test_engines_of_a_job_run_tasks(system, place, tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_of").create()
    greeting = "it's 'secret' %PATH% \n & <more>"
    with jobs_of(directory, system) as jobs:
        controller = jobs.controller()
        (job,) = jobs.engines(2, environment={"GREETING": greeting})
        assert job.wait_event("submitted", 0)["job"] == "1"
        job.wait_event("ready", PATIENCE)
        with ipkernel.Client(cluster_dir=directory.path, timeout=PATIENCE) as rc:
            rc.wait_for_engines(2, timeout=PATIENCE)
            found = rc[:].apply_async(os.getenv, "GREETING").get(PATIENCE)
            assert found == [greeting] * 2
        assert job.state() == "running"
        # another process can watch it
        other = type(job).from_record(directory, job.record(), job.options)
        assert other.state() == "running"
        other.close()
        controller.request_stop()
        assert job.wait(PATIENCE)
        assert job.exit_code == 0
    assert b"secret" not in (place / "1.document").read_bytes()
    calls = (place / "calls").read_bytes().split(b"\n")
    document = os.fsencode(job.files.script)
    assert calls[0] == (
        b"submit\0/jobfile:%b\0" % document
        if system == "windows_hpc"
        else b"-job\0batch\0%b\0" % document
    )
    asked = b"view\x001\0" if system == "windows_hpc" else b"-job\0attributes\0-id\x001\0"
    assert set(calls[1:]) == {asked, b""}


def test_the_page_is_true(system, place, tmp_path):
    Page(system, tmp_path).check_python()
