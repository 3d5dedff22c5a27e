"""What users give that cannot work: each time a clear error, and nobody else notices."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

import psutil
import pytest

import ipkernel
from ipkernel.errors import (
    CompositeError,
    EngineLost,
    InvalidEngineID,
    KernelError,
    NoEnginesRegistered,
    RemoteError,
    SerializationError,
    TaskAborted,
)
from tests.integration.faults_support import PATIENCE, Controller, shared_cluster, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with shared_cluster(tmp_path_factory.mktemp("bad-input")) as cluster:
        yield cluster


@pytest.fixture
def rc(shared):
    yield shared.rc
    shared.check()


@pytest.fixture(scope="module")
def lonely(tmp_path_factory):
    """A client of a controller without engines."""
    with Controller(tmp_path_factory.mktemp("lonely") / "cluster_lonely") as controller:
        with ipkernel.Client(cluster_dir=controller.directory) as rc:
            yield rc
        controller.stop()


def caught(kind, function, *arguments):
    """Return the text of the exception; it must be of ``kind`` and made of one line."""
    with pytest.raises(kind) as info:
        function(*arguments)
    return str(info.value)


# ------------------------------------------------------------------------------------- arguments


def test_arguments_that_cannot_be_sent(rc):
    value = {"a": [1, threading.Lock()]}
    why = "TypeError: cannot pickle '_thread.lock' object"
    text = f"cannot send argument 1['a'][1]: {why}"
    for view in (rc[0], rc[:], rc.load_balanced_view()):
        assert caught(SerializationError, view.apply_sync, len, value) == text
    named = "cannot send argument 'key'"
    with pytest.raises(SerializationError) as info:
        rc[0].apply_sync(dict, key=value)
    assert str(info.value) == f"{named}['a'][1]: {why}"
    assert info.value.path == "argument 'key'['a'][1]"
    push = caught(SerializationError, lambda: rc[0].push({"name": threading.Lock()}))
    assert push == f"cannot send the value['name']: {why}"


def test_functions_that_cannot_be_sent(rc):
    def make():
        guard = threading.Lock()
        return lambda: guard

    for view in (rc[0], rc.load_balanced_view()):
        text = caught(SerializationError, view.apply_sync, make())
        assert "free variable 'guard': TypeError: cannot pickle" in text
        assert "make.<locals>.<lambda>" in text


def test_items_that_cannot_be_sent(rc):
    items = [*range(20), threading.Lock()]
    for view in (rc[:], rc.load_balanced_view()):
        text = caught(SerializationError, lambda v=view: v.map_sync(abs, items))
        assert text == "cannot send item 20: TypeError: cannot pickle '_thread.lock' object"
    text = caught(
        SerializationError,
        lambda: rc.load_balanced_view().map_sync(pow, range(3), [1, {"k": threading.Lock()}, 2]),
    )
    assert text.startswith("cannot send item 1 of sequence 2['k']: TypeError")
    wait_for(lambda: not rc.outstanding)  # the chunks before were called back


def test_deep_recursion(rc):
    value = []
    for _ in range(100_000):
        value = [value]
    for view in (rc[0], rc.load_balanced_view()):
        text = caught(SerializationError, view.apply_sync, len, value)
        assert text.startswith("cannot send argument 1[0][0]")
        assert "excessively deep recursion" in text

    def deep():
        value = []
        for _ in range(100_000):
            value = [value]
        return value

    text = caught(SerializationError, rc[0].apply_sync, deep)
    assert text.startswith("[engine 0] SerializationError: cannot send the result[0][0]")

    def endless(number):
        return endless(number + 1)

    with pytest.raises(RecursionError, match="maximum recursion depth exceeded"):
        rc[0].apply_sync(endless, 0)


class Shy:
    """Nothing about it can be told."""

    def __init__(self, what=None):
        self.what = what

    def __call__(self, *arguments):
        return len(arguments)

    def __repr__(self):
        raise ValueError("I do not say")

    __str__ = __repr__


def test_what_has_no_text(rc):
    for view in (rc[0], rc.load_balanced_view()):
        result = view.apply_async(Shy(), Shy(), Shy())
        assert result.get(PATIENCE) == 2
        assert "Shy" in repr(result)
        assert isinstance(view.apply_sync(Shy), Shy)
        text = caught(SerializationError, view.apply_sync, Shy(threading.Lock()))
        assert text.startswith("cannot send the function 'Shy'.what: TypeError: cannot pickle")
        text = caught(SerializationError, view.apply_sync, len, Shy(threading.Lock()))
        assert text.startswith("cannot send argument 1.what: TypeError: cannot pickle")
    assert rc.load_balanced_view().map_sync(Shy(), range(3)) == [1, 1, 1]
    rc[0].execute("class Shy:\n    def __repr__(self):\n        raise ValueError('no')", block=True)
    reply = rc[0].execute("Shy()", silent=False).get(PATIENCE)
    text = "<Shy object without a text: its repr() raised ValueError>"
    assert reply.data == {"text/plain": text}


def test_large_arguments_and_results(shared, rc):
    """200 MB there and back, while others work."""
    size = 200 << 20
    value = bytearray(size)
    value[-3:] = b"end"
    # What a client has open to its host's store stays open as long as it does.
    with ipkernel.Client(cluster_dir=shared.cluster.cluster_dir) as own:
        result = own[0].apply_async(lambda data: (len(data), bytes(data)), value)
        length, back = result.get(90)
    assert (length, len(back), back[-3:]) == (size, size, b"end")


# --------------------------------------------------------------------------------------- results


def test_results_that_cannot_be_sent(rc):
    def lock():
        import threading

        return {"here": [threading.Lock()]}

    for view in (rc[1], rc.load_balanced_view()):
        text = caught(SerializationError, view.apply_sync, lock)
        assert re.fullmatch(
            r"\[engine \d\] SerializationError: cannot send the result\['here'\]\[0\]: "
            r"TypeError: cannot pickle '_thread.lock' object",
            text,
        )
    rc[1].execute("import threading; guard = threading.Lock()", block=True)
    text = caught(SerializationError, lambda: rc[1].pull("guard", block=True))
    assert "[engine 1] SerializationError: cannot send the value: TypeError" in text
    text = caught(
        CompositeError, lambda: rc.load_balanced_view().map_sync(lambda _: lock(), [1, 2])
    )
    assert "SerializationError: cannot send the result[0]['here'][0]: TypeError" in text


def test_exceptions_that_cannot_be_sent(rc):
    class Locked(Exception):
        def __init__(self, text):
            super().__init__(text)
            self.guard = __import__("threading").Lock()

    class Dumb(Exception):
        def __str__(self):
            raise ValueError("I do not say")

        __repr__ = __str__

    class Needy(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def fail(kind, *arguments):
        raise kind(*arguments)

    text = caught(RemoteError, rc[0].apply_sync, fail, Locked, "locked")
    assert text == "[engine 0] Locked: locked"
    text = caught(RemoteError, rc[0].apply_sync, fail, Dumb)
    assert text == "[engine 0] Dumb: <the text of this Dumb cannot be had>"
    text = caught(RemoteError, rc[0].apply_sync, fail, Needy, 1, 2)
    assert text == "[engine 0] Needy: 1 and 2"
    text = caught(RemoteError, rc.load_balanced_view().apply_sync, fail, Locked, "locked")
    assert text.endswith("Locked: locked")


def test_system_exit(rc):
    pids = rc[:].apply_sync(os.getpid)
    assert caught(RemoteError, rc[0].apply_sync, sys.exit, 3) == "[engine 0] SystemExit: 3"
    text = caught(RemoteError, lambda: rc[0].execute("import sys; sys.exit('why')", block=True))
    assert text == "[engine 0] SystemExit: why"
    text = caught(CompositeError, lambda: rc.load_balanced_view().map_sync(sys.exit, [4]))
    assert "SystemExit: 4" in text
    assert rc[:].apply_sync(os.getpid) == pids  # no engine has ended


class Bomb:
    """It can be sent, and fails where it arrives."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return self.how


def test_values_that_cannot_be_loaded(rc):
    """What fails on an engine is told as the engine's failure, what fails here as ours."""
    wrong = Bomb((int, ("x",)))
    why = "ValueError: invalid literal for int() with base 10: 'x'"
    text = caught(SerializationError, rc[0].apply_sync, id, wrong)
    assert text == f"[engine 0] SerializationError: cannot load the arguments: {why}"
    text = caught(SerializationError, rc.load_balanced_view().apply_sync, id, wrong)
    assert text.endswith(f"SerializationError: cannot load the arguments: {why}")
    text = caught(SerializationError, lambda: rc[0].push({"a": wrong}, block=True))
    assert text == f"[engine 0] SerializationError: cannot load the value: {why}"
    text = caught(RemoteError, rc[0].apply_sync, id, Bomb((sys.exit, (9,))))
    assert text == "[engine 0] SystemExit: 9"
    with pytest.raises(EngineLost, match="engine 0 .* exited with code 9"):
        rc[0].apply_sync(id, Bomb((os._exit, (9,))))
    rc.wait_for_engines(3, timeout=PATIENCE)

    def make(kind, arguments):
        class Bomb:
            def __reduce__(self):
                return kind, arguments

        return Bomb()

    for view in (rc[0], rc.load_balanced_view()):
        text = caught(SerializationError, view.apply_sync, make, int, ("x",))
        assert text == f"cannot load the value: {why}"

    def of_a_module_that_is_nowhere_else():
        import types

        module = sys.modules["only_here"] = types.ModuleType("only_here")
        exec("class Thing: pass", module.__dict__)
        return module.Thing()

    text = caught(SerializationError, rc[0].apply_sync, of_a_module_that_is_nowhere_else)
    assert text == "cannot load the value: ModuleNotFoundError: No module named 'only_here'"


# ----------------------------------------------------------------------- what would break the wire


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("x", TypeError, "retries must be a whole number, not 'x'"),
        (None, TypeError, "retries must be a whole number, not None"),
        (1.5, TypeError, "retries must be a whole number, not 1.5"),
        (-1, ValueError, "retries must be from 0 to 1048576, not -1"),
        (1 << 70, ValueError, f"retries must be from 0 to 1048576, not {1 << 70}"),
    ],
)
def test_retries_that_are_none(rc, value, kind, text):
    view = rc.load_balanced_view()
    assert caught(kind, lambda: setattr(view, "retries", value)) == text
    assert caught(kind, lambda: rc.load_balanced_view(retries=value)) == text
    assert caught(kind, lambda: view.set_flags(retries=value)) == text
    assert view.retries == 0
    assert view.apply_sync(abs, -1) == 1


@pytest.mark.parametrize(
    ("label", "kind", "text"),
    [
        (5, TypeError, "a label must be a str, not int"),
        (b"x", TypeError, "a label must be a str, not bytes"),
        ("x" * 257, ValueError, "a label may have 256 characters, not 257"),
        ("\udc80", UnicodeEncodeError, "surrogates not allowed"),
    ],
)
def test_labels_that_are_none(rc, label, kind, text):
    """A label that the controller would not take does not cost the connection."""
    for view in (rc[0], rc[:], rc.load_balanced_view()):
        view.label = label
        assert text in caught(kind, view.apply_async, abs, -1)
        view.label = ""
        assert text in caught(kind, lambda v=view: v.map_async(abs, [1], label=label))
    assert text in caught(kind, lambda: rc[0].execute("1", label=label))
    assert text in caught(kind, lambda: rc[:].scatter("a", [1, 2], label=label))
    assert text in caught(kind, lambda: rc[:].push({"a": 1}, label=label))
    view.label = None
    assert view.apply_sync(abs, -1) == 1
    assert not rc.outstanding


@pytest.mark.parametrize("task", [1 << 70, 1 << 62, -(10**30)])
def test_tasks_that_cannot_be(rc, task):
    for ask in (rc.get_result, rc.abort, rc.result_status, rc.purge_results):
        assert f"there is no task {task}" in caught(KernelError, ask, task)
    assert f"there is no task {task}" in caught(KernelError, rc.explain, [task])


def test_tasks_that_are_not_known(rc):
    text = caught(KernelError, lambda: rc.get_result(10**6).get(PATIENCE))
    assert (
        text == "task 1000000 is not known: its result was fetched or has expired, or it never was"
    )
    (story,) = rc.explain([10**6])
    assert story.state == "unknown"


@pytest.mark.parametrize("sig", ["HUH", 9999, -1])
def test_signals_that_there_are_not(rc, sig):
    assert str(sig) in caught(ValueError, rc.send_signal, sig)


# ------------------------------------------------------------------------------------------ code


def test_code_that_is_no_code(rc):
    with pytest.raises(SyntaxError) as info:
        rc[0].execute("a = = 3", block=True)
    assert re.fullmatch(
        r"\[engine 0\] SyntaxError: invalid syntax \(<cell \d+>, line 1\)", str(info.value)
    )
    with pytest.raises(CompositeError) as info:
        rc[:].execute("def f(:\n    pass", block=True)
    assert [ename for ename, *_ in info.value.elist] == ["SyntaxError"] * 3
    assert [engine["engine"] for *_, engine in info.value.elist] == [0, 1, 2]
    text = caught(RemoteError, lambda: rc[0].execute("a\0b", block=True))
    assert "null bytes" in text
    text = caught(UnicodeEncodeError, lambda: rc[0].execute("a = '\udc80'", block=True))
    assert "surrogates not allowed" in text
    for code in (3, None, b"1 + 1", ["1"]):
        text = caught(TypeError, lambda c=code: rc[0].execute(c))
        assert text == f"the code to execute must be a str, not {type(code).__name__}"


def test_names_that_are_none(rc):
    text = caught(NameError, lambda: rc[0].pull("nobody", block=True))
    assert "name 'nobody' is not defined" in text
    text = caught(SyntaxError, lambda: rc[0].pull("no body", block=True))
    assert "invalid syntax" in text


# --------------------------------------------------------------------------------------- targets


def test_engines_that_are_not_there(rc):
    assert caught(InvalidEngineID, lambda: rc[7]) == "there is no engine 7: there are 0, 1, 2"
    assert caught(IndexError, lambda: rc[-7]) == "there is no engine -7: there are 0, 1, 2"
    assert caught(InvalidEngineID, lambda: rc[[0, 9]]).startswith("there is no engine 9")
    text = caught(InvalidEngineID, lambda: rc.load_balanced_view([1, 5]))
    assert text.startswith("there is no engine 5")
    text = caught(
        InvalidEngineID, lambda: rc[:].apply_sync(abs, -1) and rc[:].execute("1", targets=8)
    )
    assert text.startswith("there is no engine 8")
    assert "not 'x'" in caught(TypeError, lambda: rc["x"])
    text = caught(TypeError, lambda: rc.direct_view("some"))
    assert text == "targets must be engine ids, a slice or 'all'; not 'some'"


def test_no_engines(lonely):
    with pytest.raises(TimeoutError) as info:
        lonely.wait_for_engines(2, timeout=0.2)
    assert str(info.value) == (
        "2 engines not ready in 0.2 seconds. Currently ready: 0\n"
        "no host daemon has connected: see the logs of the launcher and of ipdaemon"
    )
    view = lonely[:]
    text = "there are no engines: wait for them with wait_for_engines(), or start some"
    for call in (
        lambda: view.apply_sync(abs, -1),
        lambda: view.map_sync(abs, [1]),
        lambda: view.execute("1"),
        lambda: view.push({"a": 1}),
        lambda: view.pull("a"),
        lambda: view.scatter("a", [1, 2]),
    ):
        assert caught(NoEnginesRegistered, call) == text
    assert (
        caught(InvalidEngineID, lambda: lonely[0]) == "there is no engine 0: there are no engines"
    )
    assert "no engines" in caught(NoEnginesRegistered, lambda: lonely.send_signal("INT"))


def test_no_engines_for_balanced_calls(lonely):
    """They wait; who asks is told what for."""
    view = lonely.load_balanced_view()
    result = view.apply_async(abs, -1)
    text = caught(TimeoutError, result.get, 0.2)
    assert text == (
        "the result is not ready after 0.2 s: 1 of 1 task of 'abs' pending; there are no engines"
    )
    (story,) = lonely.explain(result.msg_ids)
    assert story.reason == "no engines: it waits for one to join"
    many = view.map_async(abs, range(4), chunksize=1)
    assert "4 of 4 tasks of 'abs' pending; there are no engines" in caught(
        TimeoutError, many.get, 0.1
    )
    lonely.abort()
    with pytest.raises(TaskAborted, match="cancelled before it began, while it waited"):
        result.get(PATIENCE)
    with pytest.raises(CompositeError, match="TaskAborted: cancelled before it began"):
        many.get(PATIENCE)


# ------------------------------------------------------------------------------------- behaviour


def test_interrupted_tasks(rc):
    results = [rc[i].apply_async(time.sleep, 100) for i in (0, 1)]
    balanced = rc.load_balanced_view(2).apply_async(time.sleep, 100)
    running = [*results, balanced]
    tasks = [result.msg_ids[0] for result in running]
    wait_for(lambda: all(story.state == "running" for story in rc.explain(tasks)))
    rc.send_signal(signal.SIGINT, targets=[0, 1, 2])
    for engine, result in enumerate(running):
        text = caught(RemoteError, result.get, PATIENCE)
        assert text == f"[engine {engine}] KeyboardInterrupt"
    rc.send_signal(signal.SIGINT)  # nobody is busy: nothing happens


def test_floods_of_output(rc):
    """50 MB: a client keeps 10 MB and says so; nobody else waits for long."""

    def flood(lines):
        for _ in range(lines):
            print("x" * 1023)
        return lines

    result = rc[0].apply_async(flood, 50 << 10)
    assert result.get(60) == 50 << 10
    assert (9 << 20) < len(result.stdout) <= (10 << 20)
    assert result.stderr.strip() == "[output stopped here: the task printed more than 10 MB]"


def test_closed_standard_output(shared, rc):
    def close():
        import os

        os.close(1)
        return 5

    try:
        assert rc[0].apply_sync(close) == 5
        assert rc[0].apply_sync(abs, -2) == 2
        text = caught(OSError, rc[0].apply_sync, print, "hello")
        assert text == "[engine 0] OSError: [Errno 9] Bad file descriptor"
        result = rc[0].apply_async(lambda: __import__("sys").stderr.write("still here\n"))
        assert result.get(PATIENCE) == 11
        assert result.stderr == "still here\n"
    finally:
        rc.shutdown(0, restart=True)
    wait_for(lambda: rc[0].apply_async(print, "new").get(PATIENCE) is None)


def test_children_do_not_outlive_their_engine(rc):
    def spawn():
        import os
        import subprocess
        import time

        pids = [
            subprocess.Popen(["sleep", "1000"], start_new_session=own).pid for own in (True, False)
        ]
        for setsid in (True, False):
            pid = os.fork()
            if not pid:
                if setsid:
                    os.setsid()
                time.sleep(1000)
                os._exit(0)
            pids.append(pid)
        return pids

    children = [psutil.Process(pid) for pid in rc[1].apply_sync(spawn)]
    assert rc[1].apply_sync(abs, -3) == 3  # they do not disturb their engine
    assert all(child.is_running() for child in children)
    rc[1].apply_async(os._exit, 0).wait(PATIENCE)
    assert psutil.wait_procs(children, 10)[1] == []


def test_tasks_that_are_named_by_their_label(rc):
    told = caught(KernelError, rc.get_result, "squares")
    assert told.startswith("'squares' is not the id of a task")
    assert told.endswith("if it is a label, get_result() and explain() take label='squares'")
    assert "label" not in caught(KernelError, rc.abort, 3.5j)
