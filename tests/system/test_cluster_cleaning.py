"""Cleaning up, with real processes that carry a cookie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipkernel.cluster import cleaning, processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ClusterError

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WAIT = "print(flush=True); input()"


@pytest.fixture
def crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterDirectory:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = ClusterDirectory.named("x").create()
    gone = {"pid": 4194303, "started": 1.0, "host": ""}
    (made.pid / "ipcontroller.json").write_text(json.dumps(gone))
    return made


class Programs:
    """Programs that run until they are ended."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, cookie: object, code: str = WAIT, *more: str) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, "-c", code, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, processes.COOKIE: str(cookie)},
            **processes.spawn_options(),
        )
        self.all.append(started)
        assert started.stdout is not None
        started.stdout.readline()
        return started


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    for one in made.all:
        one.kill()
        one.communicate()


def test_only_processes_with_the_cookie_are_ended(
    crashed: ClusterDirectory, programs: Programs, tmp_path: Path
) -> None:
    willing = programs.start(crashed)
    stubborn = programs.start(crashed, STUBBORN + WAIT)
    stranger = programs.start(tmp_path / "cluster_y")
    first = next(cleaning.find([crashed]))
    assert (first.kind, first.size) == (cleaning.PROCESSES, 2)
    first.remove()
    assert willing.wait(30) == -15
    assert stubborn.wait(30) == -9
    assert stranger.poll() is None
    assert [one.kind for one in cleaning.find([crashed])] == [cleaning.PID_FILE]


def test_a_cluster_whose_controller_is_being_started_runs(
    crashed: ClusterDirectory, programs: Programs
) -> None:
    programs.start(crashed)
    programs.start(crashed, WAIT, "-m", "ipkernel.cli.ipcontroller")
    assert [one.kind for one in cleaning.find([crashed])] == [cleaning.PID_FILE]


def test_cookies_by_what_they_say(programs: Programs, tmp_path: Path) -> None:
    one, other = programs.start(tmp_path / "a"), programs.start(tmp_path / "b")
    found = processes.all_marked()
    assert [p.pid for p in found[str(tmp_path / "a")]] == [one.pid]
    assert [p.pid for p in processes.marked(tmp_path / "b")] == [other.pid]
    assert processes.marked(tmp_path / "c") == []


def test_processes_of_other_users_are_theirs(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.start(tmp_path / "a")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert processes.all_marked() == {}


def test_what_cannot_be_ended_is_told(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs.start(tmp_path / "a")
    monkeypatch.setattr(processes, "wait_gone", lambda found, timeout: list(found))
    with pytest.raises(ClusterError, match=rf"cannot end \S+ \(pid {program.pid}\)"):
        cleaning.end(processes.marked(tmp_path / "a"))
