"""Numbers as people are told them: ids, sizes, spans of time, signals."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.ranges import ranges_text
from ipkernel.signals import signal_name, signal_text
from ipkernel.sizes import memory_text, size_text
from ipkernel.spans import span_text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2, 5"), ([5, 4, 4, 1], "1, 4-5")],
)
def test_ranges(numbers, text):
    assert ranges_text(numbers) == text


@given(st.sets(st.integers(0, 50)))
def test_ranges_lose_nothing(numbers):
    found = set()
    for part in filter(None, ranges_text(numbers).split(", ")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers


def test_what_is_no_number_follows():
    assert ranges_text([3, "b", 1, 2, "a", "b"]) == "1-3, b, a"


@pytest.mark.parametrize(
    ("count", "decimal", "binary"),
    [
        (0, "0 bytes", "0 bytes"),
        (999, "999 bytes", "999 bytes"),
        (1000, "1.0 KB", "1000 bytes"),
        (1024, "1.0 KB", "1.0 KiB"),
        (3 << 29, "1.6 GB", "1.5 GiB"),
        (5e12, "5.0 TB", "4.5 TiB"),
        (5e15, "5000.0 TB", "4547.5 TiB"),
    ],
)
def test_sizes(count, decimal, binary):
    assert (size_text(count), memory_text(count)) == (decimal, binary)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 ms"),
        (0.0123, "12.3 ms"),
        (1.24, "1.2 s"),
        (130, "2 min 10 s"),
        (3599, "59 min 59 s"),
        (18_130, "5 h 2 min"),
        (90_000.0, "25 h 0 min"),
    ],
)
def test_spans(seconds, text):
    assert span_text(seconds) == text


@pytest.mark.parametrize("value", [2, "INT", "int", "SIGINT", "sigint", signal.SIGINT])
def test_signal_names(value):
    assert signal_name(value) == "SIGINT"


@pytest.mark.parametrize("value", [0, -3, 4711, "", "HUH", "SIGHUH", True, None, 2.0, b"INT"])
def test_no_such_signal(value):
    with pytest.raises(ValueError, match="there is no signal"):
        signal_name(value)


def test_signals_by_number():
    assert signal_text(signal.SIGKILL) == f"signal {signal.SIGKILL:d} (SIGKILL)"
    assert signal_text(4711) == "signal 4711"
