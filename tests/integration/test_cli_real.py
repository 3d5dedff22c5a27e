"""ipcluster as users run it: real processes, real terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

import ipkernel
from ipkernel.cluster.directory import ClusterDirectory
from tests.integration.faults_support import wait_for
from tests.support.terminal import COMMAND, Terminal, good, run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield tmp_path / "ipython"
    run("stop", "--all", "--quiet")


def over(process):
    """Whether a process is gone, or only waits for the machine's first process to notice."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_round_trip():
    out = good("start", "-n", "2", "--daemonize")
    assert "cluster default is ready: 2 engines" in out

    (row,) = json.loads(good("list", "--json"))
    assert (row["cluster"], row["running"], row["engines"], row["hosts"]) == ("default", True, 2, 1)
    controller = psutil.Process(row["pid"])
    assert not over(controller)

    with ipkernel.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        pids = rc[:].apply_sync(os.getpid)
        rc[:].execute("print('hello from', 3 * 7)", block=True)

        status = json.loads(good("status", "--json"))
        assert [e["engine"] for e in status["engines"]] == [0, 1]
        assert {e["state"] for e in status["engines"]} == {"ready"}
        wait_for(lambda: all(e.memory > 0 for e in rc.status().engines))  # measured now and then
        status = json.loads(good("status", "--json"))
        assert all(e["memory"] > 0 for e in status["engines"])
        assert status["clients"] >= 1
        text = good("status")
        assert "cluster default: up" in text
        assert sum("ready" in line for line in text.splitlines()) == 2

        assert "hello from 21" in good("logs", "engine", "1")
        assert "ipcontroller.log" in good("logs")

        assert "added 1 engine to cluster default: 2" in good("engines", "-n", "1")
        rc.wait_for_engines(3, timeout=20)
        pids = rc[:].apply_sync(os.getpid)
        assert len(set(pids)) == 3
        assert json.loads(good("list", "--json"))[0]["engines"] == 3

    out = good("stop")
    assert out.startswith("stopped cluster default in")
    assert all(
        over(psutil.Process(pid)) for pid in [*pids, controller.pid] if psutil.pid_exists(pid)
    )

    done = run("status")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "cluster default is not running" in done.stderr
    assert run("stop").returncode == 3


def test_start_of_what_runs_already():
    good("start", "-n", "1", "--daemonize", "--quiet")
    done = run("start", "-n", "1")
    assert done.returncode == 1
    assert "is already running (controller pid" in done.stderr
    assert "Traceback" not in done.stderr


def test_busy_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        done = run("start", "-n", "1", "--daemonize", "--port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr
    assert ClusterDirectory.named().processes() == []


def test_stop_without_a_controller():
    """Its daemon waits for it to come back; stop does not."""
    good("start", "-n", "1", "--daemonize", "--quiet", "--set", "controller.restart=no")
    directory = ClusterDirectory.named()
    directory.controller().kill()
    wait_for(lambda: not directory.alive())
    done = run("status")
    assert done.returncode == 3
    assert "not running" in done.stderr
    assert "ipdaemon (pid" in good("stop")
    assert directory.processes() == []


def test_terminal():
    terminal = Terminal("start", "-n", "2")
    terminal.read_until("starting 2 engines ...")
    terminal.read_until("cluster default is ready: 2 engines")
    terminal.read_until("2 of 2 engines ready")
    terminal.press(b"\x03")
    terminal.read_until("stopping cluster default")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    assert ClusterDirectory.named().processes() == []


def test_terminal_is_closed():
    terminal = Terminal("start", "-n", "1")
    terminal.read_until("is ready")
    processes = [psutil.Process(p.pid) for p in ClusterDirectory.named().processes()]
    assert len(processes) == 2
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDONLY)
    terminal.end()
    assert not psutil.wait_procs(processes, 10)[1]


def test_foreground_is_killed():
    process = subprocess.Popen([*COMMAND, "start", "-n", "1"], stdout=subprocess.PIPE, text=True)
    with process.stdout:
        assert "is ready" in process.stdout.readline()
        processes = [psutil.Process(p.pid) for p in ClusterDirectory.named().processes()]
        process.kill()
        process.wait()
    assert not psutil.wait_procs(processes, 10)[1]
    assert run("status").returncode == 3
    assert "removed 0 directories" in good("clean")


def test_output_may_be_cut():
    done = subprocess.run(
        " ".join([*COMMAND, "--help"]) + " | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_list_is_quick():
    """No module that takes long to import is loaded for what needs no network."""
    code = (
        "import sys; from ipkernel.cli.ipcluster import main; main(['list']); main(['clean'])\n"
        "print([m for m in ('twisted', 'foolscap', 'IPython', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_status_is_quick():
    """On the controller's machine it needs neither Twisted nor Foolscap, and says the same."""
    good("start", "-n", "1", "--daemonize")
    code = (
        "import sys; from ipkernel.cli.ipcluster import main; main(['status', '--json'])\n"
        "print([m for m in ('twisted', 'foolscap', 'IPython', 'asyncio') if m in sys.modules])"
    )
    said = {}
    for way in ("native", "portable"):
        environment = {**os.environ, "IPKERNEL_PORTABLE": "1" if way == "portable" else ""}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        *lines, modules = done.stdout.splitlines()
        said[way] = json.loads("\n".join(lines))
        directory = ClusterDirectory.named()
        near = way == "native" and directory.question_socket.exists()
        assert (modules == "[]") is near
    assert said["native"]["pid"] == said["portable"]["pid"]
    assert said["native"].keys() == said["portable"].keys()
    good("stop")
    assert not directory.question_socket.exists()


def test_stop_where_signals_do_not_reach_other_consoles(monkeypatch):
    """As on Windows, the controller is asked through its door, and ends in good order."""
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    good("start", "-n", "1", "--daemonize")
    directory = ClusterDirectory.named()
    good("stop")
    assert directory.processes() == []
    assert (
        "asked to stop: the cluster is stopped" in (directory.log / "ipcontroller.log").read_text()
    )


def test_of_several_starts_at_once_one_succeeds():
    """The others do not harm it: they neither end its host daemon nor its controller."""
    command = [*COMMAND, "start", "-n", "1", "--daemonize"]
    starts = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [one.communicate(timeout=100) for one in starts]
    assert sorted(one.returncode for one in starts) == [0, 1, 1], said
    for one, (_, error) in zip(starts, said, strict=True):
        assert one.returncode == 0 or "is being started" in error or "already run" in error
    assert "1 engine on 1 host" in good("status")
    directory = ClusterDirectory.named()
    assert not (directory.state / "starting.json").exists()
    good("stop")


def test_status_after_the_controller_was_killed():
    """Its socket is still there, and nobody takes it for a controller; the next one does."""
    good("start", "-n", "1", "--daemonize", "--set", "controller.restart=no")
    directory = ClusterDirectory.named()
    controller = directory.controller()
    there = directory.question_socket.exists()
    process = psutil.Process(controller.pid)
    controller.kill()
    psutil.wait_procs([process], 60)
    assert directory.question_socket.exists() is there
    assert run("status").returncode == 3
    good("stop")
    good("start", "-n", "1", "--daemonize")
    assert directory.question_socket.exists() is there

    def states():
        return [engine["state"] for engine in json.loads(good("status", "--json"))["engines"]]

    # The next controller gives the host of the one before it some time to come back.
    wait_for(lambda: states().count("ready") == 1)
