"""Numbers in short, for people: ``0-2, 5``."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ranges_text"]


def ranges_text(numbers: Iterable[object]) -> str:
    """Return numbers in short: ``[0, 1, 2, 5]`` as ``0-2, 5``; what is no number follows as it is."""
    items = list(dict.fromkeys(numbers))
    parts: list[list[int]] = []
    for one in sorted(item for item in items if isinstance(item, int)):
        if parts and parts[-1][1] == one - 1:
            parts[-1][1] = one
        else:
            parts.append([one, one])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in parts]
    return ", ".join(texts + [str(item) for item in items if not isinstance(item, int)])
