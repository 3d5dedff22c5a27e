"""The language in which tasks are looked for: what is understood, and what is refused, and how."""

from __future__ import annotations

import datetime
import enum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import KernelError, QueryError
from ipkernel.wire import queries
from ipkernel.wire.queries import FIELDS, Every, Search, Some, Test, check, check_keys, parse
from ipkernel.wire.records import pack, unpack


def only(query):
    (part,) = parse(query).parts
    return part


def test_a_value_is_to_be_equal():
    assert only({"msg_id": 3}) == Test(field="msg_id", op="eq", value=3)
    assert only({"label": None}) == Test(field="label", op="eq", value=None)
    assert only({"kept": True}) == Test(field="kept", op="eq", value=True)


def test_operators_of_one_field_all_hold():
    assert parse({"attempts": {"$gt": 1, "$lte": 5}, "label": "a"}) == Every(
        parts=[
            Test(field="attempts", op="gt", value=1),
            Test(field="attempts", op="lte", value=5),
            Test(field="label", op="eq", value="a"),
        ]
    )


def test_queries_are_joined():
    assert only({"$or": [{"label": "a"}, {}]}) == Some(
        parts=[Every(parts=[Test(field="label", op="eq", value="a")]), Every()]
    )
    assert only({"$and": [{"label": "a"}]}) == Every(
        parts=[Every(parts=[Test(field="label", op="eq", value="a")])]
    )


def test_times_travel_as_seconds():
    moment = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    assert only({"submitted": {"$gt": moment}}).value == moment.timestamp()
    assert only({"submitted": {"$gt": 7}}).value == 7
    day = datetime.date(2024, 5, 1)
    assert only({"completed": {"$lt": day}}).value == datetime.datetime(2024, 5, 1).timestamp()


def test_numbers_of_other_kinds_are_numbers():
    numpy = pytest.importorskip("numpy")
    kind = enum.IntEnum("kind", {"two": 2})
    assert only({"engine_id": numpy.int64(3)}).value == 3
    assert only({"engine_id": {"$in": numpy.arange(2)}}).value == [0, 1]
    assert only({"engine_id": {"$in": {4}}}).value == [4]
    assert only({"submitted": {"$gt": numpy.float32(0.5)}}).value == 0.5
    assert only({"engine_id": kind.two}).value == 2


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"lable": 1}, "no field 'lable'; did you mean 'label'"),
        ({"zzzzzzzzz": 1}, "there are: msg_id"),
        ({3: 1}, "no field 3"),
        ({"msg_id": {"$gtt": 1}}, r"unknown operator '\$gtt'; did you mean '\$gte?'"),
        ({"msg_id": {"gt": 1}}, r"unknown operator 'gt'; did you mean '\$gt'"),
        ({"msg_id": {5: 1}}, "unknown operator 5"),
        ({"msg_id": {}}, "an empty dictionary says nothing"),
        ({"$nor": []}, r"unknown operator '\$nor'"),
        ({"$or": []}, r"\$or takes a list of queries"),
        ({"$and": {"label": "a"}}, r"\$and takes a list of queries"),
        ({"$or": [7]}, "a query is a dictionary"),
        ([], "a query is a dictionary"),
        ({"msg_id": object()}, "msg_id cannot be compared with <object"),
        ({"msg_id": b"1"}, "msg_id cannot be compared with b'1'"),
        ({"msg_id": "1"}, r"msg_id: \$eq takes a number, or None; not '1'"),
        ({"msg_id": True}, "takes a number"),
        ({"submitted": {"$lt": "today"}}, "takes a time .a datetime"),
        ({"submitted": {"$lt": None}}, "takes a time"),
        ({"submitted": {"$lt": float("nan")}}, "takes a time"),
        ({"label": {"$in": "abc"}}, r"\$in takes a list"),
        ({"label": {"$in": [1]}}, "each item of which is a text"),
        ({"msg_id": {"$mod": [0, 1]}}, r"\$mod takes \[divisor, remainder\]"),
        ({"msg_id": {"$mod": [2]}}, r"\$mod takes"),
        ({"msg_id": {"$mod": 2}}, r"\$mod takes"),
        ({"label": {"$mod": [2, 1]}}, r"\$mod takes"),
        ({"label": {"$exists": 1}}, r"\$exists takes True or False"),
        ({"msg_id": {"$glob": "1*"}}, r"\$glob takes a pattern"),
        ({"kept": {"$lt": True}}, "flags and lists have no order"),
        ({"after": {"$gt": [1]}}, "flags and lists have no order"),
        ({"after": 3}, "takes a list of task ids"),
        ({"label": "x" * 300}, "256 characters"),
        ({"msg_id": 1 << 70}, "too large"),
        ({"msg_id": {"$in": range(1 << 17)}}, "65536 values"),
    ],
)
def test_what_is_wrong_is_said(query, text):
    with pytest.raises(QueryError, match=text) as caught:
        parse(query)
    assert isinstance(caught.value, KernelError) and isinstance(caught.value, ValueError)


def test_depth_and_size_are_bounded():
    query = {"label": "a"}
    for _ in range(queries.MAX_DEPTH - 1):
        query = {"$or": [query]}
    check(parse(query))
    with pytest.raises(QueryError, match="nested deeper"):
        parse({"$or": [query]})
    tree = Every()
    for _ in range(2 * queries.MAX_DEPTH):
        tree = Every(parts=[tree])
    with pytest.raises(QueryError, match="nested deeper"):
        check(tree)
    with pytest.raises(QueryError, match="1024 conditions, not more"):
        parse({"$or": [{"label": "a"}] * 1100})
    wide = Some(parts=[Every(parts=[Every()] * 1000)] * 3)
    with pytest.raises(QueryError, match="1024 conditions, not more"):
        check(wide)


def test_patterns_are_few():
    some = [{"label": {"$glob": f"{number}-*"}} for number in range(queries.MAX_GLOBS)]
    check(parse({"$or": some}))
    with pytest.raises(QueryError, match=r"32 patterns \(\$glob\), not more"):
        parse({"$or": [*some, {"method": {"$glob": "*"}}]})


def test_names_of_fields_that_are_wanted():
    assert check_keys(["label", "msg_id", "label"]) == ["msg_id", "label"]
    with pytest.raises(QueryError, match="did you mean 'state'"):
        check_keys(["stat"])


def test_what_travels_is_checked_by_its_schema():
    search = Search(where=parse({"$or": [{"label": "a"}, {"after": [1, 2]}]}), keys=["label"])
    assert unpack(Search, pack(search)) == search
    for wrong in (
        {"where": {"type": "test", "field": "label", "op": "regex", "value": "a"}},
        {"where": {"type": "test", "field": "label", "op": "eq", "value": {"a": 1}}},
        {"where": {"type": "test", "field": "label", "op": "eq", "value": "a" * 300}},
        {"where": {"type": "sum", "parts": []}},
        {"keys": ["label"] * 100},
    ):
        with pytest.raises(msgspec.ValidationError):
            unpack(Search, msgspec.msgpack.encode(wrong))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()
)
WILD = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["$and", "$or", *(f"${op}" for op in queries.OPS), *FIELDS]),
                st.text(max_size=4),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@given(WILD)
def test_anything_is_either_understood_or_refused(query):
    try:
        tree = parse(query)
    except QueryError as error:
        assert str(error)
        return
    assert unpack(Search, pack(Search(where=tree))).where == tree
    check(tree)
