"""Numbers of bytes as people write them: ``"4 GB"``, ``"512MiB"``, ``"25 %"``, or a plain number."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["memory_text", "parse_size", "size_text"]

_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)", re.IGNORECASE)
_POWERS: Final = "bkmgt"
_MAX: Final = 1 << 50


def parse_size(value: str | int, whole: int = 0) -> int:
    """Return a number of bytes.

    Args:
        value: The number, or text: a number with a unit (B, K, M, G, T, also with B for powers of
            1000, as in ``GB``, or iB for powers of 1024, as in ``GiB``; a single letter means the
            latter), or a share in percent.
        whole: What a share is of, in bytes; 0 refuses shares.

    Raises:
        ValueError: It is none; the text says how it may be written.
    """
    number = _number(value, whole)
    if number is None or not 0 <= number < _MAX:
        shares = ", '25%'" if whole else ""
        raise ValueError(f"{value!r} is not a size: write a number of bytes, '512M', '4GB'{shares}")
    return int(number)


def _number(value: str | int, whole: int) -> float | None:
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        return number / 100 * whole if whole and number <= 100 else None
    if unit in ("", "b"):
        return number
    power = _POWERS.find(unit[0])
    if power < 1 or unit[1:] not in ("", "b", "ib"):
        return None
    return number * float(1000 if unit[1:] == "b" else 1024) ** power


def size_text(size: float) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    return _text(size, 1000, ("bytes", "KB", "MB", "GB", "TB"))


def memory_text(size: float) -> str:
    """Return a number of bytes for people, in powers of 1024."""
    return _text(size, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))


def _text(size: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while size >= step and power < len(units) - 1:
        size /= step
        power += 1
    return f"{size:.1f} {units[power]}" if power else f"{int(size)} {units[0]}"
