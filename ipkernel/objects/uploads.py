"""Objects that come in over data connections: what of each is there, and who is writing where.

An upload outlives its connections for a while, so that it can be gone on with. As long as somebody
may still write to its memory, the store is not told that the upload is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from ipkernel.errors import ObjectError, TransferError, UnknownObject
from ipkernel.objects.digests import combined_digest
from ipkernel.objects.entries import ObjectExists
from ipkernel.objects.interfaces import ObjectInfo, Placement
from ipkernel.objects.intervals import Intervals
from ipkernel.objects.ranges import PIECE, check_piece

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["GRACE", "Store", "Upload", "Uploads", "Writer"]

#: Seconds for which an upload without a connection can be gone on with.
GRACE: Final = 30.0
#: Seconds in which a connection that was cut must have stopped writing.
_LET_GO: Final = 5.0
#: How often an object may be given up by others while one waits to write it.
_PATIENCE: Final = 8
#: Stretches that are told at most; what is not told is sent again.
_STRETCHES: Final = 4096
_NOTHING: Final = memoryview(b"")


class Store(Protocol):
    """What of :class:`~ipkernel.objects.store.HostStore` is used by the data port."""

    def create(
        self, object_id: bytes, size: int, *, owner: int, writer: str
    ) -> Deferred[Placement]:
        """Make room for an object."""

    def seal(self, object_id: bytes, digest: bytes = b"") -> None:
        """All of it has been written."""

    def abandon(self, object_id: bytes) -> None:
        """It will not be written after all."""

    def lease(
        self,
        object_id: bytes,
        holder: str,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
    ) -> Deferred[Placement]:
        """Keep an object in memory for a holder."""

    def release(self, object_id: bytes, holder: str) -> None:
        """End one lease."""

    def drop(self, holder: str) -> None:
        """End all leases of a holder."""

    def free(self, object_ids: list[bytes]) -> None:
        """Forget objects as soon as nobody reads them."""

    def wait_freed(self, object_id: bytes, timeout: float) -> Deferred[bool]:
        """Wait until an object is unknown."""

    def view(self, placement: Placement) -> memoryview:
        """The memory of an object."""

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """What is known of an object."""

    def set_digest(self, object_id: bytes, digest: bytes) -> None:
        """Note the digest of an object."""


class Writer(Protocol):
    """A connection that writes."""

    def cut(self) -> None:
        """End it at once; from any thread."""


@define(eq=False)
class Upload:
    """One object that comes in. Ranges are claimed, written and settled by any thread.

    Attributes:
        object_id: Its id.
        subject: Who brings it.
        owner: The session that it belongs to.
        size: Its length in bytes.
        attached: Connections that may write to it; for the reactor's thread.
    """

    object_id: bytes
    subject: str
    owner: int
    size: int
    _view: memoryview
    attached: set[Writer] = field(init=False, factory=set)
    _there: Intervals = field(init=False, factory=Intervals)
    _claims: dict[int, Writer] = field(init=False, factory=dict)
    _digests: dict[int, bytes] = field(init=False, factory=dict)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)
    _ended: Callable[[], None] | None = field(init=False, default=None)
    timer: IDelayedCall | None = field(init=False, default=None)

    def claim(self, offset: int, length: int, writer: Writer) -> memoryview | None:
        """Return the memory of a piece, which is the writer's until it is settled.

        Another connection that writes there is cut: whoever sends a piece again has given up that one.

        Args:
            offset: Where the piece begins.
            length: Its length in bytes.
            writer: Who writes it.

        Returns:
            None if the piece is there already.

        Raises:
            TransferError: It is not a piece of the object, or the upload has ended.
        """
        check_piece(self.size, offset, length)
        patience = time.monotonic() + _LET_GO
        with self._changed:
            while self._there.overlap(offset, offset + length) < length:
                if self._ended is not None:
                    raise TransferError(f"object {self.object_id[:4].hex()} was given up meanwhile")
                other = self._claims.get(offset)
                if other is None:
                    self._claims[offset] = writer
                    return self._view[offset : offset + length]
                other.cut()
                if not self._changed.wait(patience - time.monotonic()):
                    raise TransferError(
                        f"bytes {offset} to {offset + length} of object {self.object_id[:4].hex()} "
                        "are still being written by another connection"
                    )
            return None

    def settle(self, offset: int, length: int, digest: bytes | None) -> bool:
        """End a claim.

        Args:
            offset: Where the piece begins.
            length: Its length in bytes.
            digest: That of its bytes if they are right, or None.

        Returns:
            Whether the object is complete with it.
        """
        with self._changed:
            del self._claims[offset]
            if digest is not None:
                self._there.add(offset, offset + length)
                self._digests[offset] = digest
            self._changed.notify_all()
            complete = digest is not None and self._there.total == self.size
            if self._ended is not None and not self._claims:
                self._view = _NOTHING
                self._ended()
            return complete

    def end(self, then: Callable[[], None]) -> bool:
        """Let nobody write any more; those who do are cut.

        Args:
            then: Is called, in another thread, as soon as the last of them has stopped.

        Returns:
            Whether nobody was writing anyway; ``then`` is not called.
        """
        with self._changed:
            self._ended = then
            for writer in self._claims.values():
                writer.cut()
            if self._claims:
                return False
            self._view = _NOTHING
            return True

    @property
    def have(self) -> list[tuple[int, int]]:
        """What is there: pairs of offset and length."""
        with self._changed:
            return [(start, end - start) for start, end in self._there][:_STRETCHES]

    @property
    def digest(self) -> bytes:
        """The digest of the object, which is complete."""
        return combined_digest(self._digests[start] for start in range(0, self.size, PIECE))


class Uploads:
    """All objects that come in. For the reactor's thread.

    Args:
        reactor: Twisted's reactor.
        store: Where they go.
        grace: Seconds for which an upload without a connection can be gone on with.
    """

    def __init__(self, reactor: Any, store: Store, grace: float = GRACE) -> None:
        self._reactor = reactor
        self._store = store
        self._grace = grace
        self._uploads: dict[bytes, Upload] = {}
        self._count = 0
        self._closed = False

    async def begin(
        self, object_id: bytes, size: int, owner: int, subject: str, writer: Writer
    ) -> Upload | None:
        """Let a connection write an object.

        If somebody else is writing it, he is waited for.

        Args:
            object_id: Its id.
            size: Its length in bytes.
            owner: The session that it belongs to.
            subject: Who brings it.
            writer: The connection.

        Returns:
            None if the store has it.

        Raises:
            StoreFull: There is no room.
            ObjectError: It has been given up again and again while it was waited for.
        """
        for _ in range(_PATIENCE):
            if self._closed:
                raise ObjectError("the host takes no more objects in: it ends")
            upload = self._uploads.get(object_id)
            if upload is not None and (upload.subject, upload.size) == (subject, size):
                return self._attached(upload, writer)
            del upload  # or it keeps the memory of another's object while this one waits
            self._count += 1
            name = f"upload:{self._count}"  # not that of a connection: it lives on without
            try:
                place = await self._store.create(object_id, size, owner=owner, writer=name)
            except ObjectExists:
                if await self._is_there(object_id, name):
                    return None
                continue
            if self._closed:
                self._store.abandon(object_id)
                continue
            if not size:
                self._store.seal(object_id, combined_digest(()))
                return None
            upload = Upload(object_id, subject, owner, size, self._store.view(place))
            self._uploads[object_id] = upload
            return self._attached(upload, writer)
        raise ObjectError(
            f"object {object_id[:4].hex()} cannot be written: others give it up again"
        )

    async def _is_there(self, object_id: bytes, holder: str) -> bool:
        info = self._store.info(object_id)
        if info is not None and info.sealed:
            return True
        try:
            await self._store.lease(object_id, holder)
        except (TransferError, UnknownObject):
            return False
        self._store.release(object_id, holder)
        return True

    def _attached(self, upload: Upload, writer: Writer) -> Upload:
        upload.attached.add(writer)
        self._stop_timer(upload)
        return upload

    def seal(self, upload: Upload) -> None:
        """Declare an object complete.

        Raises:
            UnknownObject: The upload has ended otherwise.
        """
        if self._uploads.get(upload.object_id) is not upload:
            raise UnknownObject(f"object {upload.object_id[:4].hex()} was given up meanwhile")
        self._forget(upload)
        upload.end(lambda: None)  # nobody writes: all of it is there
        self._store.seal(upload.object_id, upload.digest)

    def leave(self, writer: Writer) -> None:
        """A connection is gone."""
        for upload in list(self._uploads.values()):
            if writer in upload.attached:
                upload.attached.discard(writer)
                if not upload.attached:
                    upload.timer = self._reactor.callLater(self._grace, self._expired, upload)

    def _expired(self, upload: Upload) -> None:
        upload.timer = None
        self._give_up(upload)

    def abandon(self, object_id: bytes, subject: str) -> None:
        """An object will not be completed, says who has brought it."""
        upload = self._uploads.get(object_id)
        if upload is not None and upload.subject == subject:
            self._give_up(upload)

    def session_gone(self, session: int) -> None:
        """The client of a session is gone, and so is what it has not completed."""
        for upload in list(self._uploads.values()):
            if upload.owner == session:
                self._give_up(upload)

    def close(self) -> None:
        """Give all of them up, and take no more in."""
        self._closed = True
        for upload in list(self._uploads.values()):
            self._give_up(upload)

    def __len__(self) -> int:
        return len(self._uploads)

    def _give_up(self, upload: Upload) -> None:
        self._forget(upload)
        store, object_id, reactor = self._store, upload.object_id, self._reactor
        # Only now may the store give the memory to somebody else.
        if upload.end(lambda: reactor.callFromThread(store.abandon, object_id)):
            store.abandon(object_id)

    def _forget(self, upload: Upload) -> None:
        del self._uploads[upload.object_id]
        self._stop_timer(upload)

    def _stop_timer(self, upload: Upload) -> None:
        if upload.timer is not None:
            upload.timer.cancel()
            upload.timer = None
