"""What the parts of the object plane ask of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from attrs import frozen

from ipkernel.objects.transfer import Transfer

__all__ = ["TRANSIENT", "Buffer", "ObjectInfo", "Placement", "StoreClient"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""One stretch of bytes."""

TRANSIENT: Final = 1 << 61
"""Added to the session that owns an object, it says that the object goes when the session does."""


@frozen
class Placement:
    """Where an object is in the shared memory of a host.

    Attributes:
        segment: Number of the segment of memory.
        offset: Where it starts there, in bytes; a multiple of the page size.
        size: Its length in bytes.
    """

    segment: int
    offset: int
    size: int


@frozen
class ObjectInfo:
    """What a store knows of an object.

    Attributes:
        size: Its length in bytes.
        sealed: Whether all of it has been written.
        digest: Its digest, once somebody has computed it, or empty.
        in_memory: False while it is only on disk.
        leases: How many processes have it mapped or are reading it.
    """

    size: int
    sealed: bool
    digest: bytes
    in_memory: bool
    leases: int


class StoreClient(Protocol):
    """Access to the store of one host, near or far. Blocking; callable from any thread."""

    def put(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        *,
        owner: int,
        transfer: Transfer | None = None,
    ) -> None:
        """Put an object there; returns when it is complete.

        Args:
            object_id: Its id. If the store has it already, nothing is sent.
            pieces: Its bytes, in order.
            size: Their number.
            owner: The session that it belongs to; with :data:`TRANSIENT` the object goes with it.
            transfer: Is told of progress, and may be cancelled.

        Raises:
            StoreFull: There is no room, even on disk.
            UnknownObject: It is transient, and the session is gone.
            TransferError: The connection was cut again and again, or the digest is wrong.
            TransferCancelled: ``transfer`` was cancelled.
            ConnectError: The host cannot be reached.
        """

    def get(
        self,
        object_id: bytes,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
        transfer: Transfer | None = None,
    ) -> memoryview:
        """Return an object's bytes, writable; writing changes nobody else's copy.

        Args:
            object_id: Its id.
            bringer: If the store does not have it, wait for it until this session is gone;
                None does not wait for an unknown object. One that is being written is waited
                for in any case.
            timeout: Seconds to wait for it at most.
            transfer: Is told of progress, and may be cancelled.

        Raises:
            UnknownObject: The store does not have it, or its bringer is gone.
            TimeoutError: It did not come in time.
            TransferError, TransferCancelled, ConnectError: As for :meth:`put`.
        """

    def free(self, object_ids: Sequence[bytes]) -> None:
        """Have the store forget objects as soon as nobody reads them any more."""

    def wait_freed(self, object_id: bytes, timeout: float) -> bool:
        """Wait until the store does not have an object any more; tell whether that is so."""

    def close(self) -> None:
        """Close the connections. Memory that :meth:`get` returned stays valid."""
