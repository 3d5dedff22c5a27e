"""The store of one host: immutable objects in memory that all processes of the machine can map.

:class:`HostStore` does what its :class:`~ipkernel.objects.catalog.Catalog` decides. It belongs to the
reactor's thread; threads only copy bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import psutil
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from ipkernel.errors import ObjectError, TransferError
from ipkernel.objects.allocator import SEGMENT, Allocator
from ipkernel.objects.catalog import Catalog
from ipkernel.objects.entries import (
    Answer,
    CloseSegment,
    Discard,
    Fail,
    Instruction,
    MakeSegment,
    ObjectExists,
    ReadIn,
    RemoveFile,
    StoreStats,
    WriteOut,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from ipkernel.objects.allocator import Region
    from ipkernel.objects.interfaces import ObjectInfo, Placement
    from ipkernel.objects.memory import IMemory, ISegment
    from ipkernel.objects.spill import Spill

__all__ = ["MINIMUM", "HostStore", "ObjectExists", "StoreStats", "default_limit"]

logger = logging.getLogger(__name__)

MINIMUM: Final = 64 << 20
"""The smallest default limit in bytes."""

_SEGMENTS: Final = 128
"""About so many segments there are at most; each takes two descriptors."""

_FILE: Final = 1 << 30
"""Bytes of a file on disk that takes several objects."""


def default_limit() -> int:
    """Return how many bytes a store may use: 30 % of the machine's memory, at least 64 MB."""
    return max(MINIMUM, psutil.virtual_memory().total * 3 // 10)


@define(eq=False)
class _Request:
    """Somebody who waits for an answer of the catalog.

    Attributes:
        undo: Gives back what was granted to him, should he not want it any more.
        valid: Tells whether he still has what was granted to him.
        deferred: What he waits with.
        timeout: The call that ends the wait, if there is one.
    """

    undo: Callable[[], None] = lambda: None
    valid: Callable[[], bool] = lambda: True
    deferred: Deferred[Any] = field(init=False)
    timeout: IDelayedCall | None = None

    def stop_timeout(self) -> None:
        if self.timeout is not None:
            self.timeout.cancel()
            self.timeout = None


class HostStore:
    """The objects of one host.

    Args:
        reactor: Tells the time and has the threads.
        memory: Makes segments.
        limit: Bytes of memory to use at most. What is free is kept for the next object, up to
            half of this, and given back when it has been idle for long.
        spill: Room on disk, or None to keep everything in memory.
        defer_to_thread: Called as ``defer_to_thread(function, *args)``; runs it in a thread and
            returns a Deferred. Default: the threads of the reactor.
        segment_size: Bytes of a segment; larger objects have their own. The default is 64 MB, or
            more for a large store.
        idle: Seconds after which memory that is not used is given back, at the latest after
            twice that time.
    """

    def __init__(
        self,
        reactor: Any,
        memory: IMemory,
        *,
        limit: int,
        spill: Spill | None = None,
        defer_to_thread: Callable[..., Deferred[Any]] | None = None,
        segment_size: int | None = None,
        idle: float = 30.0,
    ) -> None:
        size = segment_size or max(SEGMENT, 1 << (limit // _SEGMENTS).bit_length())
        disk = Allocator(spill.limit, segment_size=_FILE, discards=False, warm=0) if spill else None
        self._catalog = Catalog(Allocator(limit, segment_size=size, discards=memory.discards), disk)
        self._reactor = reactor
        self._memory = memory
        self._spill = spill
        self._defer_to_thread = defer_to_thread or self._use_pool
        self._idle = idle
        self._segments: dict[int, ISegment] = {}
        self._todo: deque[Instruction] = deque()
        self._busy = False
        self._closed = False
        self._requests: dict[int, _Request] = {}
        self._last_request = 0
        self._tidying: IDelayedCall | None = None

    # ---------------------------------------------------------------- writing

    def create(
        self, object_id: bytes, size: int, *, owner: int, writer: str
    ) -> Deferred[Placement]:
        """Make room for an object.

        If there is none, what nobody has leased goes to disk first. An object is mapped to be
        used, so one that is larger than the limit of memory cannot be stored at all.

        Args:
            object_id: Its id.
            size: Its length in bytes.
            owner: The session that it belongs to.
            writer: Who writes it: who must :meth:`seal` or :meth:`abandon` it.

        Returns:
            A Deferred of the place to write to. Cancel it if you do not want that any more. It fails
            with StoreFull, or with ObjectExists if the object is sealed or being written.
        """
        if size < 0:
            raise ValueError(f"an object cannot have {size} bytes")
        return self._request(
            lambda wait: self._catalog.create(wait, object_id, size, owner=owner, writer=writer),
            _Request(
                undo=lambda: self.abandon(object_id),
                valid=lambda: self._catalog.is_written(object_id),
            ),
        )

    def seal(self, object_id: bytes, digest: bytes = b"") -> None:
        """Declare an object complete: its bytes never change again.

        It is no error if it has been freed meanwhile, or is sealed already.

        Args:
            object_id: Its id.
            digest: Its digest, if somebody has computed it.

        Raises:
            UnknownObject: Nobody is writing it.
        """
        self._do(self._catalog.seal(object_id, digest))

    def abandon(self, object_id: bytes) -> None:
        """Give up writing an object; nobody may write there any more.

        Everybody who waits for it, in whatever way, gets a TransferError. Nothing happens if
        nobody is writing it.
        """
        self._do(self._catalog.abandon(object_id))

    def set_digest(self, object_id: bytes, digest: bytes) -> None:
        """Note the digest of an object. Nothing happens if the store does not have it."""
        self._catalog.set_digest(object_id, digest)

    # ---------------------------------------------------------------- reading

    def lease(
        self,
        object_id: bytes,
        holder: str,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
    ) -> Deferred[Placement]:
        """Lease an object: it stays where it is until the lease is released.

        Waits while the object is being written. One that is on disk is brought back.

        Args:
            object_id: Its id.
            holder: Who reads it. Leases are counted for each holder.
            bringer: If the store does not have it, wait for it until this session is gone.
            timeout: Seconds to wait at most.

        Returns:
            A Deferred of its place; may be cancelled. It fails with UnknownObject (not there, or
            freed meanwhile, or the bringer is gone), TransferError (its writer gave up, or the
            holder is gone), TimeoutError, StoreFull (on disk, and no room to bring it back) or
            ObjectLost (the disk cannot be read).
        """
        late = TimeoutError(f"object {object_id.hex()} did not come within {timeout} seconds")
        return self._request(
            lambda wait: self._catalog.lease(wait, object_id, holder, bringer=bringer),
            _Request(
                undo=lambda: self.release(object_id, holder),
                valid=lambda: self._catalog.is_leased(object_id, holder),
            ),
            timeout,
            late,
        )

    def lease_now(self, object_id: bytes, holder: str) -> Placement | None:
        """Lease an object if that can be done without waiting.

        Args:
            object_id: Its id.
            holder: Who reads it; see :meth:`lease`.

        Returns:
            Its place; None if it is not complete, or not in memory, or the store is closed.
        """
        return None if self._closed else self._catalog.lease_now(object_id, holder)

    def share(self, object_ids: Iterable[bytes], holder: str, other: str) -> None:
        """Lease objects to somebody else, too, even those that were freed.

        Args:
            object_ids: Which; those on which ``holder`` has no lease are left out.
            holder: Who has leases on them.
            other: Who gets a lease on each, as often as it occurs.
        """
        self._catalog.share(object_ids, holder, other)

    def release(self, object_id: bytes, holder: str) -> None:
        """End one lease. Nothing happens if this holder has none on this object."""
        self._do(self._catalog.release(object_id, holder))

    def drop(self, holder: str) -> None:
        """End all leases of a holder that is gone, and abandon what it was writing.

        What it waits for fails with TransferError.
        """
        self._do(self._catalog.drop(holder))

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Forget objects. They are unknown at once; the bytes stay until the last lease ends.

        One that is being written goes when its writer has finished.
        """
        self._do(self._catalog.free(object_ids))

    def free_all(self) -> None:
        """Forget all objects; see :meth:`free`."""
        self.free(self._catalog.ids())

    # ---------------------------------------------------------------- waiting

    def wait_freed(self, object_id: bytes, timeout: float) -> Deferred[bool]:
        """Wait until an object is unknown, at most ``timeout`` seconds; tell whether it is."""
        return self._request(
            lambda wait: self._catalog.wait_freed(wait, object_id), _Request(), timeout, False
        )

    def session_gone(self, session: int) -> None:
        """Fail the leases that wait for this session to bring an object, with UnknownObject."""
        self._do(self._catalog.session_gone(session))

    def when_sealed(self, object_id: bytes) -> Deferred[ObjectInfo]:
        """Wait until an object is complete, even if the store does not know it yet.

        Returns:
            A Deferred, which may be cancelled. It fails if the object is abandoned
            (TransferError) or freed (UnknownObject), or does not fit (StoreFull).
        """
        return self._request(lambda wait: self._catalog.when_sealed(wait, object_id), _Request())

    # ---------------------------------------------------------------- looking

    def sealed(self) -> list[tuple[bytes, int]]:
        """Return the ids and lengths of all objects that are complete."""
        return self._catalog.sealed()

    def view(self, placement: Placement) -> memoryview:
        """Return the bytes of an object: shared with everybody, writable; for any thread.

        Only who has a lease on the object, or writes it, may look there.

        Raises:
            ObjectError: The store was closed meanwhile.
        """
        segment = self._segments.get(placement.segment)
        if segment is None:
            raise _closed()
        view: memoryview = segment.view
        return view[placement.offset : placement.offset + placement.size]

    def segment(self, number: int) -> int | str:
        """Return what another process needs to map a segment.

        Returns:
            A descriptor, which stays the store's, or a name.

        Raises:
            KeyError: There is no such segment.
        """
        return self._segments[number].describe()

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """Return what is known of an object, or None if there is none."""
        return self._catalog.info(object_id)

    def stats(self) -> StoreStats:
        """Return how full the store is."""
        return self._catalog.stats()

    def close(self) -> None:
        """Give everything back, and fail everybody who waits with ObjectError.

        Memory that others have mapped stays valid for them; so do views in this process.
        """
        if self._closed:
            return
        self._closed = True
        self._todo.clear()
        for number in list(self._requests):
            self._answer(number, _closed())
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        if self._spill is not None:
            self._spill.close()

    # ---------------------------------------------------------------- requests

    def _request(
        self,
        ask: Callable[[int], list[Instruction]],
        request: _Request,
        timeout: float | None = None,
        late: Exception | bool = False,
    ) -> Deferred[Any]:
        """Ask the catalog for something; after ``timeout`` seconds, ``late`` is the answer."""
        self._last_request += 1
        number = self._last_request
        deferred: Deferred[Any] = Deferred(lambda _: self._cancel(number))
        if self._closed:
            deferred.errback(_closed())
            return deferred
        request.deferred = deferred
        self._requests[number] = request
        self._do(ask(number))
        if timeout is not None and number in self._requests:
            request.timeout = self._reactor.callLater(timeout, self._late, number, late)
        return deferred

    def _late(self, number: int, late: Exception | bool) -> None:
        self._requests[number].timeout = None
        self._do(self._catalog.cancel(number))
        self._answer(number, late)

    def _cancel(self, number: int) -> None:
        request = self._requests.pop(number, None)
        if request is None:
            return
        request.stop_timeout()
        answers = [i for i in self._todo if isinstance(i, Answer) and i.wait == number]
        if answers:
            # It was granted a moment ago, and nobody will know.
            self._todo.remove(answers[0])
            request.undo()
        else:
            self._do(self._catalog.cancel(number))

    def _answer(self, number: int, value: Any) -> None:
        request = self._requests.pop(number, None)
        if request is None:
            return
        request.stop_timeout()
        if isinstance(value, Exception):
            request.deferred.errback(value)
        elif not request.valid():
            # Taken back by somebody who was called since it was granted.
            request.deferred.errback(TransferError("the store has no use for this any more"))
        else:
            request.deferred.callback(value)

    # ---------------------------------------------------------------- instructions

    def _do(self, instructions: Iterable[Instruction]) -> None:
        """Carry instructions out, in the order in which the catalog has given them.

        Carrying one out may lead to more. They wait until it is their turn.
        """
        if self._closed:
            return
        self._todo.extend(instructions)
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo:
                self._carry_out(self._todo.popleft())
        finally:
            self._busy = False
        self._watch()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Answer(number, value):
                self._answer(number, value)
            case Fail(number, error):
                self._answer(number, error)
            case MakeSegment(number, size):
                self._make(number, size)
            case CloseSegment(number):
                segment = self._segments.pop(number)
                # Others may have it mapped still; its pages must go all the same.
                segment.discard(0, segment.size)
                segment.close()
            case Discard(region):
                self._segments[region.segment].discard(region.offset, region.length)
            case _:
                self._use_disk(instruction)

    def _make(self, number: int, size: int) -> None:
        try:
            self._segments[number] = self._memory.make(size)
        except (OSError, OverflowError) as error:
            self._do(self._catalog.segment_failed(number, _text(error)))
        else:
            self._do(self._catalog.segment_made(number))

    def _use_disk(self, instruction: WriteOut | ReadIn | RemoveFile) -> None:
        spill, catalog = self._spill, self._catalog
        assert spill is not None
        match instruction:
            case WriteOut(job, placement, disk):
                self._copy(spill.write, job, placement, disk, catalog.written, catalog.write_failed)
            case ReadIn(job, placement, disk):
                self._copy(spill.read, job, placement, disk, catalog.read, catalog.read_failed)
            case RemoveFile(number):
                spill.remove(number)

    def _copy(
        self,
        copy: Callable[[int, int, memoryview], None],
        job: int,
        placement: Placement,
        disk: Region,
        done: Callable[[int], list[Instruction]],
        failed: Callable[[int, str], list[Instruction]],
    ) -> None:
        """Copy an object between memory and disk in a thread."""

        def succeed(_: None) -> None:
            self._do(done(job))

        def fail(failure: Failure) -> None:
            self._do(failed(job, _text(failure.value)))

        view = self.view(placement)
        copied = self._defer_to_thread(copy, disk.segment, disk.offset, view)
        copied.addCallbacks(succeed, fail)
        copied.addErrback(_log_failure)

    def _use_pool(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, function, *args)

    def _watch(self) -> None:
        """Look after idle memory as long as there is some."""
        if self._tidying is None and not self._closed and self._catalog.idle:
            self._tidying = self._reactor.callLater(self._idle, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        self._do(self._catalog.tidy())


def _closed() -> ObjectError:
    return ObjectError("the store of this host is closed")


def _log_failure(failure: Failure) -> None:
    logger.error("after a copy to or from disk: %s", failure.getTraceback())


def _text(error: BaseException | None) -> str:
    """Return what went wrong, for the middle of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    return str(error) or type(error).__name__
