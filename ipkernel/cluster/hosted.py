"""One program of an engines launcher: its launcher of now, and those that it had before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ipkernel import tries
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.processes import describe_exit
from ipkernel.cluster.recorded import Recorded, title
from ipkernel.errors import KernelError, LauncherError
from ipkernel.launchers.interfaces import Share


def where(launcher: Any) -> str:
    """Return where a launcher's program runs, for messages; empty on this host."""
    return str(getattr(launcher, "label", "") or "")


def named(launcher: Any) -> str:
    """Name a program for people."""
    place = where(launcher) or f"pid {launcher.pid}"
    return f"{launcher.name} ({place})"


def why_ended(launcher: Any) -> str:
    """Say how a program ended, with the last lines of what it said."""
    told = getattr(launcher, "problem", None)
    if callable(told):
        return str(told())
    try:
        launcher.wait_event("ready", 0.0)
    except LauncherError as error:
        return str(error)
    except TimeoutError:
        pass
    return f"{launcher.name} {describe_exit(launcher.exit_code)}"


def how_ended(launcher: Any) -> str:
    """Say in a few words how a program ended that nobody had asked to."""
    usual = describe_exit(launcher.exit_code)
    told = getattr(launcher, "how_ended", None)
    how = str(told()) if callable(told) else usual
    if how == usual and how.startswith("exited"):
        return f"{how} by itself"
    return how


def soon(pause: float) -> str:
    """Say when a program is started again, given the seconds until then."""
    return f"in {pause:g} s" if pause else "at once"


def state_of(launcher: Any) -> str:
    """Say in a few words where a program stands, whatever its launcher can tell."""
    told = getattr(launcher, "state", None)
    if not callable(told):
        return "running" if launcher.running else "not running"
    try:
        return str(told())
    except (KernelError, OSError) as error:
        return f"unknown ({error})"


class Hosted:
    """A host daemon that this process has started.

    Args:
        entry: With which launcher.
        share: Which of its programs this is.
        make: Returns a new launcher for it, not started.
        returns: Tells whether the daemon, which has ended, is there again or will be, as somebody
            else starts it again.

    Attributes:
        entry: As given.
        share: As given.
        launcher: Of the process that is there now, or was there last.
        ready: Whether its engines have been ready.
        wanted: False as soon as it is to end.
        engines: The ids of its engines, as far as they are known.
        restarts: How often it was started again.
        lost: How it has ended before it was started again; empty if it was ready since.
        failure: Why it did not start, or is not started again; empty otherwise.
    """

    def __init__(
        self,
        entry: Entry,
        share: Share,
        make: Callable[[Hosted], Any],
        returns: Callable[[Hosted], bool] = lambda hosted: False,
    ) -> None:
        self.entry = entry
        self.share = share
        self.ready = False
        self.wanted = True
        self.engines: tuple[int, ...] = ()
        self.restarts = 0
        self.lost = ""
        self.failure = ""
        self._over = False
        self._added: set[int] = set()
        self._make = make
        self._returns = returns
        self._tries = tries.Tries(time.monotonic())
        self._lock = threading.RLock()  # a launcher may tell the end of its program at once
        self._give_way = threading.Event()
        self._thread: threading.Thread | None = None
        self.launcher = make(self)

    def __repr__(self) -> str:
        return f"<Hosted {self.entry.name} n={self.share.n} {where(self.launcher)!r}>"

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return bool(self.launcher.running) or (self._over and not self.over)

    @property
    def comes_back(self) -> bool:
        """Whether its process was started again from here, or will be."""
        thread = self._thread
        again = bool(self.restarts) or (thread is not None and thread.is_alive())
        return again and self.wanted and not self.over and not self.share.label

    @property
    def over(self) -> bool:
        """Whether its process has ended, or was never there, and none will come by itself."""
        return self._over and not (self.wanted and self._returns(self))

    @over.setter
    def over(self, value: bool) -> None:
        self._over = value

    @property
    def shared(self) -> bool:
        """Whether it has engines that were started later, for others."""
        return bool(self._added)

    @property
    def title(self) -> str:
        """Name it for people: launcher and place."""
        return title(self.entry.name, where(self.launcher) or self.share.label)

    def start(self) -> None:
        """Start it; what goes wrong is noted in :attr:`failure`."""
        with self._lock:
            if not self.wanted:
                return
            try:
                self.launcher.start()
            except (KernelError, OSError) as error:
                self.over = True
                self.failure = str(error) or type(error).__name__

    def heard(self, event: dict[str, Any]) -> None:
        """It has reported an event."""
        kind, ids = event.get("event"), event.get("engines", ())
        if kind in ("registered", "ready"):
            self.engines = tuple(one for one in ids if one not in self._added)
            self.ready = self.ready or kind == "ready"
            self.lost = "" if kind == "ready" else self.lost
        elif kind == "engines":
            self._added.update(one for one in ids if one not in self.engines)
        elif kind == "stopped":
            self.discard(ids)

    def discard(self, engines: Collection[int]) -> None:
        """Forget engines that were stopped."""
        self.engines = tuple(one for one in self.engines if one not in engines)
        self._added.difference_update(engines)

    @property
    def count(self) -> int:
        """How many engines it has now, or shall have: also those that it was told to add."""
        return len(self.engines) + len(self._added) if self.ready else self.share.n

    def arguments(self) -> list[str]:
        """Return the arguments for the daemon that say what it is, and was before."""
        name = self.entry.name.rpartition(":")[2].rpartition(".")[2]
        found = ["--launcher", name[:64]]
        if self.share.label:
            found += ["--label", self.share.label[:256]]
        if self.restarts:
            ids = ",".join(str(one) for one in sorted({*self.engines, *self._added}))
            found += ["--restarts", str(self.restarts), "--engine-ids", ids]
        return found

    def to_record(self) -> Recorded:
        """Return what another process needs to look at it and to end it."""
        return Recorded(
            launcher=self.entry.name,
            label=where(self.launcher) or self.share.label,
            n=self.share.n,
            restarts=self.restarts,
            lost=self.lost,
            failure=self.failure,
            options=self.entry.options,
            record=self.launcher.record() if hasattr(self.launcher, "record") else {},
        )

    def begin_again(self, told: Callable[[Hosted, dict[str, Any]], object]) -> bool:
        """Its process has ended by itself: start it again after a while, if that makes sense.

        Args:
            told: Is told of what is done, in another thread.

        Returns:
            Whether it is started again.
        """
        launcher = self.launcher
        with self._lock:
            if not self.wanted or not self.ready or not self.entry.immediate:
                return False
            away, now = bool(getattr(launcher, "unreachable", False)), time.monotonic()
            pause = self._tries.away(now) if away else self._tries.ended(now)
            if pause is None:
                times = self._tries.in_a_row + 1
                how = "not reached for too long" if away else f"ended {times} times in a row"
                self.failure = f"{how}: {why_ended(launcher)}"
                return False
            self._thread = threading.Thread(
                target=self._again, args=(pause, told), name="ipkernel-host-again", daemon=True
            )
        self.lost = how_ended(launcher)
        how = f"{named(launcher)} {self.lost}"
        told(self, {"event": "ended", "message": f"{how}; it is started again {soon(pause)}"})
        self._thread.start()
        return True

    def _again(self, pause: float, told: Callable[[Hosted, dict[str, Any]], object]) -> None:
        while not self._give_way.wait(pause):
            self.restarts += 1
            launcher = self._make(self)
            with self._lock:
                if not self.wanted:
                    return
                self.launcher.close()
                self.launcher = launcher
                self._tries.began(time.monotonic())
                try:
                    launcher.start()
                except (KernelError, OSError) as error:
                    problem = str(error) or type(error).__name__
                else:
                    break
                longer = self._tries.ended(time.monotonic())
                if longer is None:
                    self.over = True
                    self.failure = problem
                    break
                pause = longer
        else:
            return
        event = {"event": "restarted", "restarts": self.restarts}
        told(self, {"event": "failed", "message": self.failure} if self.failure else event)

    def give_up(self) -> None:
        """Start it no more, not even again."""
        self._give_way.set()
        with self._lock:
            self.wanted = False

    def join(self, timeout: float) -> None:
        """Wait until the thread that starts it again has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
