"""The log in the journal's file: rows are added at its end, and cleaned away from its beginning.

What is in a row is dead when all of its tasks are forgotten, its sessions closed, its hosts lost. To
*sweep* the log is to go through it from the oldest row to the one that was the latest when the
sweep began, to remove rows that are dead and shorten those that are dead in part. While rows are added
some times as many bytes are swept, so that no turn takes long. What says that something is
over, such as :class:`~ipkernel.controller.journal.Forgotten`, can go when the sweep comes to it: all
that it is about came before, and is gone already.

Small rows gather in a plain file first (:mod:`ipkernel.controller.sqlitetail`).

All of this is synchronous; one thread at a time may use it, but for :meth:`Log.checkpoint` and
:meth:`Log.read`, which have connections of their own.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from ipkernel.controller import sqlitefile
from ipkernel.controller.journal import Ended, Printed, Record
from ipkernel.controller.living import Live
from ipkernel.controller.rows import PIECE, ROW_BYTES, Row, decode, encode
from ipkernel.controller.sqlitetail import LARGE, MANY, Tail, TailRow
from ipkernel.controller.tasks import Payload

logger = logging.getLogger(__name__)

#: A log that is smaller is left alone, in bytes.
SMALL: Final = 16 << 20
#: How many times as large as what is live in it a log becomes before it is swept.
GROWTH: Final = 3
#: By how much a log grows before it is looked at again whether it is to be swept, in bytes.
LOOK: Final = 1 << 20
#: How many bytes are swept for one that is written, and how many at a time at least: each time costs
#: some besides.
RATE: Final = 4
STRIDE: Final = 64 << 10
#: Rows that are looked at together.
_BATCH: Final = 64
#: What a row costs besides its content, in bytes.
_OVERHEAD: Final = 24
#: Pages that are returned to the file system at a time.
_PAGES: Final = 2000

_INSERT: Final = "INSERT INTO log VALUES (?, ?, ?, ?)"
_MOVE: Final = "INSERT OR IGNORE INTO log VALUES (?, ?, ?, ?)"
_ALL: Final = "SELECT seq, crc, pieces, blob FROM log WHERE seq > ? ORDER BY seq"
_ONE: Final = "SELECT crc, pieces, blob FROM log WHERE seq = ?"
_SHORTEN: Final = "UPDATE log SET crc = ?, pieces = ?, blob = ? WHERE seq = ?"
_SOME: Final = (
    "SELECT seq, crc, pieces, length(blob), CASE WHEN pieces < 0 THEN x'' ELSE blob END "
    "FROM log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)


class _Sweep:
    """How far a sweep has come.

    Attributes:
        at: The latest row that was looked at.
        end: The last that will be.
        kept: Bytes that were left.
        closed: Sessions that were closed when it began, and of which nothing was found so far.
    """

    def __init__(self, end: int, closed: set[int]) -> None:
        self.at = 0
        self.end = end
        self.kept = 0
        self.closed = closed


class Log:
    """The rows of a journal.

    Args:
        path: Of the file, which is a journal.
        power: Whether what is added must outlive a loss of power.

    Raises:
        sqlite3.Error: The file is broken, or cannot be used.
        OSError: The file beside it cannot be used.

    Attributes:
        live: What in it still matters. It is not told of new rows here.
        last: Number of the latest row.
        size: Bytes of all rows.
        damaged: How many rows could not be read.
    """

    def __init__(self, path: Path, power: bool) -> None:
        self.path = path
        self.live = Live()
        self._reader: sqlite3.Connection | None = None
        self._checkpointer: sqlite3.Connection | None = None
        self._writing = threading.Lock()
        self._gathers = not power
        self._tail = Tail(sqlitefile.tail(path))
        try:
            self._writer = sqlitefile.connect(path)
        except BaseException:
            self._tail.close()
            raise
        try:
            self._writer.execute(f"PRAGMA synchronous={'FULL' if power else 'NORMAL'}")
            (last,) = self._writer.execute("SELECT max(seq) FROM log").fetchone()
            self._move_tail(last or 0)  # what another process has left there
            found = "SELECT max(seq), sum(length(blob)), count(*) FROM log"
            last, size, count = self._writer.execute(found).fetchone()
        except BaseException:
            self._tail.close()
            self._writer.close()  # or it would end later, and take the log of a new file with it
            raise
        self.last: int = last or 0
        self.size: int = (size or 0) + count * _OVERHEAD
        self._fresh = 0  # what was live at the last sweep, in bytes, and by weight
        self._weight = 0
        self._enough = SMALL  # how large it may become until that is looked at again
        self._sweep: _Sweep | None = None
        self._owed = 0  # how many bytes are to be swept with the next rows
        self.damaged = self._tail.damaged

    # -------------------------------------------------------------------------- writing

    def gather(self, blob: Payload) -> bool:
        """Add a row of its own without the database, if it is small and nothing else is due.

        Returns:
            Whether it was added; if not, it is for :meth:`append`.

        Raises:
            sqlite3.Error: It could not be added.
        """
        tail = self._tail
        size = len(blob)
        if size >= LARGE or len(tail.rows) >= MANY or not self._gathers:
            return False
        size += _OVERHEAD
        if self._sweep is None and self._is_due(self.size + size):
            return False
        with self._writing:
            number = self.last + 1
            tail.add(number, crc32(blob, number), bytes(blob))
            self.last = number
            self.size += size
            self._owed += RATE * size
        return True

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows to the database, all of them or none, and sweep a part of the log.

        What has gathered is moved there before.

        Raises:
            sqlite3.Error: They could not be added.
        """
        size = sum([len(row.blob) for row in rows]) + len(rows) * _OVERHEAD
        with self._writing:
            self._move_tail()
            if self._sweep is None and self._is_due(self.size + size):
                self._begin_sweep()
            freed = 0
            budget = self._owed + RATE * size if self._sweep is not None else 0
            if budget >= STRIDE or len(rows) > 1:
                freed = self._append_and_sweep(rows, budget)
                self._owed = 0
            else:
                self._insert(rows)
                self._owed = budget
            self.last += len(rows)
            self.size += size - freed

    def _move_tail(self, after: int = -1) -> None:
        """Move rows that have gathered to the database, those with higher numbers than given.

        They are removed from the tail when they are there; a process may end in between.
        """
        rows: list[TailRow] = [row for row in self._tail.rows.values() if row.number > after]
        if rows:
            execute = self._writer.execute
            execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(_MOVE, rows)
                execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    execute("ROLLBACK")
                raise
        self._tail.clear()

    def _insert(self, rows: Sequence[Row]) -> None:
        execute = self._writer.execute
        for number, (blob, _, pieces) in enumerate(rows, self.last + 1):
            execute(_INSERT, (number, crc32(blob, number), pieces, blob))

    def _append_and_sweep(self, rows: Sequence[Row], budget: int) -> int:
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        sweep = self._sweep
        before = (sweep.at, sweep.kept, set(sweep.closed)) if sweep is not None else None
        try:
            self._insert(rows)
            freed = self._step(sweep, budget) if sweep is not None else 0
            execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            if sweep is not None and before is not None:
                sweep.at, sweep.kept, sweep.closed = before
            raise
        if sweep is not None and sweep.at >= sweep.end:
            self._swept(sweep)
        return freed

    def clear(self) -> None:
        """Remove all rows."""
        with self._writing:
            self._tail.clear()
            self._writer.execute("DELETE FROM log")
            self.live = Live()
            self.size = self._fresh = self._weight = 0
            self._enough = SMALL
            self._sweep = None

    # -------------------------------------------------------------------------- sweeping

    def _is_due(self, size: int) -> bool:
        """Tell whether a log of so many bytes is to be swept.

        How much of it is live is known from the last sweep, and less by the share of what was live
        then and is no more.
        """
        if size <= self._enough:
            return False
        live = self._fresh
        if self._weight:
            live = live * min(self._weight, self.live.weight()) // self._weight
        most = max(SMALL, GROWTH * live)
        self._enough = min(most, size + LOOK)
        return size > most

    def sweep(self, budget: int) -> bool:
        """Sweep about so many bytes, if the log is due; tell whether there is more to be swept.

        Raises:
            sqlite3.Error: It could not be done; nothing has changed.
        """
        with self._writing:
            self._move_tail()
            self._enough = SMALL
            if self._sweep is None and self._is_due(self.size):
                self._begin_sweep()
            if self._sweep is not None:
                self.size -= self._append_and_sweep((), budget)
            return self._sweep is not None

    def _begin_sweep(self) -> None:
        self._sweep = _Sweep(self.last, self.live.closed())
        self._owed = 0

    def _step(self, sweep: _Sweep, budget: int) -> int:
        """Look at the next rows; return how many bytes were freed."""
        execute = self._writer.execute
        freed = 0
        while budget > 0 and sweep.at < sweep.end:
            dead: list[int] = []
            shorter: list[tuple[int, int, bytes, int]] = []
            at = sweep.at
            for number, crc, pieces, length, blob in execute(_SOME, (at, sweep.end, _BATCH)):
                if number <= at:
                    continue  # a piece of a payload that is live
                at = number
                budget -= length + _OVERHEAD
                found = self._left(number, crc, pieces, blob, sweep)
                if found is None:
                    dead.append(number)
                    freed += length + _OVERHEAD
                else:
                    left, needed = found
                    at += needed
                    sweep.kept += len(left) + _OVERHEAD + needed * ROW_BYTES  # the last is shorter
                    if left is not blob:
                        shorter.append((crc32(left, number), needed, left, number))
                        freed += length - len(left)
                if budget <= 0:
                    break
            if at == sweep.at:
                at = sweep.end
            sweep.at = at
            if shorter:
                self._writer.executemany(_SHORTEN, shorter)
            for first, last in _runs(dead):
                execute("DELETE FROM log WHERE seq BETWEEN ? AND ?", (first, last))
        return freed

    def _left(
        self, number: int, crc: int, pieces: int, blob: bytes, sweep: _Sweep
    ) -> tuple[bytes, int] | None:
        """Return what is left of a row and how many of its pieces, or None if that is nothing."""
        if pieces < 0 or not self._whole(number, crc, blob):
            return None
        records: Sequence[Record] = decode(blob)
        left = self.live.sift(number, records)
        if left is not None:
            if not left:
                return None
            records = left
        if sweep.closed:
            for record in records:
                if isinstance(record, Ended | Printed):
                    sweep.closed.difference_update([m.task >> 40 for m, _ in record.items])
        if left is None:
            return blob, pieces
        if pieces and not any(getattr(record, "items", ()) for record in left):
            pieces = 0  # of a payload whose message is dead
        return bytes(encode(left, 0)[0].blob), pieces

    def _swept(self, sweep: _Sweep) -> None:
        self._sweep = None
        self.live.drop(sweep.closed)
        self._fresh = sweep.kept
        self._weight = self.live.weight()
        self._enough = SMALL

    # -------------------------------------------------------------------------- reading

    def scan(self, after: int = -1) -> Iterator[tuple[int, list[Record]]]:
        """Return the records of all whole rows, with the number of each row, in order.

        Args:
            after: Of rows with higher numbers only.

        Raises:
            sqlite3.DatabaseError: The file is broken.
        """
        with self._writing:
            self._move_tail()
        found = self._writer.execute(_ALL, (after,))
        left: tuple[int, int, bytes] | None = None  # a row that its pieces follow
        pieces: list[bytes] = []
        for number, crc, count, blob in found:
            if left is not None and count != PIECE:
                self._is_damaged(left[0])  # some of its pieces are missing
                left = None
            if count == PIECE:
                if left is None or number != left[0] + len(pieces) + 1:
                    continue  # of a payload that is dead
                if not self._whole(number, crc, blob):
                    left = None
                    continue
                pieces.append(blob)
                if len(pieces) == left[1]:
                    yield left[0], decode(left[2], pieces)
                    left, pieces = None, []
            elif not self._whole(number, crc, blob):
                continue
            elif not isinstance(count, int) or count < 0:
                self._is_damaged(number)
            elif count:
                left, pieces = (number, count, blob), []
            else:
                yield number, decode(blob)
        if left is not None:
            self._is_damaged(left[0])

    def read(self, number: int) -> list[Record]:
        """Return the records of one row; nothing if there is no such row.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        if (row := self._tail.rows.get(number)) is not None:
            return decode(row.blob) if self._whole(number, row.crc, row.blob) else []
        if self._reader is None:
            self._reader = sqlitefile.connect(self.path, read_only=True)
        found = self._reader.execute(_ONE, (number,)).fetchone()
        if found is None:
            return []
        crc, count, blob = found
        if not self._whole(number, crc, blob):
            return []
        pieces = []
        for at in range(number + 1, number + 1 + count):
            found = self._reader.execute(_ONE, (at,)).fetchone()
            if found is None or not self._whole(at, found[0], found[2]):
                return []
            pieces.append(found[2])
        return decode(blob, pieces)

    def _whole(self, number: int, crc: int, blob: bytes) -> bool:
        if isinstance(blob, bytes) and crc32(blob, number) == crc:
            return True
        self._is_damaged(number)
        return False

    def _is_damaged(self, number: int) -> None:
        self.damaged += 1
        logger.error("row %d of the journal %s is damaged", number, self.path)

    # ----------------------------------------------------------------------- housekeeping

    def checkpoint(self) -> int:
        """Move what is in the write-ahead log to the database, as far as that holds up nobody.

        Returns:
            How many pages are left.

        Raises:
            sqlite3.Error: It could not be done.
        """
        if self._checkpointer is None:
            self._checkpointer = sqlitefile.connect(self.path)
        return _left(self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())

    def restart(self) -> int:
        """Do the same to the end, so that the write-ahead log is written from its beginning again.

        Returns:
            How many pages are left because of somebody who reads.
        """
        with self._writing:
            return _left(self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone())

    def tidy(self) -> bool:
        """Empty the write-ahead log, and return space to the file system if most of it is free.

        Returns:
            Whether there is more to be returned.
        """
        with self._writing:
            execute = self._writer.execute
            (free,) = execute("PRAGMA freelist_count").fetchone()
            (pages,) = execute("PRAGMA page_count").fetchone()
            much = free > pages // 2 and free > _PAGES
            if much:
                execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(much)

    def close(self) -> None:
        """Close the files; they cannot be used any more."""
        with self._writing:
            try:
                self._move_tail()
            except sqlite3.Error as error:  # it stays where it is safe, and is found there
                logger.warning("the end of the journal stays in a file of its own: %s", error)
            self._tail.close()
            for connection in (self._reader, self._checkpointer, self._writer):
                if connection is not None:
                    connection.close()


def _left(checkpointed: tuple[int, int, int]) -> int:
    _, pages, moved = checkpointed
    return max(0, pages - moved)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Return numbers, which are in order, as ranges: first and last of each."""
    if not numbers:
        return
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


#: What reading a row may raise besides :class:`sqlite3.Error`: its checksum was right, but it is
#: no row.
NO_ROW: Final = (msgspec.MsgspecError, ValueError)
