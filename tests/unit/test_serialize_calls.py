"""Calls as bytes, and the source text that goes along."""

from __future__ import annotations

import datetime
import enum
import linecache
import operator
import threading
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload, sources
from ipkernel.serialize.fingerprint import fingerprint
from ipkernel.serialize.functions import (
    FunctionStore,
    dump_call,
    load_call,
)
from ipkernel.serialize.reference import Reference
from tests.support.calling import Engine, Main, engine, no_namespace, ns

__all__ = ["engine", "no_namespace", "ns"]


def map_list(f, values):
    return [f(value) for value in values]


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize("func", [lambda *a, **k: (a, k), dict])
@given(
    args=st.lists(st.integers() | st.text()),
    kwargs=st.dictionaries(st.text("ab", min_size=1), st.integers()),
)
def test_arguments_arrive(func, args, kwargs):
    engine = Engine()
    for _ in range(2):
        _, got_args, got_kwargs = engine.load(func, *args, **kwargs)
        assert got_args == tuple(args)
        assert got_kwargs == kwargs


def test_large_arguments_are_not_copied(engine):
    array = np.arange(100_000.0)
    func = Main("f = lambda a: a")["f"]
    for _ in range(2):
        call = dump_call(func, (array,), {}, engine.cache)
        engine.store.add(call.digest, call.blob)
        assert any(type(p) is memoryview for p in call.pieces)
        data = bytearray(payload.join(call.pieces))
        _, (again,), _ = load_call(data, engine.store, call.digest)
        assert np.array_equal(again, array)
        base = np.frombuffer(data, dtype=np.uint8)
        assert np.shares_memory(again, base)
        offset = again.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        assert offset % payload.ALIGNMENT == 0


def test_other_sequences_and_mappings_are_accepted(engine):
    call = dump_call(operator.add, [1, 2], {}, engine.cache)
    func, args, kwargs = load_call(payload.join(call.pieces), engine.store)
    assert func(*args, **kwargs) == 3


def test_references_are_resolved_on_the_engine(engine, ns):
    ns.update(a=5, g=lambda x: -x)
    main = Main("def f(*a, **k): return a, k")
    for _ in range(3):
        assert engine.call(main["f"], Reference("a"), [Reference("a")], k=Reference("a + 1")) == (
            (5, [5]),
            {"k": 6},
        )
        assert engine.call(Reference("g"), 3) == -3
        assert engine.call(main["f"], 1, object) == ((1, object), {})
    with pytest.raises(NameError):
        engine.call(Reference("nothing"))


@pytest.mark.parametrize("use", [payload.use_pickle, payload.use_cloudpickle])
def test_references_are_found_by_every_pickler(engine, ns, use):
    ns["a"] = 5
    use()
    try:
        assert engine.call(operator.neg, Reference("a")) == -5
    finally:
        payload.use_cloudpickle()


def test_no_reference_no_flag(engine):
    call = dump_call(operator.add, (np.zeros(3), 2), {}, engine.cache)
    assert not any(p[0] & payload.REFERENCES for p in call.pieces[1:2])


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (({"lock": 1}, 2), {}, None),
        ((threading.Lock(),), {}, "argument 1"),
        ((1, {"lock": threading.Lock()}), {}, "argument 2['lock']"),
        ((), {"x": [threading.Lock()]}, "argument 'x'[0]"),
    ],
)
def test_the_argument_to_blame_is_named(engine, args, kwargs, path):
    if path is None:
        engine.load(len, *args, **kwargs)
        return
    with pytest.raises(SerializationError) as info:
        engine.load(len, *args, **kwargs)
    assert info.value.path == path
    assert str(info.value) == (
        f"cannot send {path}: TypeError: cannot pickle '_thread.lock' object"
    )


def test_the_global_of_the_function_to_blame_is_named(engine):
    main = Main("import threading\nlock = threading.Lock()\ndef f(): return lock")
    with pytest.raises(
        SerializationError, match="cannot send the function 'f', global 'lock': TypeError"
    ):
        engine.call(main["f"])


def test_a_module_that_is_missing_on_the_engine_is_named(engine):
    call = dump_call(map_list, (), {}, engine.cache)
    data = payload.join(call.pieces).replace(b"map_list", b"mop_list")
    with pytest.raises(SerializationError, match="mop_list"):
        load_call(data, engine.store)


@given(st.data())
def test_cut_off_calls_are_refused(data):
    engine = Engine()
    func = data.draw(st.sampled_from([len, Main("f = lambda: 1")["f"]]))
    whole = payload.join(dump_call(func, (np.arange(3000), 2), {}, engine.cache).pieces)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(SerializationError):
        load_call(whole[:cut], engine.store)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x20", b"\x20\0\0\0\xff\xff\xff\xff", payload.dumps_bytes(3)]
)
def test_garbage_is_refused(data):
    store = FunctionStore()
    store.add(b"d", payload.dumps_bytes(len))
    for digest in (b"", b"d"):
        with pytest.raises(SerializationError):
            load_call(data, store, digest)


# ---------------------------------------------------------------- source text


def test_source_text_travels(engine, tmp_path):
    file = tmp_path / "script.py"
    text = "\n\n\nk = 0\ndef f():\n    return 1 / k  # here\n\ndef g():\n    return f()\n"
    file.write_text(text)
    main = Main().run(text, str(file))
    call = dump_call(main["g"], (), {}, engine.cache)
    file.unlink()
    linecache.clearcache()
    func, _, _ = load_call(payload.join(call.pieces), engine.store)
    with pytest.raises(ZeroDivisionError) as info:
        func()
    shown = "".join(traceback.format_exception(info.value))
    assert "return 1 / k  # here" in shown
    assert "return f()" in shown
    linecache.checkcache()
    assert linecache.getline(str(file), 6) == "    return 1 / k  # here\n"


def test_the_file_of_the_engine_wins_if_it_is_there(tmp_path):
    file = tmp_path / "there.py"
    file.write_text("a\nb\n")
    sources.register((str(file), 1, "other\n"))
    assert linecache.getline(str(file), 1) == "a\n"


def test_interactive_text_is_merged_and_replaced():
    name = "<ipython-input-7-abc>"
    sources.register((name, 3, "def f():\n    return 1\n"))
    sources.register((name, 1, "k = 1\n"))
    assert linecache.getlines(name) == ["k = 1\n", "\n", "def f():\n", "    return 1\n"]
    sources.register((name, 3, "def f():\n    return 2\n"))
    sources.register((name, 3, "def f():\n    return 2\n"))
    assert linecache.getline(name, 4) == "    return 2\n"
    linecache.cache[name] = (1, None, ["from elsewhere\n"], name)
    sources.register((name, 2, "added\n"))
    assert linecache.getlines(name) == ["from elsewhere\n", "added\n"]


@pytest.mark.parametrize("first", [0, -1, 10**9])
def test_lines_that_cannot_be_are_ignored(first):
    sources.register((f"<nowhere-{first}>", first, "x\n"))
    assert linecache.getlines(f"<nowhere-{first}>") == []


def test_long_or_missing_source_is_not_sent(tmp_path):
    assert sources.source_of(Main("f = lambda: 1")["f"].__code__) is None
    file = tmp_path / "long.py"
    text = "def f():\n" + "    x = 1\n" * 40_000
    file.write_text(text)
    main = Main().run(text, str(file))
    assert sources.source_of(main["f"].__code__) is None


def test_immutable_values_of_the_standard_library_can_be_watched():
    main = Main("f = lambda: d")
    main["d"] = datetime.timedelta(1)
    assert fingerprint(main["f"]).stable

    class Color(enum.Enum):
        RED = 1

    main["d"] = Color.RED
    assert not fingerprint(main["f"]).stable
