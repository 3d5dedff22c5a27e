"""One turn of the reactor: what came in, what follows from it, commit, and only then release."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from ipkernel.controller.events import Event
from ipkernel.controller.instructions import Commit, Instruction
from ipkernel.controller.journal import IJournal, Record
from ipkernel.controller.scheduler import Scheduler

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Whoever messages came from."""

    def processed(self, count: int) -> None:
        """So many of its messages are safe now."""

    def lost(self, reason: str, *, final: bool) -> None:
        """Nothing more is to be expected of it, and with ``final`` of its successors."""


class Turn:
    """Gathers the events of a reactor turn and carries out what the scheduler makes of them.

    While the journal is still writing, events gather; they make the next commit together.

    Args:
        reactor: Twisted's reactor, or a Clock.
        scheduler: Decides.
        journal: Keeps what must not be lost.
        follow: Carries instructions out.
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
            self._reactor.callLater(0, self._end)

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

    def _end(self) -> None:
        self._due = False
        events, self._events = self._events, []
        sources, self._sources = self._sources, []
        settled, self._settled = self._settled, []
        instructions = self._decide(events, [source for source, _ in sources])
        written = self._commit(instructions)
        if written is None:
            self._release(instructions, sources, settled)
            return
        self._committing = True
        written.addErrback(self._cannot_commit)
        written.addCallback(lambda _: self._committed(instructions, sources, settled))

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

    def _commit(self, instructions: list[Instruction]) -> Deferred[None] | None:
        records: list[Record] = []
        if instructions and isinstance(instructions[0], Commit):
            first = instructions.pop(0)
            assert isinstance(first, Commit)
            records = first.records
        if self._records:
            records = self._records + records
            self._records = []
        if not records:
            return None
        return self._journal.commit(records)

    def _cannot_commit(self, failure: Any) -> None:
        # The work goes on; what a restart would bring back is older than it should be.
        logger.error("the journal could not be written: %s", failure.getErrorMessage())

    def _committed(
        self,
        instructions: list[Instruction],
        sources: list[tuple[Source | None, int]],
        settled: list[Deferred[None]],
    ) -> None:
        self._committing = False
        self._release(instructions, sources, settled)
        if self._events and not self._due:
            self._due = True
            self._reactor.callLater(0, self._end)

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
        for done in settled:
            done.callback(None)
