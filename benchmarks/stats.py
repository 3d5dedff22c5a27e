"""The few statistics that the reports use."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Return the middle of ``values`` (the mean of the two middle ones if their number is even).

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("the median of no values does not exist")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was really measured.

    Args:
        values: the measurements, in any order.
        percent: above 0, at most 100.

    Raises:
        ValueError: if there are no values or ``percent`` is out of range.
    """
    if not values:
        raise ValueError("a percentile of no values does not exist")
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, not {percent}")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[rank - 1]


def ratio(ours: float, theirs: float, lower_is_better: bool) -> float | None:
    """Return how many times the peer's cost is ours: above 1 means that we are cheaper.

    Args:
        ours: our figure.
        theirs: the peer's figure, in the same unit.
        lower_is_better: True for times and memory, False for rates.

    Returns:
        The ratio, or None where it has no meaning (a figure is not above zero).
    """
    if ours <= 0 or theirs <= 0:
        return None
    return theirs / ours if lower_is_better else ours / theirs


def figure(value: float) -> str:
    """Return ``value`` as a short text of about three significant digits, as tables show it."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 999.5:
        digits = len(str(round(size)))
        return f"{round(value, 3 - digits):,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{min(decimals, 4)}f}"
