"""``ipcluster clean`` after a crash: everything of the cluster is killed at one stroke."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ipkernel.cluster import processes
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from tests.support.terminal import COMMAND

SCRIPT = """
import json, subprocess, sys, time
from ipkernel import Cluster

def start(sys=sys):
    # Of a session of its own, it is not ended with the engine's process group.
    import subprocess
    wait = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", wait], start_new_session=True).pid

if __name__ == "__main__":
    with Cluster(n=1) as rc:
        pid = rc[0].apply_sync(start)
        print(json.dumps([str(rc.cluster.directory), pid]), flush=True)
        time.sleep(600)
"""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def over(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_crash_and_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with (
        Cluster(n=1) as rc,  # goes on in peace
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as owner,
    ):
        stray = None
        try:
            assert owner.stdout is not None
            place, pid = json.loads(owner.stdout.readline())
            crashed = ClusterDirectory(place)
            stray = psutil.Process(pid)
            known = crashed.processes()
            assert [one.role.partition("-")[0] for one in known] == ["ipcontroller", "ipdaemon"]

            nothing = "removed 0 directories of dead clusters and 0 stale pid files"
            assert run("clean").splitlines()[-1] == nothing

            # Stopped first: what is left for a moment would start the others again, or end them.
            members = [one for one in processes.marked(crashed.path) if one.pid != pid]
            owner.send_signal(signal.SIGSTOP)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for one in members:
                    one.signal(number)
            owner.kill()
            owner.wait()

            said = run("clean", "--dry-run")
            assert f"(pid {pid}) of cluster {crashed.name}" in said
            assert f"would remove {crashed.path}" in said
            assert crashed.exists and not over(stray)

            said = run("clean")
            assert f"removed {crashed.path}" in said
            assert over(stray)
            assert not crashed.exists
            assert run("clean").splitlines()[-1] == nothing
            assert rc[0].apply_sync(abs, -1) == 1
        finally:
            owner.kill()
            if stray is not None and not over(stray):
                stray.kill()
