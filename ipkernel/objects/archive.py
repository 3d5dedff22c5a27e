"""Files and directories as a sequence of parts, and which of them may be believed. Pure.

A payload of a flow is a sequence of parts, none of which goes on in the next payload::

    u8 kind | u32 length | content

``ENTRY`` announces a file, a directory or a link. ``DATA`` is a stretch of the file that was announced
last and ``END`` its digest; nothing else comes in between. The first entry is the root, which alone
has a path of one name; every other one is in a directory that was announced before.

Paths come as lists of names, so there is nothing to take apart, and no name leads out of a directory.
Links stay within the tree, by what their text says; :mod:`ipkernel.objects.filetree` also looks where they
really lead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from ipkernel.decoding import decode
from ipkernel.errors import TransferError
from ipkernel.objects.interfaces import Buffer

__all__ = ["Entry", "EntryKind", "Packer", "Part", "Unpacker", "leads_out", "name_of", "spell"]

_PART: Final = struct.Struct("<BI")
#: Data parts are not begun where there is room for fewer bytes than this.
LEAST: Final = 4096
#: Bytes of a name, of a link's target, and names in a path.
MAX_NAME: Final = 1024
MAX_TARGET: Final = 4096
MAX_DEPTH: Final = 512
#: Bytes of a digest.
DIGEST: Final = 16

_DEVICES: Final = frozenset(
    ["CON", "PRN", "AUX", "NUL"] + [f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10)]
)
_NOT_ON_WINDOWS: Final = frozenset('<>:"/\\|?*')


class Part(IntEnum):
    """What a part of a payload is."""

    ENTRY = 1
    DATA = 2
    END = 3


class EntryKind(IntEnum):
    """What an entry is."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3


class Entry(Struct, array_like=True, frozen=True, gc=False):
    """A file, a directory or a symbolic link.

    Attributes:
        kind: Which of them.
        path: The names from the root on, see :func:`spell`.
        mode: Permissions, as of ``chmod``.
        mtime: When it was changed, in nanoseconds since the epoch.
        size: Bytes of a file when it was looked at; what comes may be more or less.
        target: Where a link leads.
    """

    kind: EntryKind
    path: Annotated[
        list[Annotated[bytes, Meta(max_length=MAX_NAME)]], Meta(min_length=1, max_length=MAX_DEPTH)
    ]
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o644
    mtime: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0
    size: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    target: Annotated[bytes, Meta(max_length=MAX_TARGET)] = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)

Event: TypeAlias = "tuple[Part, Entry | memoryview]"


def spell(name: str) -> bytes:
    """Return a name as it travels; names that are no text survive it."""
    return name.encode("utf-8", "surrogateescape")


def name_of(raw: bytes, windows: bool = os.name == "nt") -> str:
    """Return a name that has come from a peer.

    Args:
        raw: As :func:`spell` made it.
        windows: Whether it is to be a name on Windows.

    Raises:
        TransferError: It is no name but leads elsewhere, or this system cannot have it.
    """
    name = raw.decode("utf-8", "surrogateescape")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise TransferError(f"{name!r} is not accepted as a name: it leads somewhere else")
    if windows and (
        name[-1] in ". "
        or not _NOT_ON_WINDOWS.isdisjoint(name)
        or min(name) < " "
        or name.partition(".")[0].rstrip().upper() in _DEVICES
    ):
        raise TransferError(f"{name!r} cannot be the name of a file on Windows")
    return name


def leads_out(depth: int, target: str) -> bool:
    """Tell whether a link, by its text alone, leads out of its tree.

    Args:
        depth: How many directories deep it is; 0 for one that is directly in the root.
        target: Where it leads.
    """
    if target.startswith("/") or (os.name == "nt" and (":" in target or "\\" in target)):
        return True
    for name in target.split("/"):
        if name == "..":
            depth -= 1
        elif name not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


# ---------------------------------------------------------------- packing


class Packer:
    """Collects parts in one stretch of memory that is used again and again.

    Args:
        size: Its bytes: the most that one payload has.

    Attributes:
        used: How many of them are parts already.
    """

    def __init__(self, size: int) -> None:
        self._memory = memoryview(bytearray(size))
        self.used = 0

    def add(self, part: Part, content: Buffer | Entry) -> bool:
        """Append a part; False if there is no room for it in this payload.

        Raises:
            ValueError: No payload has room for it.
        """
        body = _encoder.encode(content) if isinstance(content, Entry) else content
        length = len(body)
        end = self.used + _PART.size + length
        if end > self._memory.nbytes:
            if not self.used:
                raise ValueError(f"a part of {length} bytes is too long")
            return False
        _PART.pack_into(self._memory, self.used, part, length)
        self._memory[self.used + _PART.size : end] = body
        self.used = end
        return True

    def room(self) -> memoryview | None:
        """Return the memory in which data may be written; None if it is too little."""
        start = self.used + _PART.size
        left = self._memory.nbytes - start
        return self._memory[start:] if left >= min(LEAST, self._memory.nbytes // 2) else None

    def wrote(self, count: int) -> None:
        """Make ``count`` bytes, which were written at :meth:`room`, a part of data."""
        _PART.pack_into(self._memory, self.used, Part.DATA, count)
        self.used += _PART.size + count

    def take(self) -> memoryview:
        """Return the payload, which is valid until more is added, and begin the next."""
        payload = self._memory[: self.used]
        self.used = 0
        return payload


# ---------------------------------------------------------------- unpacking


class Unpacker:
    """Takes payloads apart, and believes nothing that cannot be.

    Attributes:
        root: The first entry, once it is there.
    """

    def __init__(self) -> None:
        self.root: Entry | None = None
        self._directories: set[tuple[bytes, ...]] = set()
        self._open = False

    def feed(self, payload: memoryview) -> Iterator[Event]:
        """Yield the parts of a payload: entries, stretches of data, digests.

        Raises:
            TransferError: It is damaged, or what it says cannot be.
        """
        offset, end = 0, payload.nbytes
        while offset < end:
            if end - offset < _PART.size:
                raise TransferError("a payload of files is cut off")
            kind, length = _PART.unpack_from(payload, offset)
            offset += _PART.size
            if length > end - offset:
                raise TransferError(f"a payload of files announces {length} bytes too many")
            yield self._event(kind, payload[offset : offset + length])
            offset += length

    def finish(self) -> None:
        """Say that there is no more.

        Raises:
            TransferError: There has to be.
        """
        if self.root is None or self._open:
            raise TransferError("the files that were sent are not complete")

    def _event(self, kind: int, content: memoryview) -> Event:
        if kind == Part.ENTRY and not self._open:
            return Part.ENTRY, self._entry(content)
        if kind == Part.DATA and self._open:
            return Part.DATA, content
        if kind == Part.END and self._open and content.nbytes == DIGEST:
            self._open = False
            return Part.END, content
        raise TransferError(f"a part of kind {kind} cannot be where it is among the files sent")

    def _entry(self, content: memoryview) -> Entry:
        try:
            entry = decode(_decoder, content)
        except msgspec.MsgspecError as error:
            raise TransferError(f"a file's description is damaged: {error}") from error
        names = [name_of(raw) for raw in entry.path]
        shown = "/".join(names)
        if self.root is None:
            if len(names) > 1 or entry.kind is EntryKind.LINK:
                raise TransferError(f"{shown!r} cannot be the first of the files sent")
            self.root = entry
        elif tuple(entry.path[:-1]) not in self._directories:
            raise TransferError(f"{shown!r} is not in a directory that was sent")
        if entry.kind is EntryKind.DIRECTORY:
            self._directories.add(tuple(entry.path))
        elif entry.kind is EntryKind.LINK:
            self._check_link(entry, shown)
        else:
            self._open = True
        return entry

    def _check_link(self, entry: Entry, shown: str) -> None:
        target = entry.target.decode("utf-8", "surrogateescape")
        if not target or "\0" in target or leads_out(len(entry.path) - 2, target):
            raise TransferError(f"the link {shown!r} leads out of the tree, to {target!r}")
