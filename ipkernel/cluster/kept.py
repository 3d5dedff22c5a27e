"""The controller that this process has started: watched, and started again when it is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from ipkernel.cluster.hosted import how_ended, named, soon, why_ended
from ipkernel.errors import KernelError
from ipkernel.tries import Tries

#: Seconds within which whoever watches a process tells its end.
_NOTICE: Final = 2.0
#: Seconds for which a start that is under way is waited for by who ends everything.
_JOIN: Final = 10.0


class _State(Enum):
    HERE = 1
    """Started, and its end was not told yet."""
    COMING = 2
    """Ended, and about to be started again."""
    OVER = 3
    """Ended for good."""


class KeptController:
    """A controller behind its launcher, which is another one after each new start.

    Args:
        make: Returns a launcher, not started, given how often the controller was started again.
        again: Tells whether it is started again when it ends by itself after it has been ready.
        ready: Is called when it is ready, unless it is to end already.
        told: Is called, in another thread, with what happens to it, as an event.

    Attributes:
        launcher: Of the process that is there now, or was there last.
        restarts: How often it was started again.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        *,
        again: Callable[[], bool],
        ready: Callable[[], object],
        told: Callable[[dict[str, Any]], object],
    ) -> None:
        self.restarts = 0
        self._make = make
        self._again = again
        self._on_ready = ready
        self._told = told
        self._ready = False
        self._wanted = True
        self._state = _State.HERE
        self._tries = Tries(time.monotonic())
        self._changed = threading.Condition()  # a launcher may tell the end of its program at once
        self._give_way = threading.Event()
        self._thread: threading.Thread | None = None
        self.launcher = make(0)

    def start(self) -> None:
        """Start it for the first time.

        Raises:
            LauncherError: That is not possible.
        """
        self.launcher.start()

    @property
    def alive(self) -> bool:
        """Whether its process runs, or is about to be started again."""
        with self._changed:
            if self.launcher.running:
                return True
            here = _State.HERE
            # The system knows of its end before those who watch it do.
            if self._returns(self.launcher) and not self._changed.wait_for(
                lambda: self._state is not here, _NOTICE
            ):
                self._state = _State.OVER
            return self._state is _State.COMING or bool(self.launcher.running)

    def _returns(self, launcher: Any) -> bool:
        return self._ready and self._wanted and launcher.exit_code != 0 and self._again()

    def heard(self, event: dict[str, Any]) -> None:
        """It has reported an event."""
        if event.get("event") != "ready":
            return
        with self._changed:
            self._ready = True
            self._tries.worked()
            if self._wanted:
                self._on_ready()

    def ended(self, launcher: Any) -> str:
        """Its process has ended: have it started again after a while, if that makes sense.

        Args:
            launcher: Of the process.

        Returns:
            How it ended, if it is started again.
        """
        with self._changed:
            if launcher is not self.launcher:
                return ""
            pause, problem = None, ""
            if self._returns(launcher):
                pause = self._tries.ended(time.monotonic())
                if pause is None:
                    problem = f"ended {self._tries.in_a_row + 1} times in a row"
            self._state = _State.OVER if pause is None else _State.COMING
            self._changed.notify_all()
        if pause is None:
            if problem:
                self._told({"event": "failed", "message": f"{problem}: {why_ended(launcher)}"})
            return ""
        how = f"{named(launcher)} {how_ended(launcher)}"
        self._told({"event": "ended", "message": f"{how}; it is started again {soon(pause)}"})
        with (
            self._changed
        ):  # whoever gives up meanwhile waits for a thread that has begun, or for none
            if self._give_way.is_set():
                return ""
            self._thread = threading.Thread(
                target=self._begin_again,
                args=(pause,),
                name="ipkernel-controller-again",
                daemon=True,
            )
            self._thread.start()
        return how

    def _begin_again(self, pause: float) -> None:
        while not self._give_way.wait(pause):
            with self._changed:
                if not self._wanted:
                    return
                self.restarts += 1
                self.launcher.close()
                self.launcher = launcher = self._make(self.restarts)
                self._tries.began(time.monotonic())
                self._state = _State.HERE
                try:
                    launcher.start()
                except (KernelError, OSError) as error:
                    longer = self._tries.ended(time.monotonic())
                    self._state = _State.OVER if longer is None else _State.COMING
                    if longer is not None:
                        pause = longer
                        continue
                    problem = str(error) or type(error).__name__
                    event: dict[str, Any] = {"event": "failed", "message": problem}
                else:
                    event = {"event": "restarted", "restarts": self.restarts}
                self._changed.notify_all()
            self._told(event)
            return

    def give_up(self) -> None:
        """Start it no more, not even again."""
        self._give_way.set()
        with self._changed:
            self._wanted = False
            if self._state is _State.COMING:
                self._state = _State.OVER
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN)
