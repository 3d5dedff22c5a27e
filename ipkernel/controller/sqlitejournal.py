# mypy: allow-untyped-calls
"""The journal that outlives the process: a log in an SQLite file.

One row is one turn of the controller, or a part of a large one. Commits of a few kilobytes are made
where they are asked for, in some tens of microseconds: they reach the operating system, which is
enough for whatever may happen to the process. Nothing here waits for a disk in the reactor's thread.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from ipkernel.controller import sqlitefile
from ipkernel.controller.journal import Ended, IJournal, Printed, Record, Recorded, Submitted
from ipkernel.controller.living import Live
from ipkernel.controller.rows import Row, decode, encode, payload_bytes
from ipkernel.errors import JournalError

logger = logging.getLogger(__name__)

#: What is lost at most when the machine loses power, or only the process is killed.
LEVELS: Final = ("process", "power", "off")
#: Payload of a commit that is made in the reactor's thread, at most.
INLINE_BYTES: Final = 1 << 18
#: How large the write-ahead log gets before it is moved to the database, in bytes.
WAL_BYTES: Final = 16 << 20

_T = TypeVar("_T")
_INSERT: Final = "INSERT INTO log VALUES (?, ?, ?, ?)"


@implementer(IJournal)
class SqliteJournal:
    """A journal in a file.

    Args:
        path: Of the file; it is made when there is none. Its directory is there, and private.
        cluster: Name of the cluster.
        reactor: Twisted's reactor.
        power: Whether commits must outlive a loss of power, not only the process.
        run: Calls a function in a thread, and returns a Deferred of its result; by default
            one of the reactor's.

    Raises:
        JournalError: The file belongs to another controller, cluster, program or release.
        OSError: It cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster: str,
        reactor: Any,
        power: bool = False,
        run: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        self.path = path
        self.power = power
        self._reactor = reactor
        self._run = run if run is not None else self._in_thread
        self._live = Live()
        self._loaded = False
        self._lock = sqlitefile.take_lock(path)
        try:
            sqlitefile.create(path, cluster)
            self._writer = sqlitefile.connect(path)
            sqlitefile.check(self._writer, path, cluster)
        except sqlite3.Error as error:
            self._lock.close()
            raise JournalError(f"cannot open the journal {path}: {error}") from None
        except BaseException:
            self._lock.close()
            raise
        self._writer.execute(f"PRAGMA synchronous={'FULL' if power else 'NORMAL'}")
        self._reader: sqlite3.Connection | None = None
        (last,) = self._writer.execute("SELECT max(seq) FROM log").fetchone()
        self._seq = last or 0

    def _in_thread(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    # -------------------------------------------------------------------------- writing

    def commit(self, records: Sequence[Record]) -> Deferred[None] | None:
        """Keep ``records``, all of them or none; see :class:`IJournal`."""
        payload = payload_bytes(records)
        if self.power or payload > INLINE_BYTES:
            return self._run(self._write, records, payload).addCallbacks(
                self._written, _cannot_write
            )
        try:
            rows = self._write(records, payload)
        except sqlite3.Error as error:
            return fail(_error(error))
        self._written(rows)
        return None

    def _write(self, records: Sequence[Record], payload: int) -> list[Row]:
        """Write records; return their rows."""
        database = self._writer
        rows = encode(records, payload)
        if self._loaded and len(rows) == 1:
            number = self._seq + 1
            blob = rows[0].blob
            database.execute(_INSERT, (number, crc32(blob, number), 0, blob))
            return rows
        database.execute("BEGIN IMMEDIATE")
        try:
            if not self._loaded:
                database.execute("DELETE FROM log")
            for number, (blob, _, pieces) in enumerate(rows, self._seq + 1):
                database.execute(_INSERT, (number, crc32(blob, number), pieces, blob))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        self._loaded = True
        return rows

    def _written(self, rows: list[Row]) -> None:
        for number, row in enumerate(rows, self._seq + 1):
            self._live.note(number, row.records)
        self._seq += len(rows)

    # -------------------------------------------------------------------------- reading

    def load(self) -> Iterator[Record]:
        """Return what was recorded before and still matters; see :class:`IJournal`."""
        self._loaded = True
        live = self._live
        for number, records in self._rows():
            live.note(number, records)
        for number, records in self._rows():
            kept = live.sift(number, records)
            for record in records if kept is None else kept:
                yield _on_its_own(record)

    def _rows(self) -> Iterator[tuple[int, list[Record]]]:
        """Return the records of all rows, with the number of each row."""
        found = self._writer.execute("SELECT seq, crc, pieces, blob FROM log ORDER BY seq")
        for number, crc, pieces, blob in found:
            parts = [(blob, crc, number)]
            for _ in range(pieces):
                more, crc, _, blob = found.fetchone()
                parts.append((blob, crc, more))
            if any(crc32(blob, at) != crc for blob, crc, at in parts):
                logger.error("row %d of the journal is damaged", number)
                continue
            yield number, decode(parts[0][0], [blob for blob, _, _ in parts[1:]])

    def read(self, task: int) -> Recorded | None:
        """Return what is kept of a task that has ended; see :class:`IJournal`."""
        if self._reader is None:
            self._reader = sqlitefile.connect(self.path, read_only=True)
        output: list[Any] = []
        result = None
        for row in self._live.rows(task):
            for record in self._row(row):
                if isinstance(record, Printed | Ended):
                    for message, payload in record.items:
                        if message.task != task:
                            continue
                        if isinstance(record, Printed):
                            output.append((message, bytes(payload)))
                        else:
                            result = message, bytes(payload)
        return None if result is None else (output, *result)  # type: ignore[return-value]

    def _row(self, number: int) -> list[Record]:
        assert self._reader is not None
        select = "SELECT crc, pieces, blob FROM log WHERE seq = ?"
        found = self._reader.execute(select, (number,)).fetchone()
        if found is None:
            return []
        crc, pieces, blob = found
        if crc32(blob, number) != crc:
            logger.error("row %d of the journal is damaged", number)
            return []
        more = []
        for at in range(number + 1, number + 1 + pieces):
            piece = self._reader.execute(select, (at,)).fetchone()
            if piece is None or crc32(piece[2], at) != piece[0]:
                logger.error("row %d of the journal is damaged", at)
                return []
            more.append(piece[2])
        return decode(blob, more)

    def close(self) -> None:
        """Let go of the files."""
        if self._reader is not None:
            self._reader.close()
        self._writer.close()
        self._lock.close()


def _on_its_own(record: Record) -> Record:
    """Return the record with payloads that do not keep all of their row in memory."""
    if isinstance(record, Submitted):
        own = [(message, bytes(payload)) for message, payload in record.items]
        return Submitted(record.session, record.time, own, record.taken)  # type: ignore[arg-type]
    if isinstance(record, Ended):
        return Ended(record.time, [(m, bytes(p)) for m, p in record.items])
    if isinstance(record, Printed):
        return Printed([(m, bytes(p)) for m, p in record.items])
    return record


def _error(error: Exception) -> JournalError:
    return JournalError(str(error))


def _cannot_write(failure: Any) -> None:
    failure.trap(sqlite3.Error, msgspec.MsgspecError)
    raise _error(failure.value)
