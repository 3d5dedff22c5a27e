"""The format of payloads: any value in any pieces, and any damage."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipkernel.errors import SerializationError
from ipkernel.objects.ref import ObjectRef, resolving
from ipkernel.serialize import payload
from ipkernel.serialize.functions import FunctionCache, FunctionStore, dump_call, load_call
from ipkernel.serialize.payload import PrePickled, dumps, dumps_with_needs, join, loads, size_of

HEADER = struct.Struct("<BxxxI")

#: Sizes around the one from which buffers go out of band.
sizes = st.sampled_from([0, 1, 63, 64, 65, 4095, 4096, 4097, 9000])
arrays = st.builds(
    lambda n, dtype, step: np.arange(n).astype(dtype)[::step],
    sizes,
    st.sampled_from(["u1", "f8", ">i4", "M8[s]", "S5", "?"]),
    st.sampled_from([1, 2, -1]),
)
memory = st.builds(
    lambda n, kind: kind(bytes(i % 251 for i in range(n))),
    sizes,
    st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))]),
)
values = st.recursive(
    arrays | memory | st.integers() | st.text(max_size=10) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(PrePickled, inner)
    ),
    max_leaves=12,
)


def is_same(one, two) -> bool:
    if isinstance(one, PrePickled):
        return is_same(one.load(), two)
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        # numpy gives small arrays with gaps the order of bytes of this machine.
        alike = one.dtype.newbyteorder("=") == two.dtype.newbyteorder("=")
        return alike and one.tolist() == two.tolist()
    if isinstance(one, dict):
        return list(one) == list(two) and all(is_same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(is_same, one, two))
    return one == two


def cut(pieces, at):
    """The same bytes as ``pieces``, cut elsewhere."""
    whole = join(pieces)
    edges = [0, *sorted(place % (len(whole) + 1) for place in at), len(whole)]
    return [memoryview(whole)[a:b] for a, b in zip(edges, edges[1:], strict=False)]


# ---------------------------------------------------------------- as it should be


@given(
    value=values,
    kind=st.sampled_from([bytes, bytearray, memoryview]),
    before=st.integers(0, 70),
    at=st.lists(st.integers(0, 1 << 16), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_any_value_survives_wherever_it_is_and_however_it_came(value, kind, before, at):
    pieces = dumps(value)
    whole = join(cut(pieces, at))
    assert size_of(pieces) == len(whole) == size_of(cut(pieces, at))
    data = kind(bytes(before) + whole)
    assert is_same(value, loads(memoryview(data)[before:]))


@given(values)
@settings(max_examples=100, deadline=None)
def test_the_layout_is_as_described(value):
    whole = join(dumps(value))
    flags, count = whole[0], 0
    if flags == payload.PLAIN:
        return
    assert flags == payload.OUT_OF_BAND
    assert whole[1:4] == bytes(3)
    _, count = HEADER.unpack_from(whole)
    assert count > 0
    pickled, *lengths = struct.unpack_from(f"<{count + 1}Q", whole, HEADER.size)
    end = HEADER.size + 8 * (count + 1) + pickled
    for length in lengths:
        assert length >= payload.BUFFER_THRESHOLD
        start = -(-end // 64) * 64
        assert whole[end:start] == bytes(start - end)
        end = start + length
    assert end == len(whole)


@given(values)
@settings(max_examples=60, deadline=None)
def test_pieces_do_not_change_when_they_are_made_again(value):
    assert join(dumps(value)) == join(dumps(value))


# ---------------------------------------------------------------- damage


def load_or_refuse(data):
    """Whatever the bytes are: a value, or our error with its reason."""
    try:
        loads(data)
    except SerializationError as error:
        assert str(error).startswith("cannot load the value: ")


@given(value=values, data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_header_that_is_damaged(value, data):
    whole = bytearray(join(dumps([value, np.zeros(1000)])))
    assert whole[0] == payload.OUT_OF_BAND
    _, count = HEADER.unpack_from(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, HEADER.size + 8 * (count + 1) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    load_or_refuse(whole)
    load_or_refuse(bytes(whole))


@given(value=values, data=st.data())
@settings(max_examples=100, deadline=None)
def test_too_few_or_too_many_bytes(value, data):
    whole = join(dumps([value, np.zeros(1000)]))
    assert whole[0] == payload.OUT_OF_BAND
    for damaged in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\0"):
        try:
            loads(damaged)
        except SerializationError:
            continue
        raise AssertionError("it was taken for whole")


@given(value=values, start=st.integers(0, 1 << 16), length=st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_missing_in_the_middle(value, start, length):
    whole = join(dumps([value, np.zeros(1000)]))
    start %= len(whole)
    load_or_refuse(whole[:start] + whole[start + length :])


#: Opcodes that import, call, or reserve memory by a number that follows: a pickle is a program, and who
#: may write one may do anything.
_POWERFUL = frozenset(b"rpcRiob\x81\x92\x93qj\x94")
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=plain_values, data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_pickle_that_is_damaged(value, data):
    whole = bytearray(join(dumps([value, bytearray(data.draw(sizes))])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(1, len(whole) - 1))
        new = data.draw(st.integers(0, 255))
        assume(new not in _POWERFUL)
        whole[place] = new
    load_or_refuse(whole)


@given(st.binary(max_size=300).filter(lambda data: not _POWERFUL & set(data)), st.integers(0, 255))
@settings(deadline=None)
def test_noise(data, flags):
    load_or_refuse(bytes([flags]) + data)
    load_or_refuse(bytearray([flags]) + data)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_calls_that_are_damaged(data):
    call = dump_call(print, (np.zeros(1000), 1), {"a": "b"}, FunctionCache())
    whole = bytearray(join(call.pieces))
    start = -(-(8 + len(call.blob or b"")) // 64) * 64
    place = data.draw(st.sampled_from([0, 4, 5, 6, 7, *range(start + 64, start + 104)]))
    whole[place] ^= data.draw(st.integers(1, 255))
    cut_at = data.draw(st.integers(1, len(whole)))
    for damaged in (whole, whole[:cut_at], bytes(whole)):
        try:
            load_call(damaged, FunctionStore())
        except SerializationError:
            continue


@given(value=values, data=st.data())
@settings(max_examples=60, deadline=None)
def test_objects_that_are_damaged(value, data):
    ref = ObjectRef(bytes(16), 1)
    pieces, needs = dumps_with_needs([ref, 1])
    assert needs == (ref.id,)
    whole = join(dumps(value))
    damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with resolving({ref.id: memoryview(whole)}):
        assert is_same(value, loads(join(pieces))[0])
    with resolving({ref.id: memoryview(damaged)}):
        load_or_refuse(join(pieces))
