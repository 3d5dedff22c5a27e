"""Digests of objects: each piece has its own, and the object has the digest of those.

So pieces can be digested by whoever moves them, in any order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import xxhash

from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.ranges import PIECE

__all__ = ["PieceDigests", "combined_digest", "digest_of"]

#: Objects whose pieces' digests are remembered.
_REMEMBERED: Final = 256


def combined_digest(digests: Iterable[bytes]) -> bytes:
    """Return the digest of an object, given those of its pieces in order: 16 bytes."""
    return xxhash.xxh3_128_digest(b"".join(digests))


def digest_of(data: Buffer) -> bytes:
    """Return the digest of an object, all of which is at hand: 16 bytes."""
    view = memoryview(data)
    starts = range(0, len(view), PIECE)
    return combined_digest(xxhash.xxh3_128_digest(view[s : s + PIECE]) for s in starts)


class PieceDigests:
    """Puts the digests of objects together while their pieces are sent. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: OrderedDict[bytes, dict[int, bytes]] = OrderedDict()

    def note(self, object_id: bytes, size: int, offset: int, digest: bytes) -> bytes:
        """Note the digest of a piece; return that of the object once all are known, or empty."""
        with self._lock:
            found = self._objects.setdefault(object_id, {})
            self._objects.move_to_end(object_id)
            if len(self._objects) > _REMEMBERED:
                self._objects.popitem(last=False)
            found[offset] = digest
            if len(found) * PIECE < size:
                return b""
            del self._objects[object_id]
            return combined_digest(found[start] for start in range(0, size, PIECE))
