"""The loop of an engine over a socket pair, in this process."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ipkernel.engine import current, publish_data
from ipkernel.engine.interrupts import Interrupts
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import dump_call
from ipkernel.serialize.payload import dumps, loads
from ipkernel.serialize.reference import Reference
from ipkernel.serialize.retrying import Retrying
from ipkernel.wire.messages import (
    Clear,
    Done,
    ForgetFunctions,
    Kind,
    Outcome,
    Output,
    Stream,
)
from tests.support.enginebench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_call_and_its_result(bench: Bench) -> None:
    task = bench.submit(pow, 2, 10)
    done, payload = bench.run()[task]
    assert (done.engine, done.outcome, done.size) == (3, Outcome.OK, len(payload))
    assert loads(payload) == 1024
    assert done.started <= done.completed
    assert bench.progress[0] == 1


def test_results_come_in_order(bench: Bench) -> None:
    tasks = [bench.submit(abs, -n) for n in range(500)]
    done = bench.run()
    assert list(done) == tasks
    assert [loads(payload) for _, payload in done.values()] == list(range(500))
    assert bench.progress[0] == 500


def test_an_exception_comes_back_with_the_users_frames_alone(bench: Bench) -> None:
    def fails() -> None:
        raise LookupError("nothing there")

    info = bench.error(bench.submit(fails))
    assert (info.ename, info.evalue) == ("LookupError", "nothing there")
    assert [frame[2] for frame in info.frames] == ["fails"]
    assert info.engine_info["engine"] == 3
    assert info.engine_info["method"] == "apply"


def test_a_call_that_is_to_be_run_again_says_so(bench: Bench) -> None:
    def fails() -> None:
        raise LookupError("nothing there")

    task = bench.submit(Retrying(fails, (LookupError,)))
    other = bench.submit(Retrying(fails, (OSError,)))
    done = bench.run()
    assert [done[t][0].outcome for t in (task, other)] == [Outcome.RETRY, Outcome.ERROR]
    info = decode(done[task][1])
    assert (info.ename, info.evalue) == ("LookupError", "nothing there")
    assert [frame[2] for frame in info.frames] == ["fails"]


def test_a_chunk_of_which_items_are_to_be_run_again(bench: Bench) -> None:
    inverse = Retrying(lambda x: 1 / x, (ZeroDivisionError,))
    raises = bench.submit(inverse, [[1, 0, 2]], False, kind=Kind.MAP)
    returns = bench.submit(inverse, [[1, 0, 2]], True, kind=Kind.MAP)
    fine = bench.submit(inverse, [[1, 2]], True, kind=Kind.MAP)
    done = bench.run()
    outcomes = [done[task][0].outcome for task in (raises, returns, fine)]
    assert outcomes == [Outcome.RETRY, Outcome.RETRY_ITEMS, Outcome.OK]
    one, failed, two = loads(done[returns][1])
    assert (one, two) == (1.0, 0.5)
    assert isinstance(failed.load(), ZeroDivisionError)


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError()]
)
def test_no_exception_ends_the_loop(bench: Bench, error: BaseException) -> None:
    def fails(error: BaseException) -> None:
        raise error

    first = bench.submit(fails, error)
    second = bench.submit(abs, -1)
    done = bench.run()
    assert done[first][0].outcome is Outcome.ERROR
    assert decode(done[first][1]).ename == type(error).__name__
    assert loads(done[second][1]) == 1


def test_infinite_recursion_is_an_error(bench: Bench) -> None:
    def deeper() -> None:
        deeper()

    assert bench.error(bench.submit(deeper)).ename == "RecursionError"


def test_a_result_that_cannot_be_sent_is_an_error_that_says_so(bench: Bench) -> None:
    calls = [bench.submit(threading.Lock)]
    calls.append(bench.submit(lambda n: [n, threading.Lock()], [[1, 2]], kind=Kind.MAP))
    done = bench.run()
    one, chunk = (decode(done[task][1]) for task in calls)
    assert one.ename == chunk.ename == "SerializationError"
    assert one.evalue.startswith("cannot send the result: ") and "lock" in one.evalue
    assert chunk.evalue.startswith("cannot send the result[0][1]: ")


def test_a_large_result(bench: Bench) -> None:
    assert bench.value(bytes, 3_000_000) == bytes(3_000_000)


def test_map_runs_a_chunk(bench: Bench) -> None:
    assert bench.value(pow, [[1, 2, 3], [2, 2, 2]], kind=Kind.MAP) == [1, 4, 9]


def test_map_of_one_sequence(bench: Bench) -> None:
    assert bench.value(abs, [[-1, -2]], kind=Kind.MAP) == [1, 2]


def test_the_first_exception_fails_the_chunk(bench: Bench) -> None:
    info = bench.error(bench.submit(int, [["1", "x", "y"]], kind=Kind.MAP))
    assert info.ename == "ValueError" and "'x'" in info.evalue


def test_exceptions_can_take_the_place_of_results(bench: Bench) -> None:
    from ipkernel.serialize.failure import ItemFailure

    first, second, third = bench.value(int, [["1", "x", "3"]], True, kind=Kind.MAP)
    assert (first, third) == (1, 3)
    assert isinstance(second, ItemFailure)


def test_the_namespace_by_tasks(bench: Bench) -> None:
    bench.order(Kind.PUSH, {"a": 1, "b": 2})
    both = bench.order(Kind.PULL, (["a", "a + b"], False))
    single = bench.order(Kind.PULL, (["b"], True))
    keys = bench.order(Kind.KEYS)
    bench.order(Kind.CLEAR)
    missing = bench.order(Kind.PULL, (["a"], True))
    done = bench.run()
    assert loads(done[both][1]) == [1, 3]
    assert loads(done[single][1]) == 2
    assert loads(done[keys][1]) == ["a", "b"]
    assert decode(done[missing][1]).ename == "NameError"


def test_errors_of_names_are_told_without_the_engines_own_code(bench: Bench) -> None:
    bench.namespace.names["thing"] = object()
    tasks = [
        bench.order(Kind.PULL, (["nothing"], True)),
        bench.order(Kind.PULL, (["thing", "1 / 0"], False)),
        bench.submit(Reference("nothing")),
    ]
    done = bench.run()
    for task in tasks:
        text = "\n".join(decode(done[task][1]).traceback)
        assert "KeyError" not in text and "During handling" not in text
    for task in tasks[:2]:
        text = "\n".join(decode(done[task][1]).traceback)
        assert "ipkernel" not in text and 'File "<string>", line 1' in text


def test_a_task_may_clear_the_namespace_before_and_after_it(bench: Bench) -> None:
    bench.order(Kind.PUSH, {"a": 1})
    before = bench.order(Kind.PULL, (["a"], True), clear=Clear.BEFORE)
    bench.order(Kind.PUSH, {"b": 2})
    after = bench.order(Kind.PULL, (["b"], True), clear=Clear.AFTER)
    bench.order(Kind.PUSH, {"c": 3}, clear=Clear.AFTER)
    keys = bench.order(Kind.KEYS)
    done = bench.run()
    assert decode(done[before][1]).ename == "NameError"
    assert loads(done[after][1]) == 2
    assert loads(done[keys][1]) == []


def test_a_damaged_payload_is_an_error(bench: Bench) -> None:
    info = bench.error(bench.assign(Kind.PUSH, [b"\x01garbage"]))
    assert info.ename == "SerializationError"


def test_a_function_that_was_forgotten_is_unknown(bench: Bench) -> None:
    def local(x: int) -> int:
        return x

    for _ in range(2):
        dump_call(local, (1,), {}, bench.cache)  # the second time it goes by its digest
    task = bench.submit(local, 1)
    bench.link.send(ForgetFunctions(list(bench.sent)))
    call = dump_call(local, (1,), {}, bench.cache)
    again = bench.assign(Kind.APPLY, call.pieces, call.digest)
    done = bench.run()
    assert loads(done[task][1]) == 1
    assert decode(done[again][1]).ename == "UnknownFunction"


def test_output_is_complete_when_the_task_is_done(bench: Bench) -> None:
    def prints(stream: Any) -> None:
        sys.modules["ipkernel.engine.current"].state.loop._streams.out.write("no newline")

    bench.value(prints, None)
    assert os.read(bench.pipes[0][0], 1000) == b"\x1b]ipk;1\x07no newline\x1b]ipk;\x07"


def test_code_knows_where_it_runs(bench: Bench) -> None:
    where = bench.value(current)
    assert (where.engine, where.host, where.cluster, where.task) == (3, "here", "test", 1)


def test_current_elsewhere_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="engine"):
        current()
    with pytest.raises(RuntimeError, match="engine"):
        publish_data(1)


def test_published_data_go_out_while_the_task_runs(bench: Bench) -> None:
    bench.value(publish_data, {"i": 1})
    kinds = [(type(m), m.task) for m, _ in bench.messages]
    assert kinds == [(Output, 1), (Done, 1)]
    message, payload = bench.messages[0]
    assert message.stream is Stream.DATA
    assert loads(payload) == {"i": 1}


def test_a_changed_interrupt_handler_is_taken_back(bench: Bench) -> None:
    def changes() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    bench.value(changes)
    assert signal.getsignal(signal.SIGINT) is bench.interrupts._handler


def test_an_interrupt_hits_the_task_and_only_it(bench: Bench) -> None:
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    first, second = bench.submit(interrupted), bench.submit(abs, -1)
    done = bench.run()
    error = decode(done[first][1])
    assert error.ename == "KeyboardInterrupt"
    assert [frame[2] for frame in error.frames] == ["interrupted"], "our handler is not the user's"
    assert not any("interrupts.py" in line for line in error.traceback)
    assert loads(done[second][1]) == 1


@pytest.mark.parametrize("meant", [0, 1, 2, 3, 4])
def test_an_interrupt_may_say_which_task_it_is_for(bench: Bench, meant: int) -> None:
    """It comes while the second of three tasks runs, and is for nobody but that."""

    def interrupted() -> int:
        from ipkernel.engine.current import state

        assert state.loop is not None
        state.loop._progress[1] = meant
        signal.raise_signal(signal.SIGINT)
        return 2

    tasks = [bench.submit(abs, -1), bench.submit(interrupted), bench.submit(abs, -3)]
    done = bench.run()
    assert [loads(done[task][1]) for task in (tasks[0], tasks[2])] == [1, 3]
    if meant in (0, 2):
        assert decode(done[tasks[1]][1]).ename == "KeyboardInterrupt"
    else:
        assert loads(done[tasks[1]][1]) == 2


@pytest.mark.parametrize(("meant", "hits"), [(0, True), (1, False), (2, True), (3, False)])
def test_an_interrupt_for_a_task_that_is_over_is_not_for_the_next(meant: int, hits: bool) -> None:
    """It comes between the first task and the second, which is in the socket already."""
    bench = Bench()
    try:
        bench.loop._ended = bench.progress[0] = 1
        bench.progress[1] = meant
        Interrupting(bench, after=True)
        second = bench.submit(abs, -2)
        done = bench.run()
        if hits:
            assert decode(done[second][1]).ename == "KeyboardInterrupt"
        else:
            assert loads(done[second][1]) == 2
    finally:
        bench.close()


@pytest.fixture(params=["poll", "select", "slices"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "poll":
        monkeypatch.delattr("select.poll")
    if request.param == "slices":  # as on Windows
        monkeypatch.setattr("ipkernel.engine.loop.SLICE", 0.001)


class Interrupting:
    """A socket around whose reads interrupts come."""

    def __init__(self, bench: Bench, *, before: bool = False, after: bool = False) -> None:
        self.sock = bench.theirs
        self.before = before
        self.after = after
        self.sendall = bench.theirs.sendall
        bench.loop._socket = self  # type: ignore[assignment]

    def recv(self, size: int) -> bytes:
        if self.before:
            self.before = False
            signal.raise_signal(signal.SIGINT)
        data = self.sock.recv(size)
        if self.after:
            self.after = False
            signal.raise_signal(signal.SIGINT)
        return data


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_interrupt_that_is_faster_than_its_task_is_not_lost(place: str) -> None:
    bench = Bench()
    try:
        Interrupting(bench, **{place: True})
        first, second = bench.submit(abs, -1), bench.submit(abs, -2)
        done = bench.run()
    finally:
        bench.close()
    assert decode(done[first][1]).ename == "KeyboardInterrupt"
    assert loads(done[second][1]) == 2


def look_first(bench: Bench, act: Any) -> None:
    """Have something happen once, while the loop is about to wait."""
    look, todo = bench.loop._look, [act]

    def watched(timeout: int | None) -> object:
        if timeout is None and todo:
            todo.pop()()
        return look(timeout)

    bench.loop._look = watched


@pytest.mark.usefixtures("look")
def test_an_interrupt_while_a_task_waits_in_the_socket_is_for_it() -> None:
    bench = Bench()
    try:
        task = bench.submit(abs, -1)
        bench.ours.sendall(b"".join(bench.link.data_to_send()))
        look_first(bench, lambda: signal.raise_signal(signal.SIGINT))
        assert bench.error(task).ename == "KeyboardInterrupt"
    finally:
        bench.close()


def sent_after(bench: Bench, data: bytes, act: Any) -> None:
    """Have something happen while the loop is about to wait, and only then send data."""
    acted = threading.Event()
    pieces = iter([[data], []])

    def data_to_send() -> list[bytes]:
        assert acted.wait(20)
        return next(pieces)

    def acts() -> None:
        act()
        acted.set()

    look_first(bench, acts)
    bench.link.data_to_send = data_to_send  # type: ignore[method-assign,assignment]


def all_to_send(bench: Bench) -> bytes:
    return b"".join(b"".join(p) for p in iter(bench.link.data_to_send, []))


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("part", [0.5, 0.000001])
def test_an_interrupt_while_part_of_a_task_has_arrived_is_for_it(part: float) -> None:
    bench = Bench()
    try:
        task = bench.submit(len, bytes(1 << 20))
        data = all_to_send(bench)
        cut = math.ceil(len(data) * part)
        bench.loop._link.receive(data[:cut])
        sent_after(bench, data[cut:], lambda: signal.raise_signal(signal.SIGINT))
        assert bench.error(task).ename == "KeyboardInterrupt"
    finally:
        bench.close()


@pytest.mark.usefixtures("look")
def test_an_interrupt_while_there_is_nothing_to_do_is_for_nobody() -> None:
    bench = Bench()
    try:
        task = bench.submit(abs, -1)
        sent_after(bench, all_to_send(bench), lambda: signal.raise_signal(signal.SIGINT))
        assert bench.good(task) == 1
    finally:
        bench.close()


def test_an_interrupt_behind_the_last_task_is_for_nobody(bench: Bench) -> None:
    work = bench.loop._work
    plain = work.kinds[Kind.KEYS]

    def late(payload: Any, digest: bytes) -> Any:
        result = plain(payload, digest)
        signal.raise_signal(signal.SIGINT)  # the task is not open any more
        return result

    work.kinds[Kind.KEYS] = late
    first, second = bench.order(Kind.KEYS), bench.submit(abs, -1)
    done = bench.run()
    assert done[first][0].outcome is Outcome.OK
    assert loads(done[second][1]) == 1


def test_a_flag_left_between_tasks_is_dropped_when_there_is_no_more(bench: Bench) -> None:
    bench.interrupts.open[1] = True
    assert bench.loop._is_due()
    bench.loop._waiting = True
    assert not bench.loop._is_due()


def interrupted_and_silent() -> None:
    """As Python's own callbacks do it: an exception that a signal raises in them goes nowhere."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass


class InterruptedWhileLoaded:
    def __reduce__(self) -> Any:
        return interrupted_and_silent, ()


@pytest.mark.parametrize("kind", [Kind.APPLY, Kind.MAP, Kind.EXECUTE, Kind.PUSH, Kind.PULL])
def test_an_interrupt_while_a_task_is_loaded_is_not_lost(bench: Bench, kind: Kind) -> None:
    trap = InterruptedWhileLoaded()
    if kind in (Kind.APPLY, Kind.MAP):
        first = bench.submit(repr, [[trap]], kind=kind)
    else:
        values = {
            Kind.EXECUTE: ("1", {"filename": trap}),
            Kind.PUSH: {"a": trap},
            Kind.PULL: (["int", trap], False),
        }
        first = bench.order(kind, values[kind])
    second = bench.submit(abs, -1)
    done = bench.run()
    assert decode(done[first][1]).ename == "KeyboardInterrupt"
    assert loads(done[second][1]) == 1


def test_a_held_interrupt_comes_at_the_end() -> None:
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    interrupts.install()
    reached = False
    try:
        interrupts.open[0] = True
        with pytest.raises(KeyboardInterrupt):
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                reached = True
    finally:
        interrupts.open[0] = False
        signal.signal(signal.SIGINT, before)
    assert reached


def test_a_result_does_not_wait_for_the_long_task_behind_it(bench: Bench) -> None:
    """The second task waits until the first one's result has been seen by the other side."""
    seen = threading.Event()
    received: list[Any] = []

    def wait() -> bool:
        return seen.wait(20)

    work = bench.loop._work
    plain = work.kinds[Kind.KEYS]
    calls = iter([plain, lambda payload, digest: dumps(wait())])
    work.kinds[Kind.KEYS] = lambda payload, digest: next(calls)(payload, digest)
    bench.loop._last = 0.0  # as if tasks had been taking microseconds
    for _ in range(2):
        bench.order(Kind.KEYS)
    bench.ours.sendall(b"".join(bench.link.data_to_send()))

    def watch() -> None:
        while len(received) < 2 and (data := bench.ours.recv(1 << 16)):
            received.extend(bench.link.receive(data))
            seen.set()
        bench.ours.shutdown(socket.SHUT_WR)

    watcher = threading.Thread(target=watch)
    watcher.start()
    bench.loop.run()
    watcher.join()
    assert loads(received[1][1]) is True


def test_a_child_that_returns_into_the_loop_ends_there(bench: Bench) -> None:
    def forks() -> int:
        from ipkernel.engine.current import state

        pid = os.fork()
        if pid == 0:
            state.forked = True  # what the hook of a real engine does
            return 0
        return pid

    task = bench.submit(forks)
    done = bench.run()
    assert list(done) == [task]
    assert os.waitpid(loads(done[task][1]), 0)[1] == 0


def test_a_signal_handler_that_raises_between_tasks_does_no_harm(bench: Bench) -> None:
    class Rude:
        """A socket whose first read is interrupted by a user's handler."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.count = 0

        def recv(self, size: int) -> bytes:
            self.count += 1
            if self.count == 1:
                raise RuntimeError("a handler of the user")
            return self.sock.recv(size)

        def sendall(self, data: Any) -> None:
            self.sock.sendall(data)

    bench.loop._socket = Rude(bench.theirs)  # type: ignore[assignment]
    assert bench.value(abs, -2) == 2


def test_time_is_not_wasted_between_tasks(bench: Bench) -> None:
    """Stamps of consecutive tasks do not overlap and come from the wall clock."""
    before = time.time()
    for _ in range(20):
        bench.submit(abs, 1)
    done = [message for message, _ in bench.run().values()]
    assert before <= done[0].started
    assert all(a.completed <= b.started for a, b in zip(done, done[1:], strict=False))
