from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import stats

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50)


@given(numbers)
def test_median_is_that_of_the_standard_library(values: list[float]) -> None:
    assert stats.median(values) == pytest.approx(statistics.median(values))


def test_median_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.median([])


@given(numbers, st.floats(0.1, 100))
def test_percentile_was_measured_and_enough_values_are_not_above_it(
    values: list[float], percent: float
) -> None:
    found = stats.percentile(values, percent)
    assert found in values
    not_above = sum(value <= found for value in values)
    assert not_above / len(values) >= percent / 100 - 1e-9


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1), (99.1, 100)]
)
def test_percentile_by_nearest_rank(percent: float, expected: float) -> None:
    assert stats.percentile(list(range(100, 0, -1)), percent) == expected


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_percentile_out_of_range(percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        stats.percentile([1.0], percent)


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 50)


def test_ratio_above_one_means_that_we_are_cheaper() -> None:
    assert stats.ratio(ours=2.0, theirs=10.0, lower_is_better=True) == 5.0
    assert stats.ratio(ours=10.0, theirs=2.0, lower_is_better=False) == 5.0
    assert stats.ratio(ours=10.0, theirs=2.0, lower_is_better=True) == 0.2


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 2.0)])
def test_ratio_without_meaning(ours: float, theirs: float) -> None:
    assert stats.ratio(ours, theirs, lower_is_better=True) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0863, "0.0863"),
        (0.00012345, "0.0001"),
        (1.4949, "1.49"),
        (12.34, "12.3"),
        (123.4, "123"),
        (999.4, "999"),
        (999.6, "1,000"),
        (12_345.0, "12,300"),
        (2_660_123.0, "2,660,000"),
        (-12.34, "-12.3"),
    ],
)
def test_figure_has_three_digits(value: float, text: str) -> None:
    assert stats.figure(value) == text


@given(st.floats(0.01, 1e9))
def test_figure_is_within_half_a_percent(value: float) -> None:
    assert float(stats.figure(value).replace(",", "")) == pytest.approx(value, rel=0.0051)
