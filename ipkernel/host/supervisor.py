"""The life of engine slots: a pure state machine, events in and instructions out.

========== ==========================================================================
starting   a process was asked for and has not said hello
ready      it works
waiting    it has died; it is started again when its back-off is over
ending     it was told to end, to be started again or for good
dead       it died too often in a row; only a restart on request brings it back
gone       ended for good; the slot is of no more use
========== ==========================================================================
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from attrs import define, frozen

from ipkernel.host.processes import Exit

__all__ = [
    "End",
    "Gone",
    "Instruction",
    "Joined",
    "Left",
    "Phase",
    "Slot",
    "Start",
    "Supervisor",
    "Wait",
]

#: Deaths in a row, right after the start and without having run anything, until it is given up.
MAX_QUICK_DEATHS: Final = 5
#: A process that lived for less than so many seconds and ran nothing has died quickly.
QUICK: Final = 2.0
#: Seconds of the first back-off; each next one is twice as long.
BACK_OFF: Final = 0.1


class Phase(Enum):
    """Where a slot is in its life."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    ENDING = "ending"
    DEAD = "dead"
    GONE = "gone"


@frozen
class Start:
    """Start a process for the slot."""

    key: str


@frozen
class Wait:
    """Report :meth:`Supervisor.waited` in ``seconds``."""

    key: str
    seconds: float


@frozen
class End:
    """End the process of the slot: politely, then by force."""

    key: str


@frozen
class Joined:
    """The engine is ready for work."""

    key: str


@frozen
class Left:
    """The engine's process has ended.

    Attributes:
        key: The slot.
        reason: Why, as a sentence.
        restarting: Whether it is started again.
        exit: How it ended; None when it could not be started.
        uptime: Seconds it lived.
    """

    key: str
    reason: str
    restarting: bool
    exit: Exit | None
    uptime: float


@frozen
class Gone:
    """The slot has ended for good, as was asked for."""

    key: str


Instruction: TypeAlias = Start | Wait | End | Joined | Left | Gone


@define
class Slot:
    """One engine's place.

    Attributes:
        key: Its name within the daemon.
        phase: Where it is in its life.
        pid: Its process, or 0.
        since: When the process was started.
        quick_deaths: How many in a row.
        restarts: How often it was started again.
        reason: Why it is not ready.
        again: While ending: start it again afterwards.
    """

    key: str
    phase: Phase = Phase.STARTING
    pid: int = 0
    since: float = 0.0
    quick_deaths: int = 0
    restarts: int = 0
    reason: str = ""
    again: bool = False


class Supervisor:
    """All slots of a host. Times are seconds of any clock that only goes forward.

    Attributes:
        slots: By key; those that are gone are left out.
    """

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}

    def add(self, key: str, now: float, *, begun: bool = False) -> list[Instruction]:
        """A new slot.

        Args:
            key: Its name.
            now: The time.
            begun: Its process was asked for already.
        """
        if key in self.slots:
            raise ValueError(f"there is a slot {key!r} already")
        self.slots[key] = Slot(key, since=now)
        return [] if begun else [Start(key)]

    def spawned(self, key: str, pid: int) -> None:
        """The process exists."""
        slot = self.slots.get(key)
        if slot is not None:
            slot.pid = pid

    def hello(self, key: str) -> list[Instruction]:
        """The engine has reported on its link."""
        slot = self.slots.get(key)
        if slot is None or slot.phase is not Phase.STARTING:
            return []
        slot.phase = Phase.READY
        slot.reason = ""
        return [Joined(key)]

    def exited(
        self, key: str, ending: Exit | None, now: float, *, worked: bool = False, text: str = ""
    ) -> list[Instruction]:
        """The process has ended, or could not be started.

        Args:
            key: The slot.
            ending: How; None when there never was a process.
            now: The time.
            worked: Whether it had begun any task.
            text: Why, where ``ending`` does not say it.
        """
        slot = self.slots.get(key)
        if slot is None or slot.phase in (Phase.WAITING, Phase.DEAD):
            return []
        slot.pid = 0
        uptime = max(0.0, now - slot.since)
        if slot.phase is Phase.ENDING:
            return self._ended(slot, ending, uptime, now)
        why = text or (ending.text if ending is not None else "could not be started")
        slot.quick_deaths = 0 if worked or uptime >= QUICK else slot.quick_deaths + 1
        if slot.quick_deaths > MAX_QUICK_DEATHS:
            slot.phase = Phase.DEAD
            slot.reason = f"died {slot.quick_deaths} times in a row right after its start: {why}"
            return [Left(key, slot.reason, False, ending, uptime)]
        slot.reason = why
        left = Left(key, why, True, ending, uptime)
        if slot.quick_deaths == 0:
            return [left, *self._again(slot, now)]
        slot.phase = Phase.WAITING
        return [left, Wait(key, BACK_OFF * 2 ** (slot.quick_deaths - 1))]

    def _ended(
        self, slot: Slot, ending: Exit | None, uptime: float, now: float
    ) -> list[Instruction]:
        left = Left(slot.key, slot.reason, slot.again, ending, uptime)
        if slot.again:
            slot.quick_deaths = 0
            return [left, *self._again(slot, now)]
        slot.phase = Phase.GONE
        del self.slots[slot.key]
        return [left, Gone(slot.key)]

    def _again(self, slot: Slot, now: float) -> list[Instruction]:
        slot.phase = Phase.STARTING
        slot.since = now
        slot.restarts += 1
        slot.again = False
        return [Start(slot.key)]

    def waited(self, key: str, now: float) -> list[Instruction]:
        """The back-off is over."""
        slot = self.slots.get(key)
        if slot is None or slot.phase is not Phase.WAITING:
            return []
        return self._again(slot, now)

    def overdue(self, key: str) -> list[Instruction]:
        """A process that was started long ago has still not said hello."""
        slot = self.slots.get(key)
        if slot is None or slot.phase is not Phase.STARTING:
            return []
        return [End(key)]

    def end(self, key: str, reason: str, now: float, *, again: bool = False) -> list[Instruction]:
        """Someone wants the engine to end.

        Args:
            key: The slot.
            reason: Why, for messages.
            now: The time.
            again: Start it again afterwards.
        """
        slot = self.slots.get(key)
        if slot is None:
            return []
        if slot.phase is Phase.ENDING:
            slot.again = slot.again and again  # an end for good stands: somebody waits for it
            return []
        slot.again = again
        slot.reason = reason
        if slot.phase in (Phase.WAITING, Phase.DEAD):
            if again:
                slot.quick_deaths = 0
                return self._again(slot, now)
            waited = slot.phase is Phase.WAITING
            slot.phase = Phase.GONE
            del self.slots[key]
            # All think that one that waits comes back, and keep work for it.
            return [Left(key, reason, False, None, 0.0), Gone(key)] if waited else [Gone(key)]
        slot.phase = Phase.ENDING
        return [End(key)]
