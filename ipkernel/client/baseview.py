"""What all views have in common: flags, calls, and questions about their tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Self

from msgspec.structs import replace

from ipkernel.client.feeding import attach, dump_with_streams
from ipkernel.client.mapping import LazyMapIterator, MapCalls
from ipkernel.client.mapresult import AsyncMapResult
from ipkernel.client.result import AsyncResult
from ipkernel.client.terms import timeout_of
from ipkernel.errors import NoEnginesRegistered
from ipkernel.wire.messages import Kind, Terms

if TYPE_CHECKING:
    from ipkernel.client.cancelling import Cancellation
    from ipkernel.client.client import Client
    from ipkernel.client.executor import ViewExecutor
    from ipkernel.client.remotefunction import ParallelFunction, RemoteFunction

#: How many task ids a view remembers.
HISTORY: Final = 1 << 16
#: How often a task may be run again; the controller takes no more.
MAX_RETRIES: Final = 1 << 20
_NO_TERMS: Final = Terms()


def name_of(func: object) -> str:
    """Return what to call a function in messages."""
    name = getattr(func, "__name__", None) or getattr(func, "name", None)
    return name if isinstance(name, str) else type(func).__name__


class View:
    """Some engines of a client, with flags that hold for every call.

    Views are made by clients: ``rc[:]``, ``rc.load_balanced_view()``. All methods may be called from
    any thread.

    Args:
        client: Whose view it is.
        targets: The engines; what is allowed depends on the kind of view.
        flags: Initial values of flags.

    Attributes:
        block: Whether ``apply``, ``map`` and the like wait for the result and return it.
        targets: The engines.
        label: A name for the tasks, for metadata and status displays.
        track: Kept for compatibility; ``AsyncResult.wait_for_send`` works in any case.
        keep: Whether results of ``apply`` and ``map`` stay on the hosts where they come into being;
            what is returned are :class:`~ipkernel.objects.ref.ObjectRef`, which can be arguments of
            other calls.
    """

    _flags: ClassVar[tuple[str, ...]] = (
        "block", "targets", "label", "track", "retries", "keep", "timeout",
    )  # fmt: skip

    #: Why it cannot be an argument.
    _stays_here: ClassVar = (
        "a view stays with its client: a task that submits others makes a client of its own"
    )

    def __init__(self, client: Client, targets: Any = None, **flags: Any) -> None:
        self.client = client
        self._session = client._session
        self._targets = targets
        self._issued: deque[int] = deque(maxlen=HISTORY)
        self.block: bool = client.block
        self.label: str = ""
        self.track = False
        self.keep = False
        self._retries = 0
        self._terms: Terms | None = None
        self.set_flags(**flags)

    # ------------------------------------------------- flags

    @property
    def targets(self) -> Any:
        """The engines of this view."""
        return self._targets

    @targets.setter
    def targets(self, targets: Any) -> None:
        self._targets = self._checked(targets)

    @property
    def retries(self) -> int:
        """How often a call that had begun is run again when its engine was lost.

        Raises:
            TypeError: Set to what is no whole number.
            ValueError: Set to a number below 0 or above 1048576.
        """
        return self._retries

    @retries.setter
    def retries(self, retries: int) -> None:
        try:
            number = index(retries)
        except TypeError:
            raise TypeError(f"retries must be a whole number, not {retries!r}") from None
        if not 0 <= number <= MAX_RETRIES:
            raise ValueError(f"retries must be from 0 to {MAX_RETRIES}, not {number}")
        self._retries = number

    def _asked(self) -> Terms | None:
        """Return what else is asked of a call that is submitted now."""
        return self._terms

    def _set_terms(self, **changes: Any) -> None:
        """Change what else is asked of the calls; there are no terms when that is nothing."""
        terms = replace(self._terms or _NO_TERMS, **changes)
        self._terms = None if terms == _NO_TERMS else terms

    @property
    def timeout(self) -> float | None:
        """How many seconds a call may run on an engine, or None; the time that it waits does not count.

        A call that takes longer is interrupted. If that does not end it, its engine is killed and
        started again. Either way it fails with :class:`~ipkernel.errors.TaskTimeout`.

        Raises:
            TypeError: Set to neither a number nor None.
            ValueError: Set to 0, or to more than 1e9; negative numbers stand for None.
        """
        return (self._terms.timeout or None) if self._terms is not None else None

    @timeout.setter
    def timeout(self, timeout: float | None) -> None:
        self._set_terms(timeout=timeout_of(timeout))

    def _checked(self, targets: Any) -> Any:
        raise TypeError("this view's targets cannot be changed")

    def set_flags(self, **flags: Any) -> Self:
        """Set flags by keyword; returns the view itself.

        Raises:
            TypeError: There is no such flag.
        """
        for name in flags:
            if name not in self._flags:
                raise TypeError(
                    f"{type(self).__name__} has no flag {name!r}; there are {', '.join(self._flags)}"
                )
        for name, value in flags.items():
            setattr(self, name, ("" if value is None else value) if name == "label" else value)
        return self

    @contextmanager
    def temp_flags(self, **flags: Any) -> Iterator[Self]:
        """Set flags for the time of a context."""
        before = {name: getattr(self, name) for name in flags if name in self._flags}
        self.set_flags(**flags)
        try:
            yield self
        finally:
            self.set_flags(**before)

    # ------------------------------------------------- calls

    def _engines(self) -> list[int]:
        """The ids that the view stands for now."""
        raise TypeError("a View of no kind has no engines")

    def _submit_call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str | None = None,
        keep: bool | None = None,
    ) -> AsyncResult:
        """Submit one call as this kind of view does."""
        raise TypeError("a View of no kind cannot call anything")

    def _submit_map(self, func: Any, sequences: Sequence[Any], options: MapCalls) -> AsyncMapResult:
        """Submit a map as this kind of view does."""
        raise TypeError("a View of no kind cannot call anything")

    def _note(self, result: AsyncResult) -> None:
        self._issued.extend(record.id for record in result._records)

    def _finish(self, result: AsyncResult, block: bool | None) -> Any:
        return result.get() if (self.block if block is None else block) else result

    def apply(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)``; waits for the result if the view's ``block`` is set.

        Returns:
            An :class:`AsyncResult`, or its value.

        Raises:
            SerializationError: Something cannot be sent; the text names it.
            ControllerLost: The connection to the controller is gone.
            NoEnginesRegistered: The view stands for all engines, and there is none.
        """
        result = self._submit_call(f, args, kwargs)
        return result.get() if self.block else result

    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``f(*args, **kwargs)`` and return an :class:`AsyncResult` at once."""
        return self._submit_call(f, args, kwargs)

    def apply_sync(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` and return what it returns."""
        return self._submit_call(f, args, kwargs).get()

    def apply_ref(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``f(*args, **kwargs)`` and leave what it returns where it is.

        Returns:
            At once, an :class:`AsyncResult` of an :class:`~ipkernel.objects.ref.ObjectRef`, or of
            one for each engine. In other calls a reference stands for the value; its ``get()``
            returns it.
        """
        return self._submit_call(f, args, kwargs, keep=True)

    def stream(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` and iterate here over what the iterable that it returns yields.

        The engine makes items while they are consumed, a little ahead; so there may be any number of
        them. Its generator is closed when the iterator is, or when nobody refers to that any more.

        Returns:
            A :class:`~ipkernel.client.streams.RemoteItems`, which is an iterator; for a direct view of
            several engines a list of one for each.

        Raises:
            SerializationError: Something cannot be sent; the text names it.
            ControllerLost: The connection to the controller is gone.
        """
        from ipkernel.client.streams import remote_items

        return remote_items(self, f, args, kwargs)

    def _places(self) -> tuple[list[tuple[int, Sequence[int]]], bool]:
        """Where a stream comes from: an engine, or -1 and those to choose from; whether it is one."""
        raise TypeError("a View of no kind cannot call anything")

    def map(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        block: bool | None = None,
        **options: Any,
    ) -> Any:
        """Call ``f`` with each item of the sequences, as Python's ``map`` does.

        The shortest sequence ends it.

        Args:
            f: Called with one item of each sequence.
            sequences: Any iterables.
            block: Wait for the results; by default as the view does.
            options: ``return_exceptions``, ``label``; ``keep`` to get a reference for each item (see
                :meth:`apply_ref`); for load-balanced views also ``chunksize`` (None chooses) and
                ``ordered``.

        Returns:
            An :class:`AsyncMapResult`, or the list of results.

        Raises:
            TypeError: There is no sequence.
            SerializationError: Something cannot be sent; the text names it.
        """
        if not sequences:
            raise TypeError("map() needs at least one sequence")
        result = self._submit_map(f, sequences, MapCalls.of(self, options))
        return self._finish(result, block)

    def map_async(
        self, f: Callable[..., Any], /, *sequences: Iterable[Any], **options: Any
    ) -> AsyncMapResult:
        """As :meth:`map`; returns an :class:`AsyncMapResult` at once."""
        options.pop("block", None)
        result: AsyncMapResult = self.map(f, *sequences, block=False, **options)
        return result

    def map_sync(self, f: Callable[..., Any], /, *sequences: Iterable[Any], **options: Any) -> Any:
        """As :meth:`map`; waits and returns the list of results."""
        options.pop("block", None)
        return self.map(f, *sequences, block=True, **options)

    def imap(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        max_outstanding: int | str = "auto",
        return_exceptions: bool = False,
    ) -> LazyMapIterator:
        """Iterate over results of ``f`` while consuming the sequences, which may be endless.

        Args:
            f: Called with one item of each sequence, on any of the view's engines.
            sequences: Any iterables; they are consumed as results are.
            ordered: Yield results in the order of the input, not as they come.
            max_outstanding: How many calls may be under way; 0 is any number.
            return_exceptions: Yield exceptions instead of raising them.

        Returns:
            An iterator; its ``cancel()`` ends it.
        """
        if not sequences:
            raise TypeError("imap() needs at least one sequence")
        if max_outstanding == "auto":
            max_outstanding = 16 * max(1, len(self))
        if not isinstance(max_outstanding, int) or max_outstanding < 0:
            raise ValueError(f"max_outstanding cannot be {max_outstanding!r}")
        return LazyMapIterator(
            self._balanced_call(f),
            zip(*sequences, strict=False),
            ordered=ordered,
            max_outstanding=max_outstanding,
            return_exceptions=return_exceptions,
        )

    def _balanced_call(self, func: Any) -> Callable[..., AsyncResult]:
        """Return what submits a call of ``func`` to any of the view's engines."""

        def submit(*args: Any) -> AsyncResult:
            engines = self._engines()
            if not engines:
                self._no_engines()  # no targets would mean any engine
            return self._to_any(func, args, {}, engines)

        return submit

    def _no_engines(self) -> NoReturn:
        self.client._check_open()
        raise NoEnginesRegistered(
            "there are no engines: wait for them with wait_for_engines(), or start some"
        )

    def _to_any(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: Sequence[int],
    ) -> AsyncResult:
        client = self.client
        result = AsyncResult(self._session, True, name_of(func), owner=client)
        call, streams = dump_with_streams(func, args, kwargs, client._functions)
        if streams:
            attach(streams, result)
        record = self._session.submit(
            result,
            Kind.APPLY,
            call,
            -1,
            targets,
            self.retries,
            self.label,
            self.keep,
            self._asked(),
        )
        self._issued.append(record.id)
        return result

    def remote(
        self, block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], RemoteFunction]:
        """Return a decorator that makes a function run on this view; see ``remote``."""
        from ipkernel.client.remotefunction import remote

        return remote(self, block, **flags)

    def parallel(
        self, dist: str = "b", block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], ParallelFunction]:
        """Return a decorator that makes a function run on parts of its arguments; see ``parallel``."""
        from ipkernel.client.remotefunction import parallel

        return parallel(self, dist, block, **flags)

    # ------------------------------------------------- tasks of this view

    @property
    def history(self) -> list[int]:
        """The ids of the tasks that were submitted through this view, oldest first (bounded)."""
        return list(self._issued)

    @property
    def outstanding(self) -> set[int]:
        """The ids of those that are pending."""
        return {task for task in list(self._issued) if task in self._session.pending}

    @property
    def results(self) -> dict[int, Any]:
        """The results of this view's ended tasks that somebody still holds, by id."""
        ours = set(self._issued)
        return {task: value for task, value in self.client.results.items() if task in ours}

    def wait(
        self, jobs: Any = None, timeout: float | None = -1, return_when: str | None = None
    ) -> Any:
        """Wait for tasks of this view; see ``Client.wait``."""
        jobs = list(self.outstanding) if jobs is None else jobs
        return self.client.wait(jobs, timeout, return_when)

    def abort(
        self,
        jobs: Any = None,
        targets: Any = None,
        block: bool | None = None,
        grace: float | None = None,
    ) -> Cancellation:
        """Abort tasks of this view; see ``Client.abort``."""
        if jobs is None:
            jobs = list(self.outstanding)
        return self.client.abort(jobs, targets, block, grace)

    def get_result(
        self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = False
    ) -> Any:
        """Return results by task id, or by index in this view's history."""
        if indices_or_msg_ids is None:
            indices_or_msg_ids = -1
        single = not isinstance(indices_or_msg_ids, (list, tuple))
        history = self.history
        ids = [
            history[index] if isinstance(index, int) and abs(index) < 1 << 40 else index
            for index in ([indices_or_msg_ids] if single else indices_or_msg_ids)
        ]
        return self.client.get_result(ids[0] if single else ids, block, owner)

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """Return what the view's engines have to do; see ``Client.queue_status``."""
        return self.client.queue_status(self._engines() if targets is None else targets, verbose)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results; see ``Client.purge_results``."""
        self.client.purge_results(jobs, targets)

    def shutdown(
        self,
        targets: Any = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> None:
        """End or restart the view's engines; see ``Client.shutdown``."""
        self.client.shutdown(self._engines() if targets is None else targets, restart, hub, block)

    @property
    def executor(self) -> ViewExecutor:
        """An executor of :mod:`concurrent.futures` that runs calls on this view."""
        from ipkernel.client.executor import ViewExecutor

        return ViewExecutor(self)

    def spin(self) -> None:
        """Do nothing; results arrive by themselves."""

    def __len__(self) -> int:
        return len(self._engines())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._targets if self._targets is not None else 'all'}>"
