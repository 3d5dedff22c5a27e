"""What runs on hosts, run by hand: how it keeps a program, and how it lets go of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipkernel.launchers.sshjob import frame
from tests.integration.faults_support import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
#: With less patience than on a real host.
CODE = """\
import sys
from ipkernel.launchers import remote
remote.ORDERLY = remote.TERMINATE = 0.2
sys.exit(remote.main())
"""


class Keeper:
    """The process on the host, seen through pipes.

    Args:
        base: Where it has its directories.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
        )
        self._read = b""

    def order(self, act: str, **fields: Any) -> bytes:
        """Return an order."""
        return frame({"act": act, "base": str(self.base), **fields})

    def run(self, how: str, detach: str = "", send: list[str] | None = None) -> bytes:
        """Return the order to run the probe."""
        return self.order(
            "run",
            name="probe",
            module="tests.integration.ssh_probe",
            arguments=[how, {"at": ""}],
            environment={},
            files={"security/key": "a key"},
            send=send or [],
            detach=detach,
            packages="",
        )

    def write(self, *data: bytes) -> None:
        """Give orders, all at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(data))

    def event(self, wanted: str) -> dict[str, Any]:
        """Return the next event of a name; fail if none comes."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            line, newline, rest = self._read.partition(b"\n")
            if newline:
                self._read = rest
                found = json.loads(line) if line.startswith(b"{") else {}
                if found.get("event") == wanted:
                    return dict(found)
                continue
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], f"no {wanted}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, self.process.communicate()
            self._read += data

    def end(self) -> int:
        """Return how it ended."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, and all pipes."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def hang_up(self) -> None:
        """End the connection from here."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def errors(self) -> bytes:
        """Return what it wrote to its standard error, up to the end."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def left(self) -> list[Path]:
        """Return what is in its place."""
        return list(self.base.iterdir())


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    with contextlib.closing(Keeper(tmp_path / "base")) as made:
        yield made


def test_a_program_that_does_not_end_is_told_more_and_more_loudly(keeper: Keeper) -> None:
    keeper.write(keeper.run("deaf"))
    pid = keeper.event("ready")["pid"]
    keeper.hang_up()
    keeper.event("terminated")
    assert keeper.event("@ended")["code"] == -signal.SIGKILL
    assert keeper.end() == 128 + signal.SIGKILL
    assert keeper.left() == []
    assert not psutil.pid_exists(pid)


def test_orders_that_come_in_one_piece_are_all_obeyed(keeper: Keeper) -> None:
    keeper.write(keeper.run("quiet"), keeper.order("stop"))
    assert keeper.event("@ended")["code"] == 0
    assert keeper.end() == 0
    assert keeper.left() == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_the_program_in_good_order(keeper: Keeper, name: str) -> None:
    keeper.write(keeper.run("quiet"))
    keeper.event("ready")
    keeper.process.send_signal(signal.Signals[name])
    keeper.event("stopping")
    assert keeper.end() == 0
    assert keeper.left() == []


def test_a_program_whose_listener_is_gone_goes_on_until_its_lifeline_ends(keeper: Keeper) -> None:
    keeper.write(keeper.run("quiet"))
    keeper.event("ready")
    assert keeper.process.stdout is not None
    keeper.process.stdout.close()
    keeper.write(keeper.order("signal", name="SIGUSR1", group=False))
    keeper.write(keeper.order("stop"))
    assert keeper.end() == 0
    assert keeper.left() == []


def test_files_come_back_before_the_program_is_told_to_be_ready(keeper: Keeper) -> None:
    keeper.write(keeper.run("quiet", send=["security/key"]))
    assert keeper.event("@files")["files"] == {"security/key": "a key"}
    keeper.event("ready")
    keeper.write(keeper.order("stop"))
    assert keeper.end() == 0


def test_a_detached_program_lets_its_starter_go_and_takes_orders_from_others(
    keeper: Keeper,
) -> None:
    keeper.write(keeper.run("quiet", detach="leave"))
    directory = keeper.event("@started")["directory"]
    pid = keeper.event("ready")["pid"]
    assert keeper.end() == 0
    assert keeper.errors() == b""  # nobody holds it open
    assert psutil.pid_exists(pid)
    with contextlib.closing(Keeper(keeper.base)) as other:
        words = {"directory": directory, "order": {"act": "stop"}, "wait": PATIENCE}
        other.write(other.order("tell", **words))
        assert other.event("@told") == {"event": "@told", "there": False}
        assert other.end() == 0
    wait_for(lambda: not psutil.pid_exists(pid))
    wait_for(lambda: keeper.left() == [])


def test_one_that_fails_before_it_is_detached_is_told_and_shown(keeper: Keeper) -> None:
    keeper.write(keeper.run("broken", detach="leave"))
    assert keeper.event("@ended")["code"] == 3
    assert keeper.end() == 3
    assert keeper.errors() == b"this is why\n"
    assert keeper.left() == []


def test_an_end_before_any_program_leaves_nothing(keeper: Keeper) -> None:
    keeper.write(keeper.order("check", needs=[]))
    keeper.event("@checked")
    keeper.hang_up()
    assert keeper.end() == 4
    assert keeper.left() == []
    assert keeper.errors() == b""
