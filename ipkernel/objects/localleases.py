"""Leases of mapped objects: how they end, wherever and whenever the last view of one goes.

A view can be garbage collected in any thread and in the middle of anything, with any lock held. So all
that happens then is that the interpreter itself calls ``SimpleQueue.put``, which is made for that: no
line of Python runs. The store is told with the next question that somebody asks it, or
a few milliseconds later by a thread that does nothing else.

Most of what an engine maps has gone when its task ends, and the engine looks for that by itself. So such leases
are young at first: their end wakes nobody. Those that have not ended after a while grow up.
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
#: Seconds after which the thread looks at leases that were young.
YOUTH: Final = 0.05


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


def _lease(
    mapping: mmap.mmap | Part,
    ended: Callable[[_Lease], None],
    object_id: bytes,
    undo: Callable[[], None] | None,
) -> _Lease:
    # Not the work of a constructor: one in Python takes longer than all of the rest.
    lease = _Lease(mapping, ended)
    lease.object_id = object_id
    lease.undo = undo
    return lease


class Leases:
    """The leases of one process at one store. For any thread.

    Args:
        pause: Seconds to wait for more before the store is told.
        youth: Seconds after which the thread looks at leases that were young.
    """

    def __init__(self, pause: float = PAUSE, youth: float = YOUTH) -> None:
        self._pause = pause
        self._youth = youth
        #: What has ended: leases, objects that were never mapped, and b"" to wake the thread.
        self._ended: SimpleQueue[_Lease | bytes] = SimpleQueue()
        #: What was taken out of the queue already, or was young when it ended.
        self._taken: deque[_Lease | bytes] = deque()
        self._young: deque[_Lease] = deque()
        #: What was handed out with something yet to be done.
        self._undone: deque[_Lease] = deque()
        #: Whether the thread knows that there are young ones.
        self._looking = False
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
        *,
        young: bool = False,
    ) -> None:
        """End a lease of ``object_id`` when ``mapping`` has gone.

        Args:
            mapping: What the lease is for.
            object_id: The object.
            undo: Is called then, in any thread; before the store is told, unless :meth:`ended` is used.
            young: Whether somebody calls :meth:`take` soon, so that the thread need not be quick.
        """
        lease = _lease(mapping, self._taken.append if young else self._ended.put, object_id, undo)
        self._live[id(lease)] = lease
        if young:
            self._young.append(lease)
            if not self._looking:
                self._looking = True
                self._ended.put(b"")
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
        return self._collect(self._end)

    def _collect(self, end: Callable[[_Lease | bytes], bytes]) -> list[bytes]:
        found: list[bytes] = []
        while (self._taken or not self._ended.empty()) and len(found) < LIST_LIMIT:
            try:
                ended = self._taken.popleft()
            except IndexError:
                try:
                    ended = self._ended.get_nowait()
                except Empty:  # another thread was quicker
                    break
            object_id = end(ended)
            if object_id:
                found.append(object_id)
        return found

    def ended(self) -> list[bytes]:
        """Return what :meth:`take` does; what is to be done for it waits for :meth:`undo`."""
        return self._collect(self._hand_out)

    def undo(self) -> None:
        """Do now what is to be done for leases that have ended; the store is told later."""
        while self._undone:
            try:
                lease = self._undone.popleft()
            except IndexError:  # another thread was quicker
                break
            if lease.undo is not None:
                lease.undo()
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

    def _hand_out(self, ended: _Lease | bytes) -> bytes:
        if isinstance(ended, bytes):
            return ended
        self._undone.append(ended)
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
            try:
                ended = self._ended.get(timeout=self._youth if self._young else None)
            except Empty:
                self._grow_up()
            else:
                if not ended and self._young and not self._closing.is_set():
                    continue  # this is only to say that there are young ones
                self._taken.append(ended)
                self._closing.wait(self._pause)
            if not self._tell():
                return

    def _grow_up(self) -> None:
        """Have the thread woken at the end of the leases that have been young until now."""
        self._looking = False  # first: whoever comes after the last look must wake it
        while self._young:
            young = self._young.popleft()
            mapping = young()
            if mapping is None:
                continue
            grown = _lease(mapping, self._ended.put, young.object_id, young.undo)
            self._live[id(grown)] = grown
            # Its mapping is held here, so it has not ended, and it never will.
            del self._live[id(young)], young, mapping

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
