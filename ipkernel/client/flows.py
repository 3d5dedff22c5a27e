"""A client's ends of flows: who waits for which, and where they lead.

A flow is opened by the engine that runs the task for which it is: the engine's note says where that is.
What is moved then is moved in threads of this client; they look now and then whether the task is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from attrs import define, field, frozen

from ipkernel.client.hosts import Hosts
from ipkernel.client.result import AsyncResult
from ipkernel.client.task import Payload, TaskRecord
from ipkernel.client.workers import Workers
from ipkernel.errors import ConnectError, ObjectError, ObjectLost, TransferError
from ipkernel.objects.chunks import Flag, Note, decode_note, flow_key
from ipkernel.objects.flow import FlowReader, FlowStopped, FlowWriter
from ipkernel.objects.interfaces import StoreClient
from ipkernel.serialize import failure
from ipkernel.wire.messages import Output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipkernel.client.engines import Engines
    from ipkernel.client.result import Submitter

logger = logging.getLogger(__name__)

#: Files that are moved at the same time; each needs the memory of one chunk.
FILES: Final = 4
#: Seconds that the engine may take to end a task whose flow has ended early.
ENDING: Final = 10.0
#: Seconds in which the controller tells of a loss because of which a store cannot be reached.
NEWS: Final = 2.0


class Watching(Protocol):
    """What is asked of the session."""

    number: int
    engines: Engines

    def watch(self, records: Iterable[TaskRecord], result: AsyncResult) -> None:
        """Make tasks those of a new result."""


class Listener(Protocol):
    """Who waits for a flow. Called by the thread that receives messages, so it must not wait."""

    def opened(self, attempt: Attempt) -> None:
        """An engine is ready for the flow."""

    def stopped(self) -> None:
        """The engine wants no more of it."""


@frozen(eq=False)
class Attempt:
    """A flow that an engine has opened.

    Attributes:
        flows: The client's.
        record: The task for which it is.
        engine: Where that runs.
        note: What the engine has told.
    """

    flows: Flows
    record: TaskRecord
    engine: int
    note: Note

    @property
    def key(self) -> bytes:
        """The flow's key."""
        return flow_key(self.note.master, self.record.id, self.note.attempt)

    @property
    def over(self) -> bool:
        """Whether the task has ended, or has opened another flow since."""
        return self.record.cell is not None or not self.flows.is_current(self)

    def check(self) -> None:
        """Raise FlowStopped if it is over."""
        if self.over:
            raise FlowStopped("the task of this stream is over")

    def when_over(self, call: Callable[[], object]) -> None:
        """Have something called once the task has ended, in the thread that receives messages."""
        self.flows.when_over(self.record, call)

    def store(self) -> StoreClient:
        """Return the store that it goes through. Blocking.

        Raises:
            ObjectLost, ConnectError: It cannot be reached.
        """
        return self.flows.store_of(self.engine)

    def writer(self, idle: Callable[[], None]) -> FlowWriter:
        """Return the writing end; raises what :meth:`store` does."""
        return FlowWriter(self.store(), self.key, self.flows.session, idle=idle)

    def reader(self, idle: Callable[[], None]) -> FlowReader:
        """Return the reading end; raises what :meth:`store` does."""
        return FlowReader(self.store(), self.key, self.flows.session, idle=idle)

    def refuse(self, problem: Exception) -> None:
        """Let the engine know that nothing will come of it, whichever end it has. Blocking."""
        store, error = self.store(), encoded(problem)
        FlowReader(store, self.key, self.flows.session).refuse(error)
        FlowWriter(store, self.key, self.flows.session).write([error], Flag.LAST | Flag.ERROR)

    def interrupt(self) -> None:
        """Interrupt the task, when its engine cannot be told in any other way."""
        if not self.over:
            self.flows.interrupt(self.engine)


@define
class _Expected:
    """A flow, or one for each of several tasks, that engines are going to open.

    Attributes:
        listener: Who waits for it.
        attempts: What each task has drawn for its flow.
    """

    listener: Listener
    attempts: dict[int, bytes] = field(factory=dict)


class Flows:
    """The flows of one client.

    Args:
        session: Knows engines and tasks.
        hosts: The hosts, and connections to their stores.
        interrupt: Interrupts an engine; blocking.

    Attributes:
        session: The session's number.
        files: The threads that move files.
        interrupt: As given.
    """

    def __init__(self, session: Watching, hosts: Hosts, interrupt: Callable[[int], None]) -> None:
        self.session = session.number
        self._watching = session
        self.files = Workers("ipkernel-files", FILES)
        self.interrupt = interrupt
        self._hosts = hosts
        self._expected: dict[bytes, _Expected] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def forked(self) -> None:
        """Begin afresh in the child of a fork: the threads are the parent's."""
        self.files.forked()
        self._expected = {}
        self._threads = []
        self._lock = threading.Lock()

    # ------------------------------------------------- who waits for what

    def expect(self, master: bytes, listener: Listener) -> None:
        """Tell ``listener`` of the flows that engines open with a key."""
        self._expected[master] = _Expected(listener)

    def forget(self, master: bytes) -> None:
        """Expect no flow with this key any more."""
        self._expected.pop(master, None)

    def is_current(self, attempt: Attempt) -> bool:
        """Tell whether an attempt is the last one of its task."""
        expected = self._expected.get(attempt.note.master)
        return (
            expected is not None
            and expected.attempts.get(attempt.record.id) == attempt.note.attempt
        )

    def noted(self, message: Output, payload: Payload, record: TaskRecord | None) -> None:
        """Take a note of an engine. For the thread that receives messages.

        Args:
            message: What it came with.
            payload: The note.
            record: The task that it is about, if that is known.
        """
        if record is None or record.cell is not None:
            return
        try:
            note = decode_note(payload)
        except TransferError as problem:
            logger.warning("engine %d: %s", message.engine, problem)
            return
        attempt = Attempt(self, record, message.engine, note)
        expected = self._expected.get(note.master)
        if expected is None:
            if not note.stop:
                self.run("ipkernel-stream", lambda: self._refuse(attempt))
        elif note.stop:
            if self.is_current(attempt):
                expected.listener.stopped()
        elif not self.is_current(attempt):  # else it was told twice
            expected.attempts[record.id] = note.attempt
            expected.listener.opened(attempt)

    def _refuse(self, attempt: Attempt) -> None:
        try:
            attempt.refuse(TransferError("the client does not know this stream, or not any more"))
        except (ObjectError, ConnectError) as problem:
            logger.info("a stream could not be refused: %s", problem)

    # ------------------------------------------------- stores and threads

    def host_of(self, engine: int) -> int:
        """Return the number of the host of an engine; 0 if it is not known."""
        return next(iter(self._watching.engines.hosts([engine])), 0)

    def store_of(self, engine: int) -> StoreClient:
        """Return the store of the host of an engine. Blocking.

        Raises:
            ObjectLost: The host is gone, or has none.
            ConnectError: It cannot be reached.
        """
        hosts = self._hosts.named(self._watching.engines.hosts([engine]))
        if not hosts:
            raise ObjectLost(f"the host of engine {engine} has no store, or is gone")
        return self._hosts.store(hosts[0])

    def when_over(self, record: TaskRecord, call: Callable[[], object]) -> None:
        """Have something called once a task has ended, in the thread that receives messages."""
        result = AsyncResult(cast("Submitter", self._watching), True, "stream")
        result.add_done_callback(lambda _: call())
        self._watching.watch([record], result)

    def run(self, name: str, call: Callable[[], object]) -> threading.Thread:
        """Call something in a thread of its own, which :meth:`close` waits for."""
        thread = threading.Thread(target=call, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        return thread

    def close(self, timeout: float) -> None:
        """Wait for the threads; they end because their tasks have, unless user code keeps them.

        Args:
            timeout: Seconds to wait for all of them.
        """
        deadline = time.monotonic() + timeout
        self.files.close(timeout)
        with self._lock:
            threads = self._threads
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


def encoded(problem: Exception) -> bytes:
    """Return an exception as the error of a flow."""
    return failure.encode(failure.describe(problem))


def wait_over(attempt: Attempt, patience: float = ENDING) -> bool:
    """Wait until the task of a flow that has ended early has ended as well; tell whether it has.

    Args:
        attempt: The flow.
        patience: Seconds to wait.
    """
    over = threading.Event()
    attempt.when_over(over.set)
    return over.wait(patience)
