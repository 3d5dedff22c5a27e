"""The serialization functions that users of this field know."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import ipkernel.serialize as s
from ipkernel.errors import SerializationError


@pytest.mark.parametrize("name", s.__all__)
def test_every_name_is_there(name):
    assert callable(getattr(s, name))


def test_unknown_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        s.nothing


def test_can_and_uncan():
    offset = 3
    canned = pickle.loads(pickle.dumps(s.can(lambda x: x + offset)))
    assert s.uncan(canned)(1) == 4
    assert s.can(5) == 5
    assert s.uncan(5) == 5
    assert s.can(canned) is canned
    table = pickle.loads(pickle.dumps(s.can_map({"f": lambda: 1, "n": 2})))
    table = s.uncan_map(table)
    assert table["f"]() == 1
    assert table["n"] == 2


def test_objects():
    array = np.arange(10_000)
    buffers = s.serialize_object({"a": array})
    again, rest = s.deserialize_object([*buffers, b"rest"])
    assert np.array_equal(again["a"], array)
    assert rest == [b"rest"]
    with pytest.raises(SerializationError):
        s.deserialize_object([])


def test_apply_messages():
    f, args, kwargs = s.unpack_apply_message(
        s.pack_apply_message(lambda a, b: a - b, (5,), {"b": 3})
    )
    assert f(*args, **kwargs) == 2
    bufs = s.pack_apply_message(s.Reference("f"), (s.Reference("a"),), {})
    f, args, kwargs = s.unpack_apply_message(bufs, {"f": abs, "a": -3})
    assert f(*args) == 3
    with pytest.raises(SerializationError, match="2 buffers"):
        s.unpack_apply_message(bufs[:1])
