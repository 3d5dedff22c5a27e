"""What a client knows of its tasks and of the engines: no network, no clock of its own.

Any thread may submit; what the controller sends comes in through :meth:`Session.received`, in the
reactor's thread. In between there is a queue and one wake-up for as many tasks as are in it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ipkernel import errors
from ipkernel.client.engines import Engines
from ipkernel.client.future import renew_lock
from ipkernel.client.task import Payload, TaskRecord, size_of
from ipkernel.client.waiting import reactor_threads, wait_until
from ipkernel.serialize.calls import inlined
from ipkernel.wire.messages import (
    MAX_LIST,
    Cancel,
    Closing,
    EngineJoined,
    EngineLeft,
    Fetch,
    Finished,
    Function,
    Kind,
    Message,
    Output,
    Submit,
)

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult
    from ipkernel.serialize.calls import CallPayload

#: Bytes that may wait to be sent before submitting has to wait.
MAX_UNSENT: Final = 256 << 20
#: What a task costs in that account beside its payload.
TASK_COST: Final = 400
#: How many ended tasks are remembered while somebody holds their results.
RECENT: Final = 1 << 14
#: Bytes of functions that a session may send; the controller keeps no more of one session.
MAX_FUNCTIONS: Final = 192 << 20
#: Pieces of a payload below this many bytes are copied when they are submitted.
COPY_LIMIT: Final = 1 << 20
#: The targets of a task for any engine.
_ANY: Final[list[int]] = []
#: Characters of a label; the controller takes no more.
MAX_LABEL: Final = 256
#: Bits of a task's id that count; the others are the session's number.
COUNT_BITS: Final = 40


class Session:
    """The tasks of one client.

    Args:
        number: The session's number, which the controller chose.
        wake: Has the reactor's thread empty the queue soon; callable from any thread.
        engines: The engines, as far as they are known.

    Attributes:
        queue: Messages with their payloads, to be sent in this order.
        pending: The tasks that have not ended, by id.
        engines: What is known of the engines.
    """

    def __init__(
        self, number: int, wake: Callable[[], object], engines: Engines | None = None
    ) -> None:
        self.number = number
        self.queue: deque[tuple[Message, Sequence[Payload] | Payload]] = deque()
        self.pending: dict[int, TaskRecord] = {}
        self.engines = engines or Engines()
        self._wake = wake
        self._first = number << COUNT_BITS
        self._next = self._first + 1
        self._submitting = threading.Lock()
        #: Guards the moment in which a task ends against those who want to be told of it.
        self._ending = threading.RLock()
        self._awake = False
        self._functions: set[bytes] = set()
        self._function_bytes = 0
        self._recent: dict[int, weakref.ref[TaskRecord]] = {}
        self._failure: Callable[[], BaseException] | None = None
        self._taken = threading.Condition()
        self._blocked = 0
        #: Bytes ever queued, and of these, bytes handed to the network.
        self.queued_bytes = 0
        self.sent_bytes = 0
        _sessions.add(self)

    # ------------------------------------------------- submitting

    def submit(
        self,
        result: AsyncResult,
        kind: Kind,
        call: CallPayload,
        target: int = -1,
        targets: Sequence[int] = (),
        retries: int = 0,
        label: str = "",
    ) -> TaskRecord:
        """Submit a task that is the only one of its result.

        Args:
            result: What becomes of it.
            kind: What to do.
            call: The payload, and perhaps a function's digest with the function.
            target: The engine; -1 leaves the choice to the controller.
            targets: The engines to choose from; empty means any.
            retries: How often to run it again after it was lost.
            label: The user's name for it.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        result._total = 1
        record = self._enqueue(result, kind, call, target, targets, retries, label)
        result._records = (record,)
        return record

    def _enqueue(
        self,
        result: AsyncResult,
        kind: Kind,
        call: CallPayload,
        target: int,
        targets: Sequence[int],
        retries: int,
        label: str,
    ) -> TaskRecord:
        if call.digest and self._is_too_much(call):
            call = inlined(call)
        digest, blob, pieces = call[:3]
        payload: Sequence[Payload] | Payload = pieces[0]
        if len(pieces) == 1 and type(payload) is bytes:
            size = len(payload)
        else:
            payload, size = _settle(pieces)
        if label:
            _check_label(label)
        if self._failure is not None:
            raise self._failure()
        if self.queued_bytes - self.sent_bytes > MAX_UNSENT:
            self._wait_for_room()
        if target < 0:
            chosen, spread = list(targets) if targets else _ANY, True
        else:
            chosen, spread = [target], False
        with self._submitting:
            task = self._next
            self._next = task + 1
            if digest and digest not in self._functions:
                self._add_function(digest, blob)
            record = TaskRecord(task, kind, target, label, time.time(), result)
            message = Submit(task, kind, size, chosen, spread, digest, retries, label or "")
            # No call between these two: Ctrl-C must not leave a task pending that is never sent.
            self.pending[task] = record
            self.queue.append((message, payload))
            self.queued_bytes = result._mark = self.queued_bytes + size + TASK_COST
        if not self._awake:
            self._wake_once()
        if self._failure is not None:  # it came while we were queueing
            self._fail_pending()
        elif self.engines.hopeless:
            self._fail_waiting()
        return record

    def submit_each(
        self,
        result: AsyncResult,
        kind: Kind,
        calls: Iterable[tuple[CallPayload, int]],
        targets: Sequence[int] = (),
        retries: int = 0,
        label: str = "",
    ) -> None:
        """Submit one task for each of ``calls``; each comes with its engine, or -1 for any.

        Args:
            result: What becomes of them. It may be asked for what has arrived at once, and is
                complete when all of ``calls``, which may be a generator, are submitted.
            kind: What to do.
            calls: Payloads with engines.
            targets: The engines to choose from for those without one of their own.
            retries: How often to run one again after it was lost.
            label: The user's name for them.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        records: list[TaskRecord] = []
        result._records = records
        try:
            for call, target in calls:
                record = self._enqueue(result, kind, call, target, targets, retries, label)
                records.append(record)
        except BaseException:
            self.cancel([record.id for record in records if record.cell is None])
            raise
        self._close(result, len(records))

    def submit_same(
        self,
        result: AsyncResult,
        kind: Kind,
        call: CallPayload,
        targets: Sequence[int],
        label: str = "",
        retries: int = 0,
    ) -> None:
        """Submit the same task for each of several engines, with one message.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        if call.digest and self._is_too_much(call):
            call = inlined(call)
        digest, blob, pieces = call[:3]
        payload, size = _settle(pieces)
        if label:
            _check_label(label)
        self._check()
        if self.queued_bytes - self.sent_bytes > MAX_UNSENT:
            self._wait_for_room()
        result._total = len(targets)
        now = time.time()
        with self._submitting:
            first = self._next
            self._next = first + len(targets)
            if digest and digest not in self._functions:
                self._add_function(digest, blob)
            result._records = records = [
                TaskRecord(first + index, kind, target, label, now, result)
                for index, target in enumerate(targets)
            ]
            message = Submit(first, kind, size, list(targets), False, digest, retries, label or "")
            fresh = {record.id: record for record in records}
            try:
                self.pending.update(fresh)
                self.queue.append((message, payload))
            except BaseException:  # Ctrl-C: no task may stay pending that is never sent
                for task in fresh:
                    self.pending.pop(task, None)
                raise
            self.queued_bytes = result._mark = self.queued_bytes + size + TASK_COST
        self._wake_once()
        if self._failure is not None:
            self._fail_pending()

    def _is_too_much(self, call: CallPayload) -> bool:
        """Tell whether a function has to go with its call: the controller keeps no more of them."""
        return (
            self._function_bytes + len(call.blob) > MAX_FUNCTIONS
            and call.digest not in self._functions
        )

    def _add_function(self, digest: bytes, blob: bytes) -> None:
        """Send a function ahead of the first task that names it."""
        self._function_bytes += len(blob)
        self.queue.append((Function(digest, len(blob)), blob))
        self._functions.add(digest)
        self.queued_bytes += len(blob)

    def _wake_once(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self._wake()
            except BaseException:
                # Ctrl-C in the midst of it: nobody else would wake the reactor ever again.
                self._wake()
                raise

    def cancel(self, tasks: Sequence[int]) -> None:
        """Ask the controller to abort tasks that have not started."""
        self._send_lists(Cancel, tasks)

    def fetch(self, tasks: Sequence[int], result: AsyncResult) -> None:
        """Ask the controller for results of tasks, of this session or of others.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        self._check()
        records, wanted = [], []
        with self._ending:
            for task in tasks:
                record = self.find(task)
                if record is None:
                    record = TaskRecord(task, Kind.APPLY, -1, "", time.time())
                    self.pending[task] = record
                    wanted.append(task)
                records.append(record)
        self.watch(records, result)
        self._send_lists(Fetch, wanted)
        if self._failure is not None:
            self._fail_pending()

    def _send_lists(self, kind: Callable[[list[int]], Message], tasks: Sequence[int]) -> None:
        if not tasks or self._failure is not None:
            return
        for start in range(0, len(tasks), MAX_LIST):
            self.queue.append((kind(list(tasks[start : start + MAX_LIST])), b""))
        self._wake_once()

    # ------------------------------------------------- room in the queue

    def _wait_for_room(self) -> None:
        """Wait, interruptibly, until less is waiting to be sent."""
        if threading.get_ident() in reactor_threads:
            return  # it is this thread that makes room
        with self._taken:
            self._blocked += 1
            try:
                self._wake_once()
                wait_until(
                    self._taken,
                    lambda: (
                        self._failure is not None
                        or self.queued_bytes - self.sent_bytes <= MAX_UNSENT // 2
                    ),
                )
            finally:
                self._blocked -= 1
        self._check()

    def wait_for_send(self, mark: int, timeout: float | None = None) -> bool:
        """Wait until everything up to ``mark`` queued bytes has been handed to the network."""
        if self.sent_bytes >= mark:
            return True
        with self._taken:
            self._blocked += 1
            try:
                self._wake_once()
                wait_until(
                    self._taken,
                    lambda: self._failure is not None or self.sent_bytes >= mark,
                    timeout,
                )
            finally:
                self._blocked -= 1
        return self.sent_bytes >= mark

    @property
    def blocked(self) -> bool:
        """Whether somebody waits for bytes to be sent."""
        return self._blocked > 0

    def sent(self, total: int) -> None:
        """Take note that ``total`` bytes in all have been handed to the network."""
        self.sent_bytes = total
        if self._blocked:
            with self._taken:
                self._taken.notify_all()

    # ------------------------------------------------- what the reactor's thread calls

    def take(self) -> Iterator[tuple[Message, Sequence[Payload] | Payload]]:
        """Yield what is to be sent, until there is nothing more."""
        self._awake = False
        pop = self.queue.popleft
        while True:
            try:
                item = pop()
            except IndexError:
                return
            yield item

    def received(self, items: Iterable[tuple[Message, Payload]]) -> None:
        """Take what the controller has sent."""
        now = time.time()
        finished: list[AsyncResult] = []
        touched: dict[int, AsyncResult] = {}
        pop = self.pending.pop
        with self._ending:
            for message, payload in items:
                if type(message) is Finished:
                    record = pop(message.task, None)
                    if record is None:
                        continue
                    record.finish(message, payload, now)
                    self._remember(record)
                    for watcher in record.take_watchers():
                        if watcher._arrive(record):
                            finished.append(watcher)
                        else:
                            touched[id(watcher)] = watcher
                else:
                    self._other(message, payload, touched)
        for result in finished:
            result._finish()
        for result in touched.values():
            result._notify()

    def _other(self, message: Message, payload: Payload, touched: dict[int, AsyncResult]) -> None:
        if type(message) is Output:
            record = self.find(message.task)
            if record is not None:
                record.add_output(message.stream, payload)
                for watcher in record.watchers:
                    touched[id(watcher)] = watcher
        elif type(message) is EngineJoined:
            self.engines.joined(message)
        elif type(message) is EngineLeft:
            self.engines.left(message)
        elif type(message) is Closing:
            self.engines.closing = message.reason

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
        self._fail_pending()
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

    # ------------------------------------------------- looking

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing can be submitted any more, or None."""
        return None if self._failure is None else self._failure()

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


def _check_label(label: object) -> None:
    """Refuse what the controller would not take: it ends connections that break the protocol."""
    if not isinstance(label, str):
        raise TypeError(f"a label must be a str, not {type(label).__name__}")
    if len(label) > MAX_LABEL:
        raise ValueError(f"a label may have {MAX_LABEL} characters, not {len(label)}")
    label.encode()  # UnicodeEncodeError, a ValueError, where it is no text


def _settle(pieces: Sequence[Payload]) -> tuple[Sequence[Payload] | Payload, int]:
    """Copy what is small, so that callers may change it at once; count the bytes."""
    size = size_of(pieces)
    if size < COPY_LIMIT:
        return (
            pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)
        ), size
    return pieces, size


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _forked() -> RuntimeError:
    return RuntimeError(
        "this client was made before os.fork() and belongs to the parent process; start child "
        "processes that need a client with multiprocessing's 'spawn' method or with subprocess"
    )


def after_fork() -> None:
    """End all sessions in a child process: the connection and its thread are the parent's."""
    renew_lock()
    reactor_threads.clear()
    for session in list(_sessions):
        # Somebody in the parent may have held these.
        session._submitting = threading.Lock()
        session._ending = threading.RLock()
        session._taken = threading.Condition()
        session.engines.changed = threading.Condition(threading.RLock())
        session._failure = _forked
        for record in list(session.pending.values()):
            record.fail(_forked())
            for watcher in record.watchers:
                watcher._cond = None
        session.lost(_forked)
