"""The sending half of a session: tasks become messages in a queue that the reactor's thread empties."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ipkernel.client.cancelling import GENTLE, milliseconds
from ipkernel.client.contact import Contact
from ipkernel.client.engines import Engines
from ipkernel.client.objects import Objects
from ipkernel.client.outbox import Outgoing
from ipkernel.client.sending import COPY_LIMIT
from ipkernel.client.task import Payload, TaskRecord, size_of
from ipkernel.client.waiting import deadline_of, left_until, reactor_threads, wait_until
from ipkernel.objects import INLINE_LIMIT
from ipkernel.serialize.calls import inlined
from ipkernel.wire.messages import (
    MAX_LIST,
    METHODS,
    Cancel,
    Fetch,
    Finished,
    Function,
    Kind,
    Message,
    Release,
    Resubmit,
    Submit,
    Terms,
)

if TYPE_CHECKING:
    from ipkernel.client.hosts import Connector
    from ipkernel.client.result import AsyncResult
    from ipkernel.serialize.calls import CallPayload

#: Bytes that may wait to be sent before submitting has to wait.
MAX_UNSENT: Final = 256 << 20
#: What a task costs in that account beside its payload.
TASK_COST: Final = 400
#: Bytes of functions that a session may send; the controller keeps no more of one session.
MAX_FUNCTIONS: Final = 192 << 20
#: The targets of a task for any engine, and the objects that a task needs which needs none.
_ANY: Final[list[int]] = []
_NONE: Final[list[bytes]] = []
#: Characters of a label; the controller takes no more.
MAX_LABEL: Final = 256
#: From so many on, requests to abort are looked through for what has been done.
NOTED: Final = 1 << 12
#: Bits of a task's id that count; the others are the session's number.
COUNT_BITS: Final = 40


class Submission:
    """See the module; the other half is :class:`~ipkernel.client.session.Session`.

    Args:
        number: The session's number, which the controller chose.
        wake: Has the reactor's thread empty the queue soon; callable from any thread.
        engines: The engines, as far as they are known.
        connector: Makes connections to the stores of hosts.

    Attributes:
        queue: Messages with their payloads, to be sent in this order.
        pending: The tasks that have not ended, by id.
        engines: What is known of the engines.
        objects: Large values, on their way out and back.
        contact: Whether the controller can be reached now.
        queued_bytes: Bytes ever queued.
        sent_bytes: Of these, bytes that the controller has.
    """

    def __init__(
        self,
        number: int,
        wake: Callable[[], object],
        engines: Engines | None = None,
        connector: Connector | None = None,
    ) -> None:
        self.number = number
        self.queue: deque[tuple[Message, Sequence[Payload] | Payload]] = deque()
        self.pending: dict[int, TaskRecord] = {}
        self.engines = engines or Engines()
        self.contact = Contact()
        self._wake = wake
        self._first = number << COUNT_BITS
        self._next = self._first + 1
        self._submitting = threading.Lock()
        self._awake = False
        self._functions: set[bytes] = set()
        self._cancels: list[Cancel] = []
        self._function_bytes = 0
        self._failure: Callable[[], BaseException] | None = None
        self._taken = threading.Condition()
        self._blocked = 0
        self.queued_bytes = 0
        self.sent_bytes = 0
        self.objects = Objects(self, connector)

    # ------------------------------------------------- the other half

    def arrived(self, message: Finished, content: memoryview | BaseException) -> None:
        """Take the bytes of a result that were fetched, or why they cannot be had."""
        raise RuntimeError("this half of a session receives nothing")

    def watch(self, records: Iterable[TaskRecord], result: AsyncResult) -> None:
        """Make tasks, some of them perhaps done, those of a new result."""
        raise RuntimeError("this half of a session receives nothing")

    def _close(self, result: AsyncResult, total: int) -> None:
        """Settle how many tasks a result has."""
        raise RuntimeError("this half of a session receives nothing")

    def _fail_pending(self) -> None:
        """End all tasks, because the controller is lost."""
        raise RuntimeError("this half of a session receives nothing")

    def _fail_waiting(self) -> None:
        """End the tasks for any engine, because no engine will come."""
        raise RuntimeError("this half of a session receives nothing")

    @property
    def cancels(self) -> list[Cancel]:
        """The requests to abort tasks that may not have been carried out yet."""
        raise RuntimeError("this half of a session receives nothing")

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
        keep: bool = False,
        terms: Terms | None = None,
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
            keep: Leave the result where it is; it is a reference then.
            terms: What else is asked of it.

        Raises:
            ControllerLost: The connection to the controller is gone.
            StoreFull: The host on this machine has no room for the payload.
        """
        result._total = 1
        record = self._enqueue(result, kind, call, target, targets, retries, label, keep, terms)
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
        keep: bool,
        terms: Terms | None,
    ) -> TaskRecord:
        if call.digest and self._is_too_much(call):
            call = inlined(call)
        digest, blob, pieces, needs = call
        payload: Sequence[Payload] | Payload = pieces[0]
        if len(pieces) == 1 and type(payload) is bytes:
            size = len(payload)
        else:
            size = size_of(pieces)
            if size < INLINE_LIMIT:
                payload = b"".join(pieces)  # callers may change what it was made of at once
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
        made = None
        needed = list(needs) if needs else _NONE
        if size >= INLINE_LIMIT:
            made = self._stash(result, kind, pieces, size, chosen)
            if made is None:
                payload = _settled(pieces, size)
            else:
                payload, size, needed = b"", 0, [made, *needs]
        try:
            with self._submitting:
                task = self._next
                self._next = task + 1
                if digest and digest not in self._functions:
                    self._add_function(digest, blob)
                record = TaskRecord(task, kind, target, label, time.time(), result)
                record.keep = keep
                label = label or ""
                message = Submit(
                    task, kind, size, chosen, spread, digest, retries, label, needed,
                    made is not None, keep, terms,
                )  # fmt: skip
                # No call between these two: Ctrl-C must not leave a task pending that is never sent.
                self.pending[task] = record
                self.queue.append((message, payload))
                self.queued_bytes = result._mark = self.queued_bytes + size + TASK_COST
        finally:
            if made is not None:  # the task's need of it keeps it
                self.objects.references.drop(made)
        if not self._awake:
            self._wake_once()
        if self._failure is not None:  # it came while we were queueing
            self._fail_pending()
        elif self.engines.hopeless:
            self._fail_waiting()
        return record

    def _stash(
        self,
        result: AsyncResult,
        kind: Kind,
        pieces: Sequence[Payload],
        size: int,
        targets: Sequence[int],
    ) -> bytes | None:
        """Make an object of a payload and announce it; return its id, or None if there is no store."""
        stashed = self.objects.stash(pieces, size, targets or self.engines.ids, METHODS[kind])
        if stashed is None:
            return None
        made, outgoing = stashed
        self.queue.append((made, b""))
        if outgoing is not None:
            if result._outgoing is None:
                result._outgoing = []
            result._outgoing.append(outgoing)
        return made.object

    def submit_each(
        self,
        result: AsyncResult,
        kind: Kind,
        calls: Iterable[tuple[CallPayload, int]],
        targets: Sequence[int] = (),
        retries: int = 0,
        label: str = "",
        keep: bool = False,
        terms: Terms | None = None,
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
            keep, terms: As for :meth:`submit`.

        Raises:
            ControllerLost, StoreFull: As for :meth:`submit`.
        """
        records: list[TaskRecord] = []
        result._records = records
        try:
            for call, target in calls:
                record = self._enqueue(
                    result, kind, call, target, targets, retries, label, keep, terms
                )
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
        keep: bool = False,
        terms: Terms | None = None,
    ) -> None:
        """Submit the same task for each of several engines, with one message, and one object.

        Raises:
            ControllerLost, StoreFull: As for :meth:`submit`.
        """
        if call.digest and self._is_too_much(call):
            call = inlined(call)
        digest, blob, pieces, needs = call
        size = size_of(pieces)
        if label:
            _check_label(label)
        self._check()
        if self.queued_bytes - self.sent_bytes > MAX_UNSENT:
            self._wait_for_room()
        result._total = len(targets)
        made, needed = None, list(needs)
        payload: Sequence[Payload] | Payload = b""
        if size >= INLINE_LIMIT:
            made = self._stash(result, kind, pieces, size, targets)
        if made is None:
            payload = _settled(pieces, size)
        else:
            size, needed = 0, [made, *needs]
        now = time.time()
        try:
            with self._submitting:
                first = self._next
                self._next = first + len(targets)
                if digest and digest not in self._functions:
                    self._add_function(digest, blob)
                result._records = records = [
                    TaskRecord(first + index, kind, target, label, now, result)
                    for index, target in enumerate(targets)
                ]
                message = Submit(
                    first, kind, size, list(targets), False, digest, retries, label or "", needed,
                    made is not None, keep, terms,
                )  # fmt: skip
                fresh = {record.id: record for record in records}
                for record in records:
                    record.keep = keep
                try:
                    self.pending.update(fresh)
                    self.queue.append((message, payload))
                except BaseException:  # Ctrl-C: no task may stay pending that is never sent
                    for task in fresh:
                        self.pending.pop(task, None)
                    raise
                self.queued_bytes = result._mark = self.queued_bytes + size + TASK_COST
        finally:
            if made is not None:
                self.objects.references.drop(made)
        self._wake_once()
        if self._failure is not None:
            self._fail_pending()

    def submit_again(
        self, result: AsyncResult, tasks: Sequence[tuple[int, Kind, int, str, bool]]
    ) -> None:
        """Have the controller run tasks again, whose content it keeps.

        Args:
            result: What becomes of them.
            tasks: For each its id, what it is to do, its engine or -1, its label, and whether the
                result is to be a reference.

        Raises:
            ControllerLost: The connection to the controller is gone.
        """
        self._check()
        now = time.time()
        result._total = len(tasks)
        with self._submitting:
            first = self._next
            self._next = first + len(tasks)
            records = []
            for number, (_, kind, target, label, keep) in enumerate(tasks, first):
                record = TaskRecord(number, kind, target, label, now, result)
                record.keep = keep
                records.append(record)
            result._records = records
            result._mark = self.queued_bytes
            self.pending.update((record.id, record) for record in records)
            again = [Resubmit(r.id, old[0]) for r, old in zip(records, tasks, strict=True)]
            self.queue.extend((message, b"") for message in again)
        self._wake_once()
        if self._failure is not None:
            self._fail_pending()

    def tell(self, message: Message) -> None:
        """Send a message without a payload."""
        self.queue.append((message, b""))
        self._wake_once()

    def wake(self) -> None:
        """Have what was dropped given back now, not some time later."""
        self._wake_once()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing can be submitted any more, or None."""
        return None if self._failure is None else self._failure()

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

    def send_function(self, digest: bytes, blob: bytes) -> None:
        """Send a function, unless it was sent before, ahead of tasks that may come to name it."""
        with self._submitting:
            if digest not in self._functions:
                self._add_function(digest, blob)

    def _wake_once(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self._wake()
            except BaseException:
                # Ctrl-C in the midst of it: nobody else would wake the reactor ever again.
                self._wake()
                raise

    def cancel(self, tasks: Sequence[int], grace: float = GENTLE) -> None:
        """Have tasks aborted of which nobody wants to know any more.

        Args:
            tasks: Which.
            grace: Seconds that each has to end after an interrupt; then its engine is killed.
        """
        self.objects.fetcher.cancel(tasks)
        limit = milliseconds(grace)
        self.send_lists(lambda some: Cancel(some, grace=limit), tasks)

    def has_submitted(self, task: int) -> bool:
        """Return whether a task is one of this session, ended or not."""
        return self._first < task < self._next

    def send_lists(self, kind: Callable[[list[int]], Cancel | Fetch], tasks: Sequence[int]) -> None:
        """Send a message about tasks, as several where one cannot name so many."""
        if not tasks or self._failure is not None:
            return
        for start in range(0, len(tasks), MAX_LIST):
            message = kind(list(tasks[start : start + MAX_LIST]))
            if isinstance(message, Cancel):
                self._cancels.append(message)
            self.queue.append((message, b""))
        self._wake_once()
        if len(self._cancels) > NOTED:
            self._cancels = self.cancels

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

    def wait_for_send(
        self, mark: int, timeout: float | None = None, outgoing: Sequence[Outgoing] = ()
    ) -> bool:
        """Wait until data of the user's may be changed: nothing refers to them any more.

        Args:
            mark: So many queued bytes must have reached the controller, which may have to be sent
                again until then.
            timeout: Seconds; None or negative is for ever.
            outgoing: These objects must have left.

        Returns:
            Whether it is so.
        """
        deadline = deadline_of(timeout)
        if self.sent_bytes < mark:
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
        if outgoing and not self.objects.outbox.wait(outgoing, left_until(deadline)):
            return False
        return self.sent_bytes >= mark

    @property
    def blocked(self) -> bool:
        """Whether somebody waits for bytes to be sent."""
        return self._blocked > 0

    def sent(self, total: int) -> None:
        """Take note that the controller has ``total`` bytes in all."""
        self.sent_bytes = total
        if self._blocked:
            with self._taken:
                self._taken.notify_all()

    # ------------------------------------------------- what the reactor's thread calls

    def entrusted(self, kept: Sequence[tuple[Message, object]]) -> list[int]:
        """Return the pending tasks that the controller is supposed to know.

        Args:
            kept: What it does not know yet, beside what is still queued.
        """
        with self._submitting:  # between its record and its message no task is counted
            tasks, queued = list(self.pending), self.queue.copy()
        unsent: set[int] = set()
        for message, _ in (*kept, *queued):
            if isinstance(message, Submit):
                count = 1 if message.spread else max(1, len(message.targets))
                unsent.update(range(message.task, message.task + count))
            elif isinstance(message, Resubmit):
                unsent.add(message.task)
        return [task for task in tasks if task not in unsent]

    def take(self) -> Iterator[tuple[Message, Sequence[Payload] | Payload]]:
        """Yield what is to be sent, until there is nothing more."""
        self._awake = False
        # Whoever dropped these has queued before that whatever needs them.
        dropped = self.objects.references.waiting
        pop = self.queue.popleft
        while True:
            try:
                item = pop()
            except IndexError:
                break
            yield item
        if dropped:
            unused = self.objects.settle(min(dropped, MAX_LIST))
            if unused:
                yield Release(unused), b""


def _settled(pieces: Sequence[Payload], size: int) -> Sequence[Payload] | Payload:
    """Return a payload that goes with its task, copied if it is small."""
    return b"".join(pieces) if size < COPY_LIMIT else pieces


def _check_label(label: object) -> None:
    """Refuse what the controller would not take: it ends connections that break the protocol."""
    if not isinstance(label, str):
        raise TypeError(f"a label must be a str, not {type(label).__name__}")
    if len(label) > MAX_LABEL:
        raise ValueError(f"a label may have {MAX_LABEL} characters, not {len(label)}")
    label.encode()  # UnicodeEncodeError, a ValueError, where it is no text
