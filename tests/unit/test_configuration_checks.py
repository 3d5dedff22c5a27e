"""Kinds of values: what they accept, and how they say what they expect."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.cluster.checks import (
    KINDS,
    BadValue,
    checked,
    default_of,
    expected,
    is_list,
    kind_of,
    split,
)


@pytest.mark.parametrize(
    ("check", "value", "found"),
    [
        ("count", "4", 4),
        ("count", 0, 0),
        ("count", " 12 ", 12),
        ("port", "8080", 8080),
        ("port", 0, 0),
        ("seconds", "2.5", 2.5),
        ("seconds", 3, 3.0),
        ("seconds", "2 min", 120.0),
        ("seconds_or_zero", "0", 0.0),
        ("seconds_or_zero", "1.5h", 5400.0),
        ("walltime", "1:02:03", "01:02:03"),
        ("walltime", "2-12:00:00", "60:00:00"),
        ("walltime", "90 m", "01:30:00"),
        ("walltime", "0.5s", "00:00:01"),
        ("walltime", "", ""),
        ("level", "debug", "DEBUG"),
        ("level", "20", "INFO"),
        ("level", 30, "WARNING"),
        ("bytes", "2GB", 2_000_000_000),
        ("bytes", 7, 7),
        ("size", "4GB", "4GB"),
        ("share", "50%", "50%"),
        ("share", 0, 0),
        ("cores", " 0-3 ; 4,6", "0-3;4,6"),
        ("cores", "AUTO", "auto"),
        ("text", "", ""),
        ("path", "/a/b", "/a/b"),
        ("texts", ("a", "b"), ["a", "b"]),
        ("texts", "a, 'b, c'", ["a", "b, c"]),
        ("texts", "a", ["a"]),
        ("texts", "", []),
        ("launcher", "local", "local"),
        ("launcher", "LOCAL", "local"),
        ("launchers", "LOCAL : 2, local", ["local:2", "local"]),
        ("launchers", ["local", object], ["local", object]),
        ("integer", "3", 3),
        ("integer(0, 5)", 5, 5),
        ("float", 2, 2.0),
        ("boolean", "yes", True),
        ("boolean", False, False),
        ("string", "a", "a"),
        ("option(a, b)", "b", "b"),
        ("string_list", "a, b", ["a", "b"]),
        ("int_list", ["1", 2], [1, 2]),
        ("force_list", "a", ["a"]),
        ("bytes(default=1)", "1K", 1024),
        ("string(default=None)", None, None),
    ],
)
def test_good_values(check, value, found):
    result = checked(check, value)
    assert result == found
    assert type(result) is type(found)
    assert checked(check, result) == found  # what was checked can be checked again


@pytest.mark.parametrize(
    ("check", "values"),
    [
        ("count", [-1, 4097, "x", "", 2.0, True, None, [], "1.5"]),
        ("port", [-1, 65536, "http", True, None]),
        ("seconds_or_zero", [-1, "x", "1 week", "nan", True, None, float("inf")]),
        (
            "walltime",
            [90, "90", "0s", "00:00:00", "1:60:00", "1:30", "h", "1e999d", "1x", None, True],
        ),
        ("seconds", [0, -1, "x", "nan", "inf", True, None, float("inf")]),
        ("level", ["loud", 7, ""]),
        ("bytes", ["50%", "x", -1, True]),
        ("size", ["50%", "many", None]),
        ("share", ["150%", "many"]),
        ("cores", ["", "all", "1-", "0;;1", "a"]),
        ("text", [1, None, ["a"], "a\0"]),
        ("path", [1, "a\0b", None]),
        ("texts", [1, [1], {"a": 1}, "'a", b"ab"]),
        ("launchers", [{"local": 1}, "local:x", "local:-1", "local:9999", "local:"]),
        ("launcher", ["local:2"]),
        ("integer(0, 5)", ["6", "-1", "x", 2.5, True]),
        ("float(min=1)", ["0", "x", False]),
        ("boolean", ["maybe", "2"]),
        ("option(a, b)", ["c", ["a"]]),
        ("string(max=2)", ["abc", 3]),
        ("string_list(min=1)", [[], ""]),
        ("int_list", ["a", ["x"]]),
    ],
)
def test_bad_values(check, values):
    for value in values:
        with pytest.raises(BadValue) as caught:
            checked(check, value)
        assert caught.value.expected == expected(check)


def test_unknown_launchers_are_told_by_name():
    with pytest.raises(BadValue) as caught:
        checked("launchers", "local, slrm")
    assert caught.value.reason.startswith("there is no launcher 'slrm' for the engines; did you")
    with pytest.raises(BadValue, match="there is no launcher 'pigeon' for the controller"):
        checked("launcher", "pigeon")


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert checked("path", "~/x") == "/home/me/x"


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("count", "a whole number from 0 to 4096"),
        ("integer", "a whole number"),
        ("integer(0, 5)", "a whole number from 0 to 5"),
        ("integer(min=1, default=3)", "a whole number from 1"),
        ("integer(max=9)", "a whole number of at most 9"),
        ("float(0.1, 1)", "a number from 0.1 to 1"),
        ("boolean(default=no)", "yes or no"),
        ("string", "a text"),
        ("string(min=2)", "a text of at least 2 characters"),
        ("string(2, 8)", "a text from 2 to 8 characters"),
        ("option(a, b, c, default=a)", "a, b or c"),
        ("option('only')", "only"),
        ("ip_addr", "an IP address such as 192.0.2.1"),
        ("string_list(default=list())", "a list of texts"),
        ("int_list(max=3)", "a list of whole numbers of at most 3 items"),
        ("mixed_list(integer, string)", "a list of 2: integer, string"),
        ("size(default=0)", KINDS["size"].expected),
        ("what(1)", "of the kind what(1)"),
    ],
)
def test_what_is_expected(check, text):
    assert expected(check) == text


def test_every_kind_of_the_validate_module_is_described():
    from configobj.validate import Validator

    for kind in Validator().functions:
        if kind:
            assert "of the kind" not in expected(kind), kind


@pytest.mark.parametrize(
    ("check", "value"),
    [
        ("integer", None),
        ("integer(default=3)", 3),
        ("string(default=None)", None),
        ('string(default="a b")', "a b"),
        ("boolean(default=yes)", True),
        ("string_list(default=list(a, b))", ["a", "b"]),
        ("force_list(default=list())", []),
        ("size(default=4GB)", "4GB"),
        ("bytes(default=4K)", 4096),
        ("texts(default=list())", []),
        ("float(1, 5, default=2)", 2.0),
    ],
)
def test_defaults(check, value):
    assert default_of(check) == value


@pytest.mark.parametrize("check", ["integer(default=x)", "nonsense(1)", "integer(0, 5, default=9)"])
def test_wrong_checks(check):
    with pytest.raises(BadValue, match="no check"):
        default_of(check)


def test_names_and_lists():
    assert kind_of("integer(0, 9, default=1)") == "integer"
    assert kind_of(" text ") == "text"
    assert [c for c in ("text", "texts", "launchers", "list(min=1)", "string") if is_list(c)] == [
        "texts",
        "launchers",
        "list(min=1)",
    ]


def test_split():
    assert split("a") == ["a"]
    assert split("  ") == []
    assert split("a:4, me@b") == ["a:4", "me@b"]
    with pytest.raises(ValueError, match="quotes that do not match"):
        split("'a, b")
    with pytest.raises(ValueError, match="more than one line"):
        split("a,\nb = 1")


@settings(deadline=None)
@given(st.text(alphabet="ab ,'\"#\n\\%()", max_size=20))
def test_any_text_is_split_or_refused(text):
    try:
        found = split(text)
    except ValueError:
        return
    assert all(isinstance(one, str) for one in found)


@settings(deadline=None)
@given(
    st.sampled_from([*KINDS, "integer", "float(0)", "boolean", "option(a, b)", "string_list"]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(),
        st.lists(st.one_of(st.text(max_size=4), st.integers()), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
)  # fmt: skip
def test_any_value_is_checked_or_refused(check, value):
    try:
        found = checked(check, value)
    except BadValue as error:
        assert error.expected or error.reason
        return
    assert repr(checked(check, found)) == repr(found)  # a launcher may be any object, even nan
