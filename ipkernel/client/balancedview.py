"""Views whose calls go to whichever engine is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from ipkernel.client.baseview import View, name_of
from ipkernel.client.dependency import Dependency
from ipkernel.client.feeding import attach, dump_with_streams
from ipkernel.client.mapping import MapCalls, load_items
from ipkernel.client.mapresult import AsyncMapResult
from ipkernel.client.partition import APART, BLOCK, chunks
from ipkernel.client.recovery import recovery_of
from ipkernel.client.result import AsyncResult
from ipkernel.client.terms import exceptions_of, priority_of, properties_of, resources_of
from ipkernel.serialize.calls import CallPayload
from ipkernel.serialize.retrying import Retrying
from ipkernel.wire.messages import Clear, Kind, Simple, Terms

if TYPE_CHECKING:
    from ipkernel.client.client import Client

_NOBODY: tuple[int, ...] = ()


class LoadBalancedView(View):
    """Engines of which any one runs a call.

    Calls wait while there is no engine, unless the view was made for an empty list of engines: that is
    an error.

    Attributes:
        retries: How often a call that had begun is run again: when its engine was lost, or after
            what :attr:`retry_on` says.
    """

    _flags: ClassVar[tuple[str, ...]] = (
        *View._flags, "priority", "after", "follow", "resources", "where",
        "clear_before", "clear_after", "recovery_task", "retry_on",
    )  # fmt: skip

    def __init__(self, client: Client, targets: Any = None, **flags: Any) -> None:
        self._after: Dependency | None = None
        self._follow: Dependency | None = None
        self._recovery: Callable[[], Any] | None = None
        self._retry_on: tuple[type[Exception], ...] = ()
        super().__init__(client, targets, **flags)

    @property
    def after(self) -> Dependency | None:
        """The calls that must have ended before a call is run.

        It may be set to an :class:`AsyncResult`, a task's id, a list of these, or a
        :class:`Dependency`, which also says how they must have ended; by default all must have
        succeeded. A call whose dependency cannot be met any more fails with
        :class:`~ipkernel.errors.ImpossibleDependency`.

        Raises:
            TypeError, ValueError: Set to something else.
        """
        return self._after

    @after.setter
    def after(self, after: Any) -> None:
        self._after = Dependency.of(after)

    @property
    def follow(self) -> Dependency | None:
        """The calls that a call waits for, as for :attr:`after`, and whose engine it is run on.

        If all of several are to be followed, they must have run on the same engine.
        """
        return self._follow

    @follow.setter
    def follow(self, follow: Any) -> None:
        self._follow = Dependency.of(follow)

    def _asked(self) -> Terms | None:
        after, follow, recovery = self._after, self._follow, self._recovery
        if after is None and follow is None and recovery is None:
            return self._terms
        return replace(
            self._terms or Terms(),
            after=after.told() if after is not None else None,
            follow=follow.told() if follow is not None else None,
            recovery=recovery_of(self, recovery) if recovery is not None else None,
        )

    @property
    def priority(self) -> int:
        """Which calls of this client go first: those with the highest number, by default 0.

        It is about calls that wait for an engine; what runs, or is about to, is left alone. Clients
        take turns whatever the priorities of their calls are.

        Raises:
            TypeError: Set to what is no whole number.
            ValueError: Set to a number below -1000000 or above 1000000.
        """
        return self._terms.priority if self._terms is not None else 0

    @priority.setter
    def priority(self, priority: int) -> None:
        self._set_terms(priority=priority_of(priority))

    @property
    def resources(self) -> dict[str, float] | None:
        """What a call uses where it runs: amounts by name, such as ``{"gpu": 1, "memory": 2.5}``.

        It is run on an engine that has so much, as long as others do not use it. What engines have
        says the section ``[slots]`` of the configuration. A call that uses more than any engine has
        fails with :class:`~ipkernel.errors.ImpossibleDependency` at once.

        Raises:
            TypeError, ValueError: Set to something else.
        """
        return dict(self._terms.resources) if self._terms and self._terms.resources else None

    @resources.setter
    def resources(self, resources: Mapping[str, float] | None) -> None:
        self._set_terms(resources=resources_of(resources))

    @property
    def where(self) -> dict[str, Simple] | None:
        """The properties that an engine must have to run a call, with these values.

        See ``set_properties`` of direct views. When no engine has them, a call fails with
        :class:`~ipkernel.errors.ImpossibleDependency` at once.

        Raises:
            TypeError, ValueError: Set to what is no dict of simple values.
        """
        return dict(self._terms.where) if self._terms and self._terms.where else None

    @where.setter
    def where(self, where: Mapping[str, Simple] | None) -> None:
        self._set_terms(where=properties_of("where", where))

    @property
    def clear_before(self) -> bool:
        """Whether the engine's namespace is emptied before a call is run."""
        return bool(self._terms and self._terms.clear & Clear.BEFORE)

    @clear_before.setter
    def clear_before(self, clear: bool) -> None:
        self._set_clear(Clear.BEFORE, clear)

    @property
    def clear_after(self) -> bool:
        """Whether the engine's namespace is emptied after a call was run, whatever its outcome."""
        return bool(self._terms and self._terms.clear & Clear.AFTER)

    @clear_after.setter
    def clear_after(self, clear: bool) -> None:
        self._set_clear(Clear.AFTER, clear)

    def _set_clear(self, which: Clear, clear: bool) -> None:
        before = self._terms.clear if self._terms is not None else 0
        self._set_terms(clear=int(before | which if clear else before & ~which))

    @property
    def recovery_task(self) -> Callable[[], Any] | None:
        """What is run in the place of a call that has failed for good: a function without arguments.

        It runs as the same task, where that could have been run, after all ``retries``; what it
        returns, or raises, is the result. How the call itself failed is in the metadata, as
        ``recovered``. Calls that were aborted, or that no engine could run, are not recovered.

        Raises:
            TypeError: Set to what cannot be called.
        """
        return self._recovery

    @recovery_task.setter
    def recovery_task(self, recovery: Callable[[], Any] | None) -> None:
        if recovery is not None and not callable(recovery):
            raise TypeError(
                f"recovery_task must be a function, or functools.partial(...), not {recovery!r}"
            )
        self._recovery = recovery

    @property
    def retry_on(self) -> tuple[type[Exception], ...]:
        """The exceptions after which a call is run again, as often as its ``retries`` allow.

        It may be set to a class, such as ``OSError``, to several, or to None for none. That is the
        default: then only a call whose engine was lost is run again.

        Raises:
            TypeError: Set to something else.
            ValueError: Set to an exception by which ipkernel ends calls.
        """
        return self._retry_on

    @retry_on.setter
    def retry_on(self, exceptions: Any) -> None:
        self._retry_on = exceptions_of(exceptions)

    def _retrying(self, func: Any) -> Any:
        """Return what is sent for a function: if it may be run again, with the reasons for that."""
        return Retrying(func, self._retry_on) if self._retry_on and self.retries else func

    def _checked(self, targets: Any) -> Any:
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return None
        checked = self.client._targets_of(targets)
        return [checked] if isinstance(checked, int) else checked

    def _engines(self) -> list[int]:
        return self.client.ids if self._targets is None else list(self._targets)

    def _choice(self) -> Sequence[int]:
        """Return the engines to choose from as a task names them: none for any."""
        targets = self._targets
        if targets is None:
            return _NOBODY
        if not targets:
            self._no_engines()
        chosen: list[int] = targets
        return chosen

    def register_joblib_backend(self, name: str = "ipkernel", make_default: bool = False) -> None:
        """Have joblib run its calls on this view; see :func:`ipkernel.joblib.register_joblib_backend`."""
        from ipkernel.joblib import register_joblib_backend

        register_joblib_backend(name, make_default, self)

    def _submit_call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str | None = None,
        keep: bool | None = None,
    ) -> AsyncResult:
        client = self.client
        try:
            name = func.__name__
        except AttributeError:
            name = name_of(func)
        session = self._session
        result = AsyncResult(session, True, name, owner=client)
        sent = self._retrying(func)
        call, streams = dump_with_streams(sent, args, kwargs, client._functions)
        if streams:
            attach(streams, result)
        record = session.submit(
            result,
            Kind.APPLY,
            call,
            -1,
            self._choice(),
            self.retries,
            self.label if label is None else label,
            self.keep if keep is None else keep,
            self._asked(),
        )
        self._issued.append(record.id)
        return result

    def _places(self) -> tuple[list[tuple[int, Sequence[int]]], bool]:
        return [(-1, self._choice())], True

    def _balanced_call(self, func: Any) -> Any:
        return lambda *args: self._submit_call(func, args, {})

    def _submit_map(self, func: Any, sequences: Sequence[Any], options: MapCalls) -> AsyncMapResult:
        sizes: list[int] = []
        result = AsyncMapResult(
            self._session,
            APART if options.keep and options.elementwise else BLOCK,
            sizes,
            options.ordered,
            name_of(func),
            return_exceptions=options.return_exceptions,
            owner=self.client,
        )
        if options.elementwise and options.return_exceptions:
            result._convert = load_items
        self._session.submit_each(
            result,
            options.kind,
            zip(
                self._encoded(self._retrying(func), options.sources(sequences), options, sizes),
                repeat(-1),
            ),
            self._choice(),
            options.retries,
            options.label,
            options.keep,
            self._asked(),
        )
        self._note(result)
        return result

    def _encoded(
        self, func: Any, sequences: Sequence[Any], options: MapCalls, sizes: list[int]
    ) -> Iterator[CallPayload]:
        functions = self.client._functions
        end = 0
        for parts in chunks(sequences, len(self), options.chunksize):
            sizes.append(len(parts[0]))
            start, end = end, end + len(parts[0])
            yield options.encode(func, parts, range(start, end), functions)
