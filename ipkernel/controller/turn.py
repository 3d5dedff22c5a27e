"""One turn of the reactor: what came in, what follows from it, commit, and only then release."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, fail

from ipkernel.controller.events import Event
from ipkernel.controller.instructions import Commit, Instruction
from ipkernel.controller.journal import IJournal, Record
from ipkernel.controller.scheduler import Scheduler
from ipkernel.wire.lean import soon

logger = logging.getLogger(__name__)

#: Seconds until a commit that has failed is tried again: at first, and at most.
RETRY: Final = 0.05
MAX_RETRY: Final = 5.0


class Source(Protocol):
    """Whoever messages came from."""

    def processed(self, count: int) -> None:
        """So many of its messages are safe now."""

    def lost(self, reason: str, *, final: bool) -> None:
        """Nothing more is to be expected of it, and with ``final`` of its successors."""


class _Step(NamedTuple):
    """What waits for a commit: the records, and what they hold back."""

    records: list[Record]
    instructions: list[Instruction]
    sources: list[tuple[Source | None, int]]
    settled: list[Deferred[None]]


class Turn:
    """Gathers the events of a reactor turn and carries out what the scheduler makes of them.

    While the journal is still writing, events gather; they make the next commit together. That is
    so too while it cannot be written: the same commit is tried again until it succeeds, nothing is
    released, and flow control holds back those who send.

    Args:
        reactor: Twisted's reactor, or a Clock.
        scheduler: Decides.
        journal: Keeps what must not be lost.
        follow: Carries instructions out.

    Attributes:
        trouble: Why the journal cannot be written at present; empty when it can.
        writing_since: When the write was begun that is not done yet; 0.0 if there is none.
    """

    def __init__(
        self,
        reactor: Any,
        scheduler: Scheduler,
        journal: Any,
        follow: Callable[[list[Instruction]], None],
    ) -> None:
        self._reactor = reactor
        self._scheduler = scheduler
        self._journal = IJournal(journal)
        self._follow = follow
        self._events: list[Event] = []
        self._sources: list[tuple[Source | None, int]] = []  # of each event
        self._failed: list[Source] = []
        self._records: list[Record] = []
        self._settled: list[Deferred[None]] = []
        self._due = False
        self._committing = False
        self.trouble = ""
        self.writing_since = 0.0
        self._since = 0.0  # when that began
        self._delay = RETRY
        self._retry: tuple[Any, _Step] | None = None  # the timer
        self._stopping = False
        self._abandoned = False

    def now(self) -> float:
        """Return the time that events bear, in seconds since the epoch."""
        return float(self._reactor.seconds())

    def add(self, event: Event, source: Source | None = None, count: int = 0) -> None:
        """Take in an event; it is dealt with at the end of this turn.

        Args:
            event: What happened.
            source: Whose messages it is made of, to be told when they are safe.
            count: How many messages.
        """
        self._events.append(event)
        self._sources.append((source, count))
        if not self._due and not self._committing:
            self._due = True
            soon(self._reactor, self._end)

    def note(self, record: Record) -> None:
        """Add a record to the next commit, whenever that is."""
        self._records.append(record)

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when all that was added so far is committed and released."""
        done: Deferred[None] = Deferred()
        if not self._due and not self._committing and not self._events:
            done.callback(None)
        else:
            self._settled.append(done)
        return done

    def stop(self) -> Deferred[None]:
        """Return what :meth:`settled` does, but try no longer to write what cannot be written.

        What is not written then is not released either, so nobody counts on it.
        """
        self._stopping = True
        settled = self.settled()
        if self._retry is not None:
            (timer, step), self._retry = self._retry, None
            timer.cancel()
            self._write(step)
        return settled

    def _end(self) -> None:
        self._due = False
        events, self._events = self._events, []
        sources, self._sources = self._sources, []
        settled, self._settled = self._settled, []
        if self._abandoned:
            _fire(settled)
            return
        self._scheduler.committed()
        instructions = self._decide(events, [source for source, _ in sources])
        records = self._take_records(instructions)
        if not records:
            self._release(instructions, sources, settled)
            return
        self._write(_Step(records, instructions, sources, settled))

    def _write(self, step: _Step) -> None:
        try:
            written = self._journal.commit(step.records)
        except Exception:  # noqa: BLE001 - whatever it is, nothing of the step may be released
            written = fail()
        if written is None and not self._committing:  # it is as always
            self._release(step.instructions, step.sources, step.settled)
            return
        if not self._committing:
            self._committing = True
            self.writing_since = self.now()
        if written is None:
            self._committed(step)
        else:
            written.addCallbacks(lambda _: self._committed(step), lambda f: self._postpone(f, step))

    def _decide(self, events: list[Event], sources: list[Source | None]) -> list[Instruction]:
        """Ask the scheduler; a fault costs its cause the connection, and nobody else anything."""
        while True:
            try:
                return self._scheduler.handle(*events)
            except Exception:
                at = self._scheduler.handled
                if at >= len(events):
                    logger.exception("the scheduler failed to assign tasks")
                    return []
                logger.exception("the scheduler failed on %s", type(events[at]).__name__)
                source = sources[at]
                if source is not None:
                    self._failed.append(source)
                events, sources = events[at + 1 :], sources[at + 1 :]

    def _take_records(self, instructions: list[Instruction]) -> list[Record]:
        records: list[Record] = []
        if instructions and isinstance(instructions[0], Commit):
            first = instructions.pop(0)
            assert isinstance(first, Commit)
            records = first.records
        if self._records:
            records = self._records + records
            self._records = []
        return records

    def _postpone(self, failure: Any, step: _Step) -> None:
        why = failure.getErrorMessage() or failure.type.__name__
        if self._stopping:
            logger.error("the controller stops, and its journal cannot be written: %s", why)
            self._abandoned = True
            self._committing = False
            _fire(step.settled)
            self._next()
            return
        if not self.trouble:
            self._since = self.now()
            self._delay = RETRY
        if why != self.trouble:
            logger.error(
                "the journal cannot be written: %s. Nothing new is taken in until it can be", why
            )
            self.trouble = why
        timer = self._reactor.callLater(self._delay, self._again)
        self._delay = min(2 * self._delay, MAX_RETRY)
        self._retry = timer, step

    def _again(self) -> None:
        if self._retry is not None:
            (_, step), self._retry = self._retry, None
            self._write(step)

    def _committed(self, step: _Step) -> None:
        self._committing = False
        self.writing_since = 0.0
        if self.trouble:
            self.trouble = ""
            logger.warning(
                "the journal can be written again, after %.1f s", self.now() - self._since
            )
        self._release(step.instructions, step.sources, step.settled)
        self._next()

    def _next(self) -> None:
        if (self._events or self._settled) and not self._due:
            self._due = True
            soon(self._reactor, self._end)

    def _release(
        self,
        instructions: list[Instruction],
        sources: list[tuple[Source | None, int]],
        settled: list[Deferred[None]],
    ) -> None:
        for source, count in sources:
            if source is not None:
                source.processed(count)
        if instructions:
            try:
                self._follow(instructions)
            except Exception:  # whoever waits for the end of the turn must not wait for ever
                logger.exception("the instructions of a turn could not be followed")
        failed, self._failed = self._failed, []
        for source in failed:
            source.lost("internal error: its messages could not be dealt with", final=True)
        _fire(settled)


def _fire(settled: list[Deferred[None]]) -> None:
    for done in settled:
        done.callback(None)
