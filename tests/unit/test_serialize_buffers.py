"""Values with large memory: nothing is copied that need not be, and what arrives can be written to."""

from __future__ import annotations

import array
import copyreg
import ctypes
import mmap
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ipkernel.errors import SerializationError
from ipkernel.serialize import buffers, payload
from ipkernel.serialize.payload import dumps, dumps_bytes, loads, size_of

N = 200_000


@pytest.fixture(autouse=True)
def cloudpickle_again():
    yield
    payload.use_cloudpickle()


@pytest.fixture(params=["cloudpickle", "pickle", "dill"])
def pickler(request):
    if request.param == "dill":
        pytest.importorskip("dill")
    getattr(payload, f"use_{request.param}")()
    return request.param


def received(value):
    """The value as somebody gets it who receives it, and the memory that it came in."""
    data = bytearray().join(dumps(value))
    return loads(data), data


def within(part, data) -> bool:
    """Whether a piece of memory lies in ``data``."""
    part = np.frombuffer(part, np.uint8)
    return np.shares_memory(part, np.frombuffer(data, np.uint8))


def is_sent_as_it_is(value, memory) -> bool:
    """Whether ``memory`` itself is among the pieces of the payload."""
    memory = np.asarray(memory)
    views = [np.frombuffer(p, np.uint8) for p in dumps(value) if type(p) is memoryview]
    return any(v.nbytes == memory.nbytes and np.shares_memory(v, memory) for v in views)


def memory_used(function, *args):
    """The most memory that a call allocates while it runs, in bytes, and what it returns."""
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        result = function(*args)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak + pa.total_allocated_bytes() - arrow, result


# ---------------------------------------------------------------- every type, measured


def masked():
    return np.ma.masked_greater(np.arange(float(N)), 10)


class Tagged(np.ndarray):
    """As in numpy's manual: an attribute that has a default."""

    def __array_finalize__(self, obj):
        self.tag = getattr(obj, "tag", "none")


DATES = pd.date_range("2020", periods=N, freq="s")
FRAME = pd.DataFrame({"a": np.arange(N), "b": np.arange(float(N)), "when": DATES})

IN_ONE_STRETCH = {
    "array": lambda: np.arange(float(N)),
    "Fortran order": lambda: np.asfortranarray(np.arange(float(N)).reshape(400, -1)),
    "axes permuted": lambda: np.ones((50, 40, 100)).transpose(1, 2, 0),
    "dates": lambda: DATES.to_numpy().copy(),
    "durations": lambda: np.arange(N).astype("m8[us]").reshape(2, -1),
    "dates, Fortran order": lambda: np.asfortranarray(np.arange(N).astype("M8[s]").reshape(2, -1)),
    "structured": lambda: np.zeros(N, dtype=[("a", "i4"), ("b", "f8", 2)]),
    "structured with dates": lambda: np.zeros(N, dtype=[("a", "M8[D]"), ("b", "f4")]),
    "padded": lambda: np.zeros(N, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "record array": lambda: np.rec.fromarrays([np.arange(N), np.arange(float(N))], names="a,b"),
    "subclass": lambda: np.ones(N).view(Tagged),
    "masked": masked,
    "masked, without mask": lambda: np.ma.MaskedArray(np.arange(N)),
    "bytes of fixed length": lambda: np.array([b"abcdefgh"] * N),
    "text of fixed length": lambda: np.array(["ab"] * N),
    "big endian": lambda: np.arange(N, dtype=">i8"),
    "void": lambda: np.zeros(N, dtype="V7"),
    "DataFrame": lambda: FRAME,
    "rows of a DataFrame": lambda: FRAME.iloc[100:-100],
    "transposed": lambda: FRAME[["a", "b"]].astype(float).T,
    "Series": lambda: FRAME["b"],
    "Series of dates": lambda: FRAME["when"],
    "with time zone": lambda: FRAME["when"].dt.tz_localize("UTC"),
    "Index": lambda: pd.Index(np.arange(float(N))),
    "DatetimeIndex": lambda: DATES,
    "MultiIndex": lambda: pd.MultiIndex.from_product([range(400), range(500)]),
    "nullable": lambda: pd.Series(np.arange(N), dtype="Int64"),
    "periods": lambda: pd.Series(pd.period_range("2020", periods=N, freq="s")),
    "arrow's in pandas": lambda: pd.Series(np.arange(N), dtype="int64[pyarrow]"),
    "texts in pandas": lambda: pd.Series(
        [f"number {i}" for i in range(N)], dtype="string[pyarrow]"
    ),
    "arrow array": lambda: pa.array(np.arange(N)),
    "arrow texts": lambda: pa.array(["abc", None] * N),
    "arrow table": lambda: pa.table({"a": np.arange(N), "b": ["x"] * N}),
    "arrow batch": lambda: pa.record_batch({"a": np.arange(N)}),
    "arrow buffer": lambda: pa.py_buffer(bytes(N)),
    "chunks": lambda: pa.chunked_array([np.arange(N), np.arange(N)]),
    "memoryview": lambda: memoryview(bytearray(N)),
    "memoryview of an array": lambda: memoryview(np.zeros((400, 500))),
    "mmap": lambda: mmap.mmap(-1, N),
    "PickleBuffer": lambda: pickle.PickleBuffer(bytearray(N)),
}


def is_same(one, two) -> bool:
    if isinstance(one, np.ndarray):
        assert type(one) is type(two)
        assert one.dtype == two.dtype
        return one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, (pd.DataFrame, pd.Series, pd.Index)):
        return type(one) is type(two) and one.equals(two)
    if isinstance(one, (pa.Table, pa.Array, pa.ChunkedArray, pa.RecordBatch, pa.Buffer)):
        return one.equals(two)
    if isinstance(one, (memoryview, mmap.mmap, pickle.PickleBuffer)):
        return bytes(one) == bytes(two)
    return one == two


@pytest.mark.parametrize("name", IN_ONE_STRETCH)
def test_memory_in_one_stretch_is_not_copied(name, pickler):
    value = IN_ONE_STRETCH[name]()
    dumps([value])  # what is imported or cached by that is not what is measured
    used, pieces = memory_used(dumps, [value])
    size = size_of(pieces)
    assert size >= N
    assert used < size / 4
    data = bytearray().join(pieces)
    loads(data)
    used, (again,) = memory_used(loads, data)
    assert used < size / 4
    assert is_same(value, again)


STRIDED = {
    "every second": lambda: np.arange(2.0 * N)[::2],
    "columns": lambda: np.arange(2.0 * N).reshape(-1, 400)[:, 100:300],
    "backwards": lambda: np.arange(float(N))[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(500.0), (400, 500)),
    "a field": lambda: np.zeros(N, dtype=[("a", "i4"), ("b", "f8")])["b"],
    "dates": lambda: np.arange(2 * N).astype("M8[s]")[::2],
    "subclass": lambda: np.arange(2.0 * N).view(Tagged)[::2],
    "memoryview": lambda: memoryview(np.arange(2.0 * N))[::2],
    "rows of a DataFrame": lambda: FRAME.iloc[::2],
}


@pytest.mark.parametrize("name", STRIDED)
def test_memory_with_gaps_is_copied_once(name, pickler):
    value = STRIDED[name]()
    dumps([value])
    used, pieces = memory_used(dumps, [value])
    size = size_of(pieces)
    assert size >= N
    assert used < size * 1.25
    data = bytearray().join(pieces)
    loads(data)
    used, (again,) = memory_used(loads, data)
    assert used < size / 4
    assert is_same(value, again)


OWNERS = {
    "bytes": lambda: bytes(range(256)) * (N // 256),
    "bytearray": lambda: bytearray(range(256)) * (N // 256),
    "array.array": lambda: array.array("d", range(N)),
}


@pytest.mark.parametrize("name", OWNERS)
def test_what_owns_its_memory_is_copied_once_by_the_receiver(name):
    value = OWNERS[name]()
    dumps([value, {1}])
    used, pieces = memory_used(dumps, [value, {1}])
    size = size_of(pieces)
    assert used < size / 4
    data = bytearray().join(pieces)
    loads(data)
    used, (again, _) = memory_used(loads, data)
    assert used < size * 1.25
    assert again == value
    assert type(again) is type(value)


# ---------------------------------------------------------------- numpy in detail


def test_plain_arrays_are_sent_from_where_they_are():
    value = np.arange(float(N))
    assert is_sent_as_it_is({"a": value}, value)
    again, data = received(value)
    assert within(again, data)


def test_dates_are_sent_from_where_they_are():
    value = np.arange(N).astype("M8[ns]")
    assert is_sent_as_it_is(value, value.view("u1"))
    again, data = received(value)
    assert within(again.view("u1"), data)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1000, 1), (1000, 1)])
@pytest.mark.parametrize("dtype", ["f8", "M8[s]", "U5", "S", "V3", [("a", "i2"), ("b", "O")], "O"])
def test_shapes_at_the_edge_survive(shape, dtype):
    value = np.zeros(shape, dtype=dtype)
    for one in (value, value.T, value[...], np.asfortranarray(value), value.view(Tagged)):
        again, _ = received([one])
        assert again[0].dtype == one.dtype
        assert again[0].shape == one.shape
        assert type(again[0]) is type(one)
        assert again[0].tolist() == one.tolist()


def test_objects_in_arrays_survive_in_their_own_way():
    value = np.array([{"a": 1}, None, "x"] * 1000, dtype=object)
    again, _ = received([value, value[::2], value.view(Tagged), np.ma.MaskedArray(value)])
    for got, sent in zip(again, [value, value[::2], value, value], strict=True):
        assert got.tolist() == sent.tolist()


def test_bytes_are_never_taken_for_objects():
    with pytest.raises(ValueError, match="cannot be made of bytes"):
        buffers.rebuild_array(np.ndarray, (1,), np.dtype("O"), None, bytearray(b"12345678"))


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((9,), None), ((2,), (64,)), ((2,), (-8,))],
)
def test_shapes_that_do_not_fit_the_memory_are_refused(shape, strides):
    with pytest.raises((ValueError, TypeError)):
        buffers.rebuild_array(np.ndarray, shape, np.dtype("f8"), strides, bytearray(64))


def test_orders_of_axes_survive():
    fortran = np.asfortranarray(np.arange(5000.0).reshape(50, 100))
    permuted = np.arange(10_000).astype("M8[s]").reshape(10, 20, 50).transpose(2, 0, 1)
    again, _ = received([fortran, permuted])
    assert again[0].flags.f_contiguous
    assert again[1].strides == permuted.strides
    assert np.array_equal(again[0], fortran)
    assert np.array_equal(again[1], permuted)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("count", [10, 10_000])
def test_memory_mapped_files_arrive_as_plain_writable_arrays(tmp_path, mode, count):
    path = tmp_path / "numbers"
    np.arange(float(count)).tofile(path)
    value = np.memmap(path, dtype=float, mode=mode)
    assert count < 1000 or is_sent_as_it_is(value, value)
    for sent in (value, value[2:], value[::2], value.reshape(2, -1)):
        again, data = received(sent)
        assert type(again) is np.ndarray
        assert np.array_equal(again, sent)
        assert count < 1000 or within(again, data) or not sent.flags.c_contiguous
        again[...] = -1
    assert value[3] == 3
    del value


def test_a_memory_mapped_file_in_a_payload_that_cannot_be_written_to(tmp_path):
    np.arange(10_000.0).tofile(tmp_path / "numbers")
    value = np.memmap(tmp_path / "numbers", dtype=float, mode="r")
    data = dumps_bytes(value)
    again = loads(data)
    again[:] = 0
    assert np.array_equal(loads(data), value)
    # Not made of a payload but by hand, so that there is no writable memory behind it.
    made = buffers.rebuild_mapped(np.ndarray, (4,), np.dtype("u1"), None, b"abcd")
    made[0] = 0
    assert made.tolist() == [0, 98, 99, 100]
    del value


def test_an_empty_slice_of_a_memory_mapped_file(tmp_path):
    np.arange(10.0).tofile(tmp_path / "numbers")
    value = np.memmap(tmp_path / "numbers", dtype=float, mode="r")
    again, _ = received(value[3:3])
    assert again.shape == (0,)
    del value


def test_subclasses_arrive_as_what_they_are():
    value = np.arange(10_000.0).view(Tagged)
    assert is_sent_as_it_is(value, value)
    again, data = received(value)
    assert type(again) is Tagged
    assert again.tag == "none"
    assert within(again, data)


def test_subclasses_that_pickle_themselves_do():
    value = np.arange(10_000.0).view(Named)
    value.name = "n"
    again, _ = received(value)
    assert type(again) is Named
    assert again.name == "n"
    assert np.array_equal(again, value)


class Named(np.ndarray):
    def __array_finalize__(self, obj):
        self.name = getattr(obj, "name", None)

    def __reduce__(self):
        function, args, state = super().__reduce__()
        return function, args, (state, self.name)

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.name = state[1]


class Registered(np.ndarray):
    pass


def test_what_is_registered_with_copyreg_wins(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda _: (str, ("registered",)))
    assert received(np.ones(10_000).view(Registered))[0] == "registered"
    monkeypatch.setitem(copyreg.dispatch_table, mmap.mmap, lambda _: (str, ("map",)))
    with mmap.mmap(-1, 10) as memory:
        assert received(memory)[0] == "map"
        monkeypatch.delitem(copyreg.dispatch_table, mmap.mmap)
        assert received(memory)[0] == bytes(10)


def test_dill_keeps_the_attributes_of_subclasses():
    pytest.importorskip("dill")
    payload.use_dill()
    value = np.ones(10).view(Tagged)
    value.tag = "kept"
    assert received(value)[0].tag == "kept"


@pytest.mark.parametrize("hard", [True, False])
def test_masked_arrays_survive(hard):
    value = np.ma.MaskedArray(
        np.arange(10_000), mask=np.arange(10_000) % 3 == 0, fill_value=-5, hard_mask=hard
    )
    again, data = received(value)
    assert np.array_equal(again.mask, value.mask)
    assert np.array_equal(again.filled(), value.filled())
    assert again.fill_value == -5
    assert again.hardmask is hard
    assert within(again.data, data)
    assert within(again.mask, data)
    again[1] = 17
    assert again[1] == 17
    bare, _ = received(np.ma.MaskedArray([1.0, 2.0]))
    assert bare.mask is np.ma.nomask
    assert bare.fill_value == np.ma.MaskedArray([1.0]).fill_value
    fields = np.ma.zeros(3, dtype=[("a", "i4"), ("b", "M8[s]")])
    fields[1] = np.ma.masked
    assert received(fields)[0].mask.tolist() == fields.mask.tolist()
    assert received(np.ma.masked)[0] is np.ma.masked


def test_a_masked_memory_mapped_file_is_a_masked_array_of_memory(tmp_path):
    np.arange(10_000.0).tofile(tmp_path / "numbers")
    value = np.ma.MaskedArray(np.memmap(tmp_path / "numbers", dtype=float, mode="r"))
    again, _ = received(value)
    assert type(again.data) is np.ndarray
    again[0] = 5.0
    del value


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize("size", [3, 600, 10_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_writing_to_what_arrived_changes_nobody_elses(kind, size):
    value = {"a": np.arange(float(size)), "b": bytearray(size), "c": pd.Series(np.arange(size))}
    data = dumps_bytes(value)
    first, second = loads(kind(data)), loads(kind(data))
    first["a"][:] = -1
    first["b"][:] = bytes([1]) * size
    first["c"].iloc[:] = 7
    for kept in (second, value, loads(data)):
        assert np.array_equal(kept["a"], np.arange(float(size)))
        assert kept["b"] == bytes(size)
        assert kept["c"].tolist() == list(range(size))


@pytest.mark.parametrize("size", [3, 10_000])
def test_what_was_read_only_stays_so(size):
    value = np.arange(float(size))
    value.flags.writeable = False
    again, _ = received([value, memoryview(bytes(size))])
    assert not again[0].flags.writeable
    assert again[1].readonly


def test_prepickled_arrays_are_not_copied_on_arrival_and_writable():
    once = payload.PrePickled(np.arange(10_000))
    (first,), data = received([once])
    assert within(first, data)
    first[:] = 0
    kept = once.load()
    assert kept[5] == 5
    kept[:] = 1
    assert once.load()[5] == 5


# ---------------------------------------------------------------- the standard library


@pytest.mark.parametrize("code", "bBhHiIlLqQnNfdcP?")
def test_formats_of_memoryviews_survive(code):
    sent = memoryview(bytearray(range(48))).cast(code)
    again, _ = received(sent)
    assert again.format == code
    assert again == sent or again.tobytes() == sent.tobytes()
    assert not again.readonly


def test_shapes_of_memoryviews_survive():
    for shape in ([2, 3], [1, 1, 6], [6]):
        sent = memoryview(bytes(range(48))).cast("q", shape=shape)
        assert received(sent)[0].tolist() == sent.tolist()
    assert received(memoryview(bytes(4)).cast("i", shape=[]))[0].shape == ()
    empty, _ = received(memoryview(b"").cast("d"))
    assert (empty.format, len(empty)) == ("d", 0)
    assert received(memoryview(np.zeros((3, 0), "i4")))[0].nbytes == 0


def test_other_names_of_native_formats():
    numbers = (ctypes.c_int32 * 3)(1, 2, 3)
    assert memoryview(numbers).format in ("<i", "<l")
    assert received(memoryview(numbers))[0].tolist() == [1, 2, 3]
    # A long of 4 bytes, as elsewhere; of 8 bytes, as here.
    four = buffers.rebuild_view(b"\1\0\0\0\2\0\0\0", "l", 4, (2,))
    eight = buffers.rebuild_view(bytearray(b"\1\0\0\0\0\0\0\0"), "L", 8, (1,))
    assert four.tolist() == [1, 2]
    assert eight.tolist() == [1]


@pytest.mark.parametrize(
    "view", [memoryview(np.zeros(3, [("a", "i4"), ("b", "i4")])), memoryview(np.zeros(3, ">i4"))]
)
def test_formats_that_cannot_be_had_again_are_refused(view):
    with pytest.raises(
        SerializationError, match=r"the value\[1\]: TypeError: a memoryview with fo"
    ):
        dumps([1, view])
    assert received(view.cast("B"))[0] == view.cast("B")


def test_views_keep_their_object_as_it_is_until_they_are_sent():
    value = bytearray(100_000)
    pieces = dumps([value, {1}])
    with pytest.raises(BufferError):
        value.append(1)
    del pieces
    value.append(1)


def test_maps_arrive_as_memory():
    with mmap.mmap(-1, 8192) as memory:
        memory[:3] = b"abc"
        again, data = received(memory)
        assert type(again) is memoryview
        assert bytes(again) == bytes(memory)
        assert within(again, data)
        again[0] = 0
        assert memory[0] == ord("a")


def test_arrays_of_other_machines_are_converted():
    big_endian_int32 = 9  # as the standard library numbers it
    again = buffers.rebuild_typed("i", big_endian_int32, b"\0\0\0\1\0\0\0\2")
    assert again == array.array("i", [1, 2])


#: The type code of characters.
TEXT = "w" if sys.version_info >= (3, 13) else "u"


@pytest.mark.parametrize("code", "bBhHiIlLqQfd" + TEXT)
def test_typed_arrays_survive(code):
    value = array.array(code, "abc" if code == TEXT else [1, 2, 3])
    again, _ = received([value, array.array(code)])
    assert again == [value, array.array(code)]


class OwnArray(array.array):
    pass


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="it came with numpy 2")
@pytest.mark.parametrize("count", [3, N])
def test_arrays_of_strings_of_any_length(pickler, count):
    words = np.array(["a", "b" * 100, ""] * count, np.dtypes.StringDType())
    again, _ = received(words)
    assert again.dtype == words.dtype
    assert again.tolist() == words.tolist()


def test_subclasses_of_typed_arrays_survive():
    again, _ = received(OwnArray("i", [1, 2]))
    assert type(again) is OwnArray
    assert again.tolist() == [1, 2]


@pytest.mark.parametrize("kind", [ctypes.c_double, ctypes.c_char, ctypes.c_int16 * 3])
@pytest.mark.parametrize("length", [0, 5, N])
def test_arrays_of_ctypes(pickler, kind, length):
    items = (kind * length)()
    size = ctypes.sizeof(items)
    ctypes.memmove(items, (bytes(range(251)) * (size // 251 + 1))[:size], size)
    again, data = received([items, items])
    assert again[0] is again[1]
    assert type(again[0]) is type(items)
    assert bytes(again[0]) == bytes(items)
    if length == N:
        assert is_sent_as_it_is(items, memoryview(items).cast("B"))
        assert within(again[0], data)


def test_arrays_of_addresses_are_refused():
    with pytest.raises(SerializationError):
        dumps((ctypes.c_void_p * 3)())


@pytest.mark.parametrize("content", [b"", b"1"])
def test_buffers_that_are_as_good_as_nothing(pickler, content):
    value = [content, bytearray(content), np.frombuffer(content, "u1"), memoryview(content)] * 2
    value += [np.zeros((0, 5)), np.zeros(0, "M8[s]"), content]
    again, _ = received(value)
    for one, other in zip(value, again, strict=True):
        assert type(one) is type(other)
        assert np.array_equal(one, other)


# ---------------------------------------------------------------- libraries


def test_nothing_heavy_is_imported_for_it():
    code = (
        "import sys\n"
        "from ipkernel.serialize.payload import dumps_bytes, loads\n"
        "view = loads(dumps_bytes([memoryview(bytearray(8192)), {1}]))[0]\n"
        "assert view.nbytes == 8192\n"
        "bad = {'numpy', 'pandas', 'pyarrow', 'mmap', 'array'} & set(sys.modules)\n"
        "import numpy\n"
        "array = numpy.arange(1000).astype('M8[s]')\n"
        "assert dumps_bytes(array)[0] == 2, 'out of band'\n"
        "assert (loads(dumps_bytes(array)) == array).all()\n"
        "print(sorted(bad - {'array', 'mmap'}))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]"


def test_a_library_that_is_half_imported_waits(monkeypatch):
    class Empty:
        pass

    monkeypatch.setitem(buffers._absent, "half_there", lambda module: module.Type.name)
    monkeypatch.setitem(sys.modules, "half_there", Empty())
    assert received([1, {2}])[0] == [1, {2}]
    assert "half_there" in buffers._absent
    Empty.Type = Empty
    Empty.name = "complete"
    assert received([1, {2}])[0] == [1, {2}]
    assert "half_there" not in buffers._absent
