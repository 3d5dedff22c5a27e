"""What real engines do, with lists in the controller's place: calls, output, cells."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ipkernel.serialize.payload import dumps
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    EngineLeft,
    Kind,
    Output,
    Reclaim,
    Returned,
    Started,
    Stream,
)
from tests.support.enginehost import Host, block, host_test
from tests.support.reactor import inreactor


def prints() -> None:
    print("from python")
    os.write(1, b"from the descriptor\n")
    os.system("echo from a program")
    print("partial", end="")
    print("to stderr", file=sys.stderr)


@host_test
async def test_a_call(host: Host) -> None:
    assert await host.result(host.submit(pow, 2, 5)) == 32
    (joined,) = host.of(EngineJoined)
    pid = host.engines.pid_of(0)
    assert joined == EngineJoined(0, "here", pid, 1, began=joined.began)
    (done,) = host.of(Done)
    assert 0 < joined.began <= done.started


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
    assert [told for told in host.of(Started) if task in told.tasks] == [Started([task])]


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
