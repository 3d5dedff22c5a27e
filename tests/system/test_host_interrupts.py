"""Tasks of real engines that are interrupted, aborted or take too long."""

from __future__ import annotations

import signal
import time

from twisted.internet.task import deferLater

from ipkernel.serialize.payload import loads
from ipkernel.wire.messages import (
    EngineLeft,
    Fate,
    Interrupt,
    Outcome,
    Output,
    Started,
    decode_reason,
)
from tests.support.enginehost import Host, host_test
from tests.support.reactor import reactor


@host_test
async def test_an_interrupt_reaches_the_task(host: Host) -> None:
    def endless() -> None:
        while True:
            time.sleep(0.01)

    task = host.submit(endless)
    await host.until(lambda: host.of(Started))
    assert host.engines.signal([0], signal.SIGINT) == [0]
    assert (await host.error(task)).ename == "KeyboardInterrupt"
    host.engines.signal([], signal.SIGINT)
    await deferLater(reactor(), 0.3)  # or it would reach the next task: signals take a moment
    assert await host.result(host.submit(abs, -1)) == 1
    assert not host.of(EngineLeft)


@host_test
async def test_a_task_that_takes_too_long_is_interrupted(host: Host) -> None:
    def endless() -> None:
        while True:
            time.sleep(0.01)

    task, after = host.submit(endless, limit=200), host.submit(abs, -1, limit=20_000)
    message, payload = await host.done(task)
    assert message.outcome is Outcome.TIMEOUT
    assert "longer than its timeout of 0.2 s" in decode_reason(payload).text
    assert await host.result(after) == 1
    assert not host.of(EngineLeft)


@host_test
async def test_an_engine_that_cannot_be_interrupted_is_killed_and_comes_back(host: Host) -> None:
    def deaf() -> None:
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

    pid = host.engines.pid_of(0)
    message, payload = await host.done(host.submit(deaf, limit=200))
    assert message.outcome is Outcome.TIMEOUT
    assert "its engine was killed and is started again" in decode_reason(payload).text
    await host.ready(2)
    [left] = host.of(EngineLeft)
    assert left.restarting and left.started == [] and "timeout of 0.2 s" in left.reason
    assert host.engines.pid_of(0) != pid
    assert await host.result(host.submit(abs, -1)) == 1


@host_test
async def test_an_abort_hits_its_task_and_what_that_has_started(host: Host) -> None:
    def starts() -> int:
        import subprocess
        import sys

        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("it runs", flush=True)
        try:
            return child.wait()
        finally:
            child.wait()

    task, after = host.submit(starts), host.submit(abs, -1)
    await host.until(lambda: host.of(Output))
    host.engines.handle([(Interrupt(0, 1, [task]), b"")])
    message, payload = await host.done(task)
    reason = decode_reason(payload)
    assert (message.outcome, reason.fate) == (Outcome.ABORTED, Fate.INTERRUPTED), reason
    assert await host.result(after) == 1
    assert not host.of(EngineLeft)


@host_test
async def test_an_abort_of_a_deaf_task_leaves_what_is_behind_it_in_the_pipe(host: Host) -> None:
    def nap(seconds: float) -> float:
        while seconds < 0:
            try:
                print("deaf", flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                pass
        time.sleep(seconds)
        return seconds

    for _ in range(3):
        await host.result(host.submit(nap, 1e-6))
    tasks = [host.submit(nap, seconds) for seconds in (-1.0, 1e-6, 1e-6)]
    await host.until(lambda: host.of(Output))
    host.engines.handle([(Interrupt(0, 1, tasks[:1], 100), b"")])
    message, payload = await host.done(tasks[0])
    assert (message.outcome, decode_reason(payload).fate) == (Outcome.ABORTED, Fate.KILLED)
    await host.ready(2)
    [left] = host.of(EngineLeft)
    assert left.restarting and left.started == [] and "a task was cancelled" in left.reason
    assert await host.result(host.submit(abs, -1, epoch=2)) == 1


@host_test
async def test_aborts_that_race_with_ends_hit_nothing_else(host: Host) -> None:
    """Every other one of many quick tasks is aborted while they run."""

    def quick(number: int) -> int:
        until = time.perf_counter() + 2e-5
        while time.perf_counter() < until:
            pass
        return number

    await host.result(host.submit(quick, 0))
    for _ in range(30):
        tasks = [host.submit(quick, number) for number in range(40)]
        victims = tasks[::2]
        for victim in victims:
            host.engines.handle([(Interrupt(0, 1, [victim]), b"")])
            await deferLater(reactor(), 0)
        for number, task in enumerate(tasks):
            message, payload = await host.done(task)
            if message.outcome is Outcome.OK:
                assert loads(payload) == number
            else:
                assert message.outcome is Outcome.ABORTED and task in victims
    assert not host.of(EngineLeft)


@host_test
async def test_a_cell_can_be_interrupted(host: Host) -> None:
    await host.result(host.execute("import time"))
    task = host.execute("while True: time.sleep(0.01)")
    await host.until(lambda: any(task in m.tasks for m in host.of(Started)))
    host.engines.signal([0], signal.SIGINT)
    assert (await host.error(task)).ename == "KeyboardInterrupt"
