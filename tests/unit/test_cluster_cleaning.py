"""What counts as left over, with made-up directories, records and launchers."""

from __future__ import annotations

import json
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from ipkernel.cli import common
from ipkernel.cli.ipcluster import main
from ipkernel.cluster import cleaning, processes
from ipkernel.cluster.cleaning import (
    DIRECTORY,
    JOB,
    PID_FILE,
    PROCESSES,
    REMOTE,
    SILENT,
    TRANSFER,
    Leftover,
)
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process
from ipkernel.errors import ClusterError, ConfigurationError, LauncherError
from ipkernel.launchers import remote
from ipkernel.objects.unfinished import hidden

GONE = {"pid": 4194303, "started": 1.0, "host": ""}
CONTROLLER = {"launcher": "local"}


class Job:
    """A launcher of jobs that are in a queue."""

    states: dict[str, Any] = {}
    told: list[tuple[str, str]] = []
    ends = True

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_record(cls, directory: Any, record: Any, options: Any) -> Job:
        state = cls.states[record["job"]]
        if isinstance(state, Exception):
            raise state
        return cls(record["job"])

    @property
    def running(self) -> bool:
        return str(self.states[self.name]) != "gone"

    def state(self) -> str:
        return str(self.states[self.name])

    def wait(self, timeout: float) -> bool:
        return self.ends

    def __getattr__(self, method: str) -> Any:
        if method not in ("request_stop", "terminate", "kill"):
            raise AttributeError(method)
        return lambda: self.told.append((self.name, method))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(Job, "states", {})
    monkeypatch.setattr(Job, "told", [])
    return tmp_path


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Process]]:
    found: dict[str, list[Process]] = {}
    monkeypatch.setattr(processes, "all_marked", lambda: found)
    return found


def job(name: str, state: Any = "pending (Resources)") -> dict[str, Any]:
    Job.states[name] = state
    return {"launcher": f"{__name__}:Job", "label": f"job {name}", "record": {"job": name}}


def crashed(name: str = "", *jobs: dict[str, Any], **record: Any) -> ClusterDirectory:
    """Make the directory of a cluster whose controller was killed."""
    made = (ClusterDirectory.named(name) if name else ClusterDirectory.private()).create()
    (made.pid / "ipcontroller.json").write_text(json.dumps(GONE))
    made.write_record({"controller": CONTROLLER, "engines": {"a": {"programs": jobs}}, **record})
    return made


def kinds(*directories: ClusterDirectory, **more: Any) -> list[str]:
    return [one.kind for one in cleaning.find(directories, **more)]


@pytest.mark.usefixtures("marked")
def test_what_a_crashed_cluster_leaves_in_files() -> None:
    private, named = crashed(), crashed("x")
    assert kinds(private) == [PID_FILE, DIRECTORY]
    assert kinds(named) == [PID_FILE]
    assert private.pid_files(), "looking changes nothing"
    for one in cleaning.find([private, named]):
        one.remove()
    assert not private.exists
    assert named.exists and not named.pid_files()
    assert kinds(named) == []


def test_processes_of_crashed_clusters(marked: dict[str, list[Process]]) -> None:
    over = crashed("x")
    marked[str(over)] = [Process("worker", 4194303, 1.0, "")]
    marked["/another"] = [Process("worker", 4194302, 1.0, "")]
    [first, second] = cleaning.find([over])
    assert (first.kind, second.kind) == (PROCESSES, PID_FILE)
    assert first.title == "worker (pid 4194303) of cluster x"
    first.remove()  # it is gone meanwhile, which is no error


def alive(role: str) -> dict[str, Any]:
    return Process.this(role).to_dict()


@pytest.mark.parametrize("sign", ["controller", "elsewhere", "owner", "starting", "unknown"])
def test_what_may_run_is_left_alone(
    sign: str, marked: dict[str, list[Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = crashed("", job("7"))
    mark = Process("python", 4194303, 1.0, "")
    marked[str(directory)] = [mark]
    file = directory.pid / "ipcontroller.json"
    if sign == "controller":
        file.write_text(json.dumps(alive("ipcontroller")))
    elif sign == "elsewhere":  # nobody can say whether it lives
        file.write_text(json.dumps({**GONE, "host": "another.example"}))
    elif sign == "owner":
        directory.write_record({**directory.read_record(), "owner": alive("owner")})
    elif sign == "starting":
        monkeypatch.setattr(cleaning, "_is_controller", lambda process: process == mark)
    else:  # a daemon with a copied FURL, whose controller is on another host
        file.unlink()
        directory.record_file.unlink()
    assert {PROCESSES, JOB, DIRECTORY}.isdisjoint(kinds(directory))


@pytest.mark.usefixtures("marked")
def test_jobs_of_crashed_clusters() -> None:
    over = crashed("", job("7"), job("8", "ended: exited with code 1"), job("9", "gone"))
    found = list(cleaning.find([over]))
    assert [one.kind for one in found] == [JOB, PID_FILE, DIRECTORY]
    assert found[0].title == f"Job, job 7 of cluster {over.name}"
    found[0].remove()
    assert Job.told == [("7", "request_stop")]


@pytest.mark.usefixtures("marked")
def test_a_job_that_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "ends", False)
    found = next(cleaning.find([crashed("x", job("7"))]))
    with pytest.raises(ClusterError, match="cannot end Job, job 7 of cluster x"):
        found.remove()
    assert [method for _, method in Job.told] == ["request_stop", "terminate", "kill"]


@pytest.mark.usefixtures("marked")
def test_a_controller_in_a_queue_runs() -> None:
    pending = crashed("", controller={**job("1"), "kind": "controller"})
    (pending.pid / "ipcontroller.json").unlink()
    assert kinds(pending) == []


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    "error", [LauncherError("squeue does not answer"), ConfigurationError("no launcher x")]
)
def test_a_queue_that_does_not_answer_keeps_everything(error: Exception) -> None:
    said: list[str] = []
    directory = crashed("", job("1", error))
    assert kinds(directory, say=said.append) == [PID_FILE]
    assert len(said) == 1
    assert str(error) in said[0] and "nothing of that cluster is removed" in said[0]


# -- transfers ----------------------------------------------------------------------------------


def part(place: Path, name: str, age: float) -> Path:
    path = Path(hidden(str(place / name)))
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("name", ["a", "data.npy", "many.dots.in.it", "x" * 200, "line\nbreak"])
def test_interrupted_transfers(home: Path, name: str) -> None:
    place = home / "tmp"
    old, young = part(place, name, 2 * SILENT), part(place, name, SILENT / 2)
    for stranger in ("a.part", ".a.part", ".a.0123456.part", ".a.01234567.part.bak"):
        (place / stranger).write_bytes(b"")
        os.utime(place / stranger, (0, 0))
    [found] = cleaning.transfers()
    assert (found.kind, found.title) == (TRANSFER, str(old))
    found.remove()
    assert not old.exists()
    assert young.exists()


def test_a_tree_is_as_young_as_what_is_in_it(home: Path) -> None:
    tree = Path(hidden(str(home / "tmp" / "tree")))
    (tree / "a" / "b").mkdir(parents=True)
    file = tree / "a" / "b" / "file"
    file.write_bytes(b"half")
    for path in (tree, tree / "a", tree / "a" / "b"):
        os.utime(path, (0, 0))
    assert list(cleaning.transfers()) == []
    os.utime(file, (0, 0))
    [found] = cleaning.transfers()
    found.remove()
    assert not tree.exists()


def test_a_link_is_removed_and_not_what_it_leads_to(home: Path) -> None:
    there = home / "there"
    there.mkdir()
    link = Path(hidden(str(home / "tmp" / "link")))
    link.symlink_to(there)
    [found] = cleaning.transfers(now=time.time() + 2 * SILENT)
    found.remove()
    assert there.is_dir()
    assert not link.is_symlink()


def test_another_users_transfers_are_theirs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part(home / "tmp", "a", 2 * SILENT)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert list(cleaning.transfers()) == []


def test_a_place_that_is_not_there(home: Path) -> None:
    assert list(cleaning.transfers([home / "nowhere"])) == []


# -- what ssh launchers of other hosts have put here --------------------------------------------


def test_directories_of_ssh_launchers(home: Path, marked: dict[str, list[Process]]) -> None:
    base = home / "ipython" / "ssh"
    base.mkdir(parents=True)
    used, ends = remote.new_directory(base, "used", {})
    left, closed = remote.new_directory(base, "left", {})
    for end in closed:
        os.close(end)
    marked[str(used)] = marked[str(left)] = [Process("worker", 4194303, 1.0, "")]
    found = list(cleaning.find([]))
    for end in ends:
        os.close(end)
    assert [(one.kind, one.title) for one in found] == [
        (PROCESSES, f"worker (pid 4194303) of {left}"),
        (REMOTE, str(left)),
    ]
    assert list(cleaning.find([], everywhere=False)) == []


# -- the command --------------------------------------------------------------------------------


def clean(*options: str) -> int:
    return main(["clean", *options])


@pytest.mark.usefixtures("marked")
def test_a_dry_run_changes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = crashed("", job("7"))
    old = part(home / "tmp", "a", 2 * SILENT)
    assert clean("--dry-run") == common.OK
    out = capsys.readouterr().out
    for text in (f"would end Job, job 7 of cluster {directory.name}", f"would remove {old}"):
        assert text in out.splitlines()
    assert f"would remove {directory.path}\n" in out
    assert out.splitlines()[-1] == (
        "would remove 1 job, 1 interrupted transfer, 1 directory of dead clusters and "
        "1 stale pid file"
    )
    assert directory.pid_files() and old.exists() and not Job.told


@pytest.mark.usefixtures("marked")
def test_jobs_are_ended_after_a_question_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = crashed("", job("7"))
    assert clean() == common.OK  # nobody can be asked
    assert "job 7" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Namespace(isatty=lambda: True))
    answers: Any = iter(["n", EOFError(), "y"])

    def answer(question: str) -> str:
        assert question == f"end Job, job 7 of cluster {directory.name}? [y/N] "
        given = next(answers)
        if isinstance(given, str):
            return given
        raise given

    monkeypatch.setattr("builtins.input", answer)
    for _ in range(2):
        assert clean() == common.OK
        assert not Job.told
        assert directory.exists, "what its jobs write to stays"
    assert clean() == common.OK
    assert Job.told == [("7", "request_stop")]
    assert not directory.exists


@pytest.mark.usefixtures("marked")
def test_jobs_are_ended_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    crashed("x", job("7"))
    assert clean("--jobs") == common.OK
    assert "ended Job, job 7 of cluster x" in capsys.readouterr().out
    assert Job.told


@pytest.mark.usefixtures("marked")
def test_only_the_cluster_that_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = crashed("x"), crashed("y")
    old = part(home / "tmp", "a", 2 * SILENT)
    assert clean("--cluster", "x") == common.OK
    assert not one.pid_files()
    assert other.pid_files() and old.exists()
    assert clean("--cluster", "nothing") == common.FAILURE
    assert "nothing" in capsys.readouterr().err


def test_what_cannot_be_removed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = ClusterDirectory.named("x")

    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/a")

    found = [
        Leftover(PROCESSES, "worker (pid 1)", fail, directory),
        Leftover(DIRECTORY, "/a", lambda: pytest.fail("it is needed"), directory),
        Leftover(PID_FILE, "/b", lambda: None, directory),
    ]
    monkeypatch.setattr(cleaning, "find", lambda *_, **__: iter(found))
    assert clean() == common.FAILURE
    out, err = capsys.readouterr()
    assert "worker (pid 1): " in err and "Permission denied" in err
    assert out == "removed 0 directories of dead clusters and 1 stale pid file\n"
