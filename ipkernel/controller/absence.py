"""Hosts whose connection is lost: until when they may come back, and what they have not got."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from ipkernel.controller.events import HostLost
from ipkernel.controller.links import MAX_UNTAKEN
from ipkernel.controller.turn import Turn
from ipkernel.vitals import process_lives
from ipkernel.wire.replay import Replay

#: Seconds between two looks whether the daemon of this machine still lives.
_LOOK: Final = 0.05


class Absent:
    """One host that is away.

    Attributes:
        host: Its number.
        tub_id: Its TubID.
        replay: What it has not acknowledged.
        restored: It has not been seen since this controller was started.
        reason: Why its connection is lost.
    """

    def __init__(
        self, host: int, tub_id: str, replay: Replay, reason: str, *, restored: bool
    ) -> None:
        self.host = host
        self.tub_id = tub_id
        self.replay = replay
        self.reason = reason
        self.restored = restored
        self.timer: Any = None


class Absences:
    """All hosts that are away; gives them up in time.

    Args:
        reactor: Twisted's reactor, or a Clock.
        turn: Is told which hosts are lost.
        given_up: Is called with the number of each of them.
        lives: Tells whether there is a process of this machine.
        here: Name of this machine.
    """

    def __init__(
        self,
        reactor: Any,
        turn: Turn,
        given_up: Callable[[int], None],
        *,
        lives: Callable[[int], bool] = process_lives,
        here: str = "",
    ) -> None:
        self._reactor = reactor
        self._turn = turn
        self._given_up = given_up
        self._lives = lives
        self._here = here or socket.gethostname()
        self._absent: dict[int, Absent] = {}
        self._local: dict[int, int] = {}

    def is_here(self, name: str, pid: int) -> bool:
        """Tell whether there is a process of this machine that a host may well be."""
        return name == self._here and self._lives(pid)

    def seen(self, host: int, name: str, pid: int, *, before: bool = False) -> None:
        """Note who a host is: the end of a process of this machine need not be waited for.

        Args:
            host: Its number.
            name: Of its machine.
            pid: Of its daemon.
            before: Whether the process was seen here by the controller before this one.
        """
        if self.is_here(name, pid) or (before and name == self._here):
            self._local[host] = pid

    def forget(self, host: int) -> None:
        """A host is lost for good."""
        self._local.pop(host, None)

    def begin(self, absent: Absent, seconds: float) -> None:
        """A host is away from now on, for so many seconds at most."""
        self._absent[absent.host] = absent
        self._look(absent, self._reactor.seconds() + seconds, seconds)

    def _look(self, absent: Absent, end: float, seconds: float) -> None:
        absent.timer = None
        left = end - self._reactor.seconds()
        pid = self._local.get(absent.host)
        if pid is not None and not self._lives(pid):
            why = f"its host daemon (pid {pid}) has died: {absent.reason}"
            self.give_up(absent, why)
        elif left <= 0.0:
            self.give_up(absent, f"{absent.reason}; it did not come back within {seconds:g} s")
        else:
            pause = left if pid is None else min(left, _LOOK)
            absent.timer = self._reactor.callLater(pause, self._look, absent, end, seconds)

    def of(self, tub_id: str) -> list[Absent]:
        """Return the hosts with a TubID that are away."""
        return [absent for absent in self._absent.values() if absent.tub_id == tub_id]

    def deliver(self, host: int, items: list[Any]) -> None:
        """Keep messages for a host, if it is away and may go on where it was."""
        absent = self._absent.get(host)
        if absent is not None and not absent.restored:
            absent.replay.extend(items)
            if len(absent.replay) > MAX_UNTAKEN:
                self.give_up(absent, f"{absent.reason}; more and more waited for it")

    def take(self, absent: Absent) -> None:
        """A host is back."""
        del self._absent[absent.host]
        self._stop(absent)

    def give_up(self, absent: Absent, reason: str) -> None:
        """A host will not come back, or not as the one that it was."""
        self.take(absent)
        self.forget(absent.host)
        self._turn.add(HostLost(absent.host, reason, self._turn.now()))
        self._given_up(absent.host)

    def all(self) -> list[Absent]:
        """Return all hosts that are away."""
        return list(self._absent.values())

    def _stop(self, absent: Absent) -> None:
        timer, absent.timer = absent.timer, None
        if timer is not None:
            timer.cancel()
