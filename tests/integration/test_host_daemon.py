"""Real ``ipdaemon`` and ``ipengine`` processes, joined to a small controller in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from ipkernel.wire.messages import Closing, Kind, Started
from ipkernel.wire.records import EngineAnswer, EngineOrder, pack, unpack
from tests.support.hostcontroller import HostController
from tests.support.reactor import inreactor, reactor

both = pytest.mark.parametrize("how", ["native", "portable"])


class Daemon:
    """A process of ours and what it says."""

    def __init__(self, how: str, *arguments: str, program: str = "ipdaemon") -> None:
        environment = {**os.environ, "IPKERNEL_PORTABLE": "1" if how == "portable" else "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"ipkernel.cli.{program}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.members: list[psutil.Process] = []

    def look(self) -> list[psutil.Process]:
        """Remember all processes below this one, itself included."""
        me = psutil.Process(self.process.pid)
        self.members = [me, *me.children(recursive=True)]
        return self.members

    async def output(self) -> tuple[str, str, int]:
        """Wait for the end; the outputs and the exit code."""
        out, err = await deferToThread(self.process.communicate, timeout=30)
        return out.decode(), err.decode(), self.process.returncode

    async def all_gone(self) -> None:
        def wait() -> list[Any]:
            return psutil.wait_procs(self.members, timeout=10)[1]

        assert not await deferToThread(wait)

    async def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        await self.output()


def with_daemon(*more: str, count: int = 2, program: str = "ipdaemon", log: bool = False) -> Any:
    """Run a test with a controller and a daemon that has joined it."""

    def decorate(test: Callable[..., Any]) -> Any:
        async def wrapped(how: str, tmp_path: Path) -> None:
            directory = tmp_path / "security"
            directory.mkdir(mode=0o700)
            controller = HostController(reactor(), directory)
            await controller.listen()
            arguments = ["--furl-file", str(controller.furl_file), "-n", str(count), *more]
            if log:
                arguments += ["--cluster-dir", str(tmp_path / "cluster")]
            daemon = Daemon(how, *arguments, program=program)
            try:
                await controller.engines(count)
                await test(controller, daemon, *([tmp_path] if log else []))
            finally:
                await daemon.close()
                await controller.close()

        wrapped.__name__ = test.__name__
        return both(inreactor(wrapped))

    return decorate


def busy(path: str) -> None:
    import time

    open(path, "w").close()
    while True:
        time.sleep(0.01)


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@with_daemon()
async def test_it_joins_works_and_stops(controller: HostController, daemon: Daemon) -> None:
    assert {m.engine for m in controller.joined} == {0, 1}
    tasks = [controller.submit(pow, n, 2, engine=n % 2) for n in range(50)]
    assert [await controller.result(task) for task in tasks] == [n * n for n in range(50)]
    daemon.look()
    await controller.ask("stop", b"enough")
    out, err, code = await daemon.output()
    assert code == 0, err
    names = [event["event"] for event in events(out)]
    assert names[0] == "registered"
    assert "ready" in names
    await daemon.all_gone()


@with_daemon(log=True)
async def test_its_files(controller: HostController, daemon: Daemon, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster"
    [pid_file] = (cluster / "pid").iterdir()
    assert json.loads(pid_file.read_text())["pid"] == daemon.process.pid
    await controller.result(controller.submit(print, "kept", engine=1))
    daemon.process.terminate()
    _, err, code = await daemon.output()
    assert (code, err) == (0, "")
    assert (cluster / "log" / "ipengine-1.log").read_text() == "kept\n"
    assert "stopping: received SIGTERM" in (cluster / "log" / "ipdaemon.log").read_text()
    assert not list((cluster / "pid").iterdir())


@with_daemon()
async def test_closing_ends_it(controller: HostController, daemon: Daemon) -> None:
    daemon.look()
    assert controller.channel is not None
    controller.channel.send(Closing("the cluster stops"))
    out, _, code = await daemon.output()
    assert code == 0
    assert events(out)[-1] == {"event": "stopping", "message": "the cluster stops"}
    await daemon.all_gone()


@with_daemon("--lifeline")
async def test_the_end_of_its_input_ends_it(controller: HostController, daemon: Daemon) -> None:
    daemon.look()
    assert daemon.process.stdin is not None
    daemon.process.stdin.close()
    daemon.process.stdin = None
    _, _, code = await daemon.output()
    assert code == 0
    await daemon.all_gone()


@with_daemon()
async def test_a_killed_daemon_leaves_no_process(
    controller: HostController, daemon: Daemon
) -> None:
    def starts_a_program() -> None:
        import subprocess

        subprocess.Popen(["sleep", "1000"])

    await controller.result(controller.submit(starts_a_program))
    controller.execute("while True: pass", engine=1)
    await controller.until(lambda: any(isinstance(m, Started) for m, _ in controller.messages))
    members = daemon.look()
    assert any(process.name() == "sleep" for process in members)
    daemon.process.kill()
    await daemon.output()
    await daemon.all_gone()


@with_daemon()
async def test_a_killed_engine_comes_back(controller: HostController, daemon: Daemon) -> None:
    pid = controller.joined[0].pid
    engine = controller.joined[0].engine
    os.kill(pid, signal.SIGKILL)
    await controller.engines(3)
    [left] = controller.left
    assert (left.engine, left.reason, left.restarting) == (engine, "killed by SIGKILL (9)", True)
    assert left.loss is not None and left.loss.pid == pid
    again = controller.joined[2]
    assert (again.engine, again.epoch) == (engine, 2)
    assert again.pid != pid
    assert await controller.result(controller.submit(os.getpid, engine=engine)) == again.pid


@with_daemon(count=1)
async def test_output_of_every_kind_is_the_tasks_own(
    controller: HostController, daemon: Daemon
) -> None:
    def speak() -> None:
        print("print")
        os.write(1, b"write\n")
        os.system("echo program")

    def child() -> None:
        import multiprocessing

        process = multiprocessing.get_context("fork").Process(target=print, args=["child"])
        process.start()
        process.join()

    first, second = controller.submit(speak), controller.submit(speak)
    third = controller.submit(child)
    for task in (first, second, third):
        await controller.outcome(task)
    assert controller.output(first) == controller.output(second) == b"print\nwrite\nprogram\n"
    assert controller.output(third) == b"child\n"


@with_daemon(count=1)
async def test_a_crash_tells_the_last_words(controller: HostController, daemon: Daemon) -> None:
    def crash() -> None:
        import ctypes

        print("about to crash")
        ctypes.string_at(0)

    task = controller.submit(crash)
    await controller.until(lambda: controller.left)
    [left] = controller.left
    assert left.started == [task]
    assert left.loss is not None
    assert left.loss.signal == signal.SIGSEGV
    assert "about to crash" in left.loss.last_output
    await controller.engines(2)


@with_daemon()
async def test_orders_of_the_controller(controller: HostController, daemon: Daemon) -> None:
    async def ask(method: str, **order: Any) -> EngineAnswer:
        return unpack(EngineAnswer, await controller.ask(method, pack(EngineOrder(**order))))

    assert (await ask("start_engines", engines=[5, 1])).engines == [5]
    await controller.engines(3)
    assert await controller.result(controller.submit(abs, -1, engine=5)) == 1

    assert (await ask("stop_engines", engines=[0])).engines == [0]
    await controller.until(lambda: controller.left)
    assert (controller.left[0].engine, controller.left[0].restarting) == (0, False)

    assert (await ask("restart_engines", engines=[5])).engines == [5]
    await controller.engines(4)

    task = controller.execute("while True: pass", engine=1)
    await controller.until(
        lambda: any(isinstance(m, Started) and task in m.tasks for m, _ in controller.messages)
    )
    assert (await ask("signal_engines", engines=[1], signal="SIGINT")).engines == [1]
    assert (await controller.error(task)).ename == "KeyboardInterrupt"
    assert "no signal" in (await ask("signal_engines", signal="SIGNONE")).problem


@with_daemon()
async def test_the_other_kinds_of_tasks(controller: HostController, daemon: Daemon) -> None:
    await controller.result(controller.order(Kind.PUSH, {"a": 3}))
    assert await controller.result(controller.order(Kind.PULL, (["a", "a + 1"], False))) == [3, 4]
    assert await controller.result(controller.order(Kind.KEYS)) == ["a"]
    assert await controller.result(controller.order(Kind.KEYS, engine=1)) == []
    reply = await controller.result(controller.execute("a * 2"))
    assert reply["result"]["data"]["text/plain"] == "6"
    assert await controller.result(controller.order(Kind.KEYS)) == ["a"]
    await controller.result(controller.order(Kind.CLEAR))
    assert await controller.result(controller.order(Kind.KEYS)) == []


@with_daemon("--grace", "20")
async def test_it_finds_a_controller_that_comes_back(
    controller: HostController, daemon: Daemon
) -> None:
    pids = {m.engine: m.pid for m in controller.joined}
    await controller.result(controller.submit(abs, -1))
    await controller.close()
    controller.joined.clear()
    await controller.listen()
    await controller.engines(2)
    assert controller.hellos[-1].engines == [0, 1]
    assert {m.engine: m.pid for m in controller.joined} == pids
    assert await controller.result(controller.submit(abs, -2)) == 2


@with_daemon("--grace", "0.3")
async def test_it_ends_when_the_controller_stays_away(
    controller: HostController, daemon: Daemon
) -> None:
    daemon.look()
    await controller.close()
    out, err, code = await daemon.output()
    assert code == 1
    assert "the controller is gone" in events(out)[-1]["message"]
    assert "Traceback" not in err
    await daemon.all_gone()


@with_daemon()
async def test_what_is_lost_says_why_the_daemon_stops(
    controller: HostController, daemon: Daemon
) -> None:
    daemon.process.terminate()
    await daemon.output()
    await controller.until(lambda: len(controller.left) == 2)
    reasons = {left.reason for left in controller.left}
    assert reasons == {"the host daemon stops: received SIGTERM"}


@with_daemon()
async def test_two_terminations_are_as_good_as_one(
    controller: HostController, daemon: Daemon
) -> None:
    daemon.look()
    daemon.process.terminate()
    daemon.process.terminate()
    _, err, code = await daemon.output()
    assert (code, "Traceback" in err) == (0, False)
    await daemon.all_gone()


@inreactor
async def test_a_killed_zygote_costs_only_its_engines(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    controller = HostController(reactor(), tmp_path)
    await controller.listen()
    daemon = Daemon("native", "--furl-file", str(controller.furl_file), "-n", "2")
    try:
        await controller.engines(2)
        [zygote] = psutil.Process(daemon.process.pid).children()
        old = daemon.look()[2:]
        zygote.kill()
        await controller.engines(4)
        assert sorted(m.engine for m in controller.left) == [0, 1]
        assert await controller.result(controller.submit(abs, -1, engine=1)) == 1
        daemon.members = old
        await daemon.all_gone()
    finally:
        await daemon.close()
        await controller.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the parent-death signal")
@inreactor
async def test_even_both_at_once_leave_no_process(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    controller = HostController(reactor(), tmp_path)
    await controller.listen()
    daemon = Daemon("native", "--furl-file", str(controller.furl_file), "-n", "2")
    try:
        await controller.engines(2)
        controller.execute("while True: pass")
        await controller.until(lambda: any(isinstance(m, Started) for m, _ in controller.messages))
        members = daemon.look()
        for process in members[:2]:
            process.kill()
        await daemon.all_gone()
    finally:
        await daemon.close()
        await controller.close()


# ------------------------------------------------------------------ ipengine


@with_daemon(program="ipengine")
async def test_ipengine_says_which_engines_joined(
    controller: HostController, daemon: Daemon
) -> None:
    daemon.look()
    await controller.result(controller.submit(abs, -1))
    await deferLater(controller.reactor, 0.05)
    daemon.process.send_signal(signal.SIGINT)
    out, err, code = await daemon.output()
    assert (code, err) == (0, "")
    for joined in controller.joined:
        assert f"engine {joined.engine} (pid {joined.pid}) ready\n" in out
    assert out.endswith("stopping: received SIGINT\n")
    await daemon.all_gone()


@both
@inreactor
async def test_ipengine_without_a_controller(how: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    controller = HostController(reactor(), tmp_path)
    await controller.listen()
    await controller.close()
    arguments = ["--furl-file", str(controller.furl_file), "--wait", "0.3"]
    out, err, code = await Daemon(how, *arguments, program="ipengine").output()
    assert code == 1
    assert err.startswith("ipengine: nobody listens at ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (None, 0o600, "no FURL file"),
        (b"garbage", 0o600, "FURL"),
        (b"", 0o600, "FURL"),
        (b"pb://x@tcp:127.0.0.1:1/y", 0o644, "readable"),
    ],
)
@inreactor
async def test_ipengine_with_a_furl_file_that_is_no_good(
    content: bytes | None, mode: int, text: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "engine.furl"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    arguments = ["--furl-file", str(path), "--wait", "0.2"]
    out, err, code = await Daemon("native", *arguments, program="ipengine").output()
    assert code == 1
    assert err.startswith("ipengine: ") and err.count("\n") == 1
    assert str(path) in err
    assert "Traceback" not in err


@inreactor
async def test_another_protocol_is_refused_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    controller = HostController(reactor(), tmp_path, protocol=99)
    await controller.listen()
    try:
        arguments = ["--furl-file", str(controller.furl_file)]
        out, err, code = await Daemon("native", *arguments, program="ipengine").output()
        assert code == 1
        assert err.count("\n") == 1
        assert "protocol 99" in err and "same version" in err
    finally:
        await controller.close()


@pytest.mark.parametrize("arguments", [[], ["--furl-file", "x", "-n", "lots"], ["--nonsense"]])
@inreactor
async def test_wrong_usage_is_told(arguments: list[str]) -> None:
    _, err, code = await Daemon("native", *arguments).output()
    assert code == 2
    assert err.startswith("ipdaemon: ") and "Try 'ipdaemon --help'" in err
