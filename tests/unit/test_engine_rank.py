"""Ranks before and after they are engines, and commands that are tied to who has started them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest

from ipkernel.engine import rank
from ipkernel.engine.zygote import receive_message
from ipkernel.host.rankplace import listen

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}


def run(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if "MPI" not in name}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ipkernel.engine.rank", *arguments],
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_rank_that_no_mpi_has_started():
    done = run(IPKERNEL_MPI_JOB='{"token": "x"}')
    assert done.returncode == 1
    assert done.stderr.startswith("ipkernel: no MPI launcher that ipkernel knows has started")


@pytest.mark.parametrize("job", ["", "{}", "[]"])
def test_a_rank_that_is_started_by_hand(job):
    done = run(**OPENMPI, **({"IPKERNEL_MPI_JOB": job} if job else {}))
    assert done.returncode == 1
    assert done.stderr == (
        "ipkernel: ipkernel.engine.rank is started by ipkernel's MPI launcher, not by hand\n"
    )


def test_a_daemon_that_does_not_start(tmp_path):
    job = json.dumps({"token": "x", "verdict": ""})
    done = run(**OPENMPI, IPKERNEL_MPI_JOB=job, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "the following arguments are required: --furl-file" in done.stderr
    assert done.stderr.endswith(
        "ipkernel: cannot reach the host daemon: it has ended at its start, with code 2\n"
    )


@pytest.fixture
def short_path():
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield directory


def test_a_place_that_somebody_else_has_taken(short_path, monkeypatch):
    path = rank.socket_path("x", short_path)
    monkeypatch.setattr(rank, "peer_user", lambda sock: os.geteuid() + 1)
    with listen(path) as listening:
        with pytest.raises(OSError, match="it belongs to another user"):
            rank._connect(path, None)
        there, _ = listening.accept()
        with there:
            assert there.recv(100) == b""


@pytest.mark.parametrize("number", [0, int(signal.SIGTERM)])
def test_a_farewell_is_said_and_children_are_ended(monkeypatch, number):
    handlers = []
    monkeypatch.setattr(rank.signal, "signal", lambda *given: handlers.append(given))
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["sleep", "100"])
    kept = subprocess.Popen(["sleep", "100"])
    others = set(rank.native.children()) - {child.pid}
    monkeypatch.setattr(
        rank.native,
        "children",
        lambda real=rank.native.children: list({*real()} - others) + [kept.pid],
    )
    rank._say_farewell(ours, number, kept.pid)
    assert receive_message(theirs) == ({"leaving": number}, [])
    assert not psutil.pid_exists(child.pid)
    child.wait()
    assert kept.poll() is None
    kept.kill()
    kept.wait()
    assert bool(handlers) == (number == 0)  # only who leaves in order waits for the others
    ours.close()
    theirs.close()


def test_a_command_is_told_when_who_has_started_it_is_gone():
    program = (
        "import os, subprocess, sys\n"
        "tied = [sys.executable, '-P', '-m', 'ipkernel.launchers.tied', str(os.getpid())]\n"
        "script = 'trap \"echo told; exit\" TERM; echo ready; while :; do sleep 0.05; done'\n"
        "child = subprocess.Popen([*tied, 'sh', '-c', script], stdout=subprocess.PIPE)\n"
    )
    reading, writing = os.pipe()
    program = program.replace("stdout=subprocess.PIPE", f"stdout={writing}, pass_fds=[{writing}]")
    parent = subprocess.Popen(
        [sys.executable, "-c", program + "input()"], stdin=subprocess.PIPE, pass_fds=[writing]
    )
    os.close(writing)
    with open(reading) as said:
        assert said.readline() == "ready\n"
        parent.kill()
        parent.wait()
        parent.stdin.close()
        assert said.readline() == "told\n"


def test_there_is_no_such_command():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ipkernel.launchers.tied", str(os.getpid()), "/no/such"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 127
    assert done.stderr == "cannot run /no/such: No such file or directory\n"
