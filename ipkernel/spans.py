"""Spans of time as people write them: ``"90s"``, ``"30m"``, ``"12h"``, ``"7d"``, or a number of seconds."""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["LONGEST", "clock_text", "parse_span", "parse_walltime", "span_text"]

_SPAN = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK: Final = re.compile(r"(?:(\d{1,4})-)?(\d{1,6}):([0-5]\d):([0-5]\d)")
#: The longest span, in seconds: some thirty years.
LONGEST: Final = 1e9


def parse_span(value: str | float, *, zero: bool = False) -> float:
    """Return a span of time in seconds.

    Args:
        value: A number of seconds, or text: a number, with one of the units s, m (or min), h and d if need be.
        zero: Whether it may be 0.

    Raises:
        ValueError: It is none; the text says how it may be written.
    """
    seconds = _seconds(value)
    if seconds is None or not (0.0 if zero else 1e-9) <= seconds <= LONGEST:
        least = "from 0" if zero else "above 0"
        raise ValueError(
            f"{value!r} is not a number of seconds {least}, nor such as 90s, 30m, 12h or 7d"
        )
    return seconds


def _seconds(value: str | float) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    match = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    return float(match[1]) * unit if match is not None and unit is not None else None


def parse_walltime(value: str) -> int:
    """Return the time that a batch job may take, in whole seconds.

    Args:
        value: ``HH:MM:SS``, with days before it if need be (``2-12:00:00``), or a number with its unit.
            One without could be minutes as well, and is in some batch systems.

    Raises:
        ValueError: It is none; the text says how it may be written.
    """
    text = value.strip() if isinstance(value, str) else ""
    match = _CLOCK.fullmatch(text)
    if match is not None:
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = 86400.0 * days + 3600 * hours + 60 * minutes + rest
    else:
        seconds = (_seconds(text) or 0.0) if text[-1:].isalpha() else 0.0
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"{value!r} is not hours, minutes and seconds such as 01:30:00, nor such as 90m, 12h or 7d"
        )
    return math.ceil(seconds)


def clock_text(seconds: int) -> str:
    """Return a number of seconds as ``HH:MM:SS``."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def span_text(seconds: float) -> str:
    """Return a span of time for people: ``12.5 ms``, ``8.0 s``, ``3 min 20 s``, ``5 h 2 min``."""
    if seconds < 0.1:
        return f"{max(seconds, 0.0) * 1000:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
