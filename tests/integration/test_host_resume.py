"""Real host daemons whose controller goes away and comes back: what goes on, and what is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ipkernel.wire.messages import (
    Closing,
    Done,
    EngineJoined,
    EngineLeft,
    Held,
    Holding,
    Output,
    Started,
)
from tests.integration.test_host_daemon import Daemon, with_daemon
from tests.support.hostcontroller import HostController


def wait_for_file(begun: str, path: str) -> int:
    """Say that it has begun, and wait until somebody has made a file."""
    import os
    import time

    print("begun", flush=True)
    open(begun, "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    print("over", flush=True)
    return os.getpid()


async def begun(controller: HostController, path: Path) -> None:
    """Wait until a task has made a file; it has said so before."""
    from twisted.internet.task import deferLater

    while not path.exists():
        await deferLater(controller.reactor, 0.01, lambda: None)


def told(controller: HostController) -> list[object]:
    return [message for message, _ in controller.messages]


@with_daemon(log=True)
async def test_a_connection_that_is_cut_costs_nothing(
    controller: HostController, daemon: Daemon, tmp_path: Path
) -> None:
    controller.remembers = True
    pids = {m.engine: m.pid for m in controller.joined}
    go = tmp_path / "go"
    running = controller.submit(wait_for_file, str(tmp_path / "begun"), str(go))
    waiting = [controller.submit(abs, -n) for n in range(3)]
    await begun(controller, tmp_path / "begun")
    controller.cut()
    late = controller.submit(abs, -7, engine=1)
    go.touch()
    await controller.until(lambda: len(controller.hellos) == 2 and controller.channel is not None)
    resume = controller.hellos[1].resume
    assert resume is not None
    assert (resume.number, resume.life) == (1, 1)
    assert await controller.result(running) == pids[0]
    assert [await controller.result(task) for task in (*waiting, late)] == [0, 1, 2, 7]
    done = [m.task for m in told(controller) if isinstance(m, Done)]
    assert sorted(done) == sorted([running, *waiting, late])  # each once
    assert len(controller.joined) == 2
    assert controller.output(running) == b"begun\nover\n"
    serials = [m.serial for m in told(controller) if isinstance(m, Output)]
    assert serials == list(range(1, len(serials) + 1))


@with_daemon(log=True)
async def test_cut_again_and_again(
    controller: HostController, daemon: Daemon, tmp_path: Path
) -> None:
    controller.remembers = True
    tasks = []
    for round in range(5):
        tasks += [controller.submit(abs, -n, engine=n % 2) for n in range(20)]
        if round:
            controller.cut()
        await controller.until(
            lambda: len(controller.hellos) > round and controller.channel is not None
        )
    assert [await controller.result(task) for task in tasks] == [*range(20)] * 5
    done = [m.task for m in told(controller) if isinstance(m, Done)]
    assert sorted(done) == tasks
    assert len(controller.joined) == 2


@with_daemon(log=True)
async def test_a_controller_that_was_started_again_is_told_everything(
    controller: HostController, daemon: Daemon, tmp_path: Path
) -> None:
    controller.remembers = True
    pids = {m.engine: m.pid for m in controller.joined}
    go = tmp_path / "go"
    running = controller.submit(wait_for_file, str(tmp_path / "begun"), str(go))
    waiting = controller.submit(abs, -1)
    await begun(controller, tmp_path / "begun")
    ended = controller.submit(wait_for_file, str(tmp_path / "1"), str(tmp_path / "end"), engine=1)
    await begun(controller, tmp_path / "1")
    await controller.die()
    (tmp_path / "end").touch()
    while b"over" not in (tmp_path / "cluster" / "log" / "ipengine-1.log").read_bytes():
        time.sleep(0.01)
    controller.messages.clear()
    controller.done.clear()
    await controller.listen()
    await controller.until(lambda: Started([]) in told(controller))
    assert controller.hellos[-1].resume.life == 1
    kinds = [m for m in told(controller) if not isinstance(m, Output)]
    upto = kinds.index(Started([]))
    joined = [m for m in kinds[:upto] if isinstance(m, EngineJoined)]
    assert {m.engine: m.pid for m in joined} == pids
    holding = {m.engine: m.tasks for m in kinds[:upto] if isinstance(m, Holding)}
    assert holding[0] == [running]
    assert Held([], []) in kinds[:upto]
    # The end of the other one may have been told behind that, if it came that late.
    assert holding[1] in ([], [ended])
    done, _ = await controller.outcome(ended)
    assert (holding[1] == []) == (kinds.index(done) < upto)
    go.touch()
    assert await controller.result(running) == pids[0]
    assert controller.output(running).endswith(b"over\n")
    again = controller.submit(abs, -2)
    assert await controller.result(again) == 2
    assert waiting not in controller.done  # it had not begun, and was forgotten


@with_daemon(log=True)
async def test_an_engine_that_died_meanwhile(
    controller: HostController, daemon: Daemon, tmp_path: Path
) -> None:
    controller.remembers = True
    [pid] = [m.pid for m in controller.joined if m.engine == 0]
    running = controller.submit(wait_for_file, str(tmp_path / "begun"), str(tmp_path / "never"))
    await begun(controller, tmp_path / "begun")
    await controller.die()
    os.kill(pid, signal.SIGKILL)
    while b"killed by SIGKILL" not in (tmp_path / "cluster/log/ipdaemon.log").read_bytes():
        time.sleep(0.01)
    controller.messages.clear()
    await controller.listen()
    await controller.until(lambda: Started([]) in told(controller))
    mine = [m for m in told(controller) if getattr(m, "engine", None) == 0]
    mine = [m for m in mine if not isinstance(m, Output)]
    assert isinstance(mine[0], EngineLeft) and mine[0].started == [running]
    await controller.until(lambda: controller.joined[-1].epoch == 2)
    assert await controller.result(controller.submit(abs, -1)) == 1


@with_daemon(log=True)
async def test_a_controller_that_knows_nothing_of_it(
    controller: HostController, daemon: Daemon, tmp_path: Path
) -> None:
    pids = {m.engine: m.pid for m in controller.joined}
    running = controller.submit(wait_for_file, str(tmp_path / "begun"), str(tmp_path / "never"))
    await begun(controller, tmp_path / "begun")
    await controller.die()
    controller.messages.clear()
    controller.joined.clear()
    await controller.listen()
    await controller.engines(2)
    assert {m.engine: m.pid for m in controller.joined} == pids
    assert await controller.result(controller.submit(abs, -1)) == 1  # what ran was interrupted
    assert running not in controller.done
    assert b"begun" not in controller.output()
    assert not any(isinstance(m, Holding | Held) for m in told(controller))


@with_daemon()
async def test_a_controller_that_says_goodbye_is_not_looked_for(
    controller: HostController, daemon: Daemon
) -> None:
    controller.remembers = True
    daemon.look()
    controller.cut()
    await controller.until(lambda: len(controller.hellos) == 2 and controller.channel is not None)
    controller.send(Closing("enough"))
    out, err, code = await daemon.output()
    assert (code, "Traceback" in err) == (0, False), err
    await daemon.all_gone()


@with_daemon("--lifeline")
async def test_without_its_parent_it_looks_for_nobody(
    controller: HostController, daemon: Daemon
) -> None:
    daemon.look()
    await controller.close()
    daemon.process.stdin.close()
    daemon.process.stdin = None
    out, err, code = await daemon.output()
    assert (code, "Traceback" in err) == (0, False), err
    await daemon.all_gone()
