"""Writing and reading a flow of chunks through the store of a host. Blocking.

Writer and reader never meet: the writer puts a chunk when an earlier one was freed, the reader waits for
the next one to be there. Either side notices within :data:`SLICE` seconds that the other does not go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from ipkernel.errors import ConnectError, ObjectError, TransferError, UnknownObject
from ipkernel.objects.chunks import Chunk, Flag, Window, chunk_id, frame, stop_id, unframe
from ipkernel.objects.interfaces import TRANSIENT, Buffer, StoreClient

__all__ = [
    "CHUNK",
    "SLICE",
    "WINDOW",
    "FlowFailed",
    "FlowReader",
    "FlowStopped",
    "FlowWriter",
    "closing",
]

#: Bytes of payload of a chunk, where there are enough of them.
CHUNK: Final = 4 << 20
#: The most chunks of a flow that are in the store at a time.
WINDOW: Final = 4
#: The most bytes of them, unless two chunks have more.
WINDOW_BYTES: Final = 32 << 20
#: Seconds after which one who waits looks whether there is still something to wait for.
SLICE: Final = 0.25
#: How often a chunk is asked for that was not written to its end, or could not be moved.
TRIES: Final = 4


class FlowStopped(TransferError):
    """The reader of a flow does not want the rest.

    Args:
        message: Says so to people.
        error: Why, as the reader has put it; empty when it simply has enough.
    """

    def __init__(self, message: str, error: bytes = b"") -> None:
        super().__init__(message)
        self.error = error


class FlowFailed(TransferError):
    """The writer of a flow has ended it with an error.

    Args:
        message: Says so to people.
        error: The error, as the writer has put it.
    """

    def __init__(self, message: str, error: bytes) -> None:
        super().__init__(message)
        self.error = error


class _Side:
    """What writer and reader have in common.

    Any thread may call :meth:`stop`; everything else belongs to one thread at a time.
    """

    def __init__(
        self,
        store: StoreClient,
        key: bytes,
        session: int,
        idle: Callable[[], None] | None,
    ) -> None:
        self._store = store
        self._key = key
        self._session = session
        self._idle = idle
        self._reason: BaseException | None = None

    def stop(self, reason: BaseException) -> None:
        """Have whoever waits raise ``reason``; from any thread. The first reason counts."""
        if self._reason is None:
            self._reason = reason

    def _check(self) -> None:
        if self._reason is not None:
            raise self._reason

    def _look(self) -> None:
        """Raise what ends the waiting, if anything does."""
        self._check()
        if self._idle is not None:
            self._idle()

    def close(self) -> None:
        """Leave nothing in the store."""


class FlowWriter(_Side):
    """Puts the chunks of a flow into a store.

    Args:
        store: The store.
        key: The flow's.
        session: The session that the chunks belong to, and go with.
        watch: Whether to look for the reader's stop in the store while there is no room. Without it
            somebody has to call :meth:`stop`.
        idle: Called now and then while there is no room; what it raises ends the flow.
        window: The most chunks in the store at a time.
        window_bytes: The most bytes of them, unless two chunks have more.
    """

    def __init__(
        self,
        store: StoreClient,
        key: bytes,
        session: int,
        *,
        watch: bool = False,
        idle: Callable[[], None] | None = None,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        super().__init__(store, key, session, idle)
        self._watch = watch
        self._window = Window(window, window_bytes)
        #: Whether a chunk may be there that was not put to the end.
        self._unsure = False

    def write(self, pieces: Sequence[Buffer], flags: Flag = Flag.NONE) -> None:
        """Put the next chunk there, as soon as there is room for it.

        If that fails, another one can be put in its place.

        Args:
            pieces: Its payload; it may be changed as soon as this returns.
            flags: ``LAST`` for the last one, ``LAST | ERROR`` for an error.

        Raises:
            FlowStopped: The reader does not want it.
            UnknownObject: The reader is gone.
            StoreFull, TransferError, ConnectError: The store does not take it.
            Exception: As given to :meth:`stop`, or raised by ``idle``.
        """
        index = self._window.written
        framed, size = frame(index, flags, pieces)
        while (awaited := self._window.awaited(size)) is not None:
            self._wait_freed(awaited)
        self._check()
        self._unsure = True
        name = chunk_id(self._key, index)
        try:
            self._store.put(name, framed, size, owner=self._session + TRANSIENT)
        except UnknownObject:
            raise _gone() from None
        self._window.wrote(size)
        self._unsure = False

    def drain(self) -> None:
        """Wait until the reader has used everything; raises what :meth:`write` raises."""
        while outstanding := self._window.outstanding:
            self._wait_freed(outstanding[-1])
        if self._watch:
            self.look_for_stop(0.0)  # what goes with a session is not used, and gone as well

    def _wait_freed(self, index: int) -> None:
        while not self._store.wait_freed(chunk_id(self._key, index), SLICE):
            self._look()
        self._window.note_freed(index)

    def _look(self) -> None:
        super()._look()
        if self._watch:
            self.look_for_stop(0.0)

    def look_for_stop(self, timeout: float) -> None:
        """Look whether the reader has put its stop into the store; from any thread.

        Args:
            timeout: Seconds to wait for it.

        Raises:
            FlowStopped: It has.
            UnknownObject: The reader is gone.
        """
        name = stop_id(self._key)
        try:
            data = self._store.get(name, bringer=self._session, timeout=timeout)
        except TimeoutError:
            return
        except UnknownObject:
            raise _gone() from None
        with data:  # else the traceback of what is raised keeps it in the store
            error = bytes(unframe(data, 0).payload)
        raise FlowStopped("the reader of this stream has stopped", error)

    def wake(self) -> None:
        """Have :meth:`look_for_stop` return at once in the thread that waits there."""
        framed, size = frame(0, Flag.LAST, [b""])
        self._store.put(stop_id(self._key), framed, size, owner=self._session + TRANSIENT)

    def close(self) -> None:
        """Free what is in the store; to be called at the end in any case.

        Raises:
            ConnectError: The store is gone, and everything with it.
        """
        there = self._window.outstanding
        left = [chunk_id(self._key, index) for index in there]
        if self._unsure:
            left.append(chunk_id(self._key, self._window.written))
        for index in there:
            self._window.note_freed(index)
        if self._watch:
            left.append(stop_id(self._key))
        if left:
            self._store.free(left)


def _gone() -> UnknownObject:
    return UnknownObject("the client of this stream is gone")


class FlowReader(_Side):
    """Takes the chunks of a flow out of a store.

    Whatever is interrupted may be done again: a chunk can be read until it is freed.

    Args:
        store: The store.
        key: The flow's.
        session: The session of the client that writes or reads it.
        idle: Called now and then while there is nothing to read; what it raises ends the flow.
        window: As the writer's.

    Attributes:
        index: The number of the chunk that is to be read.
    """

    def __init__(
        self,
        store: StoreClient,
        key: bytes,
        session: int,
        *,
        idle: Callable[[], None] | None = None,
        window: int = WINDOW,
    ) -> None:
        super().__init__(store, key, session, idle)
        self._most = window
        self.index = 0
        self._freed = 0
        self._last: int | None = None
        self._error: bytes | None = None

    @property
    def ended(self) -> bool:
        """Whether the last chunk was read."""
        return self._last is not None

    def read(self) -> Chunk:
        """Return a chunk, when it is there: the same one until :meth:`free` is called.

        Raises:
            EOFError: The last one was freed.
            FlowFailed: The writer has ended the flow with an error.
            UnknownObject: The client that the flow belongs to is gone.
            TransferError, ConnectError: The store does not give it.
            Exception: As given to :meth:`stop`, or raised by ``idle``.
        """
        if self._error is None:
            if self._freed < self.index:
                self._send_freed()
            if self._last is not None and self.index > self._last:
                raise EOFError("this stream has ended")
            chunk = self._next()
            if chunk.flags:
                self._last = self.index
            if not chunk.flags & Flag.ERROR:
                return chunk
            with chunk.payload:
                self._error = bytes(chunk.payload)
            self.free()
        raise FlowFailed("the writer of this stream has failed", self._error)

    def _next(self) -> Chunk:
        name = chunk_id(self._key, self.index)
        self._check()
        tries = TRIES
        while True:
            try:
                data = self._store.get(name, bringer=self._session, timeout=SLICE)
            except TimeoutError:
                self._look()
                continue
            except UnknownObject:
                raise _gone() from None
            except TransferError:
                # Most likely its writer has died in the midst of it, and who waits is told of that.
                tries -= 1
                if not tries:
                    raise
                self._look()
                continue
            with data:  # else what is raised, and its traceback, keep it in the store
                return unframe(data, self.index)

    def free(self) -> None:
        """Free the chunk that was read, and go on to the next: the writer may go on, too."""
        self.index += 1
        self._send_freed()

    def _send_freed(self) -> None:
        index = self.index
        self._store.free([chunk_id(self._key, one) for one in range(self._freed, index)])
        self._freed = index

    def refuse(self, error: bytes = b"") -> None:
        """Tell the writer that the rest is not wanted; :meth:`close` takes it back.

        Args:
            error: Why, if there is more to say than that.
        """
        framed, size = frame(0, Flag.LAST, [error])
        self._store.put(stop_id(self._key), framed, size, owner=self._session + TRANSIENT)

    def close(self) -> None:
        """Free what may be in the store; to be called when the writer does not write any more.

        Raises:
            ConnectError: The store is gone, and everything with it.
        """
        left = range(self._freed, self.index + self._most + 1)
        names = [chunk_id(self._key, index) for index in left]
        self._store.free([*names, stop_id(self._key)])


Side = TypeVar("Side", bound=_Side)


@contextlib.contextmanager
def closing(flow: Side) -> Iterator[Side]:
    """Close a flow at the end; if its store is gone, there is nothing to be closed."""
    try:
        yield flow
    finally:
        with contextlib.suppress(ObjectError, ConnectError):
            flow.close()
