"""Clusters that end with their script, or with whoever awaits them, with small programs in their place."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import ClusterError
from tests.integration.standins_support import home, make

__all__ = ["home", "make"]


def test_await_in_a_running_loop(make):
    cluster = make()

    async def script():
        future = cluster.start_cluster()
        assert isinstance(future, asyncio.Future)
        assert await future is cluster
        assert cluster.running
        assert cluster.stop_cluster_sync() is None
        assert not cluster.running
        with pytest.raises(ClusterError):
            await cluster.start_engines()
        await cluster.start_controller()
        assert cluster.running
        await cluster.stop_cluster()

    asyncio.run(script())
    assert not cluster.running


SCRIPT = """
import os, sys, time
from ipkernel.cluster.cluster import Cluster
from tests.integration.standins import Controller, Host
cluster = Cluster(1, controller=Controller, engines=Host, {options})
cluster.start_cluster()
print(cluster.controller.pid, cluster.engine_set.launcher.pid, flush=True)
{more}
"""


def run_script(tmp_path, more, options=""):
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(more=more, options=options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    pids = [int(word) for word in script.stdout.readline().split()]
    return script, [psutil.Process(pid) for pid in pids]


def gone(programs, seconds=10):
    return not psutil.wait_procs(programs, seconds)[1]


def test_end_of_the_script_stops_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "")
    out, err = script.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert script.returncode == 0
    assert gone(programs, 0.5)
    assert list((tmp_path / "ipython").iterdir()) == []


def test_exception_in_the_script_stops_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "1 / 0")
    _, err = script.communicate(timeout=30)
    assert "ZeroDivisionError" in err
    assert gone(programs, 0.5)
    assert list((tmp_path / "ipython").iterdir()) == []


def test_forked_child_does_not_stop_it(tmp_path):
    more = (
        "child = os.fork()\nif child == 0: sys.exit(0)\nos.waitpid(child, 0)\n"
        "time.sleep(0.3)\nprint(cluster.running)"
    )
    script, programs = run_script(tmp_path, more)
    out, err = script.communicate(timeout=30)
    assert (out, err) == ("True\n", "")
    assert gone(programs)


def test_killed_script_ends_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "time.sleep(60)")
    script.kill()
    script.communicate()
    assert gone(programs)


def test_not_at_exit(tmp_path):
    script, programs = run_script(tmp_path, "", "cluster='x', daemonize=True")
    assert script.communicate(timeout=30)[1] == ""
    time.sleep(0.2)
    assert all(program.is_running() for program in programs)
    attached = Cluster.from_directory(tmp_path / "ipython" / "cluster_x")
    assert attached.running
    attached.stop_cluster()
    assert gone(programs)


@pytest.mark.parametrize("late", [False, True])
def test_a_cluster_whose_awaited_start_is_cancelled_is_stopped(make, late):
    cluster = make(1)
    launched, go_on = threading.Event(), threading.Event()
    launch = cluster._wait_engines

    def wait(deadline):
        launch(deadline)
        launched.set()
        assert go_on.wait(20)

    def held():
        if not cluster._lock.acquire(blocking=False):
            return True
        cluster._lock.release()
        return False

    cluster._wait_engines = wait

    async def script():
        task = asyncio.ensure_future(cluster.start_cluster())
        await asyncio.to_thread(launched.wait, 20)
        assert cluster.running
        if late:  # it returns ahead of the loop's learning of the cancellation
            task.cancel()
            go_on.set()
            while held():
                pass
        else:
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(script())  # waits for the threads of its executor
    assert not cluster.running
    assert not cluster.cluster_dir.exists()


def test_a_cluster_that_ran_before_survives_a_cancelled_start(make):
    cluster = make(1)
    cluster.start_cluster_sync()

    async def script():
        cluster.start_cluster().cancel()

    asyncio.run(script())
    assert cluster.running


def test_async_with_that_is_cancelled_stops_the_cluster(make, monkeypatch):
    cluster = make(1)
    launched, go_on = threading.Event(), threading.Event()

    def enter():
        cluster.start_cluster_sync()
        launched.set()
        assert go_on.wait(20)

    monkeypatch.setattr(Cluster, "__enter__", lambda self: enter())

    async def script():
        async with cluster:
            raise AssertionError("must not come here")

    async def main():
        task = asyncio.create_task(script())
        await asyncio.to_thread(launched.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cluster.running
        go_on.set()

    asyncio.run(main())
    assert not cluster.running


def test_async_with_that_is_cancelled_when_just_started_stops_the_cluster(make, monkeypatch):
    cluster = make(1)
    cluster.start_cluster_sync()

    async def main():
        future = asyncio.get_running_loop().create_future()
        monkeypatch.setattr("ipkernel.cluster.awaited.awaited_start", lambda *args: future)
        task = asyncio.create_task(cluster.__aenter__())
        await asyncio.sleep(0)
        future.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not cluster.running
