"""Real engines below the daemon's own parts, with lists in the controller's place."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ipkernel.host.engines import Engines as HostEngines
from ipkernel.host.interfaces import Place
from ipkernel.host.spawns import SpawnStarter
from ipkernel.host.zygotes import ZygoteStarter
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    EngineLeft,
    Fate,
    Function,
    Interrupt,
    Kind,
    Outcome,
    Output,
    Reclaim,
    Returned,
    Started,
    Stream,
    decode_reason,
)
from tests.support.reactor import inreactor, reactor

STARTERS = {"native": lambda: ZygoteStarter("test"), "portable": SpawnStarter}
both = pytest.mark.parametrize("how", list(STARTERS))


class Host:
    """Engines, and an uplink that remembers."""

    def __init__(self, how: str, count: int = 1, log_dir: Path | None = None) -> None:
        self.reactor = reactor()
        self.starter: Any = STARTERS[how]()
        self.messages: list[tuple[Any, Any]] = []
        self.backlog = 0
        self.waiting: list[tuple[Any, Deferred[None]]] = []
        self.cache = FunctionCache()
        self.tasks = 0
        self.sent: set[bytes] = set()
        self.engines = HostEngines(self.reactor, self.starter, self, host="here", log_dir=log_dir)
        begun = [self.starter.start(str(n + 1), Place()) for n in range(count)]
        self.engines.add(begun)
        self.starter.attach(self.reactor, self.engines)
        self.engines.name(list(range(count)), "test")

    # the uplink

    def send(self, message: Any, payload: Any = b"") -> None:
        self.messages.append((message, payload))
        for entry in list(self.waiting):
            if entry[0]():
                self.waiting.remove(entry)
                self.reactor.callLater(0, entry[1].callback, None)

    # for tests

    def until(self, condition: Any) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
        else:
            self.waiting.append((condition, waiting))
            waiting.addTimeout(20, self.reactor)
        return waiting

    def of(self, kind: type) -> list[Any]:
        return [message for message, _ in self.messages if isinstance(message, kind)]

    def ready(self, count: int = 1) -> Deferred[None]:
        return self.until(lambda: len(self.of(EngineJoined)) >= count)

    def submit(
        self, function: Any, *args: Any, engine: int = 0, epoch: int = 0, limit: int = 0
    ) -> int:
        call = dump_call(function, args, {}, self.cache)
        batch: list[Any] = []
        if call.digest and call.digest not in self.sent:
            self.sent.add(call.digest)
            blob = call.blob or self.cache.lookup(function)[1]
            batch.append((Function(call.digest, len(blob)), blob))
        self.tasks += 1
        data = b"".join(call.pieces)
        message = Assign(self.tasks, engine, Kind.APPLY, len(data), call.digest, epoch, limit=limit)
        self.engines.handle([*batch, (message, data)])
        return self.tasks

    def execute(self, code: str, **options: Any) -> int:
        options = {"silent": False, "filename": None, "store_history": True, **options}
        self.tasks += 1
        data = b"".join(dumps((code, options)))
        self.engines.handle([(Assign(self.tasks, 0, Kind.EXECUTE, len(data)), data)])
        return self.tasks

    async def done(self, task: int) -> tuple[Done, Any]:
        def there() -> list[Any]:
            return [m for m in self.messages if isinstance(m[0], Done) and m[0].task == task]

        await self.until(there)
        return there()[0]

    async def result(self, task: int) -> Any:
        message, payload = await self.done(task)
        assert message.outcome is Outcome.OK, decode(payload).traceback
        return loads(payload)

    async def error(self, task: int) -> Any:
        message, payload = await self.done(task)
        assert message.outcome is Outcome.ERROR
        return decode(payload)

    def output(self, task: int, stream: Stream = Stream.STDOUT) -> bytes:
        """What has come before the task was done."""
        found = b""
        for message, payload in self.messages:
            if isinstance(message, Done) and message.task == task:
                return found
            if isinstance(message, Output) and (message.task, message.stream) == (task, stream):
                found += payload
        raise AssertionError(f"task {task} is not done")


def host_test(function: Any) -> Any:
    """Run a test with a Host that is stopped at the end."""
    import inspect

    parameters = inspect.signature(function).parameters

    async def wrapped(how: str, tmp_path: Path) -> None:
        host = Host(how, log_dir=tmp_path if "tmp_path" in parameters else None)
        try:
            await host.ready()
            await function(host, *([tmp_path] if "tmp_path" in parameters else []))
        finally:
            await host.engines.stop()

    wrapped.__name__ = function.__name__
    test = inreactor(wrapped)
    test.__signature__ = inspect.signature(wrapped)
    return both(test)


def prints() -> None:
    print("from python")
    os.write(1, b"from the descriptor\n")
    os.system("echo from a program")
    print("partial", end="")
    print("to stderr", file=sys.stderr)


def block(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.002)


@host_test
async def test_a_call(host: Host) -> None:
    assert await host.result(host.submit(pow, 2, 5)) == 32
    assert host.of(EngineJoined) == [EngineJoined(0, "here", host.engines.pid_of(0), 1)]


@host_test
async def test_many_calls_in_order(host: Host) -> None:
    tasks = [host.submit(abs, -n) for n in range(2000)]
    await host.done(tasks[-1])
    assert [m.task for m in host.of(Done)] == tasks
    assert await host.result(tasks[1234]) == 1234


@host_test
async def test_large_arguments_and_results(host: Host) -> None:
    assert await host.result(host.submit(len, bytes(20_000_000))) == 20_000_000
    assert len(await host.result(host.submit(bytes, 20_000_000))) == 20_000_000


@host_test
async def test_all_output_is_there_before_the_result_and_is_the_tasks_own(host: Host) -> None:
    tasks = [host.submit(prints) for _ in range(3)]
    for task in tasks:
        await host.done(task)
        expected = b"from python\nfrom the descriptor\nfrom a program\npartial"
        assert host.output(task) == expected
        assert host.output(task, Stream.STDERR) == b"to stderr\n"


@host_test
async def test_more_output_than_a_pipe_holds(host: Host) -> None:
    task = host.submit(print, "x" * 1_000_000)
    await host.done(task)
    assert len(host.output(task)) == 1_000_001
    assert max(m.size for m in host.of(Output)) <= 65536


@host_test
async def test_the_log_has_the_output_without_markers(host: Host, tmp_path: Path) -> None:
    await host.done(host.submit(print, "hello"))
    assert (tmp_path / "ipengine-0.log").read_bytes() == b"hello\n"


@host_test
async def test_output_waits_for_a_controller_that_is_behind(host: Host) -> None:
    host.backlog = 100 << 20

    def flood() -> None:
        for _ in range(100):
            print("y" * 65536)

    task = host.submit(flood)
    await host.until(lambda: host.of(Started))
    held = sum(m.size for m in host.of(Output))
    assert held < 50 * 65536
    assert not host.of(Done)
    host.backlog = 0
    await host.done(task)
    assert len(host.output(task)) == 100 * 65537


@host_test
async def test_a_task_that_takes_long_is_reported(host: Host, tmp_path: Path) -> None:
    task = host.submit(block, str(tmp_path / "go"))
    behind = host.submit(abs, 1)
    await host.until(lambda: host.of(Started))
    assert host.of(Started) == [Started([task])]
    (tmp_path / "go").touch()
    await host.done(behind)
    assert host.of(Started) == [Started([task])]


@host_test
async def test_what_has_not_started_can_be_taken_back(host: Host, tmp_path: Path) -> None:
    first = host.submit(block, str(tmp_path / "go"))
    second, third = host.submit(abs, 1), host.submit(abs, 2)
    host.engines.handle([(Reclaim(0, [first, third]), b""), (Reclaim(7, [1]), b"")])
    assert host.of(Returned) == [Returned(0, [third]), Returned(7, [])]
    (tmp_path / "go").touch()
    await host.done(second)
    assert [m.task for m in host.of(Done)] == [first, second]


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
    assert _gone(child)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs subreapers")
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
        assert _gone(child)
    finally:
        await host.engines.stop()


def _gone(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


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


@host_test
async def test_user_code_cannot_break_its_engine(host: Host) -> None:
    def replace_stdout() -> None:
        import io

        sys.stdout = io.StringIO()

    def close_stdout() -> None:
        sys.stdout = sys.__stdout__
        sys.stdout.close()
        print("after close")

    def print_later() -> None:
        import threading

        threading.Timer(0.01, print, ["too late"]).start()

    def fork_and_return() -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return pid

    def change_signals() -> None:
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        os.chdir("/")

    def pool() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as workers:
            return workers.map(abs, [-1, -2])

    for function in (replace_stdout, close_stdout, print_later, change_signals):
        await host.result(host.submit(function))
    assert await host.result(host.submit(fork_and_return)) > 0
    assert await host.result(host.submit(pool)) == [1, 2]
    assert (await host.error(host.submit(sys.exit, 3))).ename == "SystemExit"
    assert not host.of(EngineLeft)


@host_test
async def test_closing_descriptor_1_costs_only_the_output(host: Host) -> None:
    await host.result(host.submit(os.close, 1))
    task = host.submit(print, "nowhere")
    assert (await host.error(task)).ename == "OSError"
    assert await host.result(host.submit(abs, -1)) == 1


@host_test
async def test_cells(host: Host) -> None:
    reply = await host.result(host.execute("a = 20\n!echo from the shell\nprint('two')\na + 1"))
    assert reply["execution_count"] == 1
    assert reply["result"]["data"] == {"text/plain": "21"}
    assert host.output(1) == b"from the shell\ntwo\n"
    reply = await host.result(host.execute("a += 1;"))
    assert (reply["execution_count"], reply["result"]) == (2, None)
    info = await host.error(host.execute("b = 1\nc = b / 0\nb = 2"))
    assert info.ename == "ZeroDivisionError"
    assert '  File "Cell In[3]", line 2, in <module>' in info.traceback
    assert any("c = b / 0" in line for line in info.traceback)
    assert (await host.result(host.execute("b")))["result"]["data"] == {"text/plain": "1"}
    assert (await host.error(host.execute("a b"))).ename == "SyntaxError"
    assert (await host.error(host.execute("import sys; sys.exit(2)"))).ename == "SystemExit"
    host.tasks += 1
    data = b"".join(dumps((["a", "a * 2"], False)))
    host.engines.handle([(Assign(host.tasks, 0, Kind.PULL, len(data)), data)])
    assert await host.result(host.tasks) == [21, 42]


@host_test
async def test_cells_and_ipython(host: Host, tmp_path: Path) -> None:
    code = "from IPython import get_ipython\nget_ipython() is not None"
    assert (await host.result(host.execute(code)))["result"]["data"]["text/plain"] == "True"
    task = host.execute("from IPython.display import display, HTML\ndisplay(HTML('<b>x</b>'))")
    await host.result(task)
    import msgspec

    [shown] = [p for m, p in host.messages if isinstance(m, Output) and m.stream is Stream.DISPLAY]
    assert msgspec.msgpack.decode(shown)["data"]["text/html"] == "<b>x</b>"
    await host.result(host.execute("%cd /\n%pwd"))
    reply = await host.result(host.execute("x = await __import__('asyncio').sleep(0, 5)\nx"))
    assert reply["result"]["data"]["text/plain"] == "5"
    silent = await host.result(host.execute("1 + 1", silent=True))
    assert silent["result"] is None
    script = tmp_path / "script.py"
    info = await host.error(host.execute("\n\n1 / 0", filename=str(script)))
    assert f'  File "{script}", line 3, in <module>' in info.traceback


@host_test
async def test_a_cell_can_be_interrupted(host: Host) -> None:
    await host.result(host.execute("import time"))
    task = host.execute("while True: time.sleep(0.01)")
    await host.until(lambda: any(task in m.tasks for m in host.of(Started)))
    host.engines.signal([0], signal.SIGINT)
    assert (await host.error(task)).ename == "KeyboardInterrupt"


@inreactor
async def test_a_new_zygote_takes_over_when_one_is_killed() -> None:
    host = Host("native", count=2)
    try:
        await host.ready(2)
        pids = [host.engines.pid_of(n) for n in (0, 1)]
        os.kill(host.starter.pid, signal.SIGKILL)
        await host.ready(4)
        assert sorted(m.engine for m in host.of(EngineLeft)) == [0, 1]
        assert all(_gone_pid(pid) for pid in pids)
        assert await host.result(host.submit(abs, -1, engine=1)) == 1
    finally:
        await host.engines.stop()


def _gone_pid(pid: int) -> bool:
    try:
        return _gone(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


@inreactor
async def test_a_stranger_on_the_portable_port_is_shown_out() -> None:
    import socket

    host = Host("portable")
    try:
        await host.ready()
        stranger = socket.create_connection(("127.0.0.1", host.starter._port))
        stranger.sendall(b"\xff" * 100)
        stranger.settimeout(10)
        from twisted.internet.threads import deferToThread

        assert await deferToThread(stranger.recv, 1) == b""
        stranger.close()
        assert await host.result(host.submit(abs, -1)) == 1
    finally:
        await host.engines.stop()
