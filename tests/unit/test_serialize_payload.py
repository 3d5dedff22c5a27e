"""Values as bytes: round trips, zero copy, damage, and naming what cannot be sent."""

from __future__ import annotations

import functools
import pickle
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload
from ipkernel.serialize.functions import (
    FunctionCache,
    FunctionStore,
    dump_call,
    load_call,
    set_namespace,
)
from ipkernel.serialize.payload import PrePickled, dumps, dumps_bytes, join, loads, size_of
from ipkernel.serialize.pickler import ValuePickler
from ipkernel.serialize.reference import Reference

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
        | st.frozensets(atoms, max_size=5)
    ),
    max_leaves=30,
)


@pytest.fixture(autouse=True)
def cloudpickle_again():
    yield
    payload.use_cloudpickle()


@given(values)
def test_values_survive(value):
    again = loads(dumps_bytes(value))
    assert again == value
    assert type(again) is type(value)


@given(values)
def test_the_fast_path_only_takes_builtin_types(value):
    def exact(v):
        if type(v) in payload.ATOMS:
            return True
        if type(v) in (list, tuple):
            return all(map(exact, v))
        if type(v) is dict:
            return all(map(exact, v)) and all(map(exact, v.values()))
        return False

    assert not payload.is_simple(value) or exact(value)


class SubInt(int):
    pass


@pytest.mark.parametrize(
    ("value", "simple"),
    [
        (((3,), {}), True),
        ([[1, 2], {"a": (1, None)}], True),
        ({"a": {"b": 1.5}}, True),
        (SubInt(3), False),
        ([SubInt(3)], False),
        ({SubInt(3): 1}, False),
        ([len], False),
        ({1}, False),
        (list(range(1000)), False),
        ([[[[[[1]]]]]], False),
        ([object()], False),
    ],
)
def test_what_is_simple(value, simple):
    assert payload.is_simple(value) is simple


def test_simple_values_are_one_small_piece():
    (piece,) = dumps(((3,), {}))
    assert piece[0] == payload.PLAIN
    assert pickle.loads(piece[1:]) == ((3,), {})


def test_large_buffers_are_not_copied_when_sent():
    array = np.arange(100_000.0)
    pieces = dumps({"a": array})
    views = [np.frombuffer(p, dtype=float) for p in pieces if type(p) is memoryview]
    assert len(views) == 1
    assert np.shares_memory(views[0], array)
    assert size_of(pieces) == len(join(pieces))


def test_functions_and_classes_of_modules_are_named():
    values = [struct.pack, functools.partial, pickle.PickleError, np.dtype, SubInt, exact_name]
    again = loads(dumps_bytes(values))
    assert all(one is two for one, two in zip(values, again, strict=True))


def exact_name():
    """Found by its name."""


def test_large_bytes_are_not_copied_when_sent():
    data = bytes(1_000_000)
    assert any(piece is data for piece in dumps([data, object]))
    assert loads(dumps_bytes([data, object])) == [data, object]


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        (bytes, False),
        (memoryview, False),
        (bytearray, True),
        (lambda data: memoryview(bytearray(data)), True),
    ],
)
def test_received_arrays_are_writable_and_share_the_memory_of_data_that_are(kind, shared):
    array = np.arange(10_000)
    data = kind(dumps_bytes(array))
    again = loads(data)
    assert np.array_equal(again, array)
    assert np.shares_memory(again, np.frombuffer(data, dtype=np.uint8)) is shared
    again[:] = 7
    assert np.array_equal(loads(data), again if shared else array)


def test_buffers_are_aligned():
    arrays = [np.full(n, 1, dtype=np.uint8) for n in (4097, 5000, 9999)]
    data = bytearray(dumps_bytes(arrays))
    base = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]
    for again, array in zip(loads(data), arrays, strict=True):
        assert np.array_equal(again, array)
        assert (again.__array_interface__["data"][0] - base) % payload.ALIGNMENT == 0


@pytest.mark.parametrize("extra", [0, 1, 5000])
def test_a_large_first_buffer_begins_in_the_middle_of_a_page(monkeypatch, extra):
    monkeypatch.setattr(payload, "LARGE_BUFFER", 10_000)
    arrays = [np.arange(n, dtype=np.uint8) for n in (10_000, 20_000)]
    values = {"x" * extra: arrays}
    data = bytearray(dumps_bytes(values))
    base = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]
    received = loads(data)["x" * extra]
    assert all(np.array_equal(one, two) for one, two in zip(received, arrays, strict=True))
    assert (received[0].__array_interface__["data"][0] - base) % 4096 == 2048
    monkeypatch.setattr(payload, "LARGE_BUFFER", 10_001)
    small = bytearray(dumps_bytes(values))
    assert len(small) < len(data)
    assert np.array_equal(loads(small)["x" * extra][0], arrays[0])


@pytest.mark.parametrize("count", [4095, 4096])
def test_small_buffers_stay_in_the_pickle(count):
    data = dumps_bytes(np.zeros(count, dtype=np.uint8))
    assert data[0] == (payload.PLAIN if count < 4096 else payload.OUT_OF_BAND)
    assert loads(data).size == count


@given(st.lists(st.integers(0, 20_000), max_size=5))
@settings(max_examples=30)
def test_any_number_of_buffers_survives(sizes):
    arrays = [np.arange(n, dtype=np.int32) for n in sizes]
    again = loads(dumps_bytes(arrays))
    assert all(np.array_equal(a, b) for a, b in zip(again, arrays, strict=True))


def test_fortran_order_and_views_survive():
    f = np.asfortranarray(np.arange(10_000.0).reshape(100, 100))
    every_second = np.arange(20_000.0)[::2]
    again = loads(dumps_bytes([f, every_second]))
    assert again[0].flags.f_contiguous
    assert np.array_equal(again[0], f)
    assert np.array_equal(again[1], every_second)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01", b"\x02", b"\x03abc", b"\xffabc", b"\x02" * 100]
)
def test_garbage_is_refused(data):
    with pytest.raises(SerializationError, match="cannot load"):
        loads(data)


@given(st.data())
def test_cut_off_payloads_are_refused(data):
    whole = dumps_bytes([np.arange(2000), {"a": "b" * 50}])
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(SerializationError):
        loads(whole[:cut])


@given(
    count=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=6),
    rest=st.binary(max_size=400),
)
def test_lengths_that_lie_are_refused(count, lengths, rest):
    head = struct.pack("<BxxxI", payload.OUT_OF_BAND, count)
    data = head + struct.pack(f"<{len(lengths)}Q", *lengths) + bytes([0x80]) + rest
    with pytest.raises(SerializationError):
        loads(data)


# Opcodes that import, call, or reserve memory by a number in the data: a pickle is a program.
_HARMLESS = bytes(set(range(256)) - set(b"rpcRiob\x81\x92\x93qj\x94"))


@given(st.lists(st.sampled_from(_HARMLESS), max_size=60).map(bytes))
def test_random_pickles_give_a_value_or_our_error(data):
    try:
        loads(bytes([payload.PLAIN]) + data)
    except SerializationError as exc:
        assert exc.reason


def test_a_missing_module_is_named():
    blob = b"\x01" + pickle.dumps(SubInt(1)).replace(
        SubInt.__module__.encode(), b"x" * len(SubInt.__module__)
    )
    with pytest.raises(SerializationError, match="No module named 'xxx") as info:
        loads(blob)
    assert isinstance(info.value.__cause__, ModuleNotFoundError)


# ---------------------------------------------------------------- PrePickled


def test_prepickled_arrives_as_the_object():
    array = np.arange(10_000)
    once = PrePickled(array)
    first, number = loads(dumps_bytes((once, 3)))
    assert np.array_equal(first, array)
    assert number == 3
    assert np.array_equal(loads(dumps_bytes(once)), array)
    assert np.array_equal(once.load(), array)
    assert np.array_equal(pickle.loads(pickle.dumps(once, 2)), array)


def test_prepickled_is_pickled_once():
    class Counts:
        pickled = 0

        def __reduce__(self):
            Counts.pickled += 1
            return str, ("arrived",)

    once = PrePickled(Counts())
    assert [loads(dumps_bytes([once])) for _ in range(3)] == [["arrived"]] * 3
    assert Counts.pickled == 1
    assert PrePickled(once).payload is once.payload
    assert "bytes" in repr(once)


def test_a_large_prepickled_is_not_copied_again():
    once = PrePickled(bytes(100_000))
    pieces = dumps([once])
    assert any(type(p) is memoryview and p.obj is once.payload for p in pieces)


# ---------------------------------------------------------------- other picklers


def test_plain_pickle_sends_functions_by_name_only():
    payload.use_pickle()
    assert loads(dumps_bytes([len, {1, 2}])) == [len, {1, 2}]
    array = np.arange(10_000)
    assert np.array_equal(loads(dumps_bytes(array)), array)
    with pytest.raises(SerializationError, match="lambda"):
        dumps(lambda: 1)
    payload.use_cloudpickle()
    assert loads(dumps_bytes(lambda: 1))() == 1


def test_dill_is_optional_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "dill", None)
    with pytest.raises(ImportError, match="pip install dill"):
        payload.use_dill()
    assert loads(dumps_bytes(lambda: 1))() == 1  # the setting is as before
    with pytest.raises(SerializationError, match="dill, which is not installed"):
        loads(bytes([payload.PLAIN | payload.DILL]) + pickle.dumps(1))


def test_dill_round_trip():
    pytest.importorskip("dill")
    payload.use_dill()
    array = np.arange(10_000)
    data = dumps_bytes({"f": lambda x: x + 1, "a": array})
    assert data[0] & payload.DILL
    again = loads(data)
    assert again["f"](1) == 2
    assert np.array_equal(again["a"], array)


class Locked:
    """What the default pickler cannot send."""

    def __init__(self):
        self.lock = threading.Lock()


class LockedPickler(ValuePickler):
    def reducer_override(self, obj):
        return (Locked, ()) if isinstance(obj, Locked) else super().reducer_override(obj)


class BarePickler(pickle.Pickler):
    """Knows nothing of ours."""


def test_ones_own_pickler_is_used():
    with pytest.raises(SerializationError, match="lock"):
        dumps(Locked())
    array = np.arange(10_000)
    for named in (LockedPickler, f"{__name__}:LockedPickler"):
        payload.use_cloudpickle()
        payload.use_pickler(named)
        pieces = dumps([Locked(), array, lambda: 3])
        again = loads(join(pieces))
        assert isinstance(again[0], Locked)
        assert np.array_equal(again[1], array)
        assert again[2]() == 3
        assert sum(p.nbytes for p in pieces if type(p) is memoryview) >= array.nbytes


def test_a_pickler_that_knows_nothing_of_references_is_not_asked():
    payload.use_pickler(BarePickler)
    array = np.arange(10_000)
    message = dump_call(divmod, (array, Reference("n")), {}, FunctionCache())
    set_namespace({"n": 7})
    try:
        func, args, kwargs = load_call(join(message.pieces), FunctionStore())
    finally:
        set_namespace(None)
    assert func is divmod
    assert np.array_equal(args[0], array)
    assert (args[1], kwargs) == (7, {})
    with pytest.raises(SerializationError, match="lambda"):
        dumps(lambda: 1)


@pytest.mark.parametrize(
    ("pickler", "error", "text"),
    [
        ("no_such_module_at_all:X", ModuleNotFoundError, "no_such_module_at_all"),
        ("pickle:NoSuchPickler", AttributeError, "NoSuchPickler"),
        ("pickle.Pickler", TypeError, "named as in 'package.module:Class'"),
        (3, TypeError, "a class like pickle.Pickler, not 3"),
        ("pickle:HIGHEST_PROTOCOL", TypeError, "a class like pickle.Pickler, not 5"),
    ],
)
def test_what_is_no_pickler_is_refused(pickler, error, text):
    with pytest.raises(error, match=text):
        payload.use_pickler(pickler)
    assert loads(dumps_bytes(lambda: 1))() == 1  # the setting is as before


# ---------------------------------------------------------------- what cannot be sent


class Holder:
    def __init__(self, x):
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class BadRepr:
    def __repr__(self):
        raise RuntimeError("no repr")

    def __hash__(self):
        return 1

    def __reduce__(self):
        raise TypeError("never")


def uses_lock_as_default(lock=threading.Lock()):
    return lock


def make_closure(lock):
    return lambda: lock


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: lock, "the value: "),
        (lambda lock: {"lock": Holder(lock)}, "the value['lock'].x: "),
        (lambda lock: [1, (2, lock)], "the value[1][1]: "),
        (lambda lock: {1, lock}, "the value, element <unlocked _thread.lock"),
        (lambda lock: Slotted([lock]), "the value.x[0]: "),
        (lambda lock: make_closure(lock), "the value, free variable 'lock': "),
        (lambda lock: functools.partial(print, lock), "the value.args[0]: "),
        (lambda lock: Holder(Holder(lock)).x.__init__, "the value.__self__.x: "),
        (lambda lock: {"a": BadRepr(), "b": 1}, "the value['a']: "),
        (lambda lock: {BadRepr(): 1}, "the value, key <BadRepr>: "),
    ],
)
def test_the_culprit_is_named(make, path):
    with pytest.raises(SerializationError) as info:
        dumps(make(threading.Lock()))
    assert str(info.value).startswith(f"cannot send {path}")
    assert info.value.path.startswith("the value")
    assert info.value.reason.startswith("TypeError")


def test_who_sends_a_generator_is_told_of_streams():
    with pytest.raises(
        SerializationError, match=r"the value\['a'\]: .*ipkernel\.stream\(generator\)"
    ):
        dumps({"a": (item for item in "abc")})


def test_the_culprit_among_globals_and_attributes_of_a_class_is_named():
    space = {"__name__": "__main__", "threading": threading}
    exec("lock = threading.Lock()\ndef f(): return lock", space)
    with pytest.raises(SerializationError, match=r"the value, global 'lock': TypeError"):
        dumps(space["f"])
    exec("class C:\n    held = [lock]\n    def m(self): pass\n", space)
    with pytest.raises(SerializationError, match=r"held\[0\]: TypeError"):
        dumps([space["C"]()])


def test_cycles_and_deep_values_end():
    value: list = [threading.Lock()]
    value.insert(0, value)
    with pytest.raises(SerializationError, match=r"the value\[1\]"):
        dumps(value)
    deep: list = [threading.Lock()]
    for _ in range(100):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"\[0\]\[0\]"):
        dumps(deep)


def test_too_deep_for_pickle_is_our_error_too():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError):
        dumps(deep)


def test_numbers_need_no_cloudpickle():
    code = (
        "import sys\n"
        "from ipkernel.serialize import payload\n"
        "assert payload.loads(payload.dumps_bytes(((3,), {}))) == ((3,), {})\n"
        "bad = {'cloudpickle', 'twisted', 'foolscap', 'numpy', 'IPython'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
