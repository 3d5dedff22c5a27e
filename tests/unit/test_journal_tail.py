"""The tail of the journal: small rows are safe in a plain file until they go into the database."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from ipkernel.controller import sqlitefile, sqlitelog
from ipkernel.controller.journal import Ended, Forgotten, Record, SessionBegan, Submitted
from ipkernel.controller.sqlitejournal import SqliteJournal
from ipkernel.controller.sqlitetail import LARGE, MANY, Tail
from ipkernel.errors import JournalError
from ipkernel.wire.messages import Submit
from tests.support.journals import finished, submit, task


def turn(count: int, size: int = 100) -> list[Record]:
    """Return the records of one turn."""
    return [Submitted(5, 2.0, [submit(task(5, count), bytes(size))], count)]


def journal_of(directory: Path, **options: Any) -> SqliteJournal:
    """Open a journal."""
    path = directory / "journal.sqlite"
    return SqliteJournal(path, cluster="c", reactor=Clock(), run=execute, **options)


def counts(journal: SqliteJournal) -> list[int]:
    """Return the counts of the tasks in a journal that was just opened."""
    return [
        message.task - task(5, 0)
        for record in journal.load()
        if isinstance(record, Submitted)
        for message, _ in record.items
        if isinstance(message, Submit)
    ]


def killed(directory: Path, name: str) -> Path:
    """Return a copy of the files as they are now, as if the process had been killed."""
    copy = directory.parent / name
    copy.mkdir()
    for path in directory.iterdir():
        if not path.name.endswith("-shm"):
            shutil.copy(path, copy)
    return copy


def restored(directory: Path) -> list[int]:
    """Return the counts of the tasks in the journal of a directory."""
    again = journal_of(directory)
    try:
        assert again.notice == ""
        return counts(again)
    finally:
        again.close()


def in_database(directory: Path) -> int:
    """Return how many rows the database has."""
    other = sqlite3.connect(directory / "journal.sqlite")
    try:
        (found,) = other.execute("SELECT count(*) FROM log").fetchone()
        return int(found)
    finally:
        other.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return an empty directory."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def journal(state: Path) -> Iterator[SqliteJournal]:
    """Return a new journal."""
    made = journal_of(state)
    assert list(made.load()) == []
    yield made
    made.close()


def test_small_rows_gather_and_are_safe_at_once(journal: SqliteJournal, state: Path) -> None:
    for count in range(MANY):
        assert journal.commit(turn(count)) is None
    assert in_database(state) == 0
    assert restored(killed(state, "before")) == list(range(MANY))
    assert journal.commit(turn(MANY)) is None
    assert in_database(state) == MANY + 1
    assert restored(killed(state, "after")) == list(range(MANY + 1))


def test_a_large_row_goes_behind_the_small_ones(journal: SqliteJournal, state: Path) -> None:
    assert journal.commit(turn(0)) is None
    assert journal.commit(turn(1, LARGE)) is None
    assert in_database(state) == 2
    assert (state / "journal.sqlite-tail").stat().st_size == 0
    assert journal.commit(turn(2)) is None
    assert restored(killed(state, "copy")) == [0, 1, 2]


def test_what_must_outlive_a_loss_of_power_does_not_gather(state: Path) -> None:
    journal = journal_of(state, power=True)
    try:
        assert list(journal.load()) == []
        assert isinstance(journal.commit(turn(0)), Deferred)
        assert in_database(state) == 1
    finally:
        journal.close()


def test_a_result_in_the_tail_can_be_read(journal: SqliteJournal, state: Path) -> None:
    message, payload = finished(task(5, 0), b"result")
    assert journal.commit(turn(0)) is None
    assert journal.commit([Ended(3.0, [(message, payload)])]) is None
    assert in_database(state) == 0
    assert journal.read([task(5, 0)]) == {task(5, 0): ([], message, b"result")}


def test_what_gathers_is_accounted_for_before_the_log_is_swept(
    journal: SqliteJournal, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in range(10):
        assert journal.commit(turn(count)) is None
    ends: list[Any] = [finished(task(5, count), b"") for count in range(6)]
    assert journal.commit([Ended(3.0, ends)]) is None
    assert journal.commit([Forgotten(4.0, [task(5, count) for count in range(5)])]) is None
    monkeypatch.setattr(sqlitelog, "SMALL", 0)
    for count in range(10, 40):
        assert journal.commit(turn(count)) is None
    assert in_database(state) < 36
    assert restored(killed(state, "copy")) == list(range(6, 40))
    assert task(5, 5) in journal.read([task(5, 5)])
    assert journal.read([task(5, 4)]) == {}


def test_it_is_moved_when_the_controller_is_idle(state: Path) -> None:
    clock = Clock()
    path = state / "journal.sqlite"
    journal = SqliteJournal(path, cluster="c", reactor=clock, run=execute)
    try:
        assert list(journal.load()) == []
        assert journal.commit(turn(0)) is None
        clock.pump([4.0, 4.0])
        assert in_database(state) == 1
        assert sqlitefile.tail(path).stat().st_size == 0
    finally:
        journal.close()


def test_nothing_is_left_of_it_when_the_journal_is_closed(state: Path) -> None:
    journal = journal_of(state)
    assert list(journal.load()) == []
    assert journal.commit(turn(0)) is None
    tail = sqlitefile.tail(journal.path)
    assert tail.stat().st_mode & 0o077 == 0 or os.name == "nt"
    journal.close()
    assert not tail.exists()
    assert restored(state) == [0]


def test_who_does_not_load_begins_anew(journal: SqliteJournal, state: Path) -> None:
    assert journal.commit(turn(0)) is None
    copy = killed(state, "copy")
    again = journal_of(copy)
    assert again.commit(turn(1)) is None
    again.close()
    assert restored(copy) == [1]


def test_a_process_that_ends_in_the_middle_of_moving_leaves_nothing_twice(
    journal: SqliteJournal, state: Path
) -> None:
    for count in range(3):
        assert journal.commit(turn(count)) is None
    before = sqlitefile.tail(journal.path).read_bytes()
    assert journal.commit(turn(3, LARGE)) is None
    copy = killed(state, "copy")
    sqlitefile.tail(copy / "journal.sqlite").write_bytes(before)
    assert restored(copy) == [0, 1, 2, 3]


def test_a_tail_that_is_cut_off_anywhere_loses_its_end_only(
    journal: SqliteJournal, state: Path
) -> None:
    sizes = []
    for count in range(4):
        assert journal.commit(turn(count)) is None
        sizes.append(sqlitefile.tail(journal.path).stat().st_size)
    for end in [0, 1, *(size + more for size in sizes[:-1] for more in (-1, 0, 1, 20))]:
        copy = killed(state, f"cut-{end}")
        os.truncate(sqlitefile.tail(copy / "journal.sqlite"), end)
        assert restored(copy) == list(range(sum(size <= end for size in sizes)))


def test_a_damaged_row_is_found_and_costs_itself_only(journal: SqliteJournal, state: Path) -> None:
    tail = sqlitefile.tail(journal.path)
    sizes = []
    for count in range(3):
        assert journal.commit(turn(count)) is None
        sizes.append(tail.stat().st_size)
    copy = killed(state, "copy")
    with open(sqlitefile.tail(copy / "journal.sqlite"), "r+b") as file:
        file.seek(sizes[1] - 10)
        file.write(b"\xff" * 5)
    again = journal_of(copy)
    try:
        assert counts(again) == [0, 2]
        assert "was broken" in again.notice
    finally:
        again.close()


def test_the_tail_of_a_broken_journal_is_not_lost(journal: SqliteJournal, state: Path) -> None:
    for count in range(3):
        assert journal.commit(turn(count)) is None
    copy = killed(state, "copy")
    (copy / "journal.sqlite").write_bytes(b"this is no database" * 1000)
    (copy / "journal.sqlite-wal").unlink(missing_ok=True)
    again = journal_of(copy)
    try:
        assert "was broken" in again.notice
        assert counts(again) == [0, 1, 2]
    finally:
        again.close()


def test_a_journal_that_breaks_keeps_its_tail(journal: SqliteJournal, state: Path) -> None:
    assert journal.commit(turn(0)) is None
    journal._mend("a test")
    assert journal.commit(turn(1)) is None
    assert restored(killed(state, "copy")) == [0, 1]


def test_the_tail_of_a_journal_that_was_moved_away_is_not_taken(
    journal: SqliteJournal, state: Path
) -> None:
    assert journal.commit([SessionBegan(5, 1.0, "me", "tub")]) is None
    copy = killed(state, "copy")
    (copy / "journal.sqlite").unlink()
    (copy / "journal.sqlite-wal").unlink(missing_ok=True)
    assert restored(copy) == []


def failure(journal: SqliteJournal, records: list[Record]) -> str:
    """Return why a commit fails."""
    written = journal.commit(records)
    assert written is not None
    problems: list[Any] = []
    written.addErrback(problems.append)
    problems[0].trap(JournalError)
    return str(problems[0].getErrorMessage())


def test_a_row_that_cannot_be_moved_leaves_nothing_and_can_be_written_later(
    journal: SqliteJournal, state: Path
) -> None:
    for count in range(MANY):
        assert journal.commit(turn(count)) is None
    other = sqlite3.connect(state / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "locked" in failure(journal, turn(MANY))
    other.execute("ROLLBACK")
    other.close()
    assert restored(killed(state, "failed")) == list(range(MANY))
    assert journal.commit(turn(MANY)) is None
    assert restored(killed(state, "copy")) == list(range(MANY + 1))


@pytest.mark.parametrize("part", [0, 1, 30])
def test_a_disk_that_is_full_in_the_middle_of_a_row(
    journal: SqliteJournal, state: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.commit(turn(0)) is None
    write = os.write

    def some(file: int, data: bytes) -> int:
        if not part:
            raise OSError(28, "No space left on device")
        return write(file, data[:part])

    monkeypatch.setattr(os, "write", some)
    for _ in range(2):
        assert "journal.sqlite-tail" in failure(journal, turn(1))
    assert restored(killed(state, "failed")) == [0]
    monkeypatch.undo()
    assert journal.commit(turn(1)) is None
    assert restored(killed(state, "copy")) == [0, 1]


def test_a_tail_that_cannot_be_emptied_is_moved_once(
    journal: SqliteJournal, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.commit(turn(0)) is None

    def refuse(file: int, end: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", refuse)
    assert "Input/output error" in failure(journal, turn(1, LARGE))
    monkeypatch.undo()
    assert restored(killed(state, "failed")) == [0]
    assert journal.commit(turn(1, LARGE)) is None
    assert in_database(state) == 2
    assert restored(killed(state, "copy")) == [0, 1]


def test_closing_leaves_in_the_tail_what_cannot_be_moved(
    journal: SqliteJournal, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.commit(turn(0)) is None
    monkeypatch.setattr(sqlitelog, "_MOVE", "INSERT INTO nothing VALUES (?, ?, ?, ?)")
    journal.close()
    assert sqlitefile.tail(journal.path).stat().st_size > 0
    monkeypatch.undo()
    assert restored(state) == [0]


@given(blobs=st.lists(st.binary(max_size=200), max_size=8), cut=st.integers(0, 300))
def test_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], cut: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "tail"
    tail = Tail(path)
    rows = [(number, crc32(blob, number), 0, blob) for number, blob in enumerate(blobs, 7)]
    for number, crc, _, blob in rows:
        tail.add(number, crc, blob)
    assert list(tail.rows.values()) == rows
    tail.close()
    if not rows:
        assert not path.exists()
        return
    os.truncate(path, max(0, path.stat().st_size - cut))
    again = Tail(path)
    found = list(again.rows.values())
    assert found == rows[: len(found)]
    assert cut or found == rows
    again.clear()
    again.close()
    assert not path.exists()


def test_a_row_whose_number_cannot_be_costs_itself_only(
    journal: SqliteJournal, state: Path
) -> None:
    tail = sqlitefile.tail(journal.path)
    assert journal.commit(turn(0)) is None
    at = tail.stat().st_size
    for count in (1, 2):
        assert journal.commit(turn(count)) is None
    copy = killed(state, "copy")
    with open(sqlitefile.tail(copy / "journal.sqlite"), "r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)
    again = journal_of(copy)
    try:
        assert counts(again) == [0, 2]
        assert "was broken" in again.notice
        assert again.commit(turn(3)) is None
    finally:
        again.close()
    assert restored(copy) == [0, 2, 3]


def test_a_file_that_is_far_too_long_is_not_read_to_its_end(
    journal: SqliteJournal, state: Path
) -> None:
    assert journal.commit(turn(0)) is None
    copy = killed(state, "copy")
    os.truncate(sqlitefile.tail(copy / "journal.sqlite"), 1 << 32)  # most of which is a hole
    again = journal_of(copy)
    try:
        assert counts(again) == [0]
        assert "was broken" in again.notice
    finally:
        again.close()
