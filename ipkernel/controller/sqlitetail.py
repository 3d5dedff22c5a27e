"""The latest rows of the journal, in a plain file beside the database.

To add a row to a database costs two writes and six calls that lock and unlock, some 25 to 45 us; to
add it to a plain file costs one write, of 2. So small rows go there first, and all that have
gathered go into the database in one transaction. What reaches the file has reached the operating
system, as what is in the database has: it outlives the process.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

#: Rows that gather before they are moved, and the length of one from which on it does not gather.
MANY: Final = 64
LARGE: Final = 4096
#: Bytes of a file that are looked at; no tail is as long as that.
_MOST: Final = 1 << 20
#: Less than this are all numbers of rows.
_NUMBERS: Final = 1 << 62

_HEAD: Final = Struct("<QII")  # number, checksum, length
_pack = _HEAD.pack


class TailRow(NamedTuple):
    """A row as the database has it.

    Attributes:
        number: Its number.
        crc: Its checksum.
        pieces: How many rows follow with its payload: none.
        blob: What is in it.
    """

    number: int
    crc: int
    pieces: int
    blob: bytes


class Tail:
    """Rows that are safe but not in the database yet.

    Args:
        path: Of the file; it is made when there is none, for its owner only.

    Attributes:
        rows: The rows by number, in order. Of those that another process has left, checksums may be
            wrong.
        damaged: How many rows of another process cannot be: their numbers are too high, or they too many.

    Raises:
        OSError: The file cannot be made or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o600)
        try:
            with open(self._file, "rb", closefd=False) as file:
                data = file.read(_MOST)
                size = os.fstat(self._file).st_size
        except BaseException:
            os.close(self._file)
            raise
        self.rows: dict[int, TailRow] = {}
        self.damaged = int(size > _MOST)
        for row in _parse(data):
            if row.number < _NUMBERS:
                self.rows[row.number] = row
            else:
                self.damaged += 1
        self._end = size
        self._torn = False  # whether there may be a part of a row behind the end

    def add(self, number: int, crc: int, blob: bytes) -> None:
        """Add a row.

        Raises:
            sqlite3.OperationalError: It could not be written, and is not there.
        """
        if self._torn:
            self._cut(self._end)
        self._torn = True
        data = _pack(number, crc, len(blob)) + blob
        try:
            written = os.write(self._file, data)
        except OSError as error:
            raise self._cannot(error.strerror) from None
        if written != len(data):
            raise self._cannot("database or disk is full")
        self._torn = False
        self._end += written
        self.rows[number] = TailRow(number, crc, 0, blob)

    def clear(self) -> None:
        """Remove all rows.

        Raises:
            sqlite3.OperationalError: They could not be removed from the file.
        """
        if self._end or self._torn:
            self._cut(0)
            self._end = 0
        self.rows = {}

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._file, end)
        except OSError as error:
            raise self._cannot(error.strerror) from None
        self._torn = False

    def _cannot(self, why: str | None) -> sqlite3.OperationalError:
        return sqlite3.OperationalError(f"{self._path.name}: {why}")

    def close(self) -> None:
        """Close the file, and remove it if there is nothing in it."""
        os.close(self._file)
        if not self._end and not self._torn:
            self._path.unlink(missing_ok=True)


def _parse(data: bytes) -> Iterator[TailRow]:
    """Return the rows in a file, up to one that was cut off in the middle."""
    at = 0
    while at + _HEAD.size <= len(data):
        number, crc, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        blob = data[at : at + length]
        if len(blob) < length:
            return
        at += length
        yield TailRow(number, crc, 0, blob)
