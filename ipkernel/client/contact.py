"""Whether the controller can be reached, in words for whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Contact:
    """What is known of the connection to the controller; any thread may look.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When the connection was lost, and why; replaced as a whole.
        self._loss: tuple[float, str] | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection now, and attempts are made to get one."""
        return self._loss is not None

    def lose(self, why: str) -> None:
        """Take note that the connection is lost, and will be tried for again."""
        if self._loss is None:
            self._loss = self._clock(), why

    def find(self) -> None:
        """Take note that there is a connection, or that nobody tries for one any more."""
        self._loss = None

    def __str__(self) -> str:
        loss = self._loss
        if loss is None:
            return ""
        since = self._clock() - loss[0]
        return f"the controller is lost since {since:.0f} s ({loss[1]}); trying again"
