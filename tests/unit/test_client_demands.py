"""What views ask of engines, and say of them, against a controller in memory."""

from __future__ import annotations

import pytest

from ipkernel import errors
from ipkernel.client.task import failure_of
from ipkernel.wire.messages import Reason, Submit
from ipkernel.wire.records import Description, EngineProperties, pack, unpack
from tests.support.clients import fake, rc

__all__ = ["fake", "rc"]


def terms(fake):
    return [m.terms for m in fake.messages if isinstance(m, Submit)]


def test_what_is_asked_of_engines_goes_with_each_call(fake, rc):
    view = rc.load_balanced_view(resources={"gpu": 1, "memory": 2.5}, where={"os": "linux"})
    view.apply_async(int).get()
    view.map_async(abs, range(2), chunksize=1).get()
    for one in terms(fake):
        assert one.resources == {"gpu": 1.0, "memory": 2.5}
        assert one.where == {"os": "linux"}
    assert view.resources == {"gpu": 1.0, "memory": 2.5}


def test_what_is_asked_for_the_time_of_a_context(fake, rc):
    view = rc.load_balanced_view()
    with view.temp_flags(resources={"gpu": 1}, where={"n": 1}):
        view.apply_async(int).get()
    assert view.resources is None and view.where is None
    view.apply_async(int).get()
    assert [one is None for one in terms(fake)] == [False, True]


def test_no_amount_is_no_resource(rc):
    view = rc.load_balanced_view(resources={"gpu": 0, "memory": 1})
    assert view.resources == {"memory": 1.0}
    view.resources = {"gpu": 0}
    assert view.resources is None


def test_flags_are_copies(rc):
    given = {"gpu": 1}
    view = rc.load_balanced_view(resources=given)
    given["gpu"] = 7
    view.resources["gpu"] = 8
    assert view.resources == {"gpu": 1.0}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("gpu", TypeError, "resources must be a dict, not 'gpu'"),
        ({"gpu": "1"}, TypeError, "'gpu' must be a number, not '1'"),
        ({"gpu": True}, TypeError, "'gpu' must be a number, not True"),
        ({"gpu": -1}, ValueError, "'gpu' must be from 0 to 1e"),
        ({"gpu": float("nan")}, ValueError, "'gpu' must be from 0"),
        ({1: 1}, TypeError, "a name must be a str, not 1"),
        ({"": 1}, ValueError, "a name has 1 to 64 characters, not 0"),
        ({"x" * 65: 1}, ValueError, "a name has 1 to 64 characters, not 65"),
        ({f"r{n}": 1 for n in range(17)}, ValueError, "may have 16 entries, not 17"),
        ({"\ud800": 1}, ValueError, "cannot be sent"),
    ],
)
def test_what_cannot_be_resources(rc, value, error, text):
    view = rc.load_balanced_view()
    with pytest.raises(error, match=text):
        view.resources = value
    assert view.resources is None


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([1], TypeError, r"where must be a dict, not \[1\]"),
        ({"os": ["linux"]}, TypeError, "'os' must be a text, a number, True, False or None"),
        ({"os": "x" * 257}, ValueError, "'os' may have 256 characters, not 257"),
        ({"n": 1 << 80}, ValueError, "cannot be sent"),
        ({f"p{n}": 1 for n in range(65)}, ValueError, "may have 64 entries, not 65"),
    ],
)
def test_what_cannot_be_a_condition(rc, value, error, text):
    with pytest.raises(error, match=text):
        rc.load_balanced_view(where=value)


def test_a_direct_view_asks_for_no_engine(rc):
    with pytest.raises(TypeError, match="DirectView has no flag 'resources'"):
        rc[:].set_flags(resources={"gpu": 1})


def test_a_request_that_cannot_be_met_has_an_error_of_its_own():
    error = failure_of(Reason("resources", "no engine has 2 gpu; engine 0 has 1"))
    assert type(error) is errors.ImpossibleDependency
    assert str(error) == "no engine has 2 gpu; engine 0 has 1"


# ------------------------------------------------------------------------------- properties


@pytest.fixture
def said(monkeypatch, rc):
    """What the controller is told of engines; engine 1 has properties."""
    told = []
    known = {1: {"os": "linux", "n": 3}}

    def call(method, request, *_):
        assert method == "describe_engines"
        description = unpack(Description, request)
        told.append(description)
        return pack(EngineProperties(properties=[known.get(n, {}) for n in description.engines]))

    monkeypatch.setattr(rc, "_call", call)
    return told


def test_properties_are_set_and_taken_away(rc, said):
    rc[0].set_properties({"os": "linux", "n": 3, "x": None})
    rc[:].del_properties("os")
    rc[:].del_properties(["os", "n"], targets=[1])
    rc[1:].clear_properties()
    assert said == [
        Description(engines=[0], put={"os": "linux", "n": 3, "x": None}),
        Description(engines=[0, 1, 2], drop=["os"]),
        Description(engines=[1], drop=["os", "n"]),
        Description(engines=[1, 2], clear=True),
    ]


def test_properties_are_asked_for(rc, said):
    assert rc[1].get_properties() == {"os": "linux", "n": 3}
    assert rc[1].get_properties(["n", "x"]) == {"n": 3}
    assert rc[:2].get_properties("os") == [{}, {"os": "linux"}]
    assert rc[1].has_properties("os") is True
    assert rc[:].has_properties(["os", "n"]) == [False, True, False]
    assert rc[1].has_properties(["os", "x"]) is False
    assert all(not (d.put or d.drop or d.clear) for d in said)


@pytest.mark.parametrize("value", [{"os": object()}, "os", {3: 1}])
def test_what_cannot_be_properties(rc, said, value):
    with pytest.raises(TypeError, match="properties"):
        rc[:].set_properties(value)
    assert not said
