"""Ends of real engines, wanted and unwanted, and what comes after."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from ipkernel.host.spawns import SpawnStarter
from ipkernel.wire.messages import Done, EngineJoined, EngineLeft, Started
from tests.support.enginehost import Host, host_test
from tests.support.reactor import inreactor


def gone(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def gone_pid(pid: int) -> bool:
    try:
        return gone(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


@host_test
async def test_an_engine_that_exits(host: Host) -> None:
    await host.done(host.submit(print, "its last words"))
    pid = host.engines.pid_of(0)
    task = host.submit(os._exit, 3)
    await host.ready(2)
    [left] = host.of(EngineLeft)
    assert (left.engine, left.restarting, left.started) == (0, True, [task])
    assert left.reason == "exited with code 3"
    loss = left.loss
    assert (loss.kind, loss.host, loss.pid, loss.exitcode, loss.signal) == (
        "engine",
        "here",
        pid,
        3,
        None,
    )
    assert loss.last_output == ["its last words"]
    assert loss.memory > 1_000_000 or isinstance(host.starter, SpawnStarter)
    assert host.of(EngineJoined)[-1].epoch == 2
    assert await host.result(host.submit(abs, -1)) == 1


@host_test
async def test_an_engine_that_is_killed(host: Host) -> None:
    os.kill(host.engines.pid_of(0), signal.SIGKILL)
    await host.until(lambda: host.of(EngineLeft))
    [left] = host.of(EngineLeft)
    assert left.reason == "killed by SIGKILL (9)"
    assert left.loss.signal == 9
    assert left.started == []
    await host.ready(2)


@host_test
async def test_a_segmentation_fault(host: Host) -> None:
    def crash() -> None:
        import ctypes

        ctypes.string_at(0)

    host.submit(crash)
    await host.until(lambda: host.of(EngineLeft))
    [left] = host.of(EngineLeft)
    assert left.reason == "segmentation fault: killed by SIGSEGV (11)"
    assert any("Segmentation fault" in line for line in left.loss.last_output)
    await host.ready(2)


@host_test
async def test_results_from_before_a_crash_are_not_lost(host: Host) -> None:
    first = host.submit(abs, -5)
    second = host.submit(os._exit, 1)
    third = host.submit(abs, -6)
    await host.until(lambda: host.of(EngineLeft))
    assert await host.result(first) == 5
    [left] = host.of(EngineLeft)
    assert left.started == [second]
    await host.ready(2)
    assert third not in [m.task for m in host.of(Done)]


@host_test
async def test_a_task_for_the_last_process_is_not_run_by_the_next(host: Host) -> None:
    host.submit(os._exit, 1)
    await host.ready(2)
    stale = host.submit(abs, 1, epoch=1)
    fresh = host.submit(abs, 1, epoch=2)
    await host.done(fresh)
    assert stale not in [m.task for m in host.of(Done)]


@host_test
async def test_nothing_that_an_engine_started_survives_it(host: Host, tmp_path: Path) -> None:
    def start() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "100"]).pid

    child = psutil.Process(await host.result(host.submit(start)))
    host.submit(os._exit, 0)
    await host.ready(2)
    assert gone(child)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs subreapers")
@inreactor
async def test_engines_live_where_their_end_is_seen_by_waiting_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "waitid")  # as on Windows
    host = Host("portable")
    try:
        await host.ready()
        pid = host.engines.pid_of(0)
        assert await host.result(host.submit(os.getpid)) == pid
        host.submit(os._exit, 3)
        await host.ready(2)
        assert [left.reason for left in host.of(EngineLeft)] == ["exited with code 3"]
        assert gone_pid(pid)
    finally:
        await host.engines.stop()


@inreactor
async def test_not_even_what_has_left_its_session() -> None:
    host = Host("native")
    try:
        await host.ready()

        def start() -> int:
            import subprocess

            return subprocess.Popen(["sleep", "100"], start_new_session=True).pid

        child = psutil.Process(await host.result(host.submit(start)))
        host.submit(os._exit, 0)
        await host.ready(2)
        assert gone(child)
    finally:
        await host.engines.stop()


@host_test
async def test_restart_on_request(host: Host) -> None:
    pid = host.engines.pid_of(0)
    assert host.engines.restart([0, 5], "asked for") == [0]
    await host.ready(2)
    [left] = host.of(EngineLeft)
    assert (left.reason, left.restarting) == ("asked for", True)
    assert host.engines.pid_of(0) != pid


@host_test
async def test_engines_come_and_go(host: Host) -> None:
    host.engines.add(ids=[7])
    await host.ready(2)
    assert host.engines.ids == [0, 7]
    assert await host.result(host.submit(abs, -1, engine=7)) == 1
    await host.engines.end([0], "not needed")
    assert host.engines.ids == [7]
    [left] = host.of(EngineLeft)
    assert (left.engine, left.reason, left.restarting) == (0, "not needed", False)


@host_test
async def test_functions_registered_at_exit_run_when_an_idle_engine_stops(
    host: Host, tmp_path: Path
) -> None:
    def register(path: str) -> None:
        import atexit
        import pathlib

        atexit.register(pathlib.Path(path).touch)

    await host.done(host.submit(register, str(tmp_path / "left")))
    await host.engines.end([], "enough")
    assert (tmp_path / "left").exists()


@host_test
async def test_a_busy_engine_that_ignores_sigterm_is_killed(host: Host) -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(0.01)

    host.submit(stubborn)
    await host.until(lambda: host.of(Started))
    await host.engines.end([], "enough")
    assert host.of(EngineLeft)[0].loss.signal == signal.SIGKILL


@inreactor
async def test_a_new_zygote_takes_over_when_one_is_killed() -> None:
    host = Host("native", count=2)
    try:
        await host.ready(2)
        pids = [host.engines.pid_of(n) for n in (0, 1)]
        os.kill(host.starter.pid, signal.SIGKILL)
        await host.ready(4)
        assert sorted(m.engine for m in host.of(EngineLeft)) == [0, 1]
        assert all(gone_pid(pid) for pid in pids)
        assert await host.result(host.submit(abs, -1, engine=1)) == 1
    finally:
        await host.engines.stop()
