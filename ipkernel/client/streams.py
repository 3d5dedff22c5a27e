"""What generators on engines yield, item by item, so that neither side needs room for all of it."""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ipkernel.client.baseview import View, name_of
from ipkernel.client.feeding import attach, dump_with_streams
from ipkernel.client.flows import NEWS, Attempt, wait_over
from ipkernel.client.result import AsyncResult
from ipkernel.client.waiting import wait_until
from ipkernel.engine.flows import produce
from ipkernel.errors import ConnectError, ObjectError, TransferError
from ipkernel.objects.chunks import new_key
from ipkernel.objects.flow import FlowFailed, FlowReader, FlowStopped
from ipkernel.objects.items import RecordReader
from ipkernel.serialize.payload import loads
from ipkernel.wire.messages import Kind

if TYPE_CHECKING:
    pass

__all__ = ["RemoteItems", "remote_items"]


def remote_items(
    view: View, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call ``f`` on engines and iterate over what comes out of it; see ``View.stream``."""
    places, single = view._places()
    found = [_items(view, place, len(places), f, args, kwargs) for place in places]
    return found[0] if single else found


def _items(
    view: View,
    place: tuple[int, Sequence[int]],
    engines: int,
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> RemoteItems:
    session, master = view._session, new_key()
    call, streams = dump_with_streams(produce, (master, f, *args), kwargs, view.client._functions)
    result = AsyncResult(session, True, name_of(f), owner=view.client)
    if streams:
        attach(streams, result, engines)
    coming = _Coming(master, result)
    try:
        # Never run again: nobody could tell which items were seen already.
        session.submit(result, Kind.APPLY, call, *place, 0, view.label, terms=view._asked())
    except BaseException:
        coming.over()
        raise
    view._note(result)
    return RemoteItems(coming)


class _Coming:
    """A flow of items on its way here; it knows nothing of who reads it.

    Args:
        master: Its key.
        result: The task's.

    Attributes:
        result: As given.
    """

    def __init__(self, master: bytes, result: AsyncResult) -> None:
        self.result = result
        self._master = master
        self._flows = result._session.objects.flows
        self._changed = threading.Condition()
        self._attempt: Attempt | None = None
        self._flow: FlowReader | None = None
        self._records: RecordReader | None = None
        self._unwanted = False
        self._flows.expect(master, self)
        result.add_done_callback(self._done)

    # ------------------------------------------------- called by the thread that receives

    def _done(self, result: AsyncResult) -> None:
        """The user's result is done; the task may go on if that is because it was given up."""
        if result.dropped:
            self.drop_soon()
        else:
            self.over()

    def opened(self, attempt: Attempt) -> None:
        """The engine has begun."""
        attempt.when_over(self.over)
        with self._changed:
            self._attempt = attempt
            self._changed.notify_all()
            unwanted = self._unwanted
        if unwanted:
            self._flows.run("ipkernel-stream", lambda: self._refuse(attempt))

    def stopped(self) -> None:
        """An engine that sends ends the task instead."""

    def over(self) -> None:
        """The task has ended."""
        self._flows.forget(self._master)
        with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------- reading

    def take(self) -> memoryview:
        """Return the next record, when it is there.

        Raises:
            EOFError: There is none, or the task has ended before it began to send.
            Exception: As :meth:`FlowReader.read`.
        """
        if self._records is None:
            with self._changed:
                wait_until(self._changed, lambda: self._attempt or self.result.done())
            attempt = self._attempt
            if attempt is None:
                raise EOFError
            self._flow = attempt.reader(attempt.check)
            self._records = RecordReader(self._flow)
        return self._records.take()

    @property
    def complete(self) -> bool:
        """Whether all there is was read, or the rest is not wanted."""
        return self._unwanted or (self._flow is not None and self._flow.ended)

    # ------------------------------------------------- ending

    def sweep(self) -> None:
        """Leave nothing in the store of an engine that did not end by itself."""
        if self._flow is not None and not self.result.successful():
            with contextlib.suppress(ObjectError, ConnectError):
                self._flow.close()

    def drop(self) -> None:
        """Nobody wants the rest: end the engine's generator. Does not wait for that."""
        with self._changed:
            if self._unwanted:
                return
            self._unwanted = True
            attempt = self._attempt
        if self._flow is not None:
            self._flow.stop(FlowStopped("this stream was closed"))
        if attempt is not None:
            self._flows.run("ipkernel-stream", lambda: self._refuse(attempt))
        elif not self.result.done():
            self.result._session.cancel(self.result.msg_ids)

    def drop_soon(self) -> None:
        """As :meth:`drop`, for the garbage collector: takes no lock that somebody may hold."""
        with contextlib.suppress(RuntimeError):  # the process is about to end
            _thread.start_new_thread(self.drop, ())

    def _refuse(self, attempt: Attempt) -> None:
        """Have the engine stop, and leave nothing in the store."""
        try:
            if self._flow is None:
                self._flow = attempt.reader(attempt.check)
            if not attempt.over:
                self._flow.refuse()
                wait_over(attempt)
            self._flow.close()
        except (ObjectError, ConnectError):
            with contextlib.suppress(Exception):  # nobody may be there
                attempt.interrupt()


class RemoteItems(Iterator[Any]):
    """Iterates over what an engine yields; made by ``view.stream``.

    The engine is a little ahead. When this is closed, or nobody refers to it any more, the engine's
    generator is closed too. It can be used as a context, which closes it at the end. Threads may share
    it: each item goes to one of them.

    Args:
        coming: The flow.
    """

    def __init__(self, coming: _Coming) -> None:
        self._coming = coming
        self._closed = False
        self._reading = threading.Lock()
        self._finalizer = weakref.finalize(self, coming.drop_soon)
        self._finalizer.atexit = False

    @property
    def result(self) -> AsyncResult:
        """The result of the task: how many items were sent, or why it has failed."""
        return self._coming.result

    def __iter__(self) -> RemoteItems:
        return self

    def __next__(self) -> Any:
        """Return the next item, when it is there.

        Raises:
            StopIteration: There are no more.
            RemoteError: The generator has raised an exception; also an instance of its type.
            EngineError: The engine was lost.
            TransferError, ConnectError: The items cannot be moved here.
        """
        with self._reading:
            if self._closed:
                raise StopIteration
            try:
                return loads(self._coming.take())
            except (EOFError, FlowFailed, FlowStopped):
                return self._end()
            except (ObjectError, ConnectError):
                if self.result.wait(NEWS):
                    return self._end()  # the engine is lost, and its store with it perhaps
                raise

    def _end(self) -> Any:
        """Raise what has ended the items."""
        self._closed = True
        self._finalizer.detach()
        self.result.wait()
        self._coming.sweep()
        self.result.get()
        if not self._coming.complete:
            raise TransferError(f"the items of {self.result._fname} have ended too early")
        raise StopIteration

    def close(self) -> None:
        """End the engine's generator; there are no more items then."""
        if not self._closed:
            self._closed = True
            if self._finalizer.detach() is not None:
                self._coming.drop()

    def cancel(self) -> None:
        """The same as :meth:`close`."""
        self.close()

    def __enter__(self) -> RemoteItems:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<items of {self.result._fname}: {state}>"
