"""What the catalog of a store consists of, and what it asks its shell to do."""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

from attrs import define, field, frozen

from ipkernel.errors import ObjectError
from ipkernel.objects.allocator import Region
from ipkernel.objects.interfaces import ObjectInfo, Placement

__all__ = [
    "Answer",
    "CloseSegment",
    "Discard",
    "Entry",
    "Fail",
    "Instruction",
    "MakeSegment",
    "ObjectExists",
    "ReadIn",
    "RemoveFile",
    "State",
    "StoreStats",
    "Wait",
    "Waits",
    "WriteOut",
]


class ObjectExists(ObjectError):
    """There is an object with this id already, complete or being written."""


class State(Enum):
    """Where the bytes of an object are."""

    WRITING = auto()
    """Its writer has not finished; it may even wait for room still."""
    SEALED = auto()
    """In memory, complete."""
    SPILLING = auto()
    """In memory, complete, and being copied to disk."""
    SPILLED = auto()
    """On disk."""
    RESTORING = auto()
    """On disk, and being copied to memory, or waiting for room there."""


@define(eq=False)
class Entry:
    """An object.

    Attributes:
        object_id: Its id.
        size: Its length in bytes.
        owner: The session that it belongs to.
        writer: Who writes it.
        state: Where its bytes are.
        region: Its place in memory, if it has one.
        disk: Its place on disk, if it has one.
        digest: Its digest, once that is known.
        pins: Who has leases on it.
        freed: It is not to be found any more; only its bytes are still in use.
        job: Number of the copy to or from disk that is at work, or 0.
    """

    object_id: bytes
    size: int
    owner: int
    writer: str
    state: State = State.WRITING
    region: Region | None = None
    disk: Region | None = None
    digest: bytes = b""
    pins: set[str] = field(factory=set)
    freed: bool = False
    job: int = 0

    @property
    def busy(self) -> bool:
        """Whether somebody still reads or writes its bytes."""
        writing = self.state is State.WRITING and self.region is not None
        return bool(self.pins or self.job or writing)

    @property
    def placement(self) -> Placement:
        """Where it is in memory; only while it is there."""
        assert self.region is not None
        return Placement(self.region.segment, self.region.offset, self.size)

    @property
    def info(self) -> ObjectInfo:
        """What may be told about it."""
        return ObjectInfo(
            size=self.size,
            sealed=self.state is not State.WRITING,
            digest=self.digest,
            in_memory=self.region is not None and self.state is not State.RESTORING,
            leases=len(self.pins),
        )


@frozen
class StoreStats:
    """How full a store is.

    Attributes:
        limit: Bytes of memory that it may use.
        used: Bytes of memory that objects take.
        idle: Bytes of memory that it keeps for the next ones.
        disk_limit: Bytes of disk that it may use.
        disk_used: Bytes on disk that objects take.
        objects: Their number, those being written and those on disk included.
        leased: Bytes of memory of objects that somebody reads or writes.
        owners: Bytes of objects in memory by session, the largest first.
        holders: Bytes of objects in memory by those who read or write them, the largest first.
        waiting: How many requests wait for an object or for room.
    """

    limit: int
    used: int
    idle: int
    disk_limit: int
    disk_used: int
    objects: int
    leased: int
    owners: dict[int, int]
    holders: dict[str, int]
    waiting: int


class Waits(Enum):
    """What is waited for."""

    LEASE = auto()
    """That an object can be read, to lease it."""
    SEALED = auto()
    """That it is complete."""
    FREED = auto()
    """That it is gone."""


@frozen(eq=False)
class Wait:
    """Somebody who waits for an object.

    Attributes:
        kind: For what.
        object_id: For which.
        holder: Who will have the lease.
        bringer: The session that is to bring the object.
    """

    kind: Waits
    object_id: bytes
    holder: str = ""
    bringer: int | None = None


@frozen
class Answer:
    """Give somebody what he has waited for."""

    wait: int
    value: Placement | ObjectInfo | bool


@frozen(eq=False)
class Fail:
    """Tell somebody that he has waited in vain."""

    wait: int
    error: Exception


@frozen
class MakeSegment:
    """Make a segment of memory, and report ``segment_made`` or ``segment_failed``."""

    number: int
    size: int


@frozen
class CloseSegment:
    """Give a segment back to the system."""

    number: int


@frozen
class Discard:
    """Give some pages of a segment back to the system."""

    region: Region


@frozen
class WriteOut:
    """Copy an object to disk, and report ``written`` or ``write_failed``."""

    job: int
    placement: Placement
    disk: Region


@frozen
class ReadIn:
    """Copy an object from disk, and report ``read`` or ``read_failed``."""

    job: int
    placement: Placement
    disk: Region


@frozen
class RemoveFile:
    """Give a file on disk back."""

    number: int


Instruction: TypeAlias = (
    Answer | Fail | MakeSegment | CloseSegment | Discard | WriteOut | ReadIn | RemoveFile
)
