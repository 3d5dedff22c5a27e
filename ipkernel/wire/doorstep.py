"""The doorstep: inbound connections that have not shown yet that they may be here.

Only so many may stand there. Those that have not said a word go first, so that a flood of
silent connections neither fills the memory nor keeps out those who know what they want.
"""

from __future__ import annotations

from typing import Final, Protocol

#: At most so many connections that have not sent a byte.
MAX_SILENT: Final = 256
#: At most so many connections in the middle of introducing themselves.
MAX_SPEAKING: Final = 512


class Stranger(Protocol):
    """A connection on the doorstep."""

    def turn_away(self, reason: str) -> None:
        """Drop the connection at once."""


class Doorstep:
    """Counts strangers and turns the oldest away when there are too many.

    Args:
        silent: The most that have not sent anything.
        speaking: The most that have.
    """

    def __init__(self, silent: int = MAX_SILENT, speaking: int = MAX_SPEAKING) -> None:
        self._limits = (silent, speaking)
        self._silent: dict[Stranger, None] = {}
        self._speaking: dict[Stranger, None] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._speaking)

    def arrived(self, stranger: Stranger) -> None:
        """A connection was accepted."""
        self._silent[stranger] = None
        self._keep(self._silent, self._limits[0])

    def spoke(self, stranger: Stranger) -> None:
        """A connection sent its first bytes."""
        if stranger in self._speaking:
            return
        self._silent.pop(stranger, None)
        self._speaking[stranger] = None
        self._keep(self._speaking, self._limits[1])

    def left(self, stranger: Stranger) -> None:
        """A connection showed its right to be here, or is gone."""
        self._silent.pop(stranger, None)
        self._speaking.pop(stranger, None)

    @staticmethod
    def _keep(strangers: dict[Stranger, None], limit: int) -> None:
        while len(strangers) > limit:
            oldest = next(iter(strangers))
            del strangers[oldest]
            oldest.turn_away("too many connections that have not introduced themselves")
