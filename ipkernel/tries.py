"""How often a program that ends by itself is started again."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AWAY",
    "BACK_OFF",
    "LONGEST",
    "MAX_IN_A_ROW",
    "MAX_WORKED",
    "SETTLED",
    "WORKED",
    "Tries",
]

#: How often in a row a program is started again that has not worked.
MAX_IN_A_ROW: Final = 5
#: How often one that has worked each time, but not for long.
MAX_WORKED: Final = 20
#: Seconds before it is started; twice as long for each start in a row that has failed.
BACK_OFF: Final = 0.25
#: Seconds after which one that was started again counts as one that works.
SETTLED: Final = 60.0
#: Seconds after which one does that is known to work.
WORKED: Final = 10.0
#: Seconds for which it is tried to reach the host of one, and at most between two such attempts.
AWAY: Final = 3600.0
LONGEST: Final = 15.0


class Tries:
    """Counts how often a program was started again, and says when it is enough.

    Args:
        now: The time, in seconds by any clock that the other calls use as well.

    Attributes:
        in_a_row: How often it was, without having settled.
        failed: How many of its starts in a row have failed: it ended before it worked.
    """

    def __init__(self, now: float) -> None:
        self.in_a_row = 0
        self.failed = 0
        self._since = now
        self._works = False
        self._away: float | None = None
        self._pause = BACK_OFF

    def ended(self, now: float) -> float | None:
        """The program has ended, or could not be started.

        Returns:
            After how many seconds it is to be started again; None if that is no use.
        """
        works, self._works = self._works, False
        self._away = None
        if now - self._since > (WORKED if works else SETTLED):
            self.in_a_row = self.failed = 0
        elif works:
            self.failed = 0
        if self.failed >= MAX_IN_A_ROW or self.in_a_row >= MAX_WORKED:
            return None
        pause = BACK_OFF * 2.0**self.failed
        self.in_a_row += 1
        self.failed += not works
        return pause

    def away(self, now: float) -> float | None:
        """There was no way to where it is to run, which says nothing of the program: it does not count.

        Returns:
            After how many seconds there is to be another attempt; None if there were enough.
        """
        if self._away is None:
            self._away, self._pause = now, BACK_OFF
        if now - self._away > AWAY:
            return None
        pause, self._pause = self._pause, min(2.0 * self._pause, LONGEST)
        return pause

    def began(self, now: float) -> None:
        """The program is being started again."""
        self._since = now
        self._works = False

    def worked(self) -> None:
        """It does what it is there for; until then, its end is that of a start that has failed."""
        self._works = True
