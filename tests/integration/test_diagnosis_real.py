"""Status and waiting clients after a host daemon has been killed and nobody starts it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import ipkernel
from ipkernel.cluster import daemonnotes
from ipkernel.cluster.directory import ClusterDirectory
from tests.integration.faults_support import wait_for
from tests.support.terminal import COMMAND


def run(*arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_daemon_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    run("start", "-n", "1", "--daemonize")
    try:
        assert json.loads(run("status", "--json"))["missing"] == []
        [_, daemon] = ClusterDirectory.named().processes()
        daemonnotes.forbid_all(ClusterDirectory.named())
        with ipkernel.Client() as rc:
            os.kill(daemon.pid, signal.SIGKILL)
            wait_for(lambda: not rc.ids)
            with pytest.raises(TimeoutError) as info:
                rc.wait_for_engines(1, timeout=0.1)
        died = f"died (pid {daemon.pid})"
        assert f"local (1 engine): {died}" in str(info.value)
        [missing] = json.loads(run("status", "--json"))["missing"]
        assert (missing["title"], missing["state"]) == ("local", died)
        assert died in run("status")
    finally:
        run("stop")
