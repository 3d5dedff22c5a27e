"""The flags of views that few tasks need: what they may be, and what the controller is told of them."""

from __future__ import annotations

from operator import index
from typing import SupportsFloat

from ipkernel.wire.messages import MAX_PRIORITY, MAX_TIMEOUT


def priority_of(value: object) -> int:
    """Return a priority.

    Raises:
        TypeError: ``value`` is no whole number.
        ValueError: It is out of bounds.
    """
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"priority must be a whole number, not {value!r}") from None
    if abs(number) > MAX_PRIORITY:
        raise ValueError(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {number}")
    return number


def timeout_of(value: object) -> float:
    """Return a timeout in seconds; 0 for none.

    Raises:
        TypeError: ``value`` is neither a number nor None.
        ValueError: It is out of bounds.
    """
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise TypeError(f"timeout must be a number of seconds or None, not {value!r}")
    seconds = float(value)
    if seconds < 0:
        return 0.0
    if not 0 < seconds <= MAX_TIMEOUT:  # nor is "not a number"
        raise ValueError(f"timeout must be more than 0 and at most 1e9 seconds, not {value!r}")
    return seconds
