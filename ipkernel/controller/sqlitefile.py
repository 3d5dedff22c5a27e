"""The file of the journal: an SQLite database with a schema, made, migrated and opened here."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ipkernel.errors import JournalError

#: Tells our files from other SQLite databases: "ipkj".
APPLICATION_ID: Final = 0x69706B6A
#: Version of the tables and of what is in the rows.
SCHEMA: Final = 2
#: Seconds that is waited for another process that has locked the file: when it is written, in the
#: reactor's thread, and when it is opened.
BUSY_TIME: Final = 0.02
OPEN_TIME: Final = 5.0

#: Bytes without which no journal can be opened.
_ROOM: Final = 128 << 10

_META: Final = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_LOG: Final = """\
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, pieces INTEGER NOT NULL, blob BLOB NOT NULL
)"""

#: What makes a file of the next version of one of the version that is the key.
MIGRATIONS: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {
    1: lambda _: None,  # the rows of 1 are rows of 2, which has further kinds of record
}


def tail(path: Path) -> Path:
    """Return where the latest rows of the journal at ``path`` are; see :mod:`.sqlitetail`."""
    return path.with_name(f"{path.name}-tail")


def create(path: Path, cluster: str) -> None:
    """Make an empty journal, for its owner only. Nothing is done if there is a file.

    It gets its name when it is whole: half of one would be taken for that of another program.

    Raises:
        OSError: It cannot be made.
        sqlite3.Error: Likewise.
    """
    if path.exists() and path.stat().st_size:
        return
    tail(path).unlink(missing_ok=True)  # of another one, which was moved away
    fresh = path.with_name(f"{path.name}-new")
    beside = fresh.with_name(f"{fresh.name}-journal")
    for left in (fresh, beside):
        left.unlink(missing_ok=True)
    try:
        _make(fresh, cluster)
        os.replace(fresh, path)
    finally:
        for left in (fresh, beside):
            left.unlink(missing_ok=True)


def _make(path: Path, cluster: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    database = connect(path)
    try:
        database.execute("PRAGMA synchronous=OFF")  # there is nothing to lose yet
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(_META)
        database.execute(_LOG)
        database.execute("INSERT INTO meta VALUES ('cluster', ?)", (cluster,))
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={SCHEMA}")
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode=WAL")
    finally:
        database.close()


def reason(error: sqlite3.Error, path: Path) -> str:
    """Return what an error says; a full disk, which SQLite calls an I/O error at times, by its name."""
    text = str(error)
    try:
        full = shutil.disk_usage(path.parent).free < _ROOM
    except OSError:
        full = False
    return f"{text} (the disk is full)" if full and "full" not in text else text


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection to the database at ``path``, which may be used in any thread."""
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        timeout=BUSY_TIME,
        isolation_level=None,
        check_same_thread=False,
    )
    database.execute("PRAGMA wal_autocheckpoint=0")
    return database


def prepare(path: Path, cluster: str) -> None:
    """See that there is a journal of this cluster, as this release writes them.

    Raises:
        JournalError: What is there is none, or one of a newer release, or of another cluster.
        OSError: None can be made.
        sqlite3.Error: Likewise, or it is broken.
    """
    create(path, cluster)
    database = connect(path)
    try:
        database.execute(f"PRAGMA busy_timeout={int(OPEN_TIME * 1000)}")
        check(database, path, cluster)
    finally:
        database.close()


def check(database: sqlite3.Connection, path: Path, cluster: str) -> None:
    """See that a database is a journal of this cluster, and bring it up to date.

    Raises:
        JournalError: It is none, or one of a newer release, or of another cluster.
        sqlite3.DatabaseError: It is broken.
    """
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is a database of another program: move it away")
    if version < 1:
        raise JournalError(f"{path} says that it has format {version}: it is damaged; move it away")
    if version > SCHEMA:
        raise JournalError(
            f"{path} was written by a newer release of ipkernel (format {version}; this one "
            f"reads up to {SCHEMA}): use that release, or move the file away to begin anew"
        )
    found = database.execute("SELECT value FROM meta WHERE key = 'cluster'").fetchone()
    if found is not None and found[0] != cluster:
        raise JournalError(
            f"{path} is the journal of cluster {found[0]!r}, not of {cluster!r}: give the cluster's "
            f"directory its name back, or move {path.parent} away to begin anew, and if the directory "
            f"was copied, {path.parent.parent / 'security'} as well"
        )
    if version < SCHEMA:
        database.execute("BEGIN IMMEDIATE")
        try:
            for old in range(version, SCHEMA):
                MIGRATIONS[old](database)
            database.execute(f"PRAGMA user_version={SCHEMA}")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def take_lock(path: Path) -> sqlite3.Connection:
    """Keep every other controller from the journal at ``path``, until the result is closed.

    Raises:
        JournalError: Another one has it, or the file for that is of no use.
    """
    beside = path.with_suffix(".lock")
    os.close(os.open(beside, os.O_CREAT | os.O_RDWR, 0o600))
    lock = connect(beside)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if "locked" in str(error):
            raise JournalError(f"another controller uses the journal {path}") from None
        advice = "" if isinstance(error, sqlite3.OperationalError) else "; remove it"
        raise JournalError(f"cannot use {beside}: {reason(error, beside)}{advice}") from None
    return lock
