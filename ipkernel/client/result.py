"""Results that may not be there yet.

An :class:`AsyncResult` is a :class:`concurrent.futures.Future` and can be awaited. It is made for
every task that is submitted, so making one has to be cheap: locks, lists and metadata come into
being when somebody asks for them, and what arrives is unpickled in the thread that wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from concurrent.futures._base import FINISHED
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ipkernel import errors
from ipkernel.client import metadata as meta
from ipkernel.client.cancelling import Aborts
from ipkernel.client.described import Described
from ipkernel.client.inside import check_wait
from ipkernel.client.interrupting import interruptible
from ipkernel.client.progress import wait_showing
from ipkernel.client.task import VALUE, TaskRecord
from ipkernel.client.waiting import seconds, wait_until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ipkernel.client.contact import Contact
    from ipkernel.client.engines import Engines
    from ipkernel.client.objects import Objects
    from ipkernel.client.outbox import Outgoing
    from ipkernel.objects.transfer import Transfer


class Submitter(Protocol):
    """What a result needs of the session that its tasks belong to."""

    aborts: Aborts

    def cancel(self, tasks: Sequence[int]) -> None:
        """Have tasks aborted of which nobody wants to know any more."""

    def watch(self, records: Iterable[TaskRecord], result: AsyncResult) -> None:
        """Add tasks, some of them perhaps done, to a result, and close it."""

    objects: Objects
    contact: Contact
    engines: Engines

    def wait_for_send(
        self, mark: int, timeout: float | None, outgoing: Sequence[Outgoing] = ()
    ) -> bool:
        """Wait until everything up to ``mark`` bytes, and these objects, have left."""


class AsyncResult(Described):
    """The result of one or several tasks: a future, awaitable, and more.

    Results are made by views; nobody else needs to. A result of one task (an integer target, or a
    load-balanced call) is that task's value; a result of several is a list.

    Args:
        session: What the tasks were submitted to.
        single: Whether the result is one value and not a list.
        fname: What was called, for messages.
        return_exceptions: Whether :meth:`get` returns exceptions instead of raising them.
        owner: Kept alive as long as this result (the client).
    """

    _records: Sequence[TaskRecord] = ()
    #: The records in the order in which they ended; not used by results of one task.
    _order: list[TaskRecord] | None = None
    #: How many tasks there are, once that is settled.
    _total: int | None = None
    _failures = 0
    _mark = 0
    _parts: list[AsyncResult] | None = None
    #: Objects of its tasks that this client itself keeps until a host asks for them.
    _outgoing: list[Outgoing] | None = None
    _convert: Callable[[TaskRecord, Any], Any] | None = None
    _return_exceptions = False
    #: Why it cannot be an argument.
    _stays_here: ClassVar = (
        "a result stays with the client that waits for it: send what get() returns, or have apply_ref() "
        "keep the value in the cluster and send the reference that its get() returns"
    )
    #: Whether Ctrl-C while it is waited for leads to what the client is set to.
    _offers = True

    def __init__(
        self,
        session: Submitter,
        single: bool,
        fname: str = "apply",
        *,
        return_exceptions: bool = False,
        owner: Any = None,
    ) -> None:
        self._session = session
        self._single = single
        self._fname = fname
        self._client = owner
        if return_exceptions:
            self._return_exceptions = True

    # ------------------------------------------------- called by the session, under its lock

    def _arrive(self, record: TaskRecord) -> bool:
        """Take note that a task has ended; return whether it was the last one."""
        if self._total == 1:
            return True
        if self._order is None:
            self._order = []
        self._order.append(record)
        if not record.succeeded:
            self._failures += 1
        return len(self._order) == self._total

    def _close(self, total: int) -> bool:
        """Settle how many tasks there are; return whether all have ended already."""
        self._total = total
        if total == 1:
            return bool(self._order)
        return len(self._order or ()) == total

    # ------------------------------------------------- the outcome

    def ready(self) -> bool:
        """Return whether all tasks have ended."""
        return self.done()

    def successful(self) -> bool:
        """Return whether all tasks ended without an exception.

        Raises:
            ValueError: They have not all ended yet.
        """
        if not self.done():
            raise ValueError("the result is not ready")
        return not self.dropped and all(record.succeeded for record in self._records)

    def ok(self) -> bool:
        """Return whether it is ready and successful; never raises."""
        return self.done() and self.successful()

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions of the tasks that have failed so far, in the order of the tasks."""
        return [e for e in map(meta.error, self._records) if e is not None]

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait for the tasks to end; nothing is raised for those that fail.

        Args:
            timeout: Seconds; None or negative is for ever.
            return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION``.

        Returns:
            Without ``return_when`` whether all have ended; with it two sets of results of one task
            each: those that have ended and the others.
        """
        if return_when is None:
            return self._await_done(timeout)
        self._wait_for(return_when, timeout)
        done: set[AsyncResult] = set()
        pending: set[AsyncResult] = set()
        for part in self._children:
            (done if part.done() else pending).add(part)
        return done, pending

    def _await_done(self, timeout: float | None) -> bool:
        """Wait until it is done, showing what is transferred if that takes long."""
        objects = self._session.objects
        if self.done():
            return True
        if seconds(timeout) is None and self._client is not None:
            check_wait(self._client.profile, self._client.ids, self._records)
        with self._interruptible():
            if not objects.active or not objects.mover.visible:
                return super()._await_done(timeout)
            with self._condition:
                return wait_showing(self._condition, self.done, timeout, self._transfers, True)

    def _interruptible(self) -> AbstractContextManager[None]:
        """Return a context in which Ctrl-C leads to what the client is set to."""
        return interruptible(self._client if self._offers else None, [self])

    def _when_readable(self, call: Callable[[], object]) -> None:
        if not any(record.is_stored for record in self._records):
            call()
            return

        def keep() -> None:
            for record in self._records:
                record.keep_result()

        # Also when the client is closed, and the future cancelled.
        self._session.objects.mover.fetchers.submit(keep).add_done_callback(lambda _: call())

    def _transfers(self) -> list[Transfer]:
        waiting = [record for record in self._records if record.cell is None]
        return self._session.objects.transfers_of(waiting, self._outgoing or ())

    @property
    def transfer(self) -> Transfer | None:
        """What is being moved for this result now, with its progress; None if nothing is.

        Of several transfers it is the first; ``Client.transfers`` returns all. Results that are in
        shared memory, or small, need none. What hosts fetch for its tasks is among it if it takes long.
        """
        going = [t for t in self._transfers() if t.size == 0 or t.done < t.size]
        return going[0] if going else None

    def _wait_for(self, return_when: str, timeout: float | None) -> bool:
        if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
            raise ValueError(f"return_when cannot be {return_when!r}")
        if return_when == ALL_COMPLETED or self._total == 1:
            return self._await_done(timeout)
        first = return_when == FIRST_COMPLETED

        def ready() -> bool:
            return self.done() or bool(self._order if first else self._failures)

        with self._interruptible(), self._condition:
            return wait_until(self._condition, ready, timeout)

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool | None = None,
        return_when: str | None = None,
    ) -> Any:
        """Return the result when it is there.

        Args:
            timeout: Seconds; None or negative is for ever.
            return_exceptions: Put exceptions into the result instead of raising them; by default as
                the call was made.
            return_when: ``FIRST_EXCEPTION`` raises as soon as one task has failed.

        Returns:
            The value, or a list with one value per task.

        Raises:
            TimeoutError: The result is not there in time; it may still come.
            RemoteError: The task of a single result raised an exception; also an instance of its type.
            CompositeError: One or more of several tasks raised exceptions.
            EngineError: The engine was lost while it ran the task.
            TaskAborted: The task was aborted, or :meth:`cancel` was called; also a
                :class:`concurrent.futures.CancelledError`.
            ControllerLost: The connection to the controller was lost.
        """
        if return_when == FIRST_COMPLETED:
            raise ValueError("get() returns all results; use wait(return_when=FIRST_COMPLETED)")
        if return_exceptions is None:
            return_exceptions = self._return_exceptions
        if self._state is FINISHED:
            if self._single:
                return self._value(self._records[0], return_exceptions)
        else:
            early = return_when == FIRST_EXCEPTION and not return_exceptions
            self._wait_or_raise(FIRST_EXCEPTION if early else ALL_COMPLETED, timeout)
            if self.dropped:
                raise self._given_up(timeout)
            if not self.done():
                self._raise_failures(self._order or ())
        if self._single:
            return self._value(self._records[0], return_exceptions)
        return self._values(return_exceptions)

    def partial(self, default: Any = None, return_exceptions: bool = True) -> Any:
        """Return what is there of the result by now; waits for nothing.

        Args:
            default: Stands for what is not there yet.
            return_exceptions: Put exceptions where tasks have failed; otherwise ``default``.

        Returns:
            As :meth:`get` does: one value, or a list.
        """
        values = [self._part_of(record, default, return_exceptions) for record in self._records]
        return values[0] if self._single else values

    def _part_of(self, record: TaskRecord, default: Any, return_exceptions: bool) -> Any:
        if record.cell is None or not (record.succeeded or return_exceptions):
            return default
        return self._value(record, True)

    def _wait_or_raise(self, return_when: str, timeout: float | None) -> None:
        if not self._wait_for(return_when, timeout):
            left = sum(record.cell is None for record in self._records)
            trouble = str(self._session.contact)
            if not trouble and getattr(self._client, "ids", None) == []:
                trouble = "there are no engines"
            raise TimeoutError(
                f"the result is not ready after {timeout:g} s: {left} of {len(self._records)} "
                f"task{'s' if len(self._records) > 1 else ''} of {self._fname!r} pending"
                + (f"; {trouble}" if trouble else "")
            )

    def _value(self, record: TaskRecord, return_exceptions: bool = False) -> Any:
        cell = record.cell
        if cell is not None and cell[0] == VALUE:
            good, value = True, cell[1]
        else:
            good, value = record.load()
        if good:
            return value if self._convert is None else self._convert(record, value)
        if return_exceptions:
            return value
        raise value

    def _values(self, return_exceptions: bool) -> list[Any]:
        values = [self._value(record, True) for record in self._records]
        if not return_exceptions and not all(record.succeeded for record in self._records):
            self._raise_failures(self._records)
        return values

    def _raise_failures(self, records: Iterable[TaskRecord]) -> None:
        failures = [f for f in map(meta.error, records) if f is not None]
        for failure in failures:
            if not isinstance(failure, errors.KernelError) or (
                # The whole session failed, not some of its tasks.
                isinstance(failure, errors.ControllerLost)
            ):
                raise failure
        if self._single and failures:
            raise failures[0]
        errors.collect_exceptions(failures, self._fname)

    def result(self, timeout: float | None = None) -> Any:
        """Return the result when it is there, as :meth:`get` does."""
        return self.get(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that :meth:`get` would raise, or None.

        Raises:
            TimeoutError: The result is not there in time.
            TaskAborted: :meth:`cancel` was called; also a :class:`concurrent.futures.CancelledError`.
        """
        self._wait_or_raise(ALL_COMPLETED, timeout)
        if self.dropped:
            raise self._given_up(timeout)
        try:
            self.get(0)
        except BaseException as failure:  # noqa: BLE001 - it is what was asked for
            return failure
        return None

    @property
    def r(self) -> Any:
        """The result; the same as ``get()``."""
        return self.get()

    def get_dict(
        self, timeout: float | None = -1, *, return_exceptions: bool | None = None
    ) -> dict[int, Any]:
        """Return the results by engine id.

        Args:
            timeout: As for :meth:`get`.
            return_exceptions: As for :meth:`get`.

        Raises:
            ValueError: An engine has run more than one of the tasks.
            Exception: As :meth:`get`.
        """
        values = self.get(timeout, return_exceptions=return_exceptions)
        engines = [record.engine for record in self._records]
        if len(set(engines)) < len(engines):
            raise ValueError("there is more than one result of an engine; use get()")
        return dict(zip(engines, [values] if self._single else values, strict=True))

    @property
    def result_dict(self) -> dict[int, Any]:
        """The results by engine id; the same as ``get_dict()``."""
        return self.get_dict()

    # ------------------------------------------------- control

    @property
    def sent(self) -> bool:
        """Whether arguments may be changed, because nothing refers to them any more.

        Large arguments are copied at once where a host of the cluster is on this machine. Otherwise
        they are read when a host needs them, and must not be changed until then.
        """
        return self.wait_for_send(0)

    def wait_for_send(self, timeout: float | None = -1) -> bool:
        """Wait until arguments may be changed; see :attr:`sent`.

        Args:
            timeout: Seconds; None or negative is for ever.

        Returns:
            Whether they may be.
        """
        return self.done() or self._session.wait_for_send(self._mark, timeout, self._outgoing or ())

    # ------------------------------------------------- parts

    @property
    def _children(self) -> list[AsyncResult]:
        if self._parts is None:
            self._parts = [self._part(record) for record in self._records]
        return self._parts

    def _part(self, record: TaskRecord) -> AsyncResult:
        if self._single:
            return self
        part = AsyncResult(self._session, True, self._fname, owner=self._client)
        part._convert = self._convert
        part._mark = self._mark
        part._outgoing = self._outgoing
        self._session.watch([record], part)
        return part

    def split(self) -> list[AsyncResult]:
        """Return one result for each task."""
        return list(self._children)

    @classmethod
    def join(cls, *results: AsyncResult) -> AsyncResult:
        """Return one result with the tasks of several.

        Raises:
            ValueError: No result was given, or they belong to different clients.
        """
        if not results:
            raise ValueError("join() needs at least one result")
        first = results[0]
        if any(result._session is not first._session for result in results):
            raise ValueError("these results belong to different clients")
        joined = AsyncResult(first._session, False, first._fname, owner=first._client)
        joined._convert = first._convert
        joined._mark = max(result._mark for result in results)
        joined._outgoing = [o for result in results for o in result._outgoing or ()] or None
        records = [record for result in results for record in result._records]
        first._session.watch(records, joined)
        return joined

    def __len__(self) -> int:
        return len(self._records)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            raise TypeError(f"the result of one task is not iterable; use get() ({self!r})")
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        for record in self._records:
            self._await_record(record)
            yield self._value(record, self._return_exceptions)

    def _await_record(self, record: TaskRecord) -> None:
        if record.cell is None and not self.dropped:
            with self._interruptible(), self._condition:
                wait_until(self._condition, lambda: record.cell is not None or self.dropped)
        if record.cell is None:
            raise self._given_up(0)

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in meta.KEYS:
                raise KeyError(key)
            return self._metadata_item(key)
        if self._single:
            raise TypeError("this is the result of one task; use get()")
        if isinstance(key, slice):
            return [self._item(record) for record in self._records[key]]
        return self._item(self._records[key])

    def _item(self, record: TaskRecord) -> Any:
        self._await_record(record)
        return self._value(record, self._return_exceptions)

    def __repr__(self) -> str:
        if self.dropped:
            state = "cancelled"
        elif not self.done():
            state = f"pending, {self.progress} of {len(self._records)} done"
        else:
            state = "finished" if self.successful() else "failed"
        return f"<{type(self).__name__}({self._fname}): {state}>"

    # ------------------------------------------------- output and progress

    def stream_output(self) -> AbstractContextManager[None]:
        """Return a context in which the tasks' output is printed as it comes."""
        from ipkernel.client.output import stream_output

        return stream_output(self)

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait until all output is here: that is when the tasks have ended."""
        return self._await_done(timeout)

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Print what the tasks have printed and shown.

        Args:
            groupby: ``"type"`` (first all stdout, then all stderr, …), ``"engine"`` or ``"order"``.
            result_only: Leave out stdout and stderr.

        Raises:
            ValueError: ``groupby`` is none of these.
        """
        from ipkernel.client.output import display_outputs

        display_outputs(self, groupby, result_only)

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = -1.0,
        widget: object = None,
        return_when: str = ALL_COMPLETED,
    ) -> None:
        """Wait with a progress bar.

        Args:
            interval: Seconds between updates.
            timeout: Seconds; None or negative is for ever.
            widget: True for a notebook's widget, False for text, None to choose.
            return_when: As for :meth:`wait`.
        """
        from ipkernel.client.progress import wait_interactive

        wait_interactive(self, interval, timeout, widget, return_when)
