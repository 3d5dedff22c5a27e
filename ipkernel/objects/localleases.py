"""Leases of mapped objects: how they end, wherever and whenever the last view of one goes.

A view can be garbage collected in any thread and in the middle of anything, with any lock held. So all
that happens then is that the interpreter itself calls ``SimpleQueue.put``, which is made for that: no
line of Python runs. The store is told with the next question that somebody asks it, or
a few milliseconds later by a thread that does nothing else.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from ipkernel.errors import ConnectError
from ipkernel.objects.localwire import LIST_LIMIT

if TYPE_CHECKING:
    from ipkernel.objects.window import Part

__all__ = ["Anchor", "Leases"]

#: Seconds that the thread waits for more, so that one message tells of many.
PAUSE: Final = 0.002


class Anchor(Protocol):
    """The connection that lasts as long as a lease does."""

    def tell(self) -> None:
        """Send what :meth:`Leases.take` returns; see :meth:`Connection.tell`."""

    def close(self) -> None:
        """Close it."""

    def leave(self) -> None:
        """Close it in this process only."""


class _Lease(weakref.ref[Any]):
    """A mapping or a part of one, the object that it is of, and what to do when it has gone."""

    __slots__ = ("object_id", "undo")

    object_id: bytes
    undo: Callable[[], None] | None

    # weakref.ref takes no further arguments, and knows nothing of keywords.
    def __new__(
        cls,
        mapping: mmap.mmap | Part,
        ended: Callable[[_Lease], None],
        object_id: bytes,
        undo: Callable[[], None] | None,
    ) -> _Lease:
        lease = super().__new__(cls, mapping, ended)
        lease.object_id = object_id
        lease.undo = undo
        return lease

    def __init__(
        self,
        mapping: mmap.mmap | Part,
        ended: Callable[[_Lease], None],
        object_id: bytes,
        undo: Callable[[], None] | None,
    ) -> None:
        super().__init__(mapping, ended)  # type: ignore[call-arg]


class Leases:
    """The leases of one process at one store. For any thread.

    Args:
        pause: Seconds to wait for more before the store is told.
    """

    def __init__(self, pause: float = PAUSE) -> None:
        self._pause = pause
        #: What has ended: leases, objects that were never mapped, and b"" to wake the thread.
        self._ended: SimpleQueue[_Lease | bytes] = SimpleQueue()
        #: What was taken out of the queue already.
        self._taken: deque[_Lease | bytes] = deque()
        self._live: dict[int, _Lease] = {}
        self._anchor: Anchor | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._left = False

    def __len__(self) -> int:
        """How many leases the store has yet to be told the end of, mapped or not."""
        return len(self._live) + self._ended.qsize() + len(self._taken)

    def hold_on(self, anchor: Anchor) -> None:
        """Use this connection, and close it when :meth:`close` was called and no lease is left."""
        self._anchor = anchor

    def keep(
        self,
        mapping: mmap.mmap | Part,
        object_id: bytes,
        undo: Callable[[], None] | None = None,
    ) -> None:
        """End a lease of ``object_id`` when ``mapping`` has gone.

        Args:
            mapping: What the lease is for.
            object_id: The object.
            undo: Is called then, before the store is told; in any thread.
        """
        lease = _Lease(mapping, self._ended.put, object_id, undo)
        self._live[id(lease)] = lease
        self._need_thread()

    def give_back(self, object_id: bytes) -> None:
        """End a lease of ``object_id`` for which there is no mapping."""
        self._ended.put(object_id)
        self._need_thread()

    def mapped(self) -> list[bytes]:
        """Return the objects that are mapped, each as often as it is."""
        return [lease.object_id for lease in list(self._live.values()) if lease() is not None]

    @property
    def mappings(self) -> int:
        """How many there are, at most."""
        return len(self._live)

    # ------------------------------------------------------ telling the store

    def take(self) -> list[bytes]:
        """Return objects whose leases have ended; the caller tells the store."""
        found: list[bytes] = []
        while (self._taken or not self._ended.empty()) and len(found) < LIST_LIMIT:
            try:
                ended = self._taken.popleft()
            except IndexError:
                try:
                    ended = self._ended.get_nowait()
                except Empty:  # another thread was quicker
                    break
            object_id = self._end(ended)
            if object_id:
                found.append(object_id)
        return found

    def undo(self) -> None:
        """Do now what is to be done for leases that have ended; the store is told later."""
        if not self._ended.empty():
            try:
                while True:
                    self._taken.append(self._ended.get_nowait())
            except Empty:
                self._ended.put(b"")  # the thread may wait
        for _ in range(len(self._taken)):
            try:
                object_id = self._end(self._taken.popleft())
            except IndexError:  # another thread was quicker
                return
            if object_id:
                self._taken.append(object_id)

    def _end(self, ended: _Lease | bytes) -> bytes:
        """Return the object of a lease that has ended."""
        if isinstance(ended, bytes):
            return ended
        if ended.undo is not None:
            ended.undo()
        self._live.pop(id(ended), None)
        return ended.object_id

    def put_back(self, objects: Iterable[bytes]) -> None:
        """Take those back that the store could not be told of."""
        for object_id in objects:
            self._ended.put(object_id)

    def _need_thread(self) -> None:
        if self._thread is not None or self._left:
            return
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ipkernel-leases", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # there are too many; then the next question has to do
                    return
                self._thread = thread

    def _run(self) -> None:
        while True:
            self._taken.append(self._ended.get())
            self._closing.wait(self._pause)
            if not self._tell():
                return

    def _tell(self) -> bool:
        """Tell the store of all there is; returns False when there will be nothing more."""
        anchor = self._anchor
        if anchor is None:  # the store could not be reached yet
            return not self._closing.is_set()
        try:
            while self._taken or not self._ended.empty():
                anchor.tell()
        except ConnectError:
            return False  # the store is gone; it needs to be told nothing
        if self._closing.is_set() and not self._live:
            anchor.close()
            return False
        return True

    def close(self) -> None:
        """Let the connection go as soon as no lease is left; what is mapped stays valid."""
        self._closing.set()
        with self._starting:
            if self._thread is None:
                self._tell()
            else:
                self._ended.put(b"")

    def leave(self) -> None:
        """Do nothing any more: this is a forked process, and the leases are its parent's."""
        self._left = True
        if self._anchor is not None:
            self._anchor.leave()
            self._anchor = None
