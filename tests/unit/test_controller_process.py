"""Logs, lifelines, events and pid files of long-lived processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ipkernel.cli import process
from ipkernel.cli.process import (
    Lifeline,
    LogFile,
    emit,
    set_title,
    start_logging,
    stop_logging,
)
from ipkernel.cluster.pidfile import AlreadyRunning, PidFile
from ipkernel.cluster.processes import read_pid_file
from ipkernel.vitals import same_process_lives


@pytest.fixture
def clean_logging():
    root = logging.getLogger()
    level, raising = root.level, logging.raiseExceptions
    yield root
    stop_logging()
    root.setLevel(level)
    logging.raiseExceptions = raising


# ---------------------------------------------------------------------------------- logs


def test_a_log_file_is_private_and_has_what_was_logged(tmp_path: Path, clean_logging) -> None:
    path = start_logging("prog", tmp_path / "log", "info")
    assert path == tmp_path / "log" / "prog.log"
    logging.getLogger("ipkernel.test").info("hello %d", 7)
    logging.getLogger("ipkernel.test").debug("too much")
    text = path.read_text()
    assert "INFO    ipkernel.test: hello 7" in text
    assert "too much" not in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_unknown_level_is_named(tmp_path: Path, clean_logging) -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        start_logging("prog", tmp_path, "loud")
    assert not list(tmp_path.iterdir())


def test_without_a_directory_the_log_goes_to_the_standard_error(clean_logging, capsys) -> None:
    assert start_logging("prog", None, "WARNING") is None
    logging.getLogger("x").warning("to the terminal")
    assert "to the terminal" in capsys.readouterr().err


@pytest.mark.parametrize("backups", [0, 1, 3])
def test_log_files_are_rotated(tmp_path: Path, clean_logging, backups: int) -> None:
    start_logging("prog", tmp_path, size=1000, backups=backups)
    for i in range(200):
        logging.getLogger("x").info("line %d %s", i, "." * 50)
    stop_logging()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["prog.log", *(f"prog.log.{n + 1}" for n in range(backups))]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in tmp_path.iterdir())


def test_log_files_grow_while_somebody_reads_them(tmp_path: Path, monkeypatch) -> None:
    handler = LogFile(tmp_path / "prog.log", size=100)
    logger = logging.Logger("x")
    logger.addHandler(handler)
    with monkeypatch.context() as patch:

        def refuse(source, target):
            raise PermissionError(13, "it is being used by another process")

        patch.setattr(process, "_HELD", True)  # as on Windows
        patch.setattr(os, "rename", refuse)
        for number in range(9):
            logger.error("%d %s", number, "." * 48)
    assert not handler.given_up
    assert len((tmp_path / "prog.log").read_text().splitlines()) == 9
    logger.error("after")
    handler.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prog.log", "prog.log.1"]


class Full:
    """A file on a full disk."""

    def __init__(self) -> None:
        self.tries = 0

    def write(self, text: str) -> None:
        self.tries += 1
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def seek(self, *args: int) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_costs_the_log_and_nothing_else(tmp_path: Path, capfd, clean_logging) -> None:
    handler = LogFile(tmp_path / "prog.log")
    handler.stream.close()
    handler.stream = full = Full()
    logger = logging.Logger("x")
    logger.addHandler(handler)
    for _ in range(5):
        logger.error("something")
    assert handler.given_up
    assert full.tries == 1
    said = capfd.readouterr().err
    assert said.count("cannot be written any more (No space left on device)") == 1
    handler.close()


def test_a_record_that_cannot_be_formatted_does_not_end_the_log(tmp_path: Path, capfd) -> None:
    handler = LogFile(tmp_path / "prog.log")
    logger = logging.Logger("x")
    logger.addHandler(handler)
    logger.error("%d", "no number")
    logger.error("after")
    handler.close()
    assert "after" in (tmp_path / "prog.log").read_text()
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------ lifelines


def test_a_lifeline_ends_with_its_input() -> None:
    read, write = os.pipe()
    ended = threading.Event()
    line = Lifeline(ended.set, read)
    line.start()
    os.write(write, b"still here")
    assert not ended.is_set()
    os.close(write)
    assert ended.wait(20)
    line._thread.join(20)
    os.close(read)


def test_a_lifeline_on_a_closed_input_ends_at_once() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    ended = threading.Event()
    line = Lifeline(ended.set, read)
    line.start()
    assert ended.wait(20)
    line._thread.join(20)


# --------------------------------------------------------------------------------- events


def test_an_event_is_a_line_of_json(capfd) -> None:
    emit("ready", pid=7, location="tcp:x:1\n")
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"event": "ready", "pid": 7, "location": "tcp:x:1\n"}


@pytest.mark.parametrize("how", ["closed", "broken"])
def test_a_parent_that_does_not_read_is_no_error(how: str) -> None:
    script = (
        "import os, sys\n"
        "from ipkernel.cli.process import emit\n"
        "if sys.argv[1] == 'closed': os.close(1)\n"
        "else:\n"
        "    r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.close(w)\n"
        "emit('ready', a=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, how], stderr=subprocess.PIPE, timeout=60, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_reactor_is_loaded_for_any_of_this() -> None:
    script = (
        "import sys, ipkernel.cli.process\n"
        "print([m for m in sys.modules if m.startswith(('twisted', 'foolscap', 'psutil'))])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_a_title_is_set() -> None:
    script = (
        "import psutil\n"
        "from ipkernel.cli.process import set_title\n"
        "set_title('ipsomething [x]')\n"
        "print(psutil.Process().cmdline()[0])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True, check=True
    )
    assert out.stdout.strip() == "ipsomething [x]"
    assert callable(set_title)


# ------------------------------------------------------------------------------- pid files


def test_a_pid_file_names_this_process(tmp_path: Path) -> None:
    file = PidFile(tmp_path / "x.json")
    assert file.state() == "none"
    file.claim("mine", "prog")
    content = file.read()
    assert content is not None
    assert content["pid"] == os.getpid()
    assert (content["cluster"], content["name"]) == ("mine", "prog")
    assert abs(content["started"] - psutil.Process().create_time()) < 0.01
    assert file.state() == "alive"
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.claim("mine", "prog")  # it is ours already
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()


def test_a_pid_file_of_a_living_process_is_respected(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        file = PidFile(tmp_path / "x.json")
        file.claim("c", "prog")
        content = file.read()
        assert content is not None
        content |= {"pid": other.pid, "started": psutil.Process(other.pid).create_time()}
        file.path.write_text(json.dumps(content))
        with pytest.raises(AlreadyRunning, match=f"prog with pid {other.pid} already runs here"):
            file.claim("c", "prog")
        file.remove()  # not ours
        assert file.state() == "alive"
    finally:
        other.communicate(b"\n")
    assert file.state() == "dead"
    file.claim("c", "prog")
    assert file.read()["pid"] == os.getpid()  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_later_process_with_the_same_pid_is_another(tmp_path: Path) -> None:
    started = psutil.Process().create_time()
    assert same_process_lives(os.getpid(), started)
    assert not same_process_lives(os.getpid(), started - 100)


def test_a_pid_file_of_another_host_is_respected(tmp_path: Path) -> None:
    file = PidFile(tmp_path / "x.json")
    file.path.write_text(
        json.dumps({"pid": 1, "started": 0.0, "host": "elsewhere.example", "name": "prog"})
    )
    assert file.state() == "elsewhere"
    with pytest.raises(AlreadyRunning, match=r"runs on host elsewhere.example.*remove that file"):
        file.claim("c", "prog")


def test_a_pid_file_on_a_full_disk(tmp_path: Path, monkeypatch) -> None:
    def refuse(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", refuse)
    with pytest.raises(OSError, match="x.json") as caught:
        PidFile(tmp_path / "x.json").claim("c", "prog")
    assert caught.value.errno == 28
    assert list(tmp_path.iterdir()) == []


def test_a_copied_pid_file_is_another_clusters(tmp_path: Path) -> None:
    there, here = tmp_path / "a", tmp_path / "b"
    for directory in (there, here):
        directory.mkdir()
    parent = psutil.Process(os.getppid())
    PidFile(there / "x.json").claim("c", "prog")
    content = PidFile(there / "x.json").read()
    assert content is not None
    content |= {"pid": parent.pid, "started": parent.create_time()}
    (there / "x.json").write_text(json.dumps(content))
    shutil.copy(there / "x.json", here)
    file = PidFile(here / "x.json")
    assert PidFile(there / "x.json").state() == "alive"
    assert file.state() == "dead"
    assert read_pid_file(file.path) is None
    assert read_pid_file(there / "x.json") is not None
    (there / "x.json").write_text(json.dumps({**content, "started": 1.0}))
    assert file.state() == "alive"  # it was moved, and another cluster has its old place
    assert read_pid_file(file.path) is not None
    (there / "x.json").unlink()
    assert file.state() == "alive"
    there.rmdir()
    there.symlink_to(here)
    assert file.state() == "alive"  # two names of one directory
    there.unlink()
    there.mkdir()
    (there / "x.json").write_text(json.dumps(content))
    file.claim("c", "prog")
    assert file.read()["pid"] == os.getpid()  # type: ignore[index]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', "\0\0"])
def test_a_garbled_pid_file_is_replaced(tmp_path: Path, content: str) -> None:
    file = PidFile(tmp_path / "x.json")
    file.path.write_text(content)
    assert file.read() is None
    file.claim("c", "prog")
    assert file.state() == "alive"


def test_who_finds_a_dead_process_does_not_push_aside_one_that_was_faster(
    tmp_path: Path, monkeypatch
) -> None:
    file = PidFile(tmp_path / "x.json")
    dead = {"pid": os.getpid(), "started": 1.0, "host": "", "name": "prog"}
    file.path.write_text(json.dumps(dead))
    faster = {"pid": os.getppid(), "started": psutil.Process(os.getppid()).create_time()}
    replace = os.replace

    def late(source, target):
        monkeypatch.setattr(os, "replace", replace)
        file.path.write_text(json.dumps({**faster, "host": "", "name": "other"}))
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(AlreadyRunning, match=f"other with pid {os.getppid()}"):
        file.claim("c", "prog")
    assert file.read()["pid"] == os.getppid()  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_what_an_interrupted_claim_has_left_is_in_nobodys_way(tmp_path: Path, monkeypatch) -> None:
    def as_on_windows(source, target):
        if os.path.lexists(target):
            raise FileExistsError(17, "it exists")

    file = PidFile(tmp_path / "x.json")
    file.path.write_text(json.dumps({"pid": os.getpid(), "started": 1.0, "host": "", "name": "x"}))
    (tmp_path / ".x.json.old").write_text("left over")
    monkeypatch.setattr(os, "rename", as_on_windows)
    file.claim("c", "prog")
    assert file.state() == "alive"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_without_hard_links_a_pid_file_is_replaced(tmp_path: Path, monkeypatch) -> None:
    def refuse(source, target):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    file = PidFile(tmp_path / "x.json")
    for _ in range(2):
        file.claim("c", "prog")
        assert file.state() == "alive"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
