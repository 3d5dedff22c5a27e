"""What can be saved from a broken journal: every whole row that SQLite can still find."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias
from zlib import crc32

from ipkernel.controller import sqlitefile
from ipkernel.controller.rows import PIECE

_Row: TypeAlias = tuple[int, int, int, bytes]

_BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: How errors begin that say that tables are not those of a journal: all of ours fit these.
_CHANGED: Final = ("no such table", "no such column", "table log has ", "table meta has ")
_FROM: Final = "SELECT seq, crc, pieces, blob FROM log WHERE seq > ? ORDER BY seq"
_FIRST: Final = "SELECT seq FROM log WHERE seq > ? ORDER BY seq LIMIT 1"
_SUFFIXES: Final = ("-wal", "-shm", "")
#: Further than the last row could be from one that is readable.
_FAR: Final = 1 << 40
#: How many broken places are passed over before the rest is given up.
_PLACES: Final = 1000


def is_broken(error: Exception) -> bool:
    """Tell whether an error means that the file is no sound database, not that it cannot be used."""
    code = getattr(error, "sqlite_errorcode", None)
    broken = isinstance(code, int) and code & 0xFF in _BROKEN
    return broken or str(error).startswith(_CHANGED)


def what_is_wrong(error: Exception) -> str:
    """Return what is wrong with a broken journal."""
    text = str(error)
    return f"{text}; some other program has changed it" if text.startswith(_CHANGED) else text


def replace(path: Path, cluster: str) -> tuple[int, int, Path]:
    """Replace a broken journal by one with its whole rows.

    Args:
        path: Where it is, and the new one will be.
        cluster: Name of the cluster.

    Returns:
        How many rows were saved, how many damaged rows or places were met, and where the broken
        journal is now.

    Raises:
        OSError: A file cannot be made or renamed.
        sqlite3.Error: The new one cannot be written. The broken one is where it was.
    """
    fresh = path.with_name(f"{path.stem}.salvaged{path.suffix}")
    for suffix in _SUFFIXES:
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    sqlitefile.prepare(fresh, cluster)
    kept, damage = _salvage(path, fresh)
    aside = _put_aside(path)
    os.replace(fresh, path)
    return kept, damage, aside


def _put_aside(path: Path) -> Path:
    """Rename a broken journal, with what belongs to it; return what it is called now."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.stem}-{stamp}.broken{path.suffix}")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.stem}-{stamp}-{count}.broken{path.suffix}")
    for suffix in _SUFFIXES:
        beside = Path(f"{path}{suffix}")
        if beside.exists():
            os.replace(beside, f"{aside}{suffix}")
    return aside


def _salvage(broken: Path, path: Path) -> tuple[int, int]:
    """Copy the whole rows of a journal; return how many there were, and how much damage."""
    kept = 0
    damage = [0]
    target = sqlitefile.connect(path)
    try:
        target.execute("BEGIN IMMEDIATE")
        try:
            source = sqlitefile.connect(broken)
        except sqlite3.Error:
            damage[0] = 1
        else:
            try:
                for row in _complete(_rows(source, damage), damage):
                    target.execute("INSERT INTO log VALUES (?, ?, ?, ?)", row)
                    kept += 1
            finally:
                source.close()
        target.execute("COMMIT")
    finally:
        target.close()
    return kept, damage[0]


def _complete(rows: Iterator[_Row], damage: list[int]) -> Iterator[_Row]:
    """Leave out rows whose payloads follow in pieces of which some are missing."""
    begun: list[_Row] = []
    for row in rows:
        number, _, count, _ = row
        if begun and count == PIECE and number == begun[-1][0] + 1:
            begun.append(row)
            if len(begun) > begun[0][2]:
                yield from begun
                begun = []
            continue
        damage[0] += bool(begun)
        begun = []
        if count == 0:
            yield row
        elif isinstance(count, int) and count > 0:
            begun = [row]
        elif count != PIECE:  # else it is of a payload that is dead
            damage[0] += 1
    damage[0] += bool(begun)


def _rows(database: sqlite3.Connection, damage: list[int]) -> Iterator[_Row]:
    """Return the whole rows in order; count in ``damage`` what is passed over."""
    at = -1
    for _ in range(_PLACES):
        try:
            for number, crc, pieces, blob in database.execute(_FROM, (at,)):
                at = number
                if isinstance(blob, bytes) and crc32(blob, number) == crc:
                    yield number, crc, pieces, blob
                else:
                    damage[0] += 1
            return
        except sqlite3.Error:
            damage[0] += 1
            beyond = _beyond(database, at)
            if beyond is None:
                return
            at = beyond


def _beyond(database: sqlite3.Connection, at: int) -> int | None:
    """Return after which number rows can be read again that cannot be read after ``at``."""
    step = 1
    while not _readable(database, at + step):
        step *= 2
        if step > _FAR:
            return None
    low, high = step // 2, step
    while high - low > 1:
        middle = (low + high) // 2
        if _readable(database, at + middle):
            high = middle
        else:
            low = middle
    return at + high


def _readable(database: sqlite3.Connection, after: int) -> bool:
    """Tell whether the row after this number, or that there is none, can be read."""
    try:
        found = database.execute(_FIRST, (after,)).fetchone()
        if found is None:
            return False
        select = "SELECT crc, pieces, blob FROM log WHERE seq = ?"
        return database.execute(select, found).fetchone() is not None
    except sqlite3.Error:
        return False
