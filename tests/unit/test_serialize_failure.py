"""Exceptions as data: bounds, source lines, hostile exceptions."""

from __future__ import annotations

import io
import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import RemoteError, SerializationError
from ipkernel.serialize import failure, payload
from ipkernel.serialize.failure import (
    ErrorInfo,
    ItemFailure,
    decode,
    describe,
    encode,
    to_exception,
    unwrap_exception,
    wrap_exception,
)

INFO = {"engine": 3, "host": "nodea", "pid": 77, "method": "apply"}


def caught(func, *args):
    try:
        func(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def divide(a, b):
    return a / b  # the line that fails


def test_an_ordinary_error_is_described():
    info = describe(caught(divide, 1, 0), engine_info=INFO)
    assert (info.ename, info.evalue) == ("ZeroDivisionError", "division by zero")
    assert info.engine_info == INFO
    assert info.traceback[0] == "Traceback (most recent call last):"
    assert info.traceback[-1] == "ZeroDivisionError: division by zero"
    filename, lineno, name, line = info.frames[-1]
    assert (filename, lineno, name) == (__file__, divide.__code__.co_firstlineno + 1, "divide")
    assert line == "return a / b  # the line that fails"
    assert any(line in text for text in info.traceback)


def test_it_survives_the_wire_and_becomes_an_exception():
    info = describe(caught(divide, 1, 0), engine_info=INFO)
    again = decode(encode(info))
    assert again == info
    exc = to_exception(again)
    assert isinstance(exc, ZeroDivisionError)
    assert str(exc) == "[engine 3] ZeroDivisionError: division by zero"
    assert "return a / b  # the line that fails" in exc.traceback


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.builds(
        ErrorInfo,
        ename=texts,
        evalue=texts,
        traceback=st.lists(texts),
        frames=st.lists(st.tuples(texts, st.integers(0, 10**6), texts, texts)),
        pickled=st.none() | st.binary(),
        engine_info=st.dictionaries(texts, texts | st.integers(0, 1000)),
    )
)
def test_any_info_survives_the_wire(info):
    assert decode(encode(info)) == info


@given(st.binary())
def test_garbage_is_refused(data):
    try:
        info = decode(data)
    except SerializationError:
        return
    assert isinstance(info, ErrorInfo)


def test_cut_off_data_are_refused():
    data = encode(describe(ValueError("x")))
    for n in range(len(data)):
        with pytest.raises(SerializationError, match="cannot load the error"):
            decode(data[:n])


def test_frames_of_the_machinery_are_hidden():
    machinery = types.ModuleType("machinery")
    exec(
        compile(
            "def run(f):\n    return inner(f)\ndef inner(f):\n    return f()\n",
            "machine.py",
            "exec",
        ),
        machinery.__dict__,
    )

    def user():
        return machinery.run(lambda: divide(1, 0))

    exc = caught(machinery.run, user)
    names = [name for _, _, name, _ in describe(exc, hide_until="machine.py").frames]
    # What the user calls again is the user's business.
    assert names == ["user", "run", "inner", "<lambda>", "divide"]
    everything = [name for _, _, name, _ in describe(exc).frames]
    assert everything == ["caught", "run", "inner", *names]
    by_code = describe(exc, hide_until=machinery.inner.__code__).frames
    assert [name for _, _, name, _ in by_code] == names
    assert len(describe(exc, hide_until="elsewhere.py").frames) == len(everything)


def test_nothing_is_hidden_if_nothing_would_be_left():
    exc = caught(divide, 1, 0)
    assert describe(exc, hide_until=__file__).frames[-1][2] == "divide"


def test_causes_and_contexts_are_in_the_text():
    def chained():
        try:
            divide(1, 0)
        except ZeroDivisionError as exc:
            try:
                raise KeyError("middle")
            except KeyError:
                raise ValueError("last") from exc

    text = "\n".join(describe(caught(chained)).traceback)
    assert "direct cause of the following exception" in text
    assert "ZeroDivisionError: division by zero" in text
    assert text.endswith("ValueError: last")


def test_notes_are_in_the_text_and_on_the_exception():
    exc = ValueError("x")
    exc.add_note("look here")
    info = describe(exc)
    assert "look here" in info.traceback
    assert to_exception(info).__notes__ == ["look here"]


def test_groups_are_rendered():
    text = "\n".join(describe(ExceptionGroup("many", [ValueError("a"), KeyError("b")])).traceback)
    assert "ValueError: a" in text
    assert "KeyError: 'b'" in text


def test_long_recursion_is_cut_in_the_middle():
    def down(n):
        return up(n - 1) if n else divide(1, 0)

    def up(n):
        return down(n)

    info = describe(caught(down, 200))
    assert len(info.frames) == failure.MAX_FRAMES + 1
    assert info.frames[-1][2] == "divide"
    assert any(line.strip().endswith("frames left out") for line in info.traceback)
    assert len(info.traceback) < 4 * failure.MAX_FRAMES


def test_a_real_recursion_error_is_described():
    def forever():
        return forever()

    info = describe(caught(forever))
    assert info.ename == "RecursionError"
    assert isinstance(to_exception(info), RecursionError)


def test_long_texts_are_cut():
    info = describe(ValueError("x" * 10_000_000))
    assert len(info.evalue) <= failure.MAX_TEXT
    assert "characters left out" in info.evalue
    assert sum(map(len, info.traceback)) < 3 * failure.MAX_TEXT
    again = to_exception(info)
    assert isinstance(again, ValueError)
    assert again.args[0].startswith("xxx")
    assert len(again.args[0]) <= failure.MAX_TEXT


def test_many_lines_are_cut():
    info = describe(ValueError("line\n" * 10_000))
    assert len(info.traceback) == failure.MAX_LINES + 1
    assert any("lines left out" in line for line in info.traceback)


def test_long_chains_are_cut():
    exc = None
    for i in range(3000):
        new = ValueError(i)
        new.__context__ = exc
        exc = new
    info = describe(exc)
    assert info.ename == "ValueError"
    assert len(info.traceback) <= failure.MAX_LINES + 1


def test_colours_are_taken_out():
    info = describe(ValueError("\x1b[31mred\x1b[0m"))
    assert info.traceback[-1] == "ValueError: red"


def test_lone_surrogates_can_be_encoded():
    exc = ValueError("\ud800")
    assert decode(encode(describe(exc))).evalue == "\\ud800"


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class BadRepr(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")


class ExitsInStr(Exception):
    def __str__(self):
        raise SystemExit(1)


class BadReduce(Exception):
    def __reduce__(self):
        raise RuntimeError("not me")


class ExitsInReduce(Exception):
    def __reduce__(self):
        raise KeyboardInterrupt


class BadDict(Exception):
    @property
    def __dict__(self):
        raise RuntimeError("nothing to see")


class BadAttribute(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "cls", [BadStr, BadRepr, ExitsInStr, BadReduce, ExitsInReduce, BadDict, BadAttribute]
)
def test_hostile_exceptions_are_described(cls):
    def fail():
        raise cls("x")

    exc = None
    try:
        fail()
    except cls as caught_one:
        exc = caught_one
    info = describe(exc, engine_info=INFO)
    assert info.ename == cls.__name__
    assert info.traceback
    made = to_exception(decode(encode(info)))
    assert isinstance(made, RemoteError)
    assert made.ename == cls.__name__


def test_what_cannot_be_pickled_is_left_out_of_the_exception():
    exc = ValueError("text", threading.Lock())
    exc.lock = threading.Lock()
    exc.number = 4
    made = to_exception(describe(exc))
    assert isinstance(made, ValueError)
    assert made.args[0] == "text"
    assert made.args[1].startswith("<unlocked _thread.lock")
    assert made.number == 4
    assert not hasattr(made, "lock")


def test_what_is_too_large_is_left_out_of_the_exception():
    error = ValueError("text", bytes(2 << 20))
    error.array = np.zeros(1 << 20)
    error.small = 5
    again = to_exception(decode(encode(describe(error))))
    assert isinstance(again, ValueError)
    assert again.original.small == 5
    assert not hasattr(again.original, "array")
    assert again.original.args[0] == "text"
    assert again.original.args[1].startswith("b'")
    assert "characters left out" in again.original.args[1]


def test_what_is_too_large_in_many_parts_is_told():
    error = ValueError("text")
    error.parts = [bytes(900_000) for _ in range(3)]
    for number in range(3):
        setattr(error, f"part{number}", bytes(900_000))
    info = describe(error)
    assert info.pickled is None
    assert info.evalue == "text"


def test_arrays_in_exceptions_survive():
    exc = ValueError("text", np.arange(100.0))
    exc.table = np.arange(20_000.0)
    exc.view = memoryview(bytes(70_000))
    made = to_exception(describe(exc))
    assert np.array_equal(made.args[1], np.arange(100.0))
    assert np.array_equal(made.table, exc.table)
    assert made.view == exc.view


def test_a_broken_reference_to_the_object_is_not_sent():
    class Huge:
        def __init__(self):
            self.data = bytes(5_000_000)

    exc = caught(lambda: Huge().missing)
    info = describe(exc)
    assert len(info.pickled) < 10_000
    assert to_exception(info).name == "missing"


def test_an_exception_without_traceback():
    info = describe(KeyError("k"))
    assert info.frames == []
    assert info.traceback == ["KeyError: 'k'"]
    assert info.engine_info == {}


def test_wrap_and_unwrap():
    with pytest.raises(RuntimeError, match="being handled"):
        wrap_exception()
    try:
        divide(1, 0)
    except ZeroDivisionError:
        content = wrap_exception(INFO)
    assert content["status"] == "error"
    assert content["ename"] == "ZeroDivisionError"
    assert isinstance(unwrap_exception(content), ZeroDivisionError)
    assert unwrap_exception({"ename": "E", "evalue": "x", "traceback": []}).ename == "E"


def test_an_uncaught_remote_error_shows_the_remote_lines_in_plain_python():
    exc = to_exception(describe(caught(divide, 1, 0), engine_info=INFO))
    file = io.StringIO()
    import traceback

    traceback.print_exception(exc, file=file)
    assert "the line that fails" in file.getvalue()
    assert "[engine 3] ZeroDivisionError: division by zero" in file.getvalue()


def test_ipython_shows_the_remote_lines():
    core = pytest.importorskip("IPython.core.interactiveshell")
    if core.InteractiveShell.initialized():
        pytest.skip("there is a shell already")
    exc = to_exception(describe(caught(divide, 1, 0), engine_info=INFO))
    assert exc._render_traceback_()[0] == "[3:apply]: "
    assert sys.exception() is None


def test_a_failed_item_travels_among_results():
    failed = ItemFailure(encode(describe(caught(divide, 1, 0), engine_info=INFO)))
    first, second = payload.loads(payload.dumps_bytes([1, failed]))
    assert first == 1
    error = second.load()
    assert isinstance(error, ZeroDivisionError)
    assert error.engine_info["engine"] == INFO["engine"]
    with pytest.raises(SerializationError):
        ItemFailure(b"no such thing").load()
