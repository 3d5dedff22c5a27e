"""The time that a batch system gives a host: what is to happen before it is over, and then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["EARLY", "Walltime", "time_left"]

#: Seconds before the end of its walltime at which a job is done; at most a tenth of it.
EARLY: Final = 10

_LEFT: Final = re.compile(r"(?:(\d{1,5})-)?(?:(\d{1,5}):)?(\d{1,2}):(\d\d)")


def time_left(text: str) -> float:
    """Return when a job is to be done, in seconds from now: a little before its time is over.

    Args:
        text: What is left as a batch system tells it, such as ``"1-02:03:04"`` or ``"59:58"``.

    Returns:
        The seconds; 0 if the text is no time, such as ``"UNLIMITED"`` or nothing.
    """
    match = _LEFT.fullmatch(text.strip())
    if match is None:
        return 0.0
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    seconds = ((24.0 * days + hours) * 60 + minutes) * 60 + rest
    return max(1.0, seconds - min(EARLY, seconds / 10))


class Walltime:
    """Tells when little is left of a host's time, and when nothing is.

    Args:
        clock: Twisted's reactor, or a Clock.
        seconds: How much there is, from now; 0 for no end.
        margin: How much is left when ``near`` is called.
        near: Is called once when the end is near.
        over: Is called once at the end.

    Attributes:
        near: Whether the end is near.
    """

    def __init__(
        self,
        clock: Any,
        seconds: float,
        margin: float,
        near: Callable[[], object],
        over: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._end = clock.seconds() + seconds if seconds else 0.0
        self._tell_near = near
        self._tell_over = over
        self.near = False
        self._timer: Any = None
        if seconds:
            self._timer = clock.callLater(max(0.0, seconds - margin), self._is_near)

    @property
    def left(self) -> float:
        """Seconds until the end; 0 if there is none."""
        return max(0.001, self._end - self._clock.seconds()) if self._end else 0.0

    def _is_near(self) -> None:
        self.near = True
        self._timer = self._clock.callLater(self.left, self._is_over)
        self._tell_near()

    def _is_over(self) -> None:
        self._timer = None
        self._tell_over()

    def stop(self) -> None:
        """Tell nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
