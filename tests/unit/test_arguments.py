"""Spans of time, and other values on command lines."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel import arguments
from ipkernel.cluster.checks import BadValue, checked
from ipkernel.spans import LONGEST, parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("90s", 90.0),
        ("30m", 1800.0),
        ("1.5h", 5400.0),
        (" 7 D ", 7 * 86400.0),
        (2, 2.0),
        (0.25, 0.25),
    ],
)
def test_spans(text: str | float, seconds: float) -> None:
    assert parse_span(text) == checked("seconds", text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "soon",
        "-1",
        "0",
        "nan",
        "inf",
        "1e400",
        "7 days",
        "1h30m",
        "1:00",
        True,
        0,
        -1,
        2e9,
    ],
)
def test_what_is_no_span(text: str | float) -> None:
    with pytest.raises(ValueError, match="is not a number of seconds above 0, nor such as 90s"):
        parse_span(text)
    with pytest.raises(BadValue, match="a number of seconds above 0, or such as 90s"):
        checked("seconds", text)


def test_nothing_may_be_a_span() -> None:
    assert parse_span("0", zero=True) == parse_span("0d", zero=True) == 0.0
    with pytest.raises(ValueError, match="from 0"):
        parse_span("-1", zero=True)


@given(st.floats(1e-9, LONGEST))
def test_every_number_of_seconds_is_one(seconds: float) -> None:
    assert parse_span(repr(seconds)) == parse_span(seconds) == seconds


@pytest.mark.parametrize(
    ("convert", "good", "value", "bad"),
    [
        (arguments.natural, "0", 0, "-1"),
        (arguments.natural, "7", 7, "\u00b2"),
        (arguments.port, "65535", 65535, "65536"),
        (arguments.span, "2m", 120.0, "0"),
        (arguments.span_or_zero, "0", 0.0, "never"),
        (arguments.size, "1K", 1024, "25%"),
        (arguments.size_text, "4GB", "4GB", "25%"),
        (arguments.share_text, "25%", "25%", "250%"),
    ],
)
def test_values(convert: object, good: str, value: object, bad: str) -> None:
    assert callable(convert)
    assert convert(good) == value
    with pytest.raises(ArgumentTypeError, match=f"{bad!r} is not a"):
        convert(bad)
