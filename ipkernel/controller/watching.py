"""The watchdog's shell: looks now and then, and writes into the log what is new."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from ipkernel.controller.watchdog import INFORMATION, Surroundings, Watchdog
from ipkernel.wire.records import Stuck

logger = logging.getLogger(__name__)

#: Looks in the time after which something is reported.
_LOOKS: Final = 4
#: Seconds between two looks at least.
_SHORTEST: Final = 0.05


class Watching:
    """Has the watchdog look for as long as the controller lives.

    Args:
        clock: Twisted's reactor, or a Clock.
        watchdog: Who looks.
        around: Returns what the scheduler does not know.
        threshold: Seconds after which something is reported; 0 for never.

    Attributes:
        stuck: What was found at the last look.
    """

    def __init__(
        self,
        clock: Any,
        watchdog: Watchdog,
        around: Callable[[], Surroundings],
        threshold: float,
    ) -> None:
        self.stuck: list[Stuck] = []
        self._clock = clock
        self._watchdog = watchdog
        self._around = around
        self._interval = max(threshold / _LOOKS, _SHORTEST)
        self._told: dict[str, Stuck] = {}
        self._timer: Any = None
        if threshold > 0.0:
            self._wait()

    def _wait(self) -> None:
        self._timer = self._clock.callLater(self._interval, self._look)

    def _look(self) -> None:
        self._wait()
        try:
            self.stuck = self._watchdog.look(self._clock.seconds(), self._around())
        except Exception:
            logger.exception("the watchdog failed")
            return
        now = {one.cause: one for one in self.stuck}
        for cause, one in now.items():
            if cause not in self._told:
                level = logging.INFO if one.severity == INFORMATION else logging.WARNING
                logger.log(level, "stuck: %s. What to do: %s", one.reason, one.advice)
        for cause, one in self._told.items():
            if cause not in now:
                logger.info("not stuck any more: %s", one.reason)
        self._told = now

    def close(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
