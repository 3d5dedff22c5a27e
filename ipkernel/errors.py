"""Every exception that ipkernel raises on purpose.

The names and the tree are those that users of this field know; what is ours (:class:`EngineLost`,
:class:`SerializationError`, :class:`ConnectError`, ...) sits below :class:`KernelError` as well, so
``except KernelError`` catches all of it. Time-outs are the builtin :class:`TimeoutError`.

All of them can be pickled. This module imports nothing that is heavy.
"""

from __future__ import annotations

import contextlib
import sys
from builtins import TimeoutError  # re-exported: ``errors.TimeoutError`` is the builtin
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from ipkernel import failures
from ipkernel.ranges import ranges_text
from ipkernel.signals import signal_text
from ipkernel.sizes import memory_text
from ipkernel.spans import span_text

if TYPE_CHECKING:
    from ipkernel.serialize.failure import ErrorInfo

__all__ = [
    "AlreadyDisplayedError",
    "ClusterError",
    "CompositeError",
    "ConfigurationError",
    "ConnectError",
    "ControllerLost",
    "DependencyTimeout",
    "EngineError",
    "EngineLost",
    "HostLost",
    "IPythonError",
    "ImpossibleDependency",
    "InvalidDependency",
    "InvalidEngineID",
    "JournalError",
    "KernelError",
    "LauncherError",
    "NoEnginesRegistered",
    "ObjectError",
    "ObjectLost",
    "QueryError",
    "RemoteError",
    "SecurityError",
    "SerializationError",
    "StoreFull",
    "TaskAborted",
    "TaskRejectError",
    "TaskTimeout",
    "TimeoutError",
    "TransferError",
    "UnknownObject",
    "UnmetDependency",
    "collect_exceptions",
    "remote_error",
]

_Results = TypeVar("_Results", bound="Mapping[Any, Any] | Iterable[Any]")


def _restore(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    """Rebuild one of our exceptions without calling its ``__init__``."""
    exc = cls.__new__(cls, *args)
    exc.args = args
    exc.__dict__.update(state)
    return exc


class IPythonError(Exception):
    """The root of all exceptions of ipkernel."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


class KernelError(IPythonError):
    """Something in the cluster, or on the way to it, went wrong."""


class EngineError(KernelError):
    """An engine could not do what it was asked to, for a reason other than the user's code."""


class NoEnginesRegistered(KernelError):
    """The request needs at least one engine, and there is none."""


class TaskAborted(KernelError, CancelledError):
    """The task was aborted, by ``abort()`` or ``cancel()``; the text says how.

    It is a :class:`concurrent.futures.CancelledError` too.

    Attributes:
        fate: ``"dequeued"``, ``"interrupted"`` or ``"killed"``; empty if that is not known.
    """

    def __init__(self, *args: object, fate: str = "") -> None:
        super().__init__(*args)
        self.fate = fate


class TaskRejectError(KernelError):
    """Raised by user code on an engine: this engine cannot run the task, try another one."""


class TaskTimeout(KernelError):
    """The task ran for longer than its ``timeout``; the text says for how long, and what was done."""


class UnmetDependency(KernelError):
    """Raised by user code on an engine: what it depends on is not met here, try another engine."""


class ImpossibleDependency(UnmetDependency):
    """What the task depends on can never be met any more."""


class DependencyTimeout(ImpossibleDependency):
    """What the task depends on was not met in time."""


class InvalidDependency(ImpossibleDependency):
    """The dependency itself makes no sense, such as one on an unknown task."""


class ControllerLost(KernelError):
    """The connection to the controller is gone and could not be restored."""


class ConnectError(KernelError):
    """The controller could not be reached: wrong or stale FURL, refused, or no answer."""


class LauncherError(KernelError):
    """A launcher could not start, signal or stop what it is responsible for."""


class ClusterError(KernelError):
    """A cluster is not in the state that the request needs."""


class JournalError(KernelError):
    """The controller's journal cannot be used, or could not be written."""


class ConfigurationError(KernelError):
    """A configuration key is unknown or its value is not acceptable."""


class SecurityError(KernelError):
    """A right is missing, or something that must be private is not."""


class ObjectError(KernelError):
    """An object in a host's store cannot be had."""


class UnknownObject(ObjectError):
    """There is no such object, or it was freed."""


class ObjectLost(ObjectError):
    """The host or client that held an object is gone, and nobody has a copy."""


class StoreFull(ObjectError):
    """An object does not fit into a host's store."""


class TransferError(ObjectError):
    """An object could not be moved: the connection was cut too often, or what arrived is not what was sent."""


class InvalidEngineID(KernelError, IndexError):
    """There is no engine with this id."""


class QueryError(KernelError, ValueError):
    """A question about tasks cannot be answered as it was put; also a ``ValueError``."""


class SerializationError(KernelError):
    """A value cannot be sent, or received bytes cannot be turned into a value.

    Args:
        message: the whole text, which names the offending object.
        path: where the offending object sits, such as ``argument 1['lock'].x``; empty if unknown.
        reason: the text of the underlying error; empty if there is none.
    """

    def __init__(self, message: str = "", *, path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


class HostLost(EngineError):
    """The host daemon that an engine belongs to is gone, and the engine with it.

    Args:
        message: the whole text; made from the other arguments when empty.
        host: name of the host.
        reason: why the controller believes so.
        engines: ids of the engines that went with it.
    """

    def __init__(
        self, message: str = "", *, host: str = "", reason: str = "", engines: Sequence[int] = ()
    ) -> None:
        self.host = host
        self.reason = reason
        self.engines = tuple(engines)
        super().__init__(message or self._sentence())

    def _sentence(self) -> str:
        text = f"the connection to host {self.host or 'unknown'} was lost"
        if self.engines:
            text += (
                f" with engine{'s' if len(self.engines) > 1 else ''} {ranges_text(self.engines)}"
            )
        return f"{text}: {self.reason}" if self.reason else text


class EngineLost(EngineError):
    """The process of an engine ended while it was needed.

    Args:
        message: the whole text; made from the other arguments when empty.
        engine: id of the engine.
        host: name of its host.
        pid: its process id.
        exitcode: its exit code, None if it was ended by a signal or the code is not known.
        signal: number of the signal that ended it, None if none did.
        uptime: how long it had been running, in seconds.
        memory: the most memory it had resident, in bytes.
        last_output: the last lines that it wrote.
    """

    def __init__(
        self,
        message: str = "",
        *,
        engine: int | None = None,
        host: str | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        uptime: float | None = None,
        memory: int | None = None,
        last_output: Iterable[str] = (),
    ) -> None:
        self.engine = engine
        self.host = host
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.uptime = uptime
        self.memory = memory
        self.last_output: tuple[str, ...] = tuple(last_output)
        super().__init__(message or self._sentence())

    def _sentence(self) -> str:
        who = "an engine" if self.engine is None else f"engine {self.engine}"
        where = f" on {self.host}" if self.host else ""
        pid = f" (pid {self.pid})" if self.pid is not None else ""
        if self.signal is not None:
            how = f" was killed by {signal_text(self.signal)}"
        elif self.exitcode is not None:
            how = f" exited with code {self.exitcode}"
        else:
            how = " was lost"
        text = who + where + pid + how
        if self.uptime is not None:
            text += f" after {span_text(self.uptime)}"
        if self.memory is not None:
            text += f", having used {memory_text(self.memory)} of memory"
        if self.last_output:
            text += "; its last output was:" + "".join(f"\n    {line}" for line in self.last_output)
        return text


class _RemoteTraceback(Exception):
    """Shows the remote traceback as the cause, where a plain Python prints a RemoteError."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


#: ename, evalue, traceback, engine_info and the pickled original of a RemoteError.
_Fields = tuple[str, str, str, dict[str, Any], "bytes | None"]


class RemoteError(KernelError):
    """An exception that was raised on an engine.

    What a client raises is usually an instance of a subclass that is *also* of the original type, so
    that ``except ZeroDivisionError`` works; see :func:`remote_error`.

    Attributes:
        ename: name of the original type.
        evalue: text of the original exception.
        traceback: the rendered remote traceback, one text.
        engine_info: where it happened: ``engine``, ``host``, ``pid``, ``method``, as far as known.
        original: the original exception, rebuilt here; None where that is not possible.
    """

    ename: str
    evalue: str
    traceback: str
    engine_info: dict[str, Any]
    original: BaseException | None
    _pickled: bytes | None

    def __init__(
        self,
        ename: str,
        evalue: str,
        traceback: str | Iterable[str] | None = "",
        engine_info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(ename, evalue)
        text = traceback if isinstance(traceback, str) else "\n".join(traceback or ())
        info = dict(engine_info or {})
        self._fill((ename, evalue, text, info, None))

    def _fill(self, fields: _Fields, original: BaseException | None = None) -> None:
        names = ("ename", "evalue", "traceback", "engine_info", "_pickled")
        # Straight into the dict: a user's exception type may forbid or divert attribute setting.
        self.__dict__.update(zip(names, fields, strict=True), original=original)
        if fields[2] and self.__cause__ is None:
            BaseException.__setattr__(self, "__cause__", _RemoteTraceback(fields[2]))

    def __str__(self) -> str:
        label = failures.engine_label(self.engine_info)
        prefix = f"[engine {label}] " if label else ""
        return prefix + (f"{self.ename}: {self.evalue}" if self.evalue else self.ename)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _build, (self.ename, self.evalue, self.traceback, self.engine_info, self._pickled)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The original type's own way of pickling must not win over ours.
        return self.__reduce__()

    def render_traceback(self) -> list[str]:
        """Return the remote traceback as a list of lines."""
        return self.traceback.splitlines() or [str(self)]

    def _render_traceback_(self, *args: Any) -> list[str]:
        """IPython calls this to show the exception."""
        label = failures.engine_label(self.engine_info)
        if not label:
            return self.render_traceback()
        method = self.engine_info.get("method", "apply")
        return [f"[{label}:{method}]: ", *self.render_traceback()]

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the remote traceback; ``excid`` only means something in a CompositeError."""
        sys.stdout.write("\n".join(self.render_traceback()) + "\n")


class CompositeError(RemoteError):
    """Several exceptions of several engines or tasks.

    Args:
        msg: what was being done.
        elist: one ``(ename, evalue, traceback, engine_info)`` for each exception.
        errors: the exceptions themselves, in the same order, if there are any to keep.

    Attributes:
        elist: as given.
        tb_limit: how many different errors are shown in full.
    """

    tb_limit = 4

    def __init__(
        self,
        msg: str,
        elist: Iterable[tuple[str, str, Any, Mapping[str, Any] | None]],
        errors: Sequence[BaseException] = (),
    ) -> None:
        self.msg = msg
        self.elist: list[failures.Entry] = [
            (en, ev, tb if isinstance(tb, str) else "\n".join(tb or ()), dict(info or {}))
            for en, ev, tb, info in elist
        ]
        self.errors = list(errors) if len(errors) == len(self.elist) else []
        super().__init__("CompositeError", msg)
        self.args = (msg, self.elist)
        if self.elist:
            self.__cause__ = _RemoteTraceback("\n".join(self.render_traceback()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.elist, self.errors)

    def __len__(self) -> int:
        return len(self.elist)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        groups = failures.grouped(self.elist)
        lines = [self.msg]
        for first, indices in groups[: self.tb_limit]:
            ename, evalue, _, _ = self.elist[first]
            label = failures.label(self.elist, first)
            others = failures.alike(self.elist, indices)
            lines.append(f"{label}{ename}: {evalue}{others}")
        return "\n".join(lines + failures.left_out(groups, self.tb_limit))

    def _check(self, excid: int) -> int:
        count = len(self.elist)
        if not -count <= excid < count:
            raise IndexError(f"there is no exception {excid}; there are {count}, counted from 0")
        return excid % count

    def render_traceback(self, excid: int | None = None) -> list[str]:
        """Return the traceback of one exception, or of all that differ (at most ``tb_limit``).

        Args:
            excid: index into ``elist``; None for all.

        Raises:
            IndexError: there is no such exception.
        """
        if excid is not None:
            i = self._check(excid)
            ename, evalue, text, _ = self.elist[i]
            return [failures.label(self.elist, i), *(text.splitlines() or [f"{ename}: {evalue}"])]
        groups = failures.grouped(self.elist)
        lines: list[str] = []
        for first, indices in groups[: self.tb_limit]:
            lines += self.render_traceback(first)
            if len(indices) > 1:
                lines.append(failures.alike(self.elist, indices).strip())
            lines.append("")
        return lines + failures.left_out(groups, self.tb_limit)

    def _render_traceback_(self, *args: Any) -> list[str]:
        return self.render_traceback()

    def print_traceback(self, excid: int | None = None) -> None:
        """Print what :meth:`render_traceback` returns."""
        sys.stdout.write("\n".join(self.render_traceback(excid)) + "\n")

    def raise_exception(self, excid: int = 0) -> None:
        """Raise one of the exceptions, as the :class:`RemoteError` that it is.

        Args:
            excid: index into ``elist``.

        Raises:
            RemoteError: always, unless
            IndexError: there is no such exception.
        """
        i = self._check(excid)
        if self.errors:
            raise self.errors[i]
        raise RemoteError(*self.elist[i])


class AlreadyDisplayedError(RemoteError):
    """Stands for an exception whose traceback has been shown already, so that it is not shown twice.

    Attributes:
        original_error: the exception that was shown.
    """

    def __init__(self, original_error: RemoteError) -> None:
        self.original_error = original_error
        super().__init__(
            original_error.ename, original_error.evalue, "", original_error.engine_info
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.original_error,)

    def __str__(self) -> str:
        return str(self.original_error)

    def _render_traceback_(self, *args: Any) -> list[str]:
        return []


def remote_error(info: ErrorInfo) -> RemoteError:
    """Make the exception that a client raises for an error of an engine.

    Unpickles what the engine sent, so it is for clients only, who trust their engines.

    Args:
        info: the error as data.

    Returns:
        An instance of :class:`RemoteError` and, where the original type is an ``Exception`` that can be
        rebuilt here, also of that type, with its ``args`` and attributes.
    """
    text = "\n".join(info.traceback)
    return _build(info.ename, info.evalue, text, info.engine_info, info.pickled)


def _build(*fields: Any) -> RemoteError:
    """Make a RemoteError of its fields, of the original type too if that is possible."""
    from ipkernel.serialize.rebuild import load_exception, retype

    pickled: bytes | None = fields[4]
    original = load_exception(pickled) if pickled else None
    if isinstance(original, Exception) and not isinstance(original, RemoteError):
        # A type that resists is not worth an error: the plain form says the same.
        with contextlib.suppress(Exception):
            exc = retype(original, RemoteError)
            exc._fill(fields, original)
            return exc
    plain = RemoteError(*fields[:4])
    plain.__dict__.update(original=original, _pickled=pickled)
    return plain


def _flatten(items: Iterable[Any]) -> Iterable[tuple[failures.Entry, KernelError]]:
    for item in items:
        if isinstance(item, CompositeError):
            errors: Sequence[Any] = item.errors or [RemoteError(*entry) for entry in item.elist]
            yield from zip(item.elist, errors, strict=True)
        elif isinstance(item, RemoteError):
            yield (item.ename, item.evalue, item.traceback, item.engine_info), item
        elif isinstance(item, KernelError):
            engine = getattr(item, "engine", None)
            info = {"method": ""}  # it says itself what was done
            if engine is not None:
                info["engine"] = engine
            yield (type(item).__name__, str(item), "", info), item


def collect_exceptions(results_or_excs: _Results, method: str = "apply") -> _Results:
    """Look through results for errors.

    Args:
        results_or_excs: results, or a mapping with results as values. An exception of the cluster among
            them (:class:`RemoteError`, :class:`EngineError`, ...) stands for a failed one.
        method: what was being done, for the message.

    Returns:
        ``results_or_excs`` itself, if no result is an error.

    Raises:
        CompositeError: with all errors; those of a CompositeError among the results are taken out of it.
    """
    items = results_or_excs.values() if isinstance(results_or_excs, Mapping) else results_or_excs
    found = list(_flatten(items))
    if not found:
        return results_or_excs
    raise CompositeError(
        f"one or more exceptions raised in: {method}",
        [entry for entry, _ in found],
        [error for _, error in found],
    )
