"""The engine's ends of flows: iterators over what a client feeds, and generators that a client reads.

The engine opens a flow and tells its client, over the way that output takes. So the client learns where
the task runs, and begins when the engine is ready. How a flow ends early: a client that has enough puts
that into the store, where a thread waits for it; an engine that has enough tells its client.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from ipkernel.engine.current import state
from ipkernel.errors import ConnectError, ObjectError, RemoteError, UnknownObject
from ipkernel.objects.chunks import Note, encode_note, flow_key
from ipkernel.objects.flow import FlowFailed, FlowReader, FlowStopped, FlowWriter
from ipkernel.objects.interfaces import StoreClient
from ipkernel.objects.items import RecordReader, RecordWriter
from ipkernel.serialize import failure
from ipkernel.serialize.payload import dumps, loads
from ipkernel.serialize.rebuild import load_exception
from ipkernel.wire.messages import Output, Stream

__all__ = ["Opening", "produce", "received_items"]

#: Seconds after which the client is told once more that a flow is open; it may have missed it.
AGAIN: Final = 3.0
#: Seconds that user code has to yield after its client has stopped; then it is interrupted.
GRACE: Final = 0.4
#: Seconds that a thread waits for a stop before it asks again.
PATIENCE: Final = 5.0


class Opening:
    """A flow that the running task opens.

    Args:
        master: The key that the client has made.
        size: How many bytes are to come out of it, if that is known.
        place: Where they would be written, see :class:`~ipkernel.objects.chunks.Note`.
        clock: Tells the time in seconds.

    Attributes:
        key: The flow's key.
        session: The client's session.

    Raises:
        RuntimeError: No task runs in this process.
        ObjectError, ConnectError: The host has no store, or it cannot be reached.
    """

    def __init__(
        self,
        master: bytes,
        size: int = 0,
        *,
        place: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if state.loop is None or state.forked or not state.task:
            raise RuntimeError("a stream needs a task that runs on an engine")
        self._loop = state.loop
        self._task = state.task
        self._clock = clock
        self._note = Note(master, os.urandom(16), False, size, place)
        self._told = clock()
        self.key = flow_key(master, self._task, self._note.attempt)
        self.session = self._task >> 40
        self.store: StoreClient = self._loop.objects.store

    def tell(self, stop: bool = False) -> None:
        """Tell the client that the flow is open, or that no more of it is wanted."""
        data = encode_note(replace(self._note, stop=stop))
        message = Output(self._task, state.engine, Stream.FLOW, len(data))
        main = threading.current_thread() is threading.main_thread()
        # A signal must not come while the loop's lock is held; other threads get none.
        with self._loop.uninterrupted() if main else contextlib.nullcontext():
            self._loop.send(message, data)

    def tell_again(self) -> None:
        """Tell it once more if it was told a while ago."""
        if self._clock() - self._told > AGAIN:
            self._told = self._clock()
            self.tell()

    def reader(self) -> FlowReader:
        """Return the reading end."""
        return FlowReader(self.store, self.key, self.session, idle=self.tell_again)

    def writer(self) -> FlowWriter:
        """Return the writing end."""
        return FlowWriter(self.store, self.key, self.session, watch=True, idle=self.tell_again)


# ---------------------------------------------------------------- what a client feeds


class Items:
    """Iterates over what a client feeds; made where a stream was among the arguments of a call.

    The first item is asked for when the first one is wanted. It is good for the task that got it, and
    for several threads of it: each item goes to one of them.

    Args:
        master: The key that the client has made.
    """

    def __init__(self, master: bytes) -> None:
        self._master = master
        self._task = state.task
        self._opening: Opening | None = None
        self._records: RecordReader | None = None
        self._closed = False
        self._reading = threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._reading:
            return self._next()

    def _next(self) -> Any:
        if self._closed:
            raise StopIteration
        if state.task != self._task:
            raise RuntimeError("this stream belonged to a task that has ended")
        if self._records is None:
            self._opening = opening = Opening(self._master)
            self._records = RecordReader(opening.reader())
            opening.tell()
        try:
            return loads(self._records.take())
        except EOFError:
            raise StopIteration from None
        except FlowFailed as problem:
            raise exception_of(problem.error) from None

    @property
    def _wanted(self) -> bool:
        """Whether the client still has to be told that no more is wanted."""
        opened, records = self._opening is not None, self._records
        return opened and not self._closed and not (records is not None and records.ended)

    def close(self) -> None:
        """Take no more: the generator that feeds this is closed."""
        wanted = self._wanted
        self._closed = True
        if wanted and self._opening is not None and state.task == self._task:
            self._opening.tell(stop=True)

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be sent anywhere else")

    def __repr__(self) -> str:
        return f"<stream of the client's items: {'open' if self._wanted else 'not open'}>"


def received_items(master: bytes) -> Items:
    """Return the iterator for a stream that was sent; called by pickle.

    Raises:
        TypeError: This process is not an engine.
    """
    if state.loop is None:
        raise TypeError("a stream can be read on an engine only")
    return Items(master)


def exception_of(error: bytes) -> BaseException:
    """Return the exception with which a client has ended a flow, as what it was there."""
    info = failure.decode(error)
    original = load_exception(info.pickled) if info.pickled else None
    if original is None:
        return RemoteError(info.ename, info.evalue, info.traceback)
    original.add_note("It was raised on the client, by what feeds this stream:")
    original.add_note("\n".join(info.traceback))
    return original


# ---------------------------------------------------------------- what a client reads


def produce(master: bytes, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> int:
    """Call ``f(*args, **kwargs)`` and send what comes out of it, item by item.

    Args:
        master: The key that the client has made.
        f: Returns an iterable.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        How many items were sent; it may be that the client did not want all of them.

    Raises:
        TypeError: What ``f`` returns cannot be iterated over.
        SerializationError: An item cannot be sent.
        UnknownObject: The client is gone.
        Exception: As ``f`` and its generator; the client has got all items before.
    """
    opening = Opening(master)
    production = _Production(opening)
    opening.tell()
    try:
        return production.run(lambda: f(*args, **kwargs))
    finally:
        production.close()


class _Production:
    """Sends items, and stops when the client does.

    Args:
        opening: The flow.
    """

    def __init__(self, opening: Opening) -> None:
        self._flow = opening.writer()
        self._records = RecordWriter(self._flow)
        self._count = 0
        #: Whether user code runs now, and how often it has been entered.
        self._inside = False
        self._entered = 0
        #: Why nothing more can be sent, if that is so.
        self._reason: BaseException | None = None
        self._over = threading.Event()
        self._signalling = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="ipkernel-stop", daemon=True)
        self._watcher.start()

    def run(self, call: Callable[[], Any]) -> int:
        """Send everything; return how many items it was."""
        iterator = None
        try:
            try:
                iterator = self._enter(lambda: _iterate(call()))
                self._send(iterator)
            except (FlowStopped, UnknownObject):
                raise
            except BaseException as error:
                if self._reason is not None:
                    raise self._reason from error
                self._records.finish(str(error).encode("utf-8", "replace"))
                raise
            self._records.finish()
        except FlowStopped:
            pass
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        return self._count

    def _send(self, iterator: Iterator[Any]) -> None:
        """Send item by item."""
        send = self._records.send
        while True:
            self._entered += 1
            self._inside = True
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._inside = False
            send(dumps(item))
            self._count += 1
            del item  # it may be large, and the next one is made before this name is used again

    def _enter(self, call: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        self._entered += 1
        self._inside = True
        try:
            return call()
        finally:
            self._inside = False

    # ------------------------------------------------- the thread

    def _watch(self) -> None:
        """Wait for the client to stop, or to be gone."""
        while not self._over.is_set():
            try:
                self._flow.look_for_stop(PATIENCE)
            except (ObjectError, ConnectError) as reason:
                if self._over.is_set():
                    return
                self._reason = reason
                self._records.stop(reason)
                self._interrupt_long()
                return

    def _interrupt_long(self) -> None:
        """Interrupt user code that goes on for long, again and again."""
        seen = self._entered
        while not self._over.wait(GRACE):
            with self._signalling:
                if self._inside and self._entered == seen and not self._over.is_set():
                    _interrupt()
            seen = self._entered

    def close(self) -> None:
        """End the threads, and leave nothing in the store."""
        with self._signalling:  # so that no interrupt comes later
            self._over.set()
        with contextlib.suppress(ObjectError, ConnectError):
            if self._reason is None:
                self._flow.wake()
        self._watcher.join()
        with contextlib.suppress(ObjectError, ConnectError):
            self._records.close()


def _iterate(iterable: Any) -> Iterator[Any]:
    try:
        return iter(iterable)
    except TypeError:
        raise TypeError(
            f"what is streamed must be iterable, and {type(iterable).__name__} is not"
        ) from None


def _interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, also where it waits for something."""
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()
