"""The nest must end everything of its run: checked with real processes, as nothing else can."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

from benchmarks.envs import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the nest needs Linux")

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()                      # another session, another parent, another environment
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
    os._exit(0)
os.wait()
"""


def nest(limit: float, grace: float, code: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "nest.py"), str(limit), str(grace)]
    done = subprocess.run(
        [*command, sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False
    )
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def test_a_command_that_ends_by_itself() -> None:
    begin, said, end = nest(30, 5, "print('{\"a\": 1}', flush=True)")
    assert said == {"a": 1}
    report = end["nest"]
    assert (report["exit"], report["alone"], report["killed"]) == (0, True, 0)
    assert report["gone"] > begin["t0"]


def test_the_exit_code_is_reported() -> None:
    assert nest(30, 5, "raise SystemExit(7)")[-1]["nest"]["exit"] == 7


def test_a_daemon_with_its_own_session_is_killed() -> None:
    report = nest(30, 0.2, DAEMON + "pass")[-1]
    assert report["nest"]["exit"] == 0
    assert report["nest"]["alone"] is False
    assert report["nest"]["killed"] == 1


def test_the_time_limit_ends_everything() -> None:
    code = DAEMON + "print('{\"pid\": %d}' % os.getpid(), flush=True); time.sleep(600)"
    _, said, end = nest(2, 0.2, code)
    assert end["nest"]["ended"] == "time limit"
    assert end["nest"]["killed"] == 2
    assert not psutil.pid_exists(said["pid"])
