"""Which bytes of an object are there, and which are still to be sent, and by whom.

Objects travel in pieces of :data:`PIECE` bytes. Several connections may work on one object: each takes
the next piece from a :class:`Share`; what a broken connection had taken goes back. Pure, and for any thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from attrs import define, field

from ipkernel.errors import TransferError
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.intervals import Intervals

__all__ = [
    "BLOCK",
    "PIECE",
    "Piece",
    "Pieces",
    "Share",
    "check_piece",
]

#: Bytes of a piece; only the last one of an object has less.
PIECE: Final = 4 << 20
#: Bytes between two steps of progress, and of a block that is compressed by itself.
BLOCK: Final = 256 << 10


@define(eq=False)
class Piece:
    """A range of an object on its way.

    Attributes:
        offset: Where it begins.
        length: Its bytes.
        moved: How many of them were counted as moved.
        faults: How often it has arrived with a wrong digest.
        digest: That of the bytes that were sent.
    """

    offset: int
    length: int
    moved: int = 0
    faults: int = 0
    digest: bytes = b""

    @property
    def index(self) -> int:
        """Its number in the object."""
        return self.offset // PIECE

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.length


def check_piece(size: int, offset: int, length: int) -> None:
    """See whether this is a piece of an object.

    Args:
        size: The object's length in bytes.
        offset: Where the piece begins.
        length: Its length in bytes.

    Raises:
        TransferError: It is not.
    """
    if offset % PIECE or not 0 <= offset < size or length != min(PIECE, size - offset):
        raise TransferError(f"bytes {offset} to {offset + length} are not a piece of {size} bytes")


class Share:
    """Hands the pieces of an object out to those who move them.

    Args:
        size: The object's length in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._there = Intervals()
        self._next = 0
        self._returned: deque[Piece] = deque()
        self._taken: set[Piece] = set()

    def take(self) -> Piece | None:
        """Return a piece that nobody has and that is not there, or None."""
        with self._lock:
            for piece in self._candidates():
                if not self._is_there(piece):
                    self._taken.add(piece)
                    return piece
            return None

    def _candidates(self) -> Iterator[Piece]:
        while self._returned:
            yield self._returned.popleft()
        while self._next < self.size:
            piece = Piece(self._next, min(PIECE, self.size - self._next))
            self._next = piece.end
            yield piece

    def give_back(self, piece: Piece) -> None:
        """Take a piece back that could not be moved."""
        with self._lock:
            self._taken.discard(piece)
            self._returned.append(piece)

    def done(self, piece: Piece) -> None:
        """Note that a piece is there."""
        with self._lock:
            self._taken.discard(piece)
            self._there.add(piece.offset, piece.end)

    def note(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Note that others have brought some ranges, or this one did before.

        Args:
            ranges: Pairs of offset and length. What lies beyond the end does not count.

        Returns:
            How many bytes are there now that were not, without those of pieces that are taken.
        """
        with self._lock:
            before = self._taken_and_there()
            added = sum(
                self._there.add(offset, min(offset + length, self.size))
                for offset, length in ranges
                if length and offset < self.size
            )
            return added - (self._taken_and_there() - before)

    def _taken_and_there(self) -> int:
        return sum(self._there.overlap(piece.offset, piece.end) for piece in self._taken)

    @property
    def there(self) -> int:
        """How many bytes are there."""
        return self._there.total

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self._there.total == self.size

    def _is_there(self, piece: Piece) -> bool:
        return self._there.overlap(piece.offset, piece.end) == piece.length


@define
class Pieces:
    """One object in memory that is scattered.

    Args:
        buffers: Its bytes, in order.
    """

    buffers: Sequence[Buffer]
    size: int = field(init=False)
    _views: list[memoryview] = field(init=False)
    _starts: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        views = (memoryview(buffer).cast("B") for buffer in self.buffers)
        self._views = [view for view in views if len(view)]
        ends = list(accumulate(map(len, self._views), initial=0))
        self.size = ends.pop()
        self._starts = ends

    def blocks(self, offset: int, length: int) -> Iterator[memoryview]:
        """Return a range as blocks of :data:`BLOCK` bytes, the last one shorter.

        A block within one buffer is that memory itself; what lies across the border of two is
        copied, and is only valid until the next one.

        Args:
            offset: Where the range begins.
            length: How many bytes it has, all within the object.
        """
        end = offset + length
        at = bisect_right(self._starts, offset) - 1
        while offset < end:
            count = min(BLOCK, end - offset)
            start = offset - self._starts[at]
            block = self._views[at][start : start + count]
            if len(block) < count:
                block = self._gathered(at, start, count)
            yield block
            offset += count
            while at + 1 < len(self._starts) and self._starts[at + 1] <= offset:
                at += 1

    def _gathered(self, at: int, start: int, count: int) -> memoryview:
        block = bytearray()
        while len(block) < count:
            block += self._views[at][start : start + count - len(block)]
            at, start = at + 1, 0
        return memoryview(block)
