"""What a client knows of its tasks and of the engines: no network, no clock of its own.

Any thread may submit; what the controller sends comes in through :meth:`Session.received`, in the
reactor's thread. In between there is a queue and one wake-up for as many tasks as are in it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ipkernel import errors
from ipkernel.client import forking
from ipkernel.client.cancelling import Aborts
from ipkernel.client.engines import Engines
from ipkernel.client.submission import Submission
from ipkernel.client.task import Payload, TaskRecord
from ipkernel.wire.messages import (
    Cancel,
    Cancelled,
    Closing,
    EngineJoined,
    EngineLeft,
    Fetch,
    Finished,
    Kind,
    Message,
    Output,
    Stream,
)

if TYPE_CHECKING:
    from ipkernel.client.hosts import Connector
    from ipkernel.client.result import AsyncResult

#: How many ended tasks are remembered while somebody holds their results.
RECENT: Final = 1 << 14


class Session(Submission):
    """The tasks of one client.

    Args:
        number: The session's number, which the controller chose.
        wake: Has the reactor's thread empty the queue soon; callable from any thread.
        engines: The engines, as far as they are known.
        connector: Makes connections to the stores of hosts.

    Attributes:
        aborts: Requests to abort tasks, and their answers.
    """

    def __init__(
        self,
        number: int,
        wake: Callable[[], object],
        engines: Engines | None = None,
        connector: Connector | None = None,
    ) -> None:
        super().__init__(number, wake, engines, connector)
        #: Guards the moment in which a task ends against those who want to be told of it.
        self._ending = threading.RLock()
        self._recent: dict[int, weakref.ref[TaskRecord]] = {}
        self.aborts = Aborts(self)
        forking.add(self)

    # ------------------------------------------------- what the reactor's thread calls

    def received(self, items: Iterable[tuple[Message, Payload]]) -> None:
        """Take what the controller has sent."""
        now = time.time()
        finished: list[AsyncResult] = []
        touched: dict[int, AsyncResult] = {}
        pop = self.pending.pop
        with self._ending:
            for message, payload in items:
                if type(message) is not Finished:
                    self._other(message, payload, touched)
                elif message.object:
                    self._object_made(message, finished, touched)
                else:
                    record = pop(message.task, None)
                    if record is not None:
                        record.finish(message, payload, now)
                        self._ended(record, finished, touched)
        self._spread(finished, touched)

    def _ended(
        self, record: TaskRecord, finished: list[AsyncResult], touched: dict[int, AsyncResult]
    ) -> None:
        self._remember(record)
        for watcher in record.take_watchers():
            if watcher._arrive(record):
                finished.append(watcher)
            else:
                touched[id(watcher)] = watcher

    @staticmethod
    def _spread(finished: list[AsyncResult], touched: dict[int, AsyncResult]) -> None:
        for result in finished:
            result._finish()
        for result in touched.values():
            result._notify()

    def _object_made(
        self, message: Finished, finished: list[AsyncResult], touched: dict[int, AsyncResult]
    ) -> None:
        """Take a result that is an object; one that has to be fetched has not arrived yet."""
        record = self.pending.get(message.task)
        if record is None:
            self.objects.unwanted(message)
            return
        if self.objects.fetcher.is_fetching(message.task):
            return  # it was told of before, and is on its way
        content = self.objects.result(message, record.keep)
        if content is not None:
            del self.pending[message.task]
            record.finish_with(message, content)
            self._ended(record, finished, touched)

    def arrived(self, message: Finished, content: memoryview | BaseException) -> None:
        """Take the bytes of a result that were fetched, or why they cannot be had."""
        finished: list[AsyncResult] = []
        touched: dict[int, AsyncResult] = {}
        with self._ending:
            record = self.pending.pop(message.task, None)
            if record is not None:
                record.finish_with(message, content)
                self._ended(record, finished, touched)
        self._spread(finished, touched)

    def _other(self, message: Message, payload: Payload, touched: dict[int, AsyncResult]) -> None:
        if type(message) is Output:
            record = self.find(message.task)
            if record is not None and record.has_heard(message.engine, message.serial):
                return  # it comes a second time, from a controller that was started again
            if message.stream is Stream.FLOW:
                self.objects.flows.noted(message, payload, record)
            elif record is not None:
                record.add_output(message.stream, payload)
                for watcher in record.watchers:
                    touched[id(watcher)] = watcher
        elif type(message) is EngineJoined:
            self.engines.joined(message)
        elif type(message) is EngineLeft:
            self.engines.left(message)
        elif type(message) is Cancelled:
            self.aborts.received(message)
        elif type(message) is Closing:
            self.engines.closing = message.reason
        else:
            self.objects.received(message)

    def _remember(self, record: TaskRecord) -> None:
        recent = self._recent
        recent[record.id] = weakref.ref(record)
        if len(recent) > RECENT:
            alive = [(task, ref) for task, ref in list(recent.items()) if ref() is not None]
            self._recent = dict(alive[-RECENT // 2 :])

    def lost(self, failure: Callable[[], BaseException]) -> None:
        """End everything: every pending and later call raises what ``failure()`` makes."""
        if self._failure is None:
            self._failure = failure
        self.contact.find()
        self._fail_pending()
        self.aborts.lost(failure)
        self.objects.lost(failure)
        with self._taken:
            self._taken.notify_all()
        self.engines.lost()

    def _fail_pending(self) -> None:
        assert self._failure is not None
        finished: list[AsyncResult] = []
        with self._ending:
            while self.pending:
                try:
                    _, record = self.pending.popitem()
                except KeyError:
                    break
                record.fail(self._failure())
                finished += [w for w in record.take_watchers() if w._arrive(record)]
        for result in finished:
            result._finish()

    def abandon(self, why: str, patience: float = 10.0) -> None:
        """End the tasks that any engine might run, for none will come by itself any more.

        So do later ones, until an engine joins. If there are other engines, nothing happens.

        Args:
            why: In a sentence.
            patience: Seconds that the last engines may take to be told of as lost.
        """
        if self.engines.give_up(why, patience):
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        finished: list[AsyncResult] = []
        why = self.engines.hopeless
        if not why or self.engines.ids:
            return
        waiting = [record for record in list(self.pending.values()) if record.target < 0]
        with self._ending:
            for record in waiting:
                if self.pending.pop(record.id, None) is not None:
                    record.fail(errors.HostLost(why))
                    finished += [w for w in record.take_watchers() if w._arrive(record)]
        self.cancel([record.id for record in waiting])
        for result in finished:
            result._finish()

    @property
    def cancels(self) -> list[Cancel]:
        """The requests to abort tasks that may not have been carried out yet."""
        found = []
        for message in list(self._cancels):
            tasks = [task for task in message.tasks if task in self.pending]
            if message.serial in self.aborts.open:
                found.append(message)  # somebody waits for an answer
            elif tasks:
                found.append(replace(message, tasks=tasks))
        return found

    # ------------------------------------------------- looking

    def fetch(
        self,
        tasks: Sequence[int],
        result: AsyncResult,
        about: Mapping[int, tuple[Kind, str, float]] = MappingProxyType({}),
    ) -> None:
        """Ask the controller for results of tasks, of this session or of others.

        Args:
            tasks: Which.
            result: What becomes of them.
            about: What is known of those that are not known here: what they are to do, their labels
                and when they were submitted.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        self._check()
        records, wanted = [], []
        with self._ending:
            for task in tasks:
                record = self.find(task)
                if record is None:
                    kind, label, submitted = about.get(task) or (Kind.APPLY, "", time.time())
                    record = TaskRecord(task, kind, -1, label, submitted)
                    self.pending[task] = record
                    wanted.append(task)
                records.append(record)
        self.watch(records, result)
        self.send_lists(Fetch, wanted)
        if self._failure is not None:
            self._fail_pending()

    def forked(self, failure: Callable[[], BaseException]) -> None:
        """End everything in the child of a fork, where somebody in the parent may hold the locks."""
        self._submitting = threading.Lock()
        self._ending = threading.RLock()
        self._taken = threading.Condition()
        self.engines.changed = threading.Condition(threading.RLock())
        self.objects.forked()
        self.aborts = Aborts(self)
        self._failure = failure
        for record in list(self.pending.values()):
            record.fail(failure())
            for watcher in record.watchers:
                watcher._cond = None
        self.lost(failure)

    def find(self, task: int) -> TaskRecord | None:
        """Return a task that is pending or whose result is still held by somebody."""
        record = self.pending.get(task)
        if record is None:
            reference = self._recent.get(task)
            record = None if reference is None else reference()
        return record

    def held(self) -> dict[int, TaskRecord]:
        """Return the ended tasks whose results are still held by somebody."""
        found = ((task, ref()) for task, ref in list(self._recent.items()))
        return {task: record for task, record in found if record is not None}

    def keep_results(self) -> None:
        """Map the large results that somebody holds, for their hosts may end with the cluster."""
        if not self.objects.active:
            return
        for record in self.held().values():
            record.keep_result()

    def forget(self, tasks: Iterable[int]) -> None:
        """Do not find these ended tasks any more."""
        for task in tasks:
            self._recent.pop(task, None)

    def forget_all(self) -> None:
        """Do not find any ended task any more."""
        self._recent = {}

    @property
    def history(self) -> Sequence[int]:
        """The ids of all tasks that were submitted, oldest first."""
        return range(self._first + 1, self._next)

    def watch(self, records: Iterable[TaskRecord], result: AsyncResult) -> None:
        """Make tasks, some of them perhaps done, those of a new result."""
        result._records = records = list(records)
        with self._ending:
            for record in records:
                if record.cell is not None:
                    result._arrive(record)
                    continue
                record.watchers = (*record.watchers, result)
        self._close(result, len(records))

    def unwatch(self, result: AsyncResult) -> None:
        """Let pending tasks forget a result that nobody waits for any more."""
        with self._ending:
            for record in result._records:
                if record.cell is None:
                    record.watchers = tuple(w for w in record.watchers if w is not result)

    def _close(self, result: AsyncResult, total: int) -> None:
        with self._ending:
            complete = result._close(total)
        if complete:
            result._finish()
