"""One task as the controller knows it: its states, the steps between them, its story."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

from msgspec import Struct

from ipkernel.wire.messages import Outcome, Submit, Terms

Payload: TypeAlias = bytes | bytearray | memoryview

#: The most unusual steps that a task's story keeps.
MAX_NOTES: Final = 40


class State(Enum):
    """Where a task is."""

    SUBMITTED = "submitted"
    """It has just arrived."""
    WAITING = "waiting"
    """It is bound to an engine that is not ready, or waits for other tasks to end."""
    READY = "ready"
    """It could run as soon as an engine has room for it."""
    ASSIGNED = "assigned"
    """It was sent to the host of an engine."""
    RUNNING = "running"
    """Its host reported that it runs."""
    LOST = "lost"
    """Its engine was lost; what becomes of it is decided in the same step."""
    FINISHED = "finished"
    """It ended with a result."""
    FAILED = "failed"
    """It ended with an error, was lost for good or could never run."""
    ABORTED = "aborted"
    """It was cancelled."""


#: What each task that another one waits for takes in memory, in bytes, about; so does a condition.
_ENTRY: Final = 64

#: Every step that a task may take. What is not here is a fault of the scheduler.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.SUBMITTED: frozenset({State.WAITING, State.READY, State.FAILED}),
    State.WAITING: frozenset({State.READY, State.FAILED, State.ABORTED}),
    State.READY: frozenset({State.ASSIGNED, State.WAITING, State.FAILED, State.ABORTED}),
    State.ASSIGNED: frozenset(
        {
            State.RUNNING,
            State.READY,
            State.WAITING,
            State.LOST,
            State.FINISHED,
            State.FAILED,
            State.ABORTED,
        }
    ),
    State.RUNNING: frozenset(
        {State.READY, State.LOST, State.FINISHED, State.FAILED, State.ABORTED}
    ),
    State.LOST: frozenset({State.READY, State.WAITING, State.FAILED, State.ABORTED}),
    State.FINISHED: frozenset(),
    State.FAILED: frozenset(),
    State.ABORTED: frozenset(),
}

#: The states of a task that stands in a queue here.
QUEUED: Final = (State.WAITING, State.READY)

#: The state in which each outcome leaves a task.
ENDS: Final[dict[Outcome, State]] = {
    Outcome.OK: State.FINISHED,
    Outcome.ERROR: State.FAILED,
    Outcome.ABORTED: State.ABORTED,
    Outcome.LOST: State.FAILED,
    Outcome.IMPOSSIBLE: State.FAILED,
    Outcome.TIMEOUT: State.FAILED,
}


class InvalidTransition(Exception):
    """A task was about to take a step that :data:`TRANSITIONS` does not have."""


class Origin(Struct, frozen=True, gc=False, eq=False):
    """What is remembered of a task that has ended, besides how it did.

    Attributes:
        submitted: When it came, seconds since the epoch; 0.0 if that is not known.
        ended: When the controller learned of its end; 0.0 likewise.
    """

    submitted: float
    ended: float = 0.0


class Task(Struct, gc=False, eq=False):
    """One task that has not ended.

    A million of them may wait, so it is small: what the client said stays in the message, times
    are shared with all that came in the same batch, and only unusual steps are written down.

    Attributes:
        id: Its number; the session is in the upper bits.
        message: The submission, shared by the tasks of one submission.
        payload: What goes to the engine, as it came.
        submitted: When it came, seconds since the epoch.
        target: The engine that it is bound to, or -1 for a load-balanced task.
        state: Where it is.
        engine: The engine that it is assigned to, or -1.
        assigned: When it was assigned.
        attempts: How many engines began it and were lost.
        grace: Milliseconds that it has to end in after an interrupt, once somebody wants it aborted
            that a host has; -1 if nobody does.
        near: The host that is best for a load-balanced task because of what it needs, or 0.
        notes: Unusual steps as ``(time, text)``, oldest first.
    """

    id: int
    message: Submit
    payload: Payload
    submitted: float
    target: int = -1
    state: State = State.SUBMITTED
    engine: int = -1
    assigned: float = 0.0
    attempts: int = 0
    grace: int = -1
    near: int = 0
    notes: tuple[tuple[float, str], ...] = ()

    @property
    def session(self) -> int:
        """Number of the session that submitted it."""
        return self.id >> 40

    @property
    def cancelled(self) -> bool:
        """Whether it is to be aborted, and its host has been asked to give it back, or to end it."""
        return self.grace >= 0

    @property
    def priority(self) -> int:
        """Tasks of its session with a lower one are to wait for it."""
        terms = self.message.terms
        return terms.priority if terms is not None else 0

    @property
    def charge(self) -> int:
        """Its share, in bytes, of what its session has queued here."""
        message = self.message
        extra = _weight(message.terms) if message.terms is not None else 0
        if self.target < 0 or len(message.targets) < 2:
            return message.size + extra
        return message.size // len(message.targets) + extra

    def origin(self, ended: float) -> Origin:
        """Return what is remembered of it when it has ended.

        Args:
            ended: When the controller learned of that.
        """
        return Origin(self.submitted, ended)

    def note(self, now: float, text: str) -> None:
        """Write an unusual step into its story."""
        self.notes = (*self.notes[-MAX_NOTES + 1 :], (now, text))

    def story(self) -> list[str]:
        """Return what happened to it, a line for each step."""
        label = f" ({self.message.label})" if self.message.label else ""
        bound = f" for engine {self.target}" if self.target >= 0 else ""
        bound += f" with priority {self.priority}" if self.priority else ""
        steps = [
            (self.submitted, f"submitted by session {self.session}{bound}{label}"),
            *self.notes,
        ]
        if self.engine >= 0:
            steps.append((self.assigned, f"assigned to engine {self.engine}"))
        return [f"{clock(when)} {text}" for when, text in steps]


def _weight(terms: Terms) -> int:
    """Return about how many bytes it takes to keep what else is asked of a task."""
    size = len(terms.recovery.payload) if terms.recovery is not None else 0
    for wanted in (terms.after, terms.follow):
        if wanted is not None:
            size += _ENTRY * (len(wanted.tasks) + len(wanted.ended))
    for named in (terms.resources, terms.where):
        if named:
            size += _ENTRY * len(named)
    return size


class Refused:
    """What is known of a load-balanced task that engines have rejected.

    Attributes:
        targets: The engines that its client allows; empty for any.
        told: What those said that have rejected it, by id.
        unwritten: What of that is not in the journal.
    """

    __slots__ = ("targets", "told", "unwritten")

    def __init__(self, targets: list[int]) -> None:
        self.targets = targets
        self.told: dict[int, str] = {}
        self.unwritten: dict[int, str] = {}


class CheckedTask(Task, gc=False, eq=False):
    """A task that refuses steps which are not in :data:`TRANSITIONS`, for tests."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state" and value not in TRANSITIONS[self.state]:
            raise InvalidTransition(
                f"task {self.id}: {self.state.value} -> {value.value}; its story: {self.story()}"
            )
        super().__setattr__(name, value)


def clock(when: float) -> str:
    """Return a time as ``hh:mm:ss.mmm``."""
    return datetime.fromtimestamp(when).strftime("%H:%M:%S.%f")[:-3]
