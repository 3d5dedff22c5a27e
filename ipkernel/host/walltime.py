"""The time that a batch system gives a host: what is to happen before it is over, and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Walltime"]


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
