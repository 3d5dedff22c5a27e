"""References to what lives on the engine."""

from __future__ import annotations

import pickle

import pytest

from ipkernel.serialize.reference import Reference, resolve

NS = {"a": 5, "b": [1, 2], "f": len}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((Reference("a"),), (5,)),
        ((Reference("b[1] + a"),), (7,)),
        ((Reference("len(b)"),), (2,)),
        (([Reference("a"), 1],), ([5, 1],)),
        (((Reference("a"), 1),), ((5, 1),)),
        (({"k": Reference("a")},), ({"k": 5},)),
        ((1, "a", [1]), (1, "a", [1])),
    ],
)
def test_references_are_replaced(args, expected):
    assert resolve(args, {}, dict(NS)) == (expected, {})
    assert resolve((), {"x": args[0]}, dict(NS)) == ((), {"x": expected[0]})


def test_only_one_level_is_looked_at():
    deep = [[Reference("a")]]
    assert resolve((deep,), {}, dict(NS)) == ((deep,), {})


def test_the_given_containers_are_not_changed():
    given = [Reference("a")]
    resolve((given,), {}, dict(NS))
    assert given == [Reference("a")]


def test_an_unknown_name_raises_name_error():
    with pytest.raises(NameError):
        resolve((Reference("nothing"),), {}, dict(NS))


def test_it_is_a_value():
    ref = Reference("a")
    assert ref == Reference("a") != Reference("b")
    assert ref != "a"
    assert len({ref, Reference("a")}) == 1
    assert repr(ref) == "Reference('a')"
    assert pickle.loads(pickle.dumps(ref)) == ref
    with pytest.raises(TypeError, match="as str"):
        Reference(3)
