"""Journals whose files were cut off, overwritten or locked: nothing is lost that is whole."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from ipkernel.controller import sqlitefile, sqlitelog
from ipkernel.controller.journal import Forgotten, Record, SessionBegan, Submitted
from ipkernel.controller.sqlitejournal import SqliteJournal
from ipkernel.errors import JournalError
from ipkernel.wire.messages import Submit
from tests.support.journals import submit, task

SESSION = SessionBegan(5, 1.0, "me", "tub")


def turn(count: int, size: int = 300) -> list[Record]:
    """Return the records of one turn."""
    return [Submitted(5, 2.0, [submit(task(5, count), bytes(size))], count)]


class Opened:
    """The journal of a directory, in a process that may be killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "journal.sqlite"
        self.journal = SqliteJournal(self.path, cluster="c", reactor=Clock(), run=execute)

    def commit(self, records: list[Record]) -> str:
        """Commit; return why that failed, or nothing."""
        written = self.journal.commit(records)
        if written is None:
            return ""
        problems: list[str] = []
        written.addErrback(lambda f: problems.append(f.getErrorMessage()))
        return "; ".join(problems)

    def killed(self, name: str) -> Path:
        """Return a copy of the files as they are now, as if the process had been killed."""
        copy = self.directory.parent / name
        copy.mkdir()
        for path in self.directory.iterdir():
            if not path.name.endswith("-shm"):
                shutil.copy(path, copy)
        return copy


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no row wait in the tail: this is about the database."""
    monkeypatch.setattr(sqlitelog, "LARGE", 0)


@pytest.fixture
def opened(tmp_path: Path, at_once: None) -> Iterator[Opened]:
    """Return a new journal."""
    directory = tmp_path / "state"
    directory.mkdir()
    found = Opened(directory)
    assert list(found.journal.load()) == []
    yield found
    found.journal.close()


def restored(directory: Path) -> tuple[list[int], str]:
    """Return the counts of the tasks in a journal, and what is said of it."""
    again = Opened(directory)
    try:
        counts = [
            message.task - task(5, 0)
            for record in again.journal.load()
            if isinstance(record, Submitted)
            for message, _ in record.items
            if isinstance(message, Submit)
        ]
        return counts, again.journal.notice
    finally:
        again.journal.close()


def test_a_write_ahead_log_that_is_cut_off_anywhere_loses_its_end_only(
    opened: Opened, tmp_path: Path
) -> None:
    sizes = []
    for count in range(20):
        assert not opened.commit(turn(count))
        sizes.append(os.path.getsize(f"{opened.path}-wal"))
    chosen = random.Random(1)
    for index, end in enumerate([0, 31, 33, *chosen.sample(range(sizes[-1]), 25)]):
        copy = opened.killed(f"cut-{index}")
        os.truncate(copy / "journal.sqlite-wal", end)
        whole = sum(size <= end for size in sizes)
        assert restored(copy) == (list(range(whole)), "")


def test_a_write_ahead_log_that_is_torn_anywhere_loses_its_end_only(opened: Opened) -> None:
    sizes = []
    for count in range(20):
        assert not opened.commit(turn(count))
        sizes.append(os.path.getsize(f"{opened.path}-wal"))
    chosen = random.Random(2)
    for index in range(20):
        at = chosen.randrange(32, sizes[-1])
        copy = opened.killed(f"torn-{index}")
        with open(copy / "journal.sqlite-wal", "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x55]))
        counts, notice = restored(copy)
        whole = sum(size <= at for size in sizes)
        assert counts == list(range(whole))
        assert not notice


def test_rows_around_damaged_pages_are_saved(opened: Opened, tmp_path: Path) -> None:
    total = 400
    for count in range(total):
        assert not opened.commit(turn(count))
    opened.journal.close()
    size = os.path.getsize(opened.path)
    chosen = random.Random(3)
    for index in range(12):
        copy = opened.killed(f"damaged-{index}")
        with open(copy / "journal.sqlite", "r+b") as file:
            for _ in range(1 + index % 3):
                file.seek(chosen.randrange(8192, size - 600))
                file.write(chosen.randbytes(500))
        counts, notice = restored(copy)
        assert counts == sorted(set(counts))
        assert set(counts) <= set(range(total))
        if len(counts) < total:
            assert "was broken" in notice
            [aside] = copy.glob("journal-*.broken.sqlite")
            assert aside.name in notice
            assert f"{len(counts)} whole rows of it were saved" in notice or not counts
        again, later = restored(copy)  # the new file is sound
        assert (again, later) == (counts, "")


def test_one_damaged_page_costs_its_own_rows_only(opened: Opened) -> None:
    for count in range(2000):
        assert not opened.commit(turn(count, 100))
    opened.journal.close()
    with open(opened.path, "r+b") as file:
        file.seek(os.path.getsize(opened.path) // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    counts, notice = restored(opened.directory)
    assert "was broken" in notice
    assert 1900 < len(counts) < 2000
    assert {0, 1, 1998, 1999} <= set(counts)


def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database" * 1000)
    opened = Opened(tmp_path)
    try:
        assert "nothing of it could be saved" in opened.journal.notice
        [aside] = tmp_path.glob("journal-*.broken.sqlite")
        assert aside.read_bytes().startswith(b"this is no database")
        assert list(opened.journal.load()) == []
        assert not opened.commit([SESSION])
    finally:
        opened.journal.close()
    assert restored(tmp_path) == ([], "")


def test_a_journal_that_breaks_while_it_is_used_goes_on_in_a_new_file(opened: Opened) -> None:
    for count in range(300):
        assert not opened.commit(turn(count))
    journal = opened.journal
    journal._log.restart()
    journal._log.tidy()
    journal._log._writer.close()  # what it has read is in its memory
    with open(opened.path, "r+b") as file:
        file.seek(os.path.getsize(opened.path) - 8192)
        file.write(b"\xff" * 8192)
    journal._log._writer = sqlitefile.connect(opened.path)
    for count in range(300, 320):
        assert not opened.commit(turn(count))
    assert "was broken" in journal.notice
    counts, notice = restored(opened.killed("again"))
    assert not notice
    assert set(range(300, 320)) <= set(counts)
    assert len(counts) > 250


CHANGES = [
    "DROP TABLE log",
    "DROP TABLE meta",
    "ALTER TABLE log RENAME COLUMN pieces TO parts",
    "ALTER TABLE log ADD COLUMN more INTEGER",
    "ALTER TABLE meta RENAME COLUMN value TO val",
]


def changed(path: Path, change: str) -> None:
    """Do to the tables of a journal what some other program might do."""
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_journal_whose_tables_were_changed_is_put_aside(opened: Opened, change: str) -> None:
    assert not opened.commit([SESSION])
    for count in range(100):
        assert not opened.commit(turn(count))
    opened.journal.close()
    changed(opened.path, change)
    counts, notice = restored(opened.directory)
    if "ADD COLUMN" in change:  # the rows are as they were; the next one would not fit
        assert counts == list(range(100))
        assert not notice
        return
    assert f"{opened.path} was broken (no such " in notice
    assert "; some other program has changed it) and is journal-" in notice
    [aside] = opened.directory.glob("journal-*.broken.sqlite")
    assert f"{aside.name} may be removed" in notice
    assert counts == ([] if "TABLE log" in change else list(range(100)))
    assert restored(opened.directory) == (counts, "")


@pytest.mark.parametrize("change", [CHANGES[0], CHANGES[3]])  # the others matter when it is opened
def test_a_journal_whose_tables_are_changed_while_it_is_used_goes_on_in_a_new_file(
    opened: Opened, change: str
) -> None:
    for count in range(100):
        assert not opened.commit(turn(count))
    changed(opened.path, change)
    for count in range(100, 200):
        assert not opened.commit(turn(count))
    assert "some other program has changed it" in opened.journal.notice
    counts, notice = restored(opened.killed("again"))
    assert not notice
    assert set(range(100, 200)) <= set(counts)


def test_a_journal_that_another_process_writes_to_is_tried_again(opened: Opened) -> None:
    assert not opened.commit(turn(0))
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "locked" in opened.commit(turn(1))
    other.execute("ROLLBACK")
    assert not opened.commit(turn(1))
    assert restored(opened.killed("copy")) == ([0, 1], "")
    other.close()


def test_somebody_who_reads_is_in_nobodys_way(opened: Opened) -> None:
    assert not opened.commit(turn(0))
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("BEGIN")
    assert other.execute("SELECT count(*) FROM log").fetchone() == (1,)
    for count in range(1, 50):
        assert not opened.commit(turn(count))
    opened.journal._log.checkpoint()
    opened.journal._log.restart()
    assert not opened.commit([Forgotten(3.0, [task(5, 0)])])
    assert other.execute("SELECT count(*) FROM log").fetchone() == (1,)
    other.close()
    assert restored(opened.killed("copy")) == (list(range(1, 50)), "")


class Refusing:
    """A connection on which some statements fail."""

    def __init__(self, connection: Any, refuse: str, problem: str) -> None:
        self._connection = connection
        self._refuse = refuse
        self._problem = problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> Any:
        if statement.startswith(self._refuse):
            raise sqlite3.OperationalError(self._problem)
        return self._connection.execute(statement, *args)


@pytest.mark.parametrize("refuse", ["INSERT", "COMMIT", "BEGIN"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_commit_that_fails_leaves_nothing_and_can_be_made_again(
    opened: Opened, refuse: str, rows: int
) -> None:
    assert not opened.commit(turn(0))
    log = opened.journal._log
    writer = log._writer
    big = [record for count in range(1, rows + 1) for record in turn(count, 200_000)]
    log._writer = Refusing(writer, refuse, "database or disk is full")  # type: ignore[assignment]
    problem = opened.commit(big)
    if rows == 1 and refuse != "INSERT":
        assert not problem  # one row is one statement
    else:
        assert "disk is full" in problem
        assert restored(opened.killed("failed")) == ([0], "")
        log._writer = writer
        assert not opened.commit(big)
    log._writer = writer
    assert restored(opened.killed("copy")) == (list(range(rows + 1)), "")


def test_a_journal_that_cannot_be_read_is_no_empty_one(opened: Opened) -> None:
    assert not opened.commit(turn(0))
    opened.journal.close()
    again = Opened(opened.directory)
    try:
        log = again.journal._log
        log._writer = Refusing(log._writer, "SELECT", "disk I/O error")  # type: ignore[assignment]
        with pytest.raises(JournalError, match="disk I/O error"):
            list(again.journal.load())
    finally:
        again.journal.close()
    assert restored(opened.directory) == ([0], "")


def test_commits_wait_for_housekeeping(tmp_path: Path, at_once: None) -> None:
    waiting: list[tuple[Deferred[Any], Any, tuple[Any, ...]]] = []

    def later(function: Any, *args: Any) -> Deferred[Any]:
        waiting.append((Deferred(), function, args))
        return waiting[-1][0]

    clock = Clock()
    journal = SqliteJournal(tmp_path / "journal.sqlite", cluster="c", reactor=clock, run=later)
    try:
        assert list(journal.load()) == []
        assert journal.commit(turn(0)) is None
        clock.pump([4.0, 4.0])
        assert len(waiting) == 1
        written = journal.commit(turn(1))
        assert isinstance(written, Deferred)
        done: list[object] = []
        written.addBoth(done.append)
        deferred, function, args = waiting.pop()
        deferred.callback(function(*args))
        assert done == [None]
        assert os.path.getsize(tmp_path / "journal.sqlite-wal") > 0
    finally:
        journal.close()
    assert restored(tmp_path) == ([0, 1], "")


@pytest.mark.parametrize(
    "change",
    [
        "blob = 'a text' WHERE seq = 4",
        "blob = 7 WHERE seq = 4",
        "crc = 'x' WHERE seq = 4",
        "pieces = -7 WHERE seq = 4",
        "pieces = 1000000000 WHERE seq = 4",
        "pieces = 'x' WHERE seq = 4",
        "seq = 9223372036854775807 WHERE seq = 4",
    ],
)
def test_a_row_that_cannot_be_costs_itself_only(opened: Opened, change: str) -> None:
    opened.commit([SESSION])
    for count in range(6):
        assert not opened.commit(turn(count))
    copy = opened.killed("copy")
    database = sqlite3.connect(copy / "journal.sqlite")
    database.execute(f"UPDATE log SET {change}")
    database.commit()
    database.close()
    again = Opened(copy)
    try:
        found = [record.taken for record in again.journal.load() if isinstance(record, Submitted)]
        assert found == [0, 1, 3, 4, 5]
        assert "6 whole rows of it were saved" in again.journal.notice
        assert not again.commit(turn(6))
    finally:
        again.journal.close()
    counts, notice = restored(copy)
    assert (counts, notice) == ([0, 1, 3, 4, 5, 6], "")


def test_a_payload_of_which_a_piece_is_missing_costs_itself_only(opened: Opened) -> None:
    opened.commit([SESSION])
    for count, size in enumerate([300, 700_000, 300]):
        assert not opened.commit(turn(count, size))
    copy = opened.killed("copy")
    database = sqlite3.connect(copy / "journal.sqlite")
    database.execute("DELETE FROM log WHERE seq = (SELECT min(seq) FROM log WHERE pieces = -1)")
    database.commit()
    database.close()
    counts, notice = restored(copy)
    assert counts == [0, 2]
    assert "was broken" in notice
    assert restored(copy) == ([0, 2], "")


def test_a_format_that_never_was(opened: Opened) -> None:
    copy = opened.killed("copy")
    database = sqlite3.connect(copy / "journal.sqlite")
    database.execute("PRAGMA user_version = -3")
    database.close()
    with pytest.raises(JournalError, match="has format -3: it is damaged; move it away"):
        Opened(copy)
