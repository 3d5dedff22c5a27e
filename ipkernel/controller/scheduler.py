"""The scheduler: events in, instructions out; no I/O, and no clock but the times of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ipkernel.controller import again, away, clients, dependencies, draining, losses, returning
from ipkernel.controller.assignment import fill
from ipkernel.controller.checking import validate
from ipkernel.controller.completion import from_host
from ipkernel.controller.core import Core, Totals
from ipkernel.controller.defaults import SCHEMES
from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDescribed,
    EnginesDraining,
    EnginesEnding,
    EnginesGone,
    Event,
    FromClient,
    FromHost,
    HostAway,
    HostBack,
    HostJoined,
    HostLost,
    RestartOver,
    SessionDetached,
    SessionHeld,
    SessionOpened,
    SessionResumed,
    TasksPurged,
    Tick,
    Undelivered,
)
from ipkernel.controller.explaining import explain, explain_engine
from ipkernel.controller.holdings import settle
from ipkernel.controller.instructions import Instruction
from ipkernel.controller.journal import Record
from ipkernel.controller.objects import Directory
from ipkernel.controller.querying import Searching
from ipkernel.controller.recall import relieve
from ipkernel.controller.registry import Host
from ipkernel.controller.restoring import Restored, restore
from ipkernel.controller.retention import Retained
from ipkernel.controller.schemes import make_ladder
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import Engine
from ipkernel.controller.submission import from_client
from ipkernel.controller.tasks import CheckedTask, State, Task
from ipkernel.controller.watchdog import Watchdog
from ipkernel.wire.queries import Search
from ipkernel.wire.records import EngineStory, QueueCounts, TaskStory


def _tick(core: Core, event: Tick) -> None:
    clients.expire(core)


_PARTS: dict[type, Callable[[Core, Any], None]] = {
    FromClient: from_client,
    FromHost: from_host,
    SessionOpened: clients.opened,
    SessionResumed: clients.resumed,
    SessionDetached: clients.detached,
    Undelivered: clients.undelivered,
    SessionHeld: clients.held,
    HostJoined: losses.host_joined,
    HostAway: away.host_away,
    HostBack: returning.host_back,
    HostLost: losses.host_lost,
    EnginesAdded: losses.engines_added,
    EnginesEnding: losses.engines_ending,
    EnginesDraining: draining.engines_draining,
    EnginesGone: losses.engines_gone,
    TasksPurged: again.purged,
    EnginesDescribed: losses.engines_described,
    RestartOver: returning.restart_over,
    Tick: _tick,
}


class Scheduler:
    """Decides which task runs where and when.

    Args:
        checked: Whether every step of every task is checked, for tests.
        retained: Where results wait whose client has gone.
        scheme: Which engine gets the next task; one of :data:`~ipkernel.controller.defaults.SCHEMES`.
        random: Where chance comes from, for the schemes that use it.

    Raises:
        ValueError: There is no such scheme.

    Attributes:
        handled: How many events the latest call of :meth:`handle` has dealt with.
    """

    def __init__(
        self,
        *,
        checked: bool = False,
        retained: Retained | None = None,
        scheme: str = SCHEMES[0],
        random: Random | None = None,
    ) -> None:
        task: type[Task] = CheckedTask if checked else Task
        ladder = make_ladder(scheme, random)
        self._core = Core(task, Retained() if retained is None else retained, ladder)
        self.handled = 0

    def handle(self, *events: Event) -> list[Instruction]:
        """Take in what has happened and return what is to be done.

        Args:
            events: In the order in which they happened.

        Returns:
            Instructions to be followed in order. A :class:`~ipkernel.controller.instructions.Commit`,
            if there is one, comes first.
        """
        core = self._core
        self.handled = 0
        for event in events:
            core.now = event.now
            _PARTS[type(event)](core, event)
            self.handled += 1
        if core.reported:
            returning.over(core)
        dependencies.settle(core)
        while core.objects.busy:
            settle(core)
            dependencies.settle(core)
        fill(core)
        if core.deep:
            relieve(core)
        if core.draining:
            draining.report(core)
        return core.take_instructions()

    def committed(self) -> None:
        """All that :meth:`handle` has returned for the journal is in it by now."""
        self._core.retained.committed()

    def restore(
        self, records: Iterable[Record], now: float, *, grace: float, keep: float
    ) -> Restored:
        """Begin where the controller before this one ended; called before anything else.

        Args:
            records: All that is live in the journal, in order.
            now: The time, seconds since the epoch.
            grace: Seconds that hosts have for coming back.
            keep: Seconds for which sessions are kept whose clients do not come back.
        """
        return restore(self._core, records, now, grace, keep)

    def take_ids(self, count: int, wanted: list[int] | None = None) -> list[int]:
        """Take engine ids, which :class:`HostJoined` or :class:`EnginesAdded` will then name.

        Args:
            count: How many.
            wanted: Ids that engines already go by; they get them if they are free.
        """
        return self._core.ids.take(count, wanted or ())

    def take_ids_for_ranks(self, ranks: list[int], job: str, size: int) -> list[int]:
        """Take engine ids for ranks of an MPI job, which :class:`HostJoined` will then name.

        Args:
            ranks: Which.
            job: The job.
            size: How many ranks it has in all.
        """
        return self._core.ids.take_ranks(ranks, job, size)

    @property
    def engines(self) -> dict[int, Engine]:
        """All engines by id; to be read only."""
        return self._core.engines

    @property
    def hosts(self) -> dict[int, Host]:
        """All connected hosts by number; to be read only."""
        return self._core.hosts

    @property
    def sessions(self) -> dict[int, Session]:
        """All sessions by number; to be read only."""
        return self._core.sessions

    def knows_session(self, number: int) -> bool:
        """Tell whether there is a session with this number, or results of one."""
        core = self._core
        return number in core.sessions or number in core.departed

    @property
    def tasks(self) -> dict[int, Task]:
        """All tasks that have not ended, by id; to be read only."""
        return self._core.tasks

    @property
    def objects(self) -> Directory:
        """The objects that the controller knows of; to be read only."""
        return self._core.objects

    @property
    def retained(self) -> Retained:
        """The results that wait to be fetched; to be read only."""
        return self._core.retained

    @property
    def totals(self) -> Totals:
        """How many tasks have ended."""
        return self._core.totals

    @property
    def purged(self) -> int:
        """How many tasks that had ended were forgotten because somebody asked for it."""
        return self._core.purged

    def counts(self) -> QueueCounts:
        """Return how many tasks are in each state, without looking at each task."""
        core = self._core
        engines = core.engines.values()
        assigned = sum(len(e.assigned) for e in engines)
        running = sum(len(e.running) for e in engines)
        waiting = sum(len(e.direct) - e.shelved for e in engines if e.state != "ready")
        waiting += len(core.waits)
        waiting += sum(t.state is State.WAITING for tasks in core.parked.values() for t in tasks)
        return QueueCounts(
            waiting=waiting,
            ready=len(core.tasks) - assigned - waiting,
            assigned=assigned - running,
            running=running,
            finished=core.totals.finished,
            failed=core.totals.failed,
            aborted=core.totals.aborted,
        )

    def labelled(self, label: str, limit: int) -> list[int]:
        """Return the oldest tasks with a label that have not ended, at most so many."""
        return self._core.labels.find(label)[:limit]

    def search(self, query: Search) -> Searching:
        """Return a search for tasks, which has not begun.

        Raises:
            QueryError: The query is wrong; the text says where and why.
        """
        return Searching(self._core, query)

    def explain(self, task: int, now: float = 0.0) -> TaskStory:
        """Return where a task is, why it is there, and how it came there.

        Args:
            task: Its id.
            now: The time, if it is later than that of the last event.
        """
        return explain(self._core, task, now)

    def watchdog(self, threshold: float) -> Watchdog:
        """Return who looks for what is stuck.

        Args:
            threshold: Seconds after which it reports something.
        """
        return Watchdog(self._core, threshold)

    def explain_engine(self, engine: int, now: float = 0.0) -> EngineStory:
        """Return what an engine does; arguments as for :meth:`explain`."""
        return explain_engine(self._core, engine, now)

    def validate(self) -> None:
        """Check that all tables agree.

        Raises:
            AssertionError: They do not.
        """
        validate(self._core)
