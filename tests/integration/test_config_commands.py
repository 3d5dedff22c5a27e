"""Configuration and cluster directories with real processes and a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import ipkernel
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory
from tests.support.terminal import COMMAND, Terminal, good, run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield tmp_path / "ipython"
    run("stop", "--all", "--quiet")


def test_a_cluster_is_as_its_file_says(monkeypatch):
    """From create to delete; the environment and the command line come first."""
    good(
        *("create", "--cluster", "big", "-n", "1", "--log-level", "warning"),
        *("--set", "environment.PLACE=file", "--set", "slots.environment.SLOT={slot}"),
    )
    monkeypatch.setenv("IPKERNEL_N", "2")
    out = good("start", "--cluster", "big", "--daemonize", "--set", "environment.MORE=set")
    assert "cluster big is ready: 2 engines" in out
    with ipkernel.Client(cluster="big") as rc:
        found = rc[:].apply_sync(lambda: [os.environ.get(n) for n in ("PLACE", "MORE", "SLOT")])
    assert found == [["file", "set", "0"], ["file", "set", "1"]]
    directory = ClusterDirectory.named("big")
    assert "INFO" not in (directory.log / "ipcontroller.log").read_text()

    shown = json.loads(good("show", "--cluster", "big", "--json"))
    assert shown["running"]
    assert len(shown["processes"]) == 2
    done = run("delete", "--cluster", "big", "--yes")
    assert done.returncode == 1
    assert "cluster big is running: ipcontroller (pid" in done.stderr
    assert directory.alive()

    with (directory.path / "ipcluster.ini").open("a") as file:
        file.write("[nonsense\n")  # what runs can be looked at and stopped all the same
    good("status", "--cluster", "big")
    good("stop", "--cluster", "big")
    good("delete", "--cluster", "big", "--yes")
    assert not directory.exists


def test_a_mistake_ends_a_start_at_once(home):
    directory = ClusterDirectory.named().create()
    path = directory.path / "ipcluster.ini"
    path.write_text("[cluster]\nengins = local\n")
    path.chmod(0o600)
    for command in ("start", "create"):
        done = run(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ipcluster: ")
        assert "Traceback" not in done.stderr
    assert f"{path}, line 2: unknown option 'engins' in [cluster]; did you mean 'engines'?" in (
        run("start").stderr
    )
    assert directory.processes() == []


def test_one_of_several_creators_succeeds():
    commands = [[*COMMAND, "create", "--cluster", "x", "-n", str(n)] for n in range(1, 6)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    ended = [(process.communicate(timeout=60), process.returncode) for process in started]
    winners = [number for number, (_, code) in enumerate(ended, 1) if code == 0]
    assert len(winners) == 1, ended
    for (_, err), code in ended:
        assert code == 0 or "already" in err
    directory = ClusterDirectory.named("x")
    assert load(directory).value("cluster", "n") == winners[0]
    assert [name for name in os.listdir(directory.path) if name.startswith(".")] == []


EDITOR = """
import pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_text()
path.write_text(text.replace("#n =", "n = x") if "#n =" in text else text.replace("n = x", "n = 3"))
"""


def test_edit_and_delete_in_a_terminal(tmp_path, monkeypatch):
    good("create", "--cluster", "x")
    editor = tmp_path / "editor.py"
    editor.write_text(EDITOR)
    monkeypatch.setenv("VISUAL", f"{sys.executable} {editor}")
    terminal = Terminal("config", "edit", "--cluster", "x")
    terminal.read_until("must be a whole number from 0 to 4096, not 'x'")
    terminal.read_until("edit it again? [Y/n]")
    terminal.press(b"\n")
    terminal.read_until("ipcluster.ini has changed")
    assert terminal.end() == 0
    directory = ClusterDirectory.named("x")
    assert load(directory).value("cluster", "n") == 3

    terminal = Terminal("delete", "--cluster", "x")
    terminal.read_until("with its logs and state? [y/N]")
    terminal.press(b"n\n")
    assert terminal.end() == 1
    assert directory.exists
    terminal = Terminal("delete", "--cluster", "x")
    terminal.read_until("? [y/N]")
    terminal.press(b"y\n")
    terminal.read_until("deleted cluster x")
    assert terminal.end() == 0
    assert not directory.exists
