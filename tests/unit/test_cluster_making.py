"""Cluster directories are made and removed: by one of several, never while the cluster runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading

import pytest

from ipkernel.cluster import making
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory, all_directories
from ipkernel.cluster.making import beside, create_cluster, delete_cluster, put_new, refuse_running
from ipkernel.cluster.processes import Process
from ipkernel.errors import ClusterError, ConfigurationError, LauncherError, SecurityError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "ipython"


@pytest.fixture
def directory(home):
    return ClusterDirectory.named("big")


def run_on(directory, host=None, role="ipcontroller"):
    """Let it look as if a process of the cluster ran; this one, if on this host."""
    content = (
        Process.this("x").to_dict() if host is None else {"pid": 7, "started": 1, "host": host}
    )
    path = directory.pid / f"{role}.json"
    path.write_text(json.dumps(content))
    return path


def test_create(directory):
    old = os.umask(0)
    try:
        path = create_cluster(directory)
    finally:
        os.umask(old)
    assert path == directory.path / "ipcluster.ini"
    assert path.read_text().startswith("# Options of cluster 'big'.")
    for one in (directory.path, directory.security, directory.log, directory.state, directory.pid):
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(directory.path)) == [
        "ipcluster.ini",
        "log",
        "pid",
        "security",
        "state",
    ]
    assert load(directory).files == (path,)
    assert list(all_directories()) == [directory]


def test_create_with_settings(directory):
    create_cluster(directory, {"n": 4, "slots": {"memory": "1GB"}, "hosts": "a:4, b"})
    found = load(directory)
    assert found.value("cluster", "n") == 4
    assert found.value("slots", "memory") == 10**9
    assert found.value("cluster", "engines") == ["ssh"]
    assert found.section("ssh")["hosts"] == ["a:4", "b"]


@pytest.mark.parametrize("given", [{"n": -1}, {"hots": "a"}, {"engines": "local", "hosts": "a"}])
def test_nothing_is_made_with_wrong_settings(directory, given):
    with pytest.raises(ConfigurationError):
        create_cluster(directory, given)
    assert not directory.exists


def test_value_that_cannot_be_written(directory):
    with pytest.raises(ConfigurationError, match="cannot be written"):
        create_cluster(directory, {"environment": {"A": "''' \"\"\""}})
    assert not directory.exists


def test_create_twice(directory):
    path = create_cluster(directory)
    path.write_text("[cluster]\nn = 2\n")
    with pytest.raises(ClusterError, match=f"there is a cluster 'big' already.*{path}"):
        create_cluster(directory)
    assert path.read_text() == "[cluster]\nn = 2\n"


def test_cluster_that_was_started_before_gets_its_file(directory):
    directory.create()
    (directory.log / "x.log").write_text("kept")
    create_cluster(directory)
    assert (directory.log / "x.log").read_text() == "kept"


def test_directory_that_is_not_safe(directory):
    directory.create()
    directory.security.chmod(0o755)
    with pytest.raises(SecurityError):
        create_cluster(directory)
    assert not (directory.path / "ipcluster.ini").exists()


def test_one_of_several_creators_succeeds(directory, monkeypatch):
    monkeypatch.setattr(making, "beside", one_each(beside))
    results = []

    def create(number):
        try:
            create_cluster(directory, {"n": number})
            results.append(number)
        except ClusterError as error:
            assert "already" in str(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = results
    assert load(directory).value("cluster", "n") == winner
    assert [name for name in os.listdir(directory.path) if name.startswith(".")] == []


def one_each(made):
    """Let threads of one process have temporary files of their own, as processes have."""

    def make(path, data):
        return made(path.with_name(f"{threading.get_ident()}.{path.name}"), data)

    return make


def test_file_system_without_links(directory, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", link)
    path = create_cluster(directory)
    assert path.read_text().startswith("#")
    with pytest.raises(ClusterError):
        create_cluster(directory)


def test_full_disk(directory, monkeypatch):
    def link(source, target):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ClusterError, match=r"cannot write .*ipcluster\.ini: no space left"):
        create_cluster(directory)
    assert not [name for name in os.listdir(directory.path) if name.endswith(".ini")]


def test_beside(tmp_path):
    path = tmp_path / "x.ini"
    temporary = beside(path, b"1")
    assert temporary.parent == tmp_path
    assert temporary.name.startswith(".")
    assert str(os.getpid()) in temporary.name
    put_new(temporary, path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"1", ["x.ini"])
    with pytest.raises(ClusterError, match=f"{path} is there already"):
        put_new(beside(path, b"2"), path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"1", ["x.ini"])
    with pytest.raises(ClusterError, match="cannot write"):
        beside(tmp_path / "nowhere" / "x", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_what_could_not_be_written_is_not_left(tmp_path, monkeypatch):
    opened = os.open

    def full(path, flags, mode):
        os.close(opened(path, flags, mode))
        return opened("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ClusterError, match="cannot write .*x.ini: No space left on device"):
        beside(tmp_path / "x.ini", b"1")
    assert os.listdir(tmp_path) == []


# -- delete -----------------------------------------------------------------------------------


def test_delete(directory, home):
    create_cluster(directory)
    (directory.log / "x.log").write_text("x")
    (directory.path / "job.sh").write_text("x")
    assert delete_cluster(directory) == []
    assert os.listdir(home) == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(parents=True)])
def test_delete_what_is_no_cluster(directory, make):
    make(directory.path)
    with pytest.raises(ClusterError, match=f"there is no cluster 'big' .{directory.path}"):
        delete_cluster(directory)


def test_cluster_that_runs_is_not_deleted(directory):
    create_cluster(directory)
    run_on(directory)
    text = rf"cluster big is running: ipcontroller \(pid {os.getpid()}\); stop it first: ipclus"
    with pytest.raises(ClusterError, match=text):
        delete_cluster(directory)
    assert directory.exists


def test_cluster_that_runs_on_another_host_is_not_deleted(directory):
    create_cluster(directory)
    path = run_on(directory, "far.invalid", "ipdaemon-far-7")
    text = (
        rf"ipdaemon-far-7 \(pid 7 on host far.invalid\); stop it on host far.invalid, or if that "
        rf"is gone for good, remove {path}"
    )
    with pytest.raises(ClusterError, match=text):
        delete_cluster(directory)
    path.unlink()
    assert delete_cluster(directory) == []


def test_processes_without_a_pid_file_count(directory, monkeypatch):
    create_cluster(directory)
    stray = Process("ipengine", 4711, 1.0, "")
    monkeypatch.setattr(making, "marked", lambda path: [stray] if path == directory.path else [])
    with pytest.raises(ClusterError, match=r"is running: ipengine \(pid 4711\)"):
        refuse_running(directory)


def test_pid_file_of_a_dead_process_does_not_count(directory):
    create_cluster(directory)
    content = Process.this("x").to_dict()
    (directory.pid / "ipcontroller.json").write_text(json.dumps({**content, "started": 1.0}))
    assert delete_cluster(directory) == []


class Job:
    """A launcher for a program that was submitted to a queue."""

    running = True

    def state(self):
        return "pending (Resources)"


class Program:
    """What ``cluster.json`` says of a program."""

    here = False
    title = "slurm job 17"

    def __init__(self, found):
        self._found = found

    def find(self, directory):
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Job(), r"\(pending \(Resources\)\); stop it first: .*cluster.json"),
        (LauncherError("cannot run squeue"), r"cannot be looked at \(cannot run squeue\)"),
        (OSError("gone"), r"cannot be looked at \(gone\)"),
    ],
)
def test_job_that_waits_in_a_queue_counts(directory, monkeypatch, found, text):
    create_cluster(directory)
    monkeypatch.setattr(making, "programs_of", lambda directory: [Program(found)])
    with pytest.raises(ClusterError, match=f"cluster big may be running: slurm job 17.*{text}"):
        delete_cluster(directory)
    assert directory.exists


def test_ended_job_does_not_count(directory, monkeypatch):
    create_cluster(directory)
    ended = Job()
    ended.running = False
    local = Program(Job())
    local.here = True  # those have pid files
    programs = [Program(ended), Program(None), local]
    monkeypatch.setattr(making, "programs_of", lambda directory: programs)
    assert delete_cluster(directory) == []


def test_cluster_that_is_started_at_the_same_time(directory, monkeypatch):
    create_cluster(directory)
    rename = os.rename

    def late(source, target):
        if source == directory.path:
            run_on(directory)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ClusterError, match="cluster big is running"):
        delete_cluster(directory)
    assert directory.alive()
    assert (directory.path / "ipcluster.ini").exists()


def test_directory_elsewhere_loses_only_what_is_ours(tmp_path):
    directory = ClusterDirectory(tmp_path / "project")
    create_cluster(directory)
    (directory.path / "thesis.tex").write_text("x")
    (directory.path / "data").mkdir()
    assert delete_cluster(directory) == ["data", "thesis.tex"]
    assert sorted(os.listdir(directory.path)) == ["data", "thesis.tex"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_cannot_be_removed_is_named(directory, tmp_path, monkeypatch, elsewhere):
    if elsewhere:
        directory = ClusterDirectory(tmp_path / "project")
    create_cluster(directory)
    (directory.path / "thesis.tex").write_text("x")
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    with pytest.raises(ClusterError, match=r"cannot remove .*log, .*in .*: check the permissions"):
        delete_cluster(directory)
    assert directory.log.is_dir()
    assert (directory.path / "thesis.tex").exists()


def test_empty_directory_elsewhere_goes(tmp_path):
    directory = ClusterDirectory(tmp_path / "project")
    create_cluster(directory)
    directory.write_record({"n": 4})
    assert delete_cluster(directory) == []
    assert os.listdir(tmp_path) == []


def test_links_in_it_are_not_followed(tmp_path):
    directory = ClusterDirectory(tmp_path / "project")
    create_cluster(directory)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x").write_text("x")
    (directory.log / "link").symlink_to(precious)
    directory.state.rmdir()
    directory.state.symlink_to(precious)
    assert delete_cluster(directory) == []
    assert (precious / "x").exists()


def test_link_to_a_cluster_directory(tmp_path, directory):
    real = ClusterDirectory(tmp_path / "real")
    create_cluster(real)
    directory.path.parent.mkdir()
    directory.path.symlink_to(real.path)
    with pytest.raises(ClusterError, match="is a link: delete the directory that it leads to"):
        delete_cluster(directory)
    assert real.exists


def test_somebody_has_made_a_new_one(tmp_path, monkeypatch):
    directory = ClusterDirectory(tmp_path / "project")
    create_cluster(directory)
    (directory.path / "thesis.tex").write_text("x")
    put_aside = making._put_aside

    def and_a_new_one(old):
        doomed = put_aside(old)
        create_cluster(old)
        return doomed

    monkeypatch.setattr(making, "_put_aside", and_a_new_one)
    with pytest.raises(ClusterError, match=r"a new .*project already; what was left .* is in (.*)"):
        delete_cluster(directory)
    assert directory.exists


def test_directory_of_somebody_else(directory, monkeypatch):
    create_cluster(directory)
    monkeypatch.setattr(os, "geteuid", lambda: directory.path.stat().st_uid + 1)
    with pytest.raises(SecurityError, match="belongs to user"):
        delete_cluster(directory)
    assert directory.exists


def test_directory_that_cannot_be_renamed(directory, monkeypatch):
    create_cluster(directory)

    def rename(source, target):
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ClusterError, match=f"cannot remove {directory.path}: permission denied"):
        delete_cluster(directory)
