# mypy: allow-untyped-calls
"""The journal that outlives the process: a log in an SQLite file.

One row is one turn of the controller, or a part of a large one. Commits of a few kilobytes are made
where they are asked for, in some microseconds: they reach the operating system, which is
enough for whatever may happen to the process. Nothing here waits for a disk in the reactor's thread.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from ipkernel.controller import sqlitefile
from ipkernel.controller.journal import Ended, IJournal, Printed, Record, Recorded, Submitted
from ipkernel.controller.living import Live
from ipkernel.controller.rows import Row, encode, payload_bytes
from ipkernel.controller.sqlitelog import NO_ROW, Log
from ipkernel.controller.sqlitesalvage import is_broken, replace, what_is_wrong
from ipkernel.controller.sqlitetail import LARGE
from ipkernel.controller.tasks import Payload
from ipkernel.errors import JournalError
from ipkernel.wire.messages import Finished, Output

logger = logging.getLogger(__name__)

#: Payload of a commit that is made in the reactor's thread, at most.
INLINE_BYTES: Final = 1 << 18
#: How large the write-ahead log gets before it is moved to the database, in bytes, about.
WAL_BYTES: Final = 16 << 20
#: What a commit costs there besides its content, in bytes, about.
_COMMIT_BYTES: Final = 8 << 10
#: Pages left there that a commit may wait for.
_FEW_PAGES: Final = 256
#: Seconds without a commit after which the file is tidied up.
IDLE: Final = 3.0
#: Bytes that are swept at a time then.
_IDLE_SWEEP: Final = 8 << 20


@implementer(IJournal)
class SqliteJournal:
    """A journal in a file.

    Args:
        path: Of the file; it is made when there is none. Its directory is there, and private.
        cluster: Name of the cluster.
        reactor: Twisted's reactor.
        power: Whether commits must outlive a loss of power, not only the process.
        run: Calls a function in a thread, and returns a Deferred of its result; by default
            in one of the reactor's.

    Attributes:
        path: As given.
        power: As given.
        level: ``"power"`` or ``"process"``.
        notice: What a user should know of it; empty if it is sound.

    Raises:
        JournalError: The file belongs to another controller, cluster, program or release, or
            cannot be opened or made.
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
        self.level = "power" if power else "process"
        self._reactor = reactor
        self._run = run if run is not None else self._in_thread
        self._cluster = cluster
        self.notice = ""
        try:
            self._lock = sqlitefile.take_lock(path)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            self._log = self._open()
        except sqlite3.Error as error:
            self._lock.close()
            reason = sqlitefile.reason(error, path)
            raise JournalError(f"cannot open the journal {path}: {reason}") from None
        except OSError as error:
            self._lock.close()
            raise _unusable(path, error) from None
        except BaseException:
            self._lock.close()
            raise
        self._loaded = False
        self._closed = False
        self._wal = 0  # bytes written since it was begun, about
        self._checkpointing = False
        self._restart_due = False
        self._busy: Deferred[None] | None = None  # fires when the file is tidied up
        self._writing = False  # in a thread
        self._gathered: list[tuple[int, Sequence[Record]]] = []  # what is not in the account yet
        self._commits = 0
        self._idle: Any = None
        self._idle_since = 0  # how many commits there were

    def _open(self) -> Log:
        try:
            sqlitefile.prepare(self.path, self._cluster)
            return Log(self.path, self.power)
        except sqlite3.Error as error:
            if not is_broken(error):
                raise
            return self._mended(what_is_wrong(error))

    def _mended(self, problem: str) -> Log:
        """Begin a new file with what can be saved from the old one."""
        kept, damage, aside = replace(self.path, self._cluster)
        what = f"{kept} whole rows of it were saved" if kept else "nothing of it could be saved"
        self.notice = (
            f"the journal {self.path} was broken ({problem}) and is {aside.name} now; {what}. What "
            f"stood in {damage} damaged places is lost: tasks may be missing, or run again. A new "
            f"journal is in use; {aside.name} may be removed"
        )
        logger.error("%s", self.notice)
        return Log(self.path, self.power)

    def _mend(self, problem: str) -> None:
        old = self._log
        old.close()
        self._log = self._mended(problem)
        self._log.live = old.live
        self._log.last = max(old.last, self._log.last)  # numbers are not used again

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    @property
    def size(self) -> int:
        """Bytes of what is in it, dead or alive."""
        return self._log.size

    # -------------------------------------------------------------------------- writing

    def commit(self, records: Sequence[Record]) -> Deferred[None] | None:
        """Keep ``records``, all of them or none; see :class:`IJournal`."""
        if self._busy is not None:
            return self._after(self._busy, records)
        payload = payload_bytes(records)
        try:
            if payload < LARGE and self._gather(records, payload):
                return None
        except sqlite3.Error as error:
            return fail(JournalError(str(error)))
        self._note_gathered()
        if self.power or payload > INLINE_BYTES or self._restart_due:
            written = self._run(self._write_or_mend, records, payload, self._restart_due)
            self._restart_due = False
            self._writing = True
            return written.addBoth(self._returned).addCallbacks(self._written, _cannot_write)
        try:
            rows = self._write(records, payload)
        except sqlite3.Error as error:
            if is_broken(error):
                self._writing = True
                problem = what_is_wrong(error)
                mended = self._run(self._mend_and_write, problem, records, payload)
                return mended.addBoth(self._returned).addCallbacks(self._written, _cannot_write)
            return fail(JournalError(str(error)))
        self._written(rows)
        return None

    def _gather(self, records: Sequence[Record], payload: int) -> bool:
        """Write a small turn where it is quickly done; tell whether that was possible."""
        if not self._loaded or self._restart_due:
            return False
        (row,) = encode(records, payload)
        if not self._log.gather(row.blob):
            return False
        self._gathered.append((self._log.last, row.records))
        self._commits += 1
        self._wal += len(row.blob)
        if self._idle is None:
            self._look_later()
        return True

    def _note_gathered(self) -> None:
        """Tell the account of what is live what it was not told of: that is cheaper together."""
        gathered, self._gathered = self._gathered, []
        for number, records in gathered:
            self._log.live.note(number, records)

    def _returned(self, result: Any) -> Any:
        self._writing = False
        return result

    def _after(self, busy: Deferred[None], records: Sequence[Record]) -> Deferred[None]:
        """Commit when housekeeping is done."""
        waiting: Deferred[None] = Deferred()
        busy.chainDeferred(waiting)
        return waiting.addCallback(lambda _: self.commit(records))

    def _write(self, records: Sequence[Record], payload: int, restart: bool = False) -> list[Row]:
        """Write records; return their rows."""
        rows = encode(records, payload)
        if restart:
            self._log.restart()
        if not self._loaded:
            self._log.clear()
            self._loaded = True
        self._log.append(rows)
        return rows

    def _write_or_mend(self, records: Sequence[Record], payload: int, restart: bool) -> list[Row]:
        try:
            return self._write(records, payload, restart)
        except sqlite3.Error as error:
            if not is_broken(error):
                raise
            return self._mend_and_write(what_is_wrong(error), records, payload)

    def _mend_and_write(self, problem: str, records: Sequence[Record], payload: int) -> list[Row]:
        self._mend(problem)
        return self._write(records, payload)

    def _written(self, rows: list[Row]) -> None:
        log = self._log
        written = _COMMIT_BYTES
        for number, row in enumerate(rows, log.last - len(rows) + 1):
            written += len(row.blob)
            if row.records:
                log.live.note(number, row.records)
        self._commits += 1
        self._wal += written
        if self._wal > WAL_BYTES and not self._checkpointing:
            self._checkpoint()
        if self._idle is None:
            self._look_later()

    def _look_later(self) -> None:
        if not self._closed:
            self._idle_since = self._commits
            self._idle = self._reactor.callLater(IDLE, self._look_whether_idle)

    # ---------------------------------------------------------------------- housekeeping

    def _checkpoint(self) -> None:
        """Empty the write-ahead log while others write."""
        self._checkpointing = True
        self._run(self._log.checkpoint).addCallbacks(self._checkpointed, self._not_tidied)

    def _checkpointed(self, left: int) -> None:
        self._checkpointing = False
        if left > _FEW_PAGES and not self._closed:
            self._checkpoint()  # what was written meanwhile
        else:
            self._restart_due = True
            self._wal = 0

    def _look_whether_idle(self) -> None:
        """Tidy up when there was no commit lately."""
        self._idle = None
        busy = self._busy is not None or self._checkpointing or self._writing
        if self._commits != self._idle_since or busy:
            self._look_later()
            return
        self._note_gathered()
        self._busy = Deferred()
        self._run(self._tidy).addCallbacks(self._tidied, self._not_tidied)

    def _tidy(self) -> bool:
        return self._log.sweep(_IDLE_SWEEP) or self._log.tidy()

    def _tidied(self, more: bool) -> None:
        self._wal = 0
        self._restart_due = False
        if more and not self._closed:
            self._idle_since = self._commits
            self._idle = self._reactor.callLater(0, self._look_whether_idle)
        self._go_on()

    def _not_tidied(self, failure: Any) -> None:
        failure.trap(sqlite3.Error)
        logger.error("the journal's file could not be tidied up: %s", failure.getErrorMessage())
        self._checkpointing = False
        self._wal = 0  # try again after as many bytes
        self._go_on()

    def _go_on(self) -> None:
        busy, self._busy = self._busy, None
        if busy is not None:
            busy.callback(None)

    # -------------------------------------------------------------------------- reading

    def load(self) -> Iterator[Record]:
        """Return what was recorded before and still matters; see :class:`IJournal`."""
        self._loaded = True
        self._gathered.clear()  # it is found again
        try:
            self._account()
            if self._log.damaged:
                raise _Damaged
        except (_Damaged, *NO_ROW):
            self._mended_account("rows of it are not what was written")
        except sqlite3.Error as error:
            if not is_broken(error):
                raise JournalError(f"cannot read the journal {self.path}: {error}") from None
            self._mended_account(what_is_wrong(error))
        live = self._log.live
        for number, records in self._log.scan():
            kept = live.sift(number, records)
            for record in records if kept is None else kept:
                yield _on_its_own(record)

    def _mended_account(self, problem: str) -> None:
        """Do the same with what can be saved. Numbers in the broken file are not to be trusted."""
        self._log.close()
        self._log = self._mended(problem)
        self._account()

    def _account(self) -> None:
        """Find out what in the log is live."""
        live = self._log.live = Live()
        for number, records in self._log.scan():
            live.note(number, records)

    def read(self, tasks: Collection[int]) -> dict[int, Recorded]:
        """Return what is kept of tasks that have ended; see :class:`IJournal`.

        Rows have what became of many tasks at a time, so it takes much less to ask for them together.
        """
        self._note_gathered()
        wanted = frozenset(tasks)
        output: dict[int, list[tuple[Output, Payload]]] = {}
        results: dict[int, tuple[Finished, Payload]] = {}
        for row in self._log.live.rows(wanted):
            try:
                records = self._log.read(row)
            except (sqlite3.Error, *NO_ROW) as error:
                logger.error("row %d of the journal cannot be read: %s", row, error)
                continue
            for record in records:
                if isinstance(record, Printed):
                    for printed, payload in record.items:
                        if printed.task in wanted:
                            output.setdefault(printed.task, []).append((printed, bytes(payload)))
                elif isinstance(record, Ended):
                    for finished, payload in record.items:
                        if finished.task in wanted:
                            results[finished.task] = finished, bytes(payload)
        return {task: (output.get(task, []), *result) for task, result in results.items()}

    def close(self) -> None:
        """Let go of the files."""
        if self._closed:
            return
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._log.close()
        self._lock.close()


class _Damaged(Exception):
    """There are rows whose checksums are wrong."""


def _on_its_own(record: Record) -> Record:
    """Return the record with payloads that do not keep all of their row in memory."""
    kind = type(record)
    if kind is not Submitted and kind is not Ended and kind is not Printed:
        return record
    items: Any = [(message, bytes(payload)) for message, payload in record.items]  # type: ignore[union-attr]
    if isinstance(record, Submitted):
        return Submitted(record.session, record.time, items, record.taken)
    if isinstance(record, Ended):
        return Ended(record.time, items, record.submitted)
    return Printed(items)


def _unusable(path: Path, error: OSError) -> JournalError:
    """Return what to tell of a directory, or its disk, in which there can be no journal."""
    return JournalError(
        f"cannot open the journal {path}: {error.strerror or error}; see to its directory, or do "
        f"without one: journal = off"
    )


def _cannot_write(failure: Any) -> None:
    failure.trap(sqlite3.Error)
    raise JournalError(failure.getErrorMessage())
