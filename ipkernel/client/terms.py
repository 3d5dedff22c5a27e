"""The flags of views that few tasks need: what they may be, and what the controller is told of them."""

from __future__ import annotations

from operator import index

from ipkernel.wire.messages import MAX_PRIORITY


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
