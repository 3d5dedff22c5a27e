"""The controller starts host daemons of its machine again: which, when, with what, and how often."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from twisted.internet.task import Clock

from ipkernel.cluster import daemonnotes, restarting
from ipkernel.cluster.daemonnotes import DaemonNote
from ipkernel.cluster.diagnosis import local_state
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process, host_name
from ipkernel.cluster.recorded import Recorded
from ipkernel.cluster.survivors import survivors
from ipkernel.controller.reviving import HostReviver
from ipkernel.host.options import SLOTS
from ipkernel.tries import BACK_OFF, MAX_IN_A_ROW, SETTLED
from ipkernel.wire.records import HostInfo
from tests.support.children import Child

COMMAND = ("ipdaemon", "-n", "4")
HERE = host_name()
#: A process that there is not, and one that there is.
GONE = Process("ipdaemon", 1 << 22, 1.0, HERE)
ME = Process("ipdaemon", os.getpid(), psutil.Process().create_time(), HERE)


class Scene:
    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.directory = ClusterDirectory(path / "c").create()
        restarting.note(self.directory, restarting.Restart())
        self.started: list[tuple[tuple[str, ...], dict[str, str]]] = []
        self.children: list[Child] = []
        self.reviver = HostReviver(self.clock, self.directory.path, self.spawn)
        monkeypatch.setattr(Process, "alive", property(self.lives))
        monkeypatch.setattr(Process, "now", classmethod(self.now))

    def lives(self, process: Process) -> bool:
        if process.pid == ME.pid:
            return True
        return any(c.pid == process.pid and c.returncode is None for c in self.children)

    def now(self, kind: type[Process], pid: int) -> Process:
        return Process("ipdaemon", pid, 2.0, HERE)

    def spawn(self, directory: ClusterDirectory, command: Any, further: Any) -> Child:
        assert directory == self.directory
        self.started.append((tuple(command), dict(further)))
        self.children.append(Child((1 << 22) + len(self.started)))
        return self.children[-1]

    def note(self, process: Process = GONE, **changes: Any) -> None:
        note = DaemonNote(process.pid, process, COMMAND, '{"memory": 1}')
        daemonnotes.note(self.directory, note._replace(**changes))

    def noted(self) -> DaemonNote | None:
        return daemonnotes.noted_of(self.directory, GONE.pid)

    def lose(self, engines: Any = (0, 1), pid: int = GONE.pid, name: str = HERE) -> None:
        self.reviver.lost(name, pid, engines)

    def wait(self) -> None:
        self.clock.pump([0.05] * 8)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_one_that_was_killed_is_started_with_the_engines_that_it_had(scene: Scene) -> None:
    scene.note()
    scene.lose([7, 0, 1])
    assert scene.started == []  # its engines' ids are free in a moment
    scene.clock.advance(BACK_OFF)
    more = ("-n", "3", "--restarts", "1", "--engine-ids", "0-1, 7")
    assert scene.started == [((*COMMAND, *more), {SLOTS: '{"memory": 1}'})]
    noted = scene.noted()
    assert noted is not None
    assert (noted.origin, noted.process.pid, noted.restarts) == (GONE.pid, (1 << 22) + 1, 1)
    scene.reviver.joined(HERE, noted.process.pid)
    assert scene.clock.getDelayedCalls() == []
    scene.children[0].returncode = -9
    scene.lose([], pid=noted.process.pid)
    scene.clock.advance(2 * BACK_OFF)
    assert scene.started[1][0] == (*COMMAND, "-n", "0", "--restarts", "2")


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        (None, {}),
        ({}, {"pid": 17}),
        ({}, {"name": "elsewhere"}),
        ({"process": GONE._replace(host="elsewhere")}, {}),
    ],
    ids=["not noted", "another one", "elsewhere", "noted elsewhere"],
)
def test_which_are_not(scene: Scene, changes: dict[str, Any] | None, lost: dict[str, Any]) -> None:
    if changes is not None:
        scene.note(**changes)
    scene.lose(**lost)
    scene.wait()
    assert scene.started == []


def test_none_of_a_cluster_that_is_stopped(scene: Scene) -> None:
    scene.note()
    scene.lose()
    restarting.forbid(scene.directory)
    scene.wait()
    assert scene.started == []
    assert scene.clock.getDelayedCalls() == []


def test_none_that_is_stopped_before_its_time_has_come(scene: Scene) -> None:
    scene.note()
    scene.lose()
    assert daemonnotes.forbid(scene.directory, GONE.pid) == GONE
    scene.wait()
    assert scene.started == []


def test_one_that_lives_is_waited_for(scene: Scene) -> None:
    scene.note(ME)
    scene.lose(pid=ME.pid)
    scene.wait()
    assert scene.started == []
    scene.reviver.joined(HERE, ME.pid)
    assert scene.clock.getDelayedCalls() == []


def test_not_for_ever(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.note()
    times = []
    scene.lose()
    while scene.clock.getDelayedCalls():
        count = len(scene.started)
        scene.clock.advance(0.01)
        if len(scene.started) > count:  # it ends before it has joined
            times.append(scene.clock.seconds())
            scene.children[-1].returncode = 3
    assert len(times) == MAX_IN_A_ROW
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert all(gap >= BACK_OFF * 2 ** (n + 1) for n, gap in enumerate(gaps)), gaps
    noted = scene.noted()
    assert noted is not None
    assert noted.failure == "it ended 6 times in a row"
    (error,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "it ended 6 times in a row" in error and "ipdaemon.log" in error
    assert "exited with code 3; it is started again in 0.5 s" in caplog.text


def test_one_that_has_worked_for_long_begins_anew(scene: Scene) -> None:
    scene.note()
    pid = GONE.pid
    for count in range(2 * MAX_IN_A_ROW):
        scene.lose(pid=pid)
        scene.clock.advance(BACK_OFF)
        assert len(scene.started) == count + 1
        pid = scene.children[-1].pid
        scene.reviver.joined(HERE, pid)
        scene.clock.advance(SETTLED + 1)
        scene.children[-1].returncode = -9


def test_one_that_cannot_be_started(scene: Scene) -> None:
    def fails(*arguments: Any) -> Any:
        raise OSError("no memory")

    scene.note()
    reviver = HostReviver(scene.clock, scene.directory.path, fails)
    reviver.lost(HERE, GONE.pid, [0])
    scene.wait()
    noted = scene.noted()
    assert noted is not None and noted.failure == "it cannot be started: no memory"


def test_a_stop_ends_what_has_not_joined(scene: Scene) -> None:
    scene.note()
    scene.lose()
    scene.clock.advance(BACK_OFF)
    scene.reviver.stop()
    assert scene.children[0].asked == 1
    assert scene.clock.getDelayedCalls() == []
    scene.lose(pid=scene.children[0].pid)
    assert scene.clock.getDelayedCalls() == []


def test_a_stop_leaves_what_has_joined_to_its_hosts(scene: Scene) -> None:
    scene.note()
    scene.lose()
    scene.clock.advance(BACK_OFF)
    scene.reviver.joined(HERE, scene.children[0].pid)
    scene.reviver.stop()
    assert scene.children[0].asked == 0


def test_a_stop_at_the_very_moment_of_a_start_stands(scene: Scene) -> None:
    def late(*arguments: Any) -> Child:
        daemonnotes.forbid(scene.directory, GONE.pid)
        return scene.spawn(*arguments)

    scene.note()
    reviver = HostReviver(scene.clock, scene.directory.path, late)
    reviver.lost(HERE, GONE.pid, [0])
    scene.wait()
    assert scene.children[0].asked == 1
    assert scene.noted() is None


def test_one_that_ends_in_good_order_is_forgotten_by_the_system(scene: Scene) -> None:
    scene.note()
    scene.lose()
    scene.clock.advance(BACK_OFF)
    pid = scene.children[0].pid
    scene.reviver.joined(HERE, pid)
    daemonnotes.forbid(scene.directory, pid)
    scene.lose(pid=pid)  # it has said so, and ends in a moment
    assert len(scene.clock.getDelayedCalls()) == 1
    scene.children[0].returncode = 0
    scene.wait()
    assert scene.clock.getDelayedCalls() == []
    assert len(scene.started) == 1


# ------------------------------------------------------------------ the notes


def test_the_notes(scene: Scene) -> None:
    scene.note(restarts=3)
    noted = scene.noted()
    assert noted == DaemonNote(GONE.pid, GONE, COMMAND, '{"memory": 1}', 3)
    (path,) = scene.directory.state.glob("again-*")
    assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600  # slots may have secrets
    later = noted._replace(process=ME, failure="")
    assert daemonnotes.renew(scene.directory, later)
    assert daemonnotes.noted_of(scene.directory, ME.pid) == later
    assert daemonnotes.noted_of(scene.directory, GONE.pid) == later
    assert daemonnotes.forbid(scene.directory, GONE.pid) == ME
    assert not daemonnotes.renew(scene.directory, later)
    assert daemonnotes.noted(scene.directory) == []
    scene.note()
    scene.note(ME)
    daemonnotes.forbid_all(scene.directory)
    assert daemonnotes.noted(scene.directory) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"process": {"pid": 1, "started": 1}}'])
def test_a_garbled_note_is_none(scene: Scene, text: str) -> None:
    (scene.directory.state / "again-x-1.json").write_text(text)
    assert daemonnotes.noted(scene.directory) == []


def test_who_is_there_again(scene: Scene) -> None:
    assert not daemonnotes.returns(scene.directory, GONE.pid)
    scene.note()
    assert not daemonnotes.returns(scene.directory, GONE.pid)  # there is no controller
    scene.note(origin=GONE.pid, process=ME)
    assert daemonnotes.returns(scene.directory, GONE.pid)
    scene.note(origin=GONE.pid, process=ME, failure="enough")
    assert not daemonnotes.returns(scene.directory, GONE.pid)


# ------------------------------------------------------------------ who looks at them


def state(scene: Scene, *hosts: HostInfo) -> str:
    program = Recorded("local", n=2, record={"pid": GONE.pid})
    return local_state(program, scene.directory, hosts)


def test_what_status_says(scene: Scene) -> None:
    assert state(scene) == f"died (pid {GONE.pid})"
    scene.note()
    assert state(scene) == f"died (pid {GONE.pid}), and is about to be started again"
    scene.note(failure="it ended 6 times in a row")
    said = f"died (pid {GONE.pid}), and is not started again: it ended 6 times in a row"
    assert state(scene) == said
    other = HostInfo(host_id=2, host=HERE, pid=17, launcher="local", restarts=1)
    assert state(scene, other) == said
    scene.note(origin=GONE.pid, process=ME)
    assert state(scene, HostInfo(host_id=1, host=HERE, pid=ME.pid)) == ""


def test_one_that_was_started_again_survives_its_controller(scene: Scene) -> None:
    program = Recorded("local", n=2, record={"pid": GONE.pid})
    sets = {"engines-0": {"n": 2, "engines": [0, 1], "programs": [program.to_dict()]}}
    scene.directory.write_record({"engines": sets})
    assert survivors(scene.directory) == []
    scene.note(origin=GONE.pid, process=ME)
    content = json.dumps(ME.to_dict())
    (scene.directory.pid / "ipdaemon-x.json").write_text(content)
    (found,) = survivors(scene.directory)
    assert found.engines == (0, 1)
