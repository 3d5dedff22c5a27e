"""Iterables as arguments: consumed here while an engine asks for their items."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.serialize.functions import dump_call
from ipkernel.serialize.payload import dumps

if TYPE_CHECKING:
    from ipkernel.client.flows import Attempt
    from ipkernel.client.result import AsyncResult
    from ipkernel.objects.items import RecordWriter
    from ipkernel.serialize.cache import FunctionCache
    from ipkernel.serialize.calls import CallPayload

__all__ = ["ItemStream", "attach", "dump_with_streams", "stream"]


class _Here(threading.local):
    """The streams that were met while the arguments of a call are pickled."""

    found: list[ItemStream] | None = None


_here = _Here()


class ItemStream:
    """An argument of a call that arrives as an iterator; see :func:`stream`."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        iter(iterable)  # say now what is wrong with it
        self._iterable: Iterable[Any] | None = iterable
        from ipkernel.objects.chunks import new_key

        self._master = new_key()

    def __reduce__(self) -> tuple[Any, ...]:
        if _here.found is None:
            raise TypeError("a stream can be sent as an argument of apply() and stream() only")
        if self._iterable is None:
            raise ValueError("a stream can be sent once; make another one of what is left")
        _here.found.append(self)
        from ipkernel.engine.flows import received_items

        return received_items, (self._master,)

    def __iter__(self) -> NoReturn:
        raise TypeError("a stream can be an argument of apply() and stream() only")

    def __repr__(self) -> str:
        return "<stream that was sent>" if self._iterable is None else "<stream>"


def stream(iterable: Iterable[Any]) -> ItemStream:
    """Make an argument of an iterable that is consumed while the engine asks for its items.

    The called function gets an iterator. Items are taken from ``iterable`` by a thread of this process,
    a little ahead of the engine; so it may be endless, or larger than memory. If it is a generator, it
    is closed as soon as the function has enough of it.

    Args:
        iterable: What to iterate over, once.

    Returns:
        What can be one of the arguments, or part of one, of a single call for one engine.

    Raises:
        TypeError: It is not iterable.
    """
    return ItemStream(iterable)


def dump_with_streams(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    cache: FunctionCache,
) -> tuple[CallPayload, Sequence[ItemStream]]:
    """Turn a call into bytes, as ``dump_call`` does; return also the streams among its arguments."""
    if not args and not kwargs:
        return dump_call(func, args, kwargs, cache), ()
    found: list[ItemStream] = []
    _here.found = found
    try:
        return dump_call(func, args, kwargs, cache), found
    finally:
        _here.found = None


def attach(streams: Sequence[ItemStream], result: AsyncResult, engines: int = 1) -> None:
    """Feed streams to a task that is about to be submitted.

    Args:
        streams: Those among its arguments.
        result: The task's.
        engines: How many engines the call is for.

    Raises:
        ValueError: It is not one.
    """
    if engines != 1:
        raise ValueError(
            f"a stream can be read by one engine, and this call is for {engines}: use a view of one "
            "engine, or a load-balanced one"
        )
    for one in streams:
        iterable, one._iterable = one._iterable, None
        if iterable is not None:
            result._session.objects.flows.expect(one._master, _Feed(one._master, iterable, result))


class _Feed:
    """Takes items from an iterable while an engine wants them.

    Args:
        master: The stream's key.
        iterable: Where they come from.
        result: The task's.
    """

    def __init__(self, master: bytes, iterable: Iterable[Any], result: AsyncResult) -> None:
        self._master = master
        self._iterable: Iterable[Any] | None = iterable
        self._flows = result._session.objects.flows
        self._opened = False
        self._records: RecordWriter | None = None
        self._reason: BaseException | None = None
        result.add_done_callback(self._done)

    # ------------------------------------------------- called by the thread that receives

    def _done(self, result: AsyncResult) -> None:
        """The user's result is done; the task may go on if that is because it was given up."""
        if not (self._opened and result.dropped):
            self._over()

    def opened(self, attempt: Attempt) -> None:
        """The engine is ready."""
        self._opened = True
        attempt.when_over(self._over)
        iterable, self._iterable = self._iterable, None
        self._flows.run("ipkernel-stream", lambda: self._feed(attempt, iterable))

    def stopped(self) -> None:
        """The engine wants no more."""
        from ipkernel.objects.flow import FlowStopped

        self._reason = FlowStopped("the engine wants no more of this stream")
        if self._records is not None:
            self._records.stop(self._reason)

    def _over(self) -> None:
        self._flows.forget(self._master)
        self._iterable = None
        self.stopped()

    # ------------------------------------------------- a thread of its own

    def _feed(self, attempt: Attempt, iterable: Iterable[Any] | None) -> None:
        from ipkernel.objects.flow import FlowStopped
        from ipkernel.objects.items import RecordWriter

        iterator = _begin(iterable)
        try:
            records = RecordWriter(attempt.writer(attempt.check))
            try:
                self._records = records
                if self._reason is not None:
                    records.stop(self._reason)
                _send_all(iterator, records)
            finally:
                _close(iterator)
                with contextlib.suppress(ObjectError, ConnectError):
                    records.close()
        except FlowStopped:
            pass
        except (ObjectError, ConnectError):
            with contextlib.suppress(Exception):  # nobody may be there
                attempt.interrupt()
        finally:
            _close(iterator)


def _send_all(iterator: Iterator[Any], records: RecordWriter) -> None:
    while True:
        try:
            item = next(iterator)
            pieces = dumps(item)
        except StopIteration:
            records.finish()
            return
        except BaseException as problem:  # noqa: BLE001 - it is the engine's to deal with
            from ipkernel.serialize import failure

            records.finish(failure.encode(failure.describe(problem, hide_until=__file__)))
            return
        records.send(pieces)
        del item, pieces  # they may be large


def _begin(iterable: Iterable[Any] | None) -> Iterator[Any]:
    """Return what iterates over an iterable; if there is nothing, it raises why."""
    if iterable is None:
        again = "this stream was begun when the call was run before, and cannot be repeated"
        return _failing(ValueError(again))
    try:
        return iter(iterable)
    except BaseException as problem:  # noqa: BLE001 - as what its items raise
        return _failing(problem)


def _failing(problem: BaseException) -> Iterator[Any]:
    raise problem
    yield


def _close(iterator: Iterator[Any]) -> None:
    """Close a generator; what it raises then has nobody to go to."""
    close = getattr(iterator, "close", None)
    if close is not None:
        with contextlib.suppress(BaseException):
            close()
