"""The cluster directory: names, permissions, pid files, what is left over."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import time

import pytest

from ipkernel.cluster import directory as module
from ipkernel.cluster.directory import (
    ClusterDirectory,
    all_directories,
    check_name,
    find_directory,
    forget_old,
    private_name,
)
from ipkernel.cluster.processes import Process
from ipkernel.errors import ClusterError, ConfigurationError, SecurityError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "ipython"


def write_pid(directory, role, **content):
    path = directory.pid / f"{role}.json"
    path.write_text(json.dumps(content))
    return path


def mine(**other):
    return {**Process.this("x").to_dict(), **other}


@pytest.mark.parametrize("name", ["a", "default", "my-cluster_1.2", "x" * 64])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "é", "x" * 65, "a\n", "-a", "a.", None, 3]
)
def test_bad_names(name):
    with pytest.raises(ConfigurationError, match="cannot name a cluster"):
        check_name(name)


def test_private_names_differ():
    names = {private_name() for _ in range(50)}
    assert len(names) > 40
    for name in names:
        assert ClusterDirectory.named(name).is_private


def test_where_it_is(home):
    directory = ClusterDirectory.named("big")
    assert directory.path == home / "cluster_big"
    assert directory.name == "big"
    assert directory.security == home / "cluster_big" / "security"
    assert directory.furl_file("admin") == directory.security / "ipcontroller-admin.furl"
    assert os.fspath(directory) == str(home / "cluster_big")
    assert not directory.exists
    assert not directory.is_private


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.delenv("IPYTHONDIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ClusterDirectory.named().path == tmp_path / ".ipython" / "cluster_default"


def test_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ClusterDirectory("here").path == tmp_path / "here"
    assert ClusterDirectory("here") == ClusterDirectory(tmp_path / "here")
    assert len({ClusterDirectory("here"), ClusterDirectory(tmp_path / "here")}) == 1


def test_unknown_role(home):
    with pytest.raises(ValueError, match="client, engine, monitor, admin"):
        ClusterDirectory.named().furl_file("boss")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "default"),
        ({"cluster": "a"}, "a"),
        ({"profile": "mpi"}, "mpi"),
        ({"cluster_id": "x"}, "x"),
        ({"profile": "mpi", "cluster_id": "x"}, "mpi-x"),
        ({"cluster": "", "cluster_id": ""}, "default"),
    ],
)
def test_find_by_name(home, arguments, name):
    assert find_directory(**arguments).path == home / f"cluster_{name}"


def test_find_by_path(tmp_path):
    assert find_directory(cluster_dir=tmp_path).path == tmp_path
    record = tmp_path / "cluster.json"
    record.write_text("{}")
    assert find_directory(cluster_dir=record).path == tmp_path


def test_contradictions(tmp_path):
    with pytest.raises(ConfigurationError, match="not both"):
        find_directory("a", cluster_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="either cluster"):
        find_directory("a", profile="b")


def test_create_is_private(home):
    old = os.umask(0)
    try:
        directory = ClusterDirectory.named("a").create()
    finally:
        os.umask(old)
    for path in (directory.path, directory.security, directory.log, directory.pid, directory.state):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    directory.create()  # once more does no harm
    directory.check()


def test_open_security_directory_is_refused(home):
    directory = ClusterDirectory.named("a").create()
    directory.security.chmod(0o755)
    with pytest.raises(SecurityError, match=r"accessible by others \(mode 0755\).*chmod 700"):
        directory.create()
    with pytest.raises(SecurityError):
        directory.check()


@pytest.mark.parametrize("part", ["path", "state", "pid"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_directory_that_others_can_write_to_is_refused(home, part, mode):
    directory = ClusterDirectory.named("a").create()
    path = getattr(directory, part)
    path.chmod(mode)
    text = rf"others can write to {path} \(mode {mode:04o}\).*chmod go-w {path}'"
    for use in (directory.create, directory.check):
        with pytest.raises(SecurityError, match=text):
            use()
    path.chmod(0o755)
    directory.check()


def test_somebody_elses_directory_is_refused(home, monkeypatch):
    directory = ClusterDirectory.named("a").create()
    monkeypatch.setattr(os, "geteuid", lambda: directory.path.stat().st_uid + 1)
    with pytest.raises(SecurityError, match="belongs to user"):
        directory.check()
    assert list(all_directories()) == []


def test_in_a_directory_of_something_else_nothing_is_made(tmp_path):
    system = tmp_path / "etc"
    (system / "security").mkdir(parents=True)
    (system / "security").chmod(0o755)
    with pytest.raises(ClusterError, match="etc is not the directory of a cluster"):
        ClusterDirectory(system).create()
    assert os.listdir(system) == ["security"]


def test_names_that_are_no_text(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(ClusterError, match=r"udcff' cannot be .*: its name is no UTF-8 text"):
        ClusterDirectory(path).create()
    assert os.listdir(tmp_path) == []


def test_missing_directory(home):
    with pytest.raises(ClusterError, match="there is no cluster directory"):
        ClusterDirectory.named("a").check()


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="cannot make the cluster directory"):
        ClusterDirectory(tmp_path / "file" / "x").create()


def test_processes_of_an_empty_directory(home):
    directory = ClusterDirectory.named("a")
    assert directory.pid_files() == []
    assert directory.processes() == []
    assert not directory.alive()


def test_living_processes(home):
    directory = ClusterDirectory.named("a").create()
    write_pid(directory, "ipdaemon-h-1", **mine())
    write_pid(directory, "ipcontroller", **mine())
    (directory.pid / ".ipcontroller.json.tmp").write_text("half")
    found = directory.processes()
    assert [p.role for p in found] == ["ipcontroller", "ipdaemon-h-1"]
    assert {p.pid for p in found} == {os.getpid()}
    assert directory.alive()
    assert directory.controller() == found[0]


def test_stale_pid_file_is_removed(home):
    directory = ClusterDirectory.named("a").create()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    path = write_pid(directory, "ipcontroller", **mine(pid=child.pid))
    assert not directory.alive()
    assert directory.processes() == []
    assert not path.exists()


def test_stale_pid_file_that_cannot_be_removed(home, monkeypatch):
    directory = ClusterDirectory.named("a").create()
    path = write_pid(directory, "ipcontroller", **mine(started=1.0))

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert directory.processes() == []
    assert path.exists()


def test_pid_that_was_given_to_another_process(home):
    directory = ClusterDirectory.named("a").create()
    content = mine()
    content["started"] -= 1000
    path = write_pid(directory, "ipcontroller", **content)
    assert not directory.alive()
    assert directory.processes() == []
    assert not path.exists()


def test_process_of_another_host_is_believed(home):
    directory = ClusterDirectory.named("a").create()
    path = write_pid(directory, "ipcontroller", **mine(host="elsewhere.invalid", pid=1))
    (process,) = directory.processes()
    assert not process.here
    assert directory.alive()
    assert path.exists()
    assert not process.terminate()
    assert not process.kill()


def test_start_beside_a_cluster_of_another_host(home):
    from ipkernel.cluster.stopping import end_leftovers, stop_directory

    directory = ClusterDirectory.named("a").create()
    path = write_pid(directory, "ipcontroller", **mine(host="elsewhere.invalid", pid=1))
    with pytest.raises(ClusterError, match=f"on host elsewhere.invalid.*remove {path} if it is"):
        end_leftovers(directory)
    with pytest.raises(ClusterError, match="runs on host elsewhere.invalid: stop it there"):
        stop_directory(directory, thorough=False)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": "x"}', '{"pid": -1, "started": 0}', "\0"]
)
def test_garbled_pid_file(home, text):
    directory = ClusterDirectory.named("a").create()
    path = directory.pid / "ipcontroller.json"
    path.write_text(text)
    assert directory.processes() == []
    assert not directory.alive()
    assert path.exists()  # somebody may be writing it


def test_record(home):
    directory = ClusterDirectory.named("a").create()
    assert directory.read_record() == {}
    directory.write_record({"n": 4})
    assert directory.read_record() == {"n": 4}
    directory.record_file.write_text("[1]")
    assert directory.read_record() == {}
    directory.record_file.write_text("{")
    assert directory.read_record() == {}


def test_record_is_private(home, monkeypatch):
    directory = ClusterDirectory.named("a").create()
    old = os.umask(0)
    try:
        directory.write_record({"n": 4})
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.record_file.stat().st_mode) == 0o600
    directory.record_file.unlink()
    directory.record_file.mkdir()
    with pytest.raises(OSError, match="directory"):
        directory.write_record({"n": 5})
    assert [name for name in os.listdir(directory.path) if name.startswith(".")] == []


def test_commands_for_people(home, tmp_path):
    assert ClusterDirectory.named().command("stop") == "ipcluster stop"
    assert ClusterDirectory.named("big").command("stop") == "ipcluster stop --cluster big"
    for path in (tmp_path / "my cluster", home / "big", home / "cluster_-x", home / "cluster_a b"):
        words = shlex.split(ClusterDirectory(path).command("status"))
        assert words == ["ipcluster", "status", "--cluster-dir", str(path)]


def test_all_directories(home):
    assert list(all_directories()) == []
    for name in ("b", "a"):
        ClusterDirectory.named(name).create()
    (home / "cluster_half").mkdir()
    (home / "profile_default").mkdir()
    assert [d.name for d in all_directories()] == ["a", "b"]


def private(age=0.0, **record):
    directory = ClusterDirectory.private().create()
    if record:
        directory.write_record(record)
    past = time.time() - age
    os.utime(directory.path, (past, past))
    return directory


def test_left_over(home):
    dead = mine()
    dead["started"] -= 1000
    assert not ClusterDirectory.named("a").create().left_over()
    assert not private().left_over()  # is just being started
    assert private(age=3600).left_over()
    assert private(owner=dead).left_over()
    assert private(daemonize=True).left_over()
    assert not private(owner=mine()).left_over()
    living = private(owner=dead)
    write_pid(living, "ipcontroller", **mine())
    assert not living.left_over()


def test_forget_old(home):
    kept = [ClusterDirectory.named("a").create(), private(daemonize=True)]
    old = private(age=2 * 86400)
    forget_old()
    assert not old.exists
    assert all(directory.exists for directory in kept)


def test_of_a_cluster_that_ended_badly_the_logs_are_kept(home):
    directory = private()
    (directory.security / "ipcontroller.pem").write_text("a private key")
    (directory.state / "journal.sqlite").write_text("what tasks were given")
    (directory.log / "ipcontroller.log").write_text("what happened")
    directory.keep_logs()
    assert not directory.security.exists() and not directory.state.exists()
    assert (directory.log / "ipcontroller.log").read_text() == "what happened"
    past = time.time() - 2 * 86400
    os.utime(directory.path, (past, past))
    forget_old()
    assert not directory.exists


def test_private_directories_do_not_collide(home, monkeypatch):
    names = iter(["1700000000-aaaa", "1700000000-aaaa", "1700000000-bbbb"])
    monkeypatch.setattr(module, "private_name", lambda: next(names))
    first = ClusterDirectory.private().create()
    second = ClusterDirectory.private()
    assert (first.name, second.name) == ("1700000000-aaaa", "1700000000-bbbb")


def test_import_is_light():
    code = (
        "import sys, ipkernel.cluster.directory, ipkernel.cluster.cluster, ipkernel.cli.ipcluster\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('twisted', 'foolscap', 'IPython', 'numpy', 'asyncio', 'psutil')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("given", [{"cluster_dir": 3}, {"cluster_id": 3}, {"profile": ["a"]}])
def test_arguments_of_a_wrong_type(home, given):
    with pytest.raises(ConfigurationError, match="must be paths|cannot name a cluster"):
        find_directory(**given)
