"""What is larger than memory, as a sequence of objects: their names, their framing, how many there are.

A *flow* is a sequence of chunks. Each is an ordinary object of a host's store; its id follows from the
flow's key and the chunk's number, so whoever has the key finds all of them and nobody else any. The
writer has at most a window of chunks in the store, and the reader frees each chunk that it has used.

Layout of a chunk (little endian)::

    4 bytes "ipkf" | u8 flags | 3 zero bytes | u64 number | u64 length of the payload | zeros up to 64 | payload

The last chunk says so. One that says ``ERROR`` is the last, too: its payload is the error that has ended
the flow. A reader that does not want the rest puts a chunk, number 0, under the id :func:`stop_id`.

Small records travel many in one chunk::

    u32 n | 4 zero bytes | n x u64 lengths | records

A record of 4 KiB or more begins at a multiple of 64, counted from the start of the payload.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Sequence
from enum import IntFlag
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ipkernel.decoding import decode
from ipkernel.errors import TransferError
from ipkernel.objects.interfaces import Buffer

__all__ = [
    "HEADER_SIZE",
    "Chunk",
    "Flag",
    "Note",
    "Window",
    "chunk_id",
    "decode_note",
    "encode_note",
    "flow_key",
    "frame",
    "new_key",
    "pack",
    "stop_id",
    "unframe",
    "unpack",
]

#: Bytes in front of a chunk's payload.
HEADER_SIZE: Final = 64
#: Records of this many bytes and more are aligned to :data:`HEADER_SIZE`.
ALIGN_FROM: Final = 4096

_MAGIC: Final = b"ipkf"
_HEADER: Final = struct.Struct("<4sBxxxQQ")
_COUNT: Final = struct.Struct("<Ixxxx")


class Flag(IntFlag):
    """What a chunk is beside its payload."""

    NONE = 0
    LAST = 1
    """No other comes after it."""
    ERROR = 2
    """The payload is an error, and no other chunk comes after it."""
    DONE = 4
    """There is nothing to be done: another reader has done it. The payload is what it has answered."""


_ALL: Final = int(Flag.LAST | Flag.ERROR | Flag.DONE)


class Chunk(NamedTuple):
    """A chunk that was taken apart.

    Attributes:
        flags: What it is.
        payload: Its bytes.
    """

    flags: Flag
    payload: memoryview


# ---------------------------------------------------------------- names


def new_key() -> bytes:
    """Return a new key: 128 random bits."""
    return os.urandom(16)


def flow_key(master: bytes, task: int, attempt: bytes) -> bytes:
    """Return the key of the flow that one attempt of one task has opened.

    Args:
        master: The key that its client has made.
        task: The task's id.
        attempt: What the engine has drawn for this attempt.
    """
    return blake2b(task.to_bytes(8, "little") + attempt, digest_size=16, key=master).digest()


def chunk_id(key: bytes, index: int) -> bytes:
    """Return the id of a chunk.

    Args:
        key: The flow's.
        index: The chunk's number, from 0.
    """
    return blake2b(index.to_bytes(8, "little"), digest_size=16, key=key).digest()


def stop_id(key: bytes) -> bytes:
    """Return the id under which a reader puts that it does not want the rest of a flow."""
    return blake2b(b"stop", digest_size=16, key=key).digest()


# ---------------------------------------------------------------- framing


def length_of(pieces: Sequence[Buffer]) -> int:
    """Return the number of bytes of some pieces."""
    return sum(p.nbytes if isinstance(p, memoryview) else len(p) for p in pieces)


def frame(index: int, flags: Flag, pieces: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Return a chunk in pieces, and its size.

    Args:
        index: Its number.
        flags: What it is.
        pieces: Its payload.
    """
    length = length_of(pieces)
    header = _HEADER.pack(_MAGIC, flags, index, length).ljust(HEADER_SIZE, b"\0")
    return [header, *pieces], HEADER_SIZE + length


def unframe(data: memoryview, index: int) -> Chunk:
    """Take a chunk apart.

    Args:
        data: All of it; the payload is a view of it.
        index: The number that it must have.

    Raises:
        TransferError: It is damaged, or another one.
    """
    if data.nbytes < HEADER_SIZE:
        raise _damaged(index, f"it has {data.nbytes} bytes")
    magic, flags, number, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or flags & ~_ALL:
        raise _damaged(index, "what it begins with is not known here")
    if number != index:
        raise _damaged(index, f"it says that it is chunk {number}")
    if length != data.nbytes - HEADER_SIZE:
        raise _damaged(index, f"it announces {length} bytes and has {data.nbytes - HEADER_SIZE}")
    return Chunk(Flag(flags), data[HEADER_SIZE:])


def _damaged(index: int, why: str) -> TransferError:
    return TransferError(f"chunk {index} of a stream is damaged: {why}")


# ---------------------------------------------------------------- records


def pack(records: Sequence[Sequence[Buffer]]) -> list[Buffer]:
    """Return the payload, in pieces, that carries some records, each in pieces, too."""
    lengths = [length_of(record) for record in records]
    head = _COUNT.pack(len(records)) + struct.pack(f"<{len(records)}Q", *lengths)
    pieces: list[Buffer] = [head]
    offset = len(head)
    for record, length in zip(records, lengths, strict=True):
        padding = _padding(offset, length)
        if padding:
            pieces.append(bytes(padding))
        pieces += record
        offset += padding + length
    return pieces


def unpack(payload: memoryview) -> list[memoryview]:
    """Return the records that a payload carries, as views of it.

    Raises:
        TransferError: It is damaged.
    """
    if payload.nbytes < _COUNT.size:
        raise TransferError(f"records of a stream are cut off after {payload.nbytes} bytes")
    (count,) = _COUNT.unpack_from(payload)
    offset = _COUNT.size + 8 * count
    if offset > payload.nbytes:
        raise TransferError(
            f"a stream announces {count} records, in a payload of {payload.nbytes} bytes"
        )
    records = []
    for length in struct.unpack_from(f"<{count}Q", payload, _COUNT.size):
        offset += _padding(offset, length)
        records.append(payload[offset : offset + length])
        offset += length
    if offset != payload.nbytes:
        raise TransferError(
            f"records of a stream announce {offset} bytes, and there are {payload.nbytes}"
        )
    return records


def _padding(offset: int, length: int) -> int:
    return -offset % HEADER_SIZE if length >= ALIGN_FROM else 0


# ---------------------------------------------------------------- the window


class Window:
    """How many chunks are in the store, and whether one more may be put there. Pure.

    Args:
        count: The most chunks.
        size: The most bytes; two chunks may be there in any case.

    Attributes:
        written: How many chunks have been written.
        freed: How many of them the reader has freed; they are freed in order.
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1:
            raise ValueError(f"a window of {count} chunks lets nothing through")
        self._count = count
        self._size = size
        self.written = 0
        self.freed = 0
        self._sizes: deque[int] = deque()
        self._bytes = 0

    def awaited(self, size: int) -> int | None:
        """Return the chunk that must be freed before one more of ``size`` bytes, or None."""
        there = len(self._sizes)
        if there < self._count and (there < 2 or self._bytes + size <= self._size):
            return None
        return self.freed if there else None

    def wrote(self, size: int) -> None:
        """Note that the next chunk, of ``size`` bytes, is being put into the store."""
        self.written += 1
        self._sizes.append(size)
        self._bytes += size

    def note_freed(self, index: int) -> None:
        """Note that a chunk, and with it all before it, was freed."""
        while self.freed <= index and self._sizes:
            self.freed += 1
            self._bytes -= self._sizes.popleft()

    @property
    def outstanding(self) -> range:
        """The chunks that may be in the store."""
        return range(self.freed, self.written)


# ---------------------------------------------------------------- notes to the client


class Note(Struct, array_like=True, frozen=True, gc=False):
    """What an engine tells the client of one of its tasks about a flow.

    Attributes:
        master: The key that the client has made.
        attempt: What the engine has drawn, see :func:`flow_key`.
        stop: False when the engine is ready for the flow, True when it wants no more of it.
        size: How many bytes are to come out of it, as far as that is known.
        place: The same for engines of one host that would write the same file; or empty.
    """

    master: Annotated[bytes, Meta(min_length=16, max_length=16)]
    attempt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    stop: bool = False
    size: Annotated[int, Meta(ge=0)] = 0
    place: Annotated[bytes, Meta(max_length=16)] = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Note)


def encode_note(note: Note) -> bytes:
    """Turn a note into bytes."""
    return _encoder.encode(note)


def decode_note(data: Buffer) -> Note:
    """Turn bytes into a note.

    Raises:
        TransferError: They are damaged.
    """
    try:
        return decode(_decoder, data)
    except msgspec.MsgspecError as error:
        raise TransferError(f"a note about a stream is damaged: {error}") from error
