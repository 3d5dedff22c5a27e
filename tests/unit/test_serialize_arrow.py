"""Slices of arrow arrays, by themselves and in pandas, go without the memory of the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ipkernel.serialize import buffers
from ipkernel.serialize.payload import dumps, loads, size_of

N = 200_000


def received(value):
    """The value as somebody gets it who receives it."""
    return loads(bytearray().join(dumps(value)))


ARROW = {
    "numbers": pa.array(np.arange(N)),
    "texts": pa.array([f"{i}" if i % 3 else None for i in range(N)]),
    "lists": pa.array([[i, i] for i in range(N // 4)]),
    "dictionary": pa.array(["a", "b"] * N).dictionary_encode(),
    "structs": pa.array([{"a": i, "b": "x"} for i in range(N // 4)]),
    "extension": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2]] * N, pa.list_(pa.int32(), 2))
    ),
    "booleans": pa.array([True, False, None] * N),
    "nulls": pa.nulls(N),
}


@pytest.mark.parametrize("name", ARROW)
def test_a_slice_of_an_arrow_array_goes_alone(name):
    part = ARROW[name].slice(5, 10)
    for value in (part, part.slice(2, 2), part.slice(0, 0)):
        pieces = dumps([value])
        assert size_of(pieces) < 10_000
        again = loads(bytearray().join(pieces))[0]
        assert again.equals(value)
        assert again.type == value.type


def test_parts_of_a_frame_with_texts_go_alone():
    frame = pd.DataFrame({"name": [f"number {i}" for i in range(N)], "x": np.arange(N)})
    whole = size_of(dumps(frame))
    part = frame.iloc[1000:2000]
    assert size_of(dumps(part)) < whole / 50
    assert received(part).equals(part)


def test_columns_of_several_chunks_survive():
    chunks = pa.chunked_array([["a", None], ["b"] * N, []])
    for column in (
        pd.arrays.ArrowExtensionArray(chunks),
        pd.Series(chunks, dtype="string[pyarrow]").array,
    ):
        again = received([column, column[N:], column[:0], column[::2]])
        for got, sent in zip(again, [column, column[N:], column[:0], column[::2]], strict=True):
            assert got.dtype == sent.dtype
            assert got.equals(sent)
        assert size_of(dumps(column[-10:])) < 10_000
    empty = pd.arrays.ArrowExtensionArray(pa.chunked_array([], type=pa.int8()))
    assert received(empty).equals(empty)


def test_types_that_cannot_be_weighed_keep_their_own_way():
    class Odd:
        def get_total_buffer_size(self):
            raise pa.ArrowNotImplementedError("not for this type")

    assert buffers._reduce_arrow(Odd()) is NotImplemented
