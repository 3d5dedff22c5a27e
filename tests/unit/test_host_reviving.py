"""A host daemon starts a controller again: when, how often, and which one of several does it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from twisted.internet.task import Clock

from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process as RecordedProcess
from ipkernel.cluster.processes import host_name, spawn_alone
from ipkernel.host.reviving import Reviver
from ipkernel.tries import BACK_OFF, MAX_IN_A_ROW, SETTLED
from tests.support.children import Child

COMMAND = ("ipcontroller", "--cluster-dir", "x")


class Scene:
    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.directory = ClusterDirectory(path / "c").create()
        self.started: list[tuple[str, ...]] = []
        self.processes: list[Child] = []
        self.reviver = self.another()

    def another(self) -> Reviver:
        return Reviver(self.directory.path, self.clock.seconds, self.spawn)

    def spawn(self, directory: ClusterDirectory, command: Any) -> Child:
        assert directory == self.directory
        self.started.append(tuple(command))
        self.processes.append(Child(4711))
        return self.processes[-1]

    def note(self, **changes: Any) -> None:
        note = restarting.Restart(COMMAND, host_name())
        restarting.note(self.directory, note._replace(**changes))

    def controller_is(self, pid: int, started: float) -> None:
        self.has("ipcontroller", pid, started, host_name())

    def has(self, role: str, pid: int, started: float, host: str) -> None:
        content = {"pid": pid, "started": started, "host": host}
        (self.directory.pid / f"{role}.json").write_text(json.dumps(content))

    @property
    def lock(self) -> Path:
        return self.directory.state / "restarter.json"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_one_that_is_gone_is_started_with_the_same_options(scene: Scene) -> None:
    scene.note()
    scene.controller_is(os.getpid(), 1.0)  # another process had that number
    scene.reviver.look()
    assert scene.started == [(*COMMAND, "--restarts", "1")]
    noted = restarting.noted(scene.directory)
    assert noted is not None and noted.restarts == 1
    scene.reviver.look()  # it is about to listen
    assert len(scene.started) == 1
    scene.reviver.joined()
    assert not scene.lock.exists()
    scene.processes[0].returncode = -9
    scene.clock.advance(SETTLED + 1)
    scene.reviver.look()
    assert scene.started[1] == (*COMMAND, "--restarts", "2")
    scene.reviver.stop()


@pytest.mark.parametrize(
    "changes", [{"again": False}, {"command": ()}, {"host": "elsewhere"}, None], ids=str
)
def test_when_it_is_not(scene: Scene, changes: dict[str, Any] | None) -> None:
    if changes is not None:
        scene.note(**changes)
    scene.reviver.look()
    assert scene.started == []
    assert not scene.lock.exists()


def test_one_that_lives_is_left_alone(scene: Scene) -> None:
    scene.note()
    scene.controller_is(os.getpid(), psutil.Process().create_time())
    scene.reviver.look()
    assert scene.started == []


def test_of_several_one_starts_it(scene: Scene) -> None:
    scene.note()
    scene.reviver.look()
    other = [sys.executable, "-c", OTHER, str(scene.directory)]
    found = subprocess.run(other, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["0"], found.stderr
    scene.reviver.stop()
    found = subprocess.run(other, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["1"], found.stderr


OTHER = """
import sys, time
from pathlib import Path
from ipkernel.host.reviving import Reviver
class Process:
    pid, returncode = 1, 0
    def poll(self): return 0
started = []
def spawn(*arguments):
    started.append(arguments)
    return Process()
reviver = Reviver(Path(sys.argv[1]), time.monotonic, spawn)
reviver.look()
print(len(started))
reviver.stop()
"""


def test_not_for_ever(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.note()
    times = []
    for _ in range(2000):
        count = len(scene.started)
        scene.reviver.look()
        if len(scene.started) > count:
            times.append(scene.clock.seconds())
            scene.processes[-1].returncode = 1
        scene.clock.advance(0.01)
    assert len(times) == MAX_IN_A_ROW
    assert times[0] == 0.0
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert all(gap >= BACK_OFF * 2 ** (n + 1) for n, gap in enumerate(gaps)), gaps
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "has ended 6 times in a row" in errors[0] and "ipcluster start" in errors[0]
    scene.reviver.stop()


def test_a_stop_ends_what_was_started_meanwhile(scene: Scene) -> None:
    scene.note()
    scene.reviver.look()
    restarting.forbid(scene.directory)
    scene.reviver.look()
    scene.reviver.stop()
    assert scene.processes[0].asked == 1
    assert not scene.lock.exists()


def test_the_end_of_a_daemon_alone_does_not(scene: Scene) -> None:
    scene.note()
    scene.reviver.look()
    scene.reviver.stop()
    assert scene.processes[0].asked == 0


def test_a_command_that_cannot_be_run(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.note(command=(str(scene.directory.path / "nothing"),))
    reviver = Reviver(scene.directory.path, scene.clock.seconds)
    reviver.look()
    assert "the controller cannot be started again" in caplog.text
    reviver.stop()


def test_what_is_spawned(scene: Scene) -> None:
    code = "import os, sys; sys.stderr.write(os.environ['IPKERNEL_CLUSTER']); sys.exit(7)"
    process = spawn_alone(scene.directory, "ipcontroller", [sys.executable, "-c", code])
    assert process.wait(60) == 7
    path = scene.directory.log / "ipcontroller.err"
    assert path.read_text() == str(scene.directory)
    assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600


def test_one_that_has_worked_is_started_without_a_pause_that_grows(scene: Scene) -> None:
    scene.note()
    for count in range(2 * MAX_IN_A_ROW):
        scene.reviver.look()
        scene.clock.advance(BACK_OFF)
        scene.reviver.look()
        assert len(scene.started) == count + 1
        scene.reviver.joined()
        scene.processes[-1].returncode = -9
    scene.reviver.stop()


@pytest.mark.parametrize("other", [None, restarting.Restart(again=False)], ids=str)
def test_a_stop_at_the_very_moment_of_a_start_stands(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, other: restarting.Restart | None
) -> None:
    scene.note()

    def late(directory: ClusterDirectory) -> None:
        restarting.forbid(directory)
        if other is not None:
            restarting.note(directory, other)

    monkeypatch.setattr(ClusterDirectory, "controller", late)
    scene.reviver.look()
    assert scene.started == []
    assert restarting.noted(scene.directory) == other
    assert not scene.lock.exists()


# ------------------------------------------------------------------ the note


def test_the_note(scene: Scene) -> None:
    assert restarting.noted(scene.directory) is None
    restarting.forbid(scene.directory)
    scene.note(restarts=3, again=False)
    assert restarting.noted(scene.directory) == restarting.Restart(COMMAND, host_name(), 3, False)
    restarting.forbid(scene.directory)
    assert restarting.noted(scene.directory) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"command": 5}', '{"command": [], "host": 1}'])
def test_a_garbled_note_is_none(scene: Scene, text: str) -> None:
    (scene.directory.state / "restart.json").write_text(text)
    assert restarting.noted(scene.directory) is None


def test_waiting_for_one_that_comes_back(scene: Scene) -> None:
    assert not restarting.wait_back(scene.directory, 60)
    scene.note(again=False)
    assert not restarting.wait_back(scene.directory, 60)
    scene.note(host="elsewhere")
    assert not restarting.wait_back(scene.directory, 0.05)
    scene.controller_is(os.getpid(), psutil.Process().create_time())
    assert restarting.wait_back(scene.directory, 0)


ME = (os.getpid(), psutil.Process().create_time())


@pytest.mark.parametrize(
    ("daemon", "is_expected"),
    [
        (None, False),
        (("ipdaemon-h-1", os.getpid(), 1.0, host_name()), False),  # its number has passed on
        (("ipdaemon-h-1", *ME, "elsewhere"), False),  # it starts nothing here
        (("mpi-h-1", *ME, host_name()), False),
        (("ipdaemon-h-1", *ME, host_name()), True),
    ],
    ids=["none", "gone", "elsewhere", "a job's", "alive"],
)
def test_nobody_waits_for_one_that_no_host_daemon_starts_again(
    scene: Scene, daemon: tuple[str, int, float, str] | None, is_expected: bool
) -> None:
    scene.note()
    if daemon is not None:
        scene.has(*daemon)
    assert restarting.expected(scene.directory) == is_expected
    scene.note(again=False)
    assert not restarting.expected(scene.directory)


@pytest.mark.parametrize(
    ("owner", "is_expected"),
    [
        (None, True),
        (RecordedProcess("owner", os.getpid(), 1.0, host_name()), False),
        (RecordedProcess("owner", os.getpid(), 1.0, "elsewhere"), True),
        (RecordedProcess("owner", *ME, host_name()), True),
    ],
    ids=["unknown", "gone", "elsewhere", "alive"],
)
def test_nobody_waits_for_one_whose_owner_is_gone(
    scene: Scene, owner: RecordedProcess | None, is_expected: bool
) -> None:
    scene.note(command=(), owner=owner)
    assert restarting.expected(scene.directory) == is_expected


def test_counting_in_the_note(scene: Scene) -> None:
    scene.note(restarts=9)
    found = restarting.noted(scene.directory)
    assert found is not None
    assert restarting.count(scene.directory, found) == 10
    assert restarting.noted(scene.directory) == found._replace(restarts=10)
    assert restarting.count(scene.directory, found) is None  # somebody else has counted
    restarting.forbid(scene.directory)
    assert restarting.count(scene.directory, found._replace(restarts=10)) is None
    assert restarting.noted(scene.directory) is None
