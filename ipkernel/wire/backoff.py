"""How long whoever has lost a peer waits before each attempt to reach it again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

#: Seconds before the first attempt; each next pause is twice as long.
FIRST: Final = 0.02
#: For so many seconds after the loss attempts are frequent: most losses are short.
EAGER: Final = 3.0
#: The longest pauses, in seconds, in that time and later.
EAGER_PAUSE: Final = 0.25
LONGEST: Final = 1.0


class Backoff:
    """Pauses that grow, each shortened by chance so that not all come back at the same moment.

    Args:
        chance: Returns a random number from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._pause = FIRST

    def pause(self, since: float) -> float:
        """Return how long to wait before the next attempt.

        Args:
            since: Seconds since the loss.

        Returns:
            Seconds, from :data:`FIRST` / 2 to :data:`LONGEST`.
        """
        pause = min(self._pause, EAGER_PAUSE if since < EAGER else LONGEST)
        self._pause = min(2 * pause, LONGEST)
        return pause * (1.0 - 0.5 * self._chance())
