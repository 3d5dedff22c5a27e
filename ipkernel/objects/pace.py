"""Whether compression pays on the way to a host: learned from how fast bytes went there. Pure."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["FAST", "Pace"]

#: Bytes per second on one connection from which on nothing is compressed: it takes longer than that.
FAST: Final = 150e6
#: How much the last piece counts, against all before it.
_WEIGHT: Final = 0.5
#: Pieces below this many bytes say little.
_SMALLEST: Final = 1 << 20
#: So many pieces are moved compressed before the other way is tried again.
_PATIENCE: Final = 64


class Pace:
    """Remembers how fast pieces went, plain and compressed; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates: dict[bool, float] = {}
        self._packed_pieces = 0

    def note(self, length: int, seconds: float, *, packed: bool) -> None:
        """Note that a piece was moved.

        Args:
            length: Its bytes, before they were compressed.
            seconds: How long it took.
            packed: Whether it was compressed.
        """
        if length < _SMALLEST:
            return
        rate = length / max(seconds, 1e-9)
        with self._lock:
            before = self._rates.get(packed, rate)
            self._rates[packed] = before + _WEIGHT * (rate - before)
            self._packed_pieces = self._packed_pieces + 1 if packed else 0

    @property
    def is_slow(self) -> bool:
        """Whether pieces should be compressed, if they can be."""
        with self._lock:
            plain = self._rates.get(False)
            if plain is None or plain >= FAST or self._packed_pieces >= _PATIENCE:
                return False
            return self._rates.get(True, plain) >= plain
