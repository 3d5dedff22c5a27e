"""The course of an MPI job that is to go on: a pure state machine, events in and actions out.

All ranks end when one of them does. Then the job is started again, as a whole, unless it never got
so far as to work, or fails again and again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from attrs import frozen

from ipkernel.cluster.processes import describe_exit
from ipkernel.launchers.mpiwords import how_it_ended, read_words, the_others

__all__ = ["Action", "Begin", "Course", "EndIt", "Finish", "Judge", "Tell"]

#: Failures in a row, each soon after the start, until the job is given up.
MAX_QUICK: Final = 5
#: A job that was ready for less than so many seconds has failed quickly.
QUICK: Final = 2.0
#: Seconds of the first back-off; each next one is twice as long.
BACK_OFF: Final = 0.1
#: Seconds that MPI may take to end a job of which a rank has died.
PATIENCE: Final = 2.0
#: Seconds that the ranks of a job may take to leave it in order; and when they are not wanted.
LEAVING: Final = 6.0
STOPPING: Final = 1.0
#: What is kept of the standard error, in characters, and how many lines are told of its beginning,
#: and of its end.
KEPT: Final = 65536
FIRST: Final = 6
LAST: Final = 6
#: The signals with which MPI ends ranks.
_ENDED_BY_MPI: Final = (9, 15)
#: How Open MPI and Slurm say that there are too few cores, and what to do then.
_CROWDED: Final = re.compile(r"not enough slots|more processors requested", re.IGNORECASE)
_REMEDY: Final = (
    ": MPI has no cores for so many engines; ask for fewer, or write oversubscribe = yes in [mpi]"
)


@frozen
class Begin:
    """Start the job's launcher in ``seconds``."""

    seconds: float


@frozen
class EndIt:
    """End the job's launcher, and the job with it, in ``seconds`` if it still runs then."""

    seconds: float


@frozen
class Judge:
    """Write down, for the host daemons, why the job has ended."""

    text: str


@frozen
class Tell:
    """Tell whoever has started all this an event."""

    event: Mapping[str, Any]


@frozen
class Finish:
    """End, with this exit code."""

    code: int


Action: TypeAlias = Begin | EndIt | Judge | Tell | Finish


class Course:
    """What becomes of a job. Times are seconds of any clock that only goes forward.

    Args:
        size: How many ranks it has.
        command: Name of its launcher, for messages.
    """

    def __init__(self, size: int, command: str) -> None:
        self._size = size
        self._command = command
        self._quick = 0
        self._worked = False
        self._stopping = False
        self._fresh()

    def _fresh(self) -> None:
        self._ready: dict[int, None] = {}
        self._ready_at = -1.0
        self._errors = ""
        self._died = ""
        self._rank = -1
        self._known = False
        self._judged = ""
        self._renewed = False
        self._left = False
        self._told = False
        self._error = ""

    def told_to_end(self) -> None:
        """The job's launcher was told to end: how it does so says nothing more."""
        self._told = True

    def begun(self) -> list[Action]:
        """The job's launcher was started."""
        self._fresh()
        return [EndIt(0.0)] if self._stopping else []

    # ------------------------------------------------------------- hearing

    def heard(self, event: Mapping[str, Any], now: float) -> list[Action]:
        """A host daemon of the job has told something."""
        name = event.get("event")
        if name == "ready":
            return self._host_ready(list(event.get("engines", ())), now)
        if name == "died":
            return self._rank_died(event)
        if name == "restart":
            return self._renew()
        if name == "stopping":
            self._left = True
            return [EndIt(LEAVING)]
        if name == "error":
            self._error = self._error or str(event.get("message", ""))
            return [EndIt(LEAVING)]
        return [Tell(event)]

    def complained(self, text: str) -> None:
        """The job's launcher, or a rank before it became an engine, has written to its error."""
        self._errors = (self._errors + text)[-KEPT:]

    def _host_ready(self, engines: list[int], now: float) -> list[Action]:
        self._ready.update(dict.fromkeys(engines))
        if len(self._ready) < self._size or self._ready_at >= 0:
            return []
        self._ready_at = now
        self._worked = True
        return [Tell({"event": "ready", "engines": sorted(self._ready)})]

    def _rank_died(self, event: Mapping[str, Any]) -> list[Action]:
        if self._died or self._judged:
            return []  # of another host, as MPI has ended all
        self._died = str(event.get("text", "a rank ended"))
        self._rank = int(event.get("rank", -1))
        self._known = bool(event.get("known"))
        return [
            *(self._judge(self._died, the_others(self._size)) if self._known else []),
            EndIt(PATIENCE),
        ]

    def _renew(self) -> list[Action]:
        if self._renewed or self._judged:
            return []
        self._renewed = True
        return [*self._judge("restarted on request"), EndIt(LEAVING)]

    def stop(self) -> list[Action]:
        """The job is wanted no more."""
        if self._stopping:
            return [EndIt(0.0)]
        self._stopping = True
        return [*self._judge("the engines of this MPI job are stopped"), EndIt(STOPPING)]

    # ------------------------------------------------------------- judging

    def _judge(self, *parts: str) -> list[Action]:
        if self._judged:
            return []
        self._judged = "; ".join(filter(None, parts))
        return [Judge(self._judged)]

    def _verdict(self, code: int) -> list[Action]:
        """What there is to say about a job that has ended by itself."""
        if not self._died:
            how = describe_exit(code)
            crowded = _REMEDY if _CROWDED.search(self._errors) else ""
            text = f"{self._command}, which ran this MPI job, {how}{crowded}"
            return self._judge(text, self._last())
        words = read_words(self._errors)
        if words is not None and words.rank not in (-1, self._rank):
            words = None  # it speaks of one that it has ended itself
        how = ""
        if words is not None and words.rank < 0 and words.signal in _ENDED_BY_MPI:
            how = f"ended unexpectedly, or {how_it_ended(words.signal, 0)}"  # as the others were, by MPI
        elif words is not None:
            how = how_it_ended(words.signal, words.code)
        elif code > 0 and not self._told and not self._errors.strip():
            how = how_it_ended(0, code)
        text = self._died.replace("ended unexpectedly", how) if how else self._died
        return self._judge(text, the_others(self._size))

    def _last(self) -> str:
        lines = [line.strip() for line in self._errors.splitlines()]
        told = [line for line in lines if any(c.isalnum() for c in line)]
        if len(told) > FIRST + LAST:
            told[FIRST:-LAST] = ["..."]
        return f"it said: {' / '.join(told)}" if told else ""

    # -------------------------------------------------------------- ending

    def ended(self, code: int, now: float) -> list[Action]:
        """The job's launcher has ended, with all ranks.

        Args:
            code: How, as :attr:`subprocess.Popen.returncode`.
            now: The time.
        """
        if self._stopping:
            return [Finish(0)]
        if self._renewed:
            self._quick = 0
            return [Tell({"event": "restarting", "message": self._judged}), Begin(0.0)]
        if not self._worked:
            return [*self._verdict(code), Tell(self._failure(code)), Finish(1)]
        if not self._died and (self._left or self._error):
            # its host daemons have left, by themselves or because they were told to
            told = [Tell({"event": "error", "message": self._error})] if self._error else []
            return [*told, Finish(1 if self._error else 0)]
        actions = self._verdict(code)
        slow = self._ready_at >= 0 and now - self._ready_at >= QUICK
        self._quick = 0 if slow else self._quick + 1
        if self._quick > MAX_QUICK:
            text = f"the MPI job failed {self._quick} times in a row: {self._judged}"
            return [*actions, Tell({"event": "error", "message": text}), Finish(1)]
        pause = BACK_OFF * 2 ** (self._quick - 1) if self._quick else 0.0
        told_again = Tell({"event": "restarting", "message": self._judged})
        return [*actions, told_again, Begin(pause)]

    def _failure(self, code: int) -> dict[str, Any]:
        if self._error:
            text = self._error
        elif self._left:
            text = "the controller stopped before the engines of the MPI job were ready"
        else:
            text = self._judged
        return {"event": "error", "message": text}
