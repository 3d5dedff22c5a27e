"""How often a program that ends by itself is started again."""

from __future__ import annotations

from typing import Final

__all__ = ["BACK_OFF", "MAX_IN_A_ROW", "SETTLED", "Tries"]

#: How often in a row a program is started again.
MAX_IN_A_ROW: Final = 5
#: Seconds before it is; each further time in a row twice as long.
BACK_OFF: Final = 0.25
#: Seconds after which one that was started again counts as one that works.
SETTLED: Final = 60.0


class Tries:
    """Counts how often a program was started again, and says when it is enough.

    Args:
        now: The time, in seconds by any clock that the other calls use as well.

    Attributes:
        in_a_row: How often it was, without having settled.
    """

    def __init__(self, now: float) -> None:
        self.in_a_row = 0
        self._since = now

    def ended(self, now: float) -> float | None:
        """The program has ended, or could not be started.

        Returns:
            After how many seconds it is to be started again; None if that is no use.
        """
        if now - self._since > SETTLED:
            self.in_a_row = 0
        if self.in_a_row >= MAX_IN_A_ROW:
            return None
        pause = BACK_OFF * 2.0**self.in_a_row
        self.in_a_row += 1
        return pause

    def began(self, now: float) -> None:
        """The program is being started again."""
        self._since = now
