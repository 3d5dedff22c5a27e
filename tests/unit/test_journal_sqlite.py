"""The journal in an SQLite file: what is committed comes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from ipkernel.controller import rows, sqlitefile
from ipkernel.controller.journal import (
    Ended,
    Forgotten,
    HostCame,
    HostWent,
    IJournal,
    LifeBegan,
    Over,
    Printed,
    Record,
    SessionBegan,
    SessionClosed,
    Submitted,
)
from ipkernel.controller.sqlitejournal import SqliteJournal
from ipkernel.errors import JournalError
from tests.support.journals import finished, flat, function, output, stored, submit, task

Make = Callable[..., SqliteJournal]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that opens the journal of a directory; the last one is closed for it."""
    made: list[SqliteJournal] = []

    def open_it(cluster: str = "c", **options: Any) -> SqliteJournal:
        while made:
            made.pop().close()
        path = tmp_path / "journal.sqlite"
        made.append(SqliteJournal(path, cluster=cluster, reactor=Clock(), run=execute, **options))
        return made[-1]

    yield open_it
    while made:
        made.pop().close()


def begin(journal: SqliteJournal, *turns: list[Record]) -> SqliteJournal:
    """Commit to a new journal."""
    assert list(journal.load()) == []
    for records in turns:
        commit(journal, records)
    return journal


def commit(journal: SqliteJournal, records: list[Record]) -> None:
    written = journal.commit(records)
    if isinstance(written, Deferred):
        done: list[Any] = []
        written.addBoth(done.append)
        assert done == [None]


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("size", [10, 2 * rows.ROW_BYTES])
@pytest.mark.parametrize("poison", [SessionBegan(9, 9.0, "\ud800"), SessionClosed(1 << 70, 9.0)])
def test_what_has_no_encoding_holds_up_nothing_else(
    make: Make, caplog: pytest.LogCaptureFixture, power: bool, size: int, poison: Record
) -> None:
    item = submit(task(1, 1), bytes(size))
    sound: list[Record] = [SessionBegan(1, 1.0, "me"), Submitted(1, 2.0, [item], 1)]
    begin(make(power=power), [sound[0], poison, sound[1]], [poison])
    assert f"a record of kind {type(poison).__name__} cannot be written" in caplog.text
    assert flat(list(make().load())) == flat(sound)


def test_it_keeps_the_interface(make: Make) -> None:
    assert verifyObject(IJournal, make())


@pytest.mark.parametrize("power", [False, True])
def test_what_is_committed_comes_back(make: Make, power: bool) -> None:
    turns: list[list[Record]] = [
        [LifeBegan(1, 1.0), SessionBegan(5, 1.0, "me", "tub")],
        [Submitted(5, 2.0, [function(b"d" * 16), submit(task(5, 1)), submit(task(5, 2))], 3)],
        [HostCame(1, 3.0, "h", 9, "tub", [0, 1])],
        [Printed([output(task(5, 1)), output(task(5, 9))]), Ended(4.0, [finished(task(5, 9))])],
    ]
    begin(make(power=power), *turns)
    found = list(make(power=power).load())
    assert flat(found) == flat([record for records in turns for record in records])


def test_what_is_over_does_not_come_back(make: Make) -> None:
    begin(
        make(),
        [LifeBegan(1, 1.0)],
        [LifeBegan(2, 2.0), SessionBegan(5, 2.0, "me"), SessionBegan(6, 2.0, "you")],
        [Submitted(5, 2.0, [submit(task(5, i)) for i in (1, 2, 3)], 3)],
        [Submitted(6, 2.0, [function(b"d"), submit(task(6, 1))], 2)],
        [HostCame(1, 3.0, "h", 9, "tub", [0]), HostCame(2, 3.0, "i", 9, "tub", [1])],
        [Ended(4.0, [finished(task(5, 1)), finished(task(5, 2)), finished(task(6, 1))])],
        [Forgotten(5.0, [task(5, 1)]), SessionClosed(6, 5.0), HostWent(1, 5.0)],
    )
    assert flat(list(make().load())) == flat(
        [
            LifeBegan(2, 2.0),
            SessionBegan(5, 2.0, "me"),
            Submitted(5, 2.0, [submit(task(5, 3))], 3),
            HostCame(2, 3.0, "i", 9, "tub", [1]),
            Ended(4.0, [finished(task(5, 2)), finished(task(6, 1))]),
            Over(4.0, [finished(task(5, 1))[0]], [0.0]),
        ]
    )


def test_how_tasks_ended_is_known_after_their_results_are_forgotten(make: Make) -> None:
    tids = [task(5, i) for i in range(5)]
    journal = begin(
        make(),
        [SessionBegan(5, 1.0, "me"), Submitted(5, 2.0, [submit(tid) for tid in tids], 5)],
        [Ended(4.0, [finished(tid) for tid in tids], [1.0, 2.0, 3.0, 4.0, 5.0])],
        [Forgotten(5.0, [tids[0], tids[2]]), Forgotten(5.0, [tids[1], tids[4]], purged=True)],
    )
    for _ in range(2):
        found = [record for record in journal.load() if isinstance(record, Ended | Over)]
        assert flat(found) == flat(
            [
                Ended(4.0, [finished(tids[3])], [4.0]),
                Over(4.0, [finished(tids[0])[0], finished(tids[2])[0]], [1.0, 3.0]),
            ]
        )
        journal = make()
    list(journal.load())
    commit(journal, [Forgotten(6.0, [tids[0]], purged=True)])
    over = [record for record in make().load() if isinstance(record, Over)]
    assert flat(over) == flat([Over(4.0, [finished(tids[2])[0]], [3.0])])


def test_what_was_submitted_is_not_kept_with_the_result(make: Make) -> None:
    begin(
        make(),
        [SessionBegan(5, 2.0, "me")],
        [Submitted(5, 2.0, [submit(task(5, 1)), submit(task(5, 2), b"p", (0, 1))], 2)],
        [Ended(3.0, [finished(task(5, 1)), finished(task(5, 3))])],
    )
    assert flat(list(make().load())) == flat(
        [
            SessionBegan(5, 2.0, "me"),
            Submitted(5, 2.0, [submit(task(5, 2), b"p", (0, 1))], 2),  # one of two has not ended
            Ended(3.0, [finished(task(5, 1)), finished(task(5, 3))]),
        ]
    )


def test_how_much_was_taken_is_known_after_all_of_it_is_forgotten(make: Make) -> None:
    journal = begin(
        make(),
        [SessionBegan(5, 2.0, "me")],
        [Submitted(5, 2.0, [submit(task(5, 1))], 1)],
        [Submitted(5, 2.0, [submit(task(5, 2))], 2)],
        [Ended(4.0, [finished(task(5, 1)), finished(task(5, 2))])],
        [Forgotten(5.0, [task(5, 1), task(5, 2)])],
    )
    for _ in range(2):
        found = list(journal.load())
        over = Over(4.0, [finished(task(5, 1))[0], finished(task(5, 2))[0]], [0.0, 0.0])
        assert flat(found) == flat([SessionBegan(5, 2.0, "me"), Submitted(5, 2.0, [], 2), over])
        journal = make()


def test_who_does_not_load_begins_anew(make: Make) -> None:
    begin(make(), [SessionBegan(5, 2.0, "me")])
    commit(make(), [SessionBegan(6, 2.0, "you")])
    assert flat(list(make().load())) == flat([SessionBegan(6, 2.0, "you")])


def test_the_result_of_a_task_can_be_read(make: Make) -> None:
    journal = begin(
        make(),
        [Submitted(5, 2.0, [submit(task(5, i)) for i in range(4)], 4)],
        [Printed([output(task(5, 1), b"one"), output(task(5, 2), b"two")])],
        [Printed([output(task(5, 1), b"more")])],
        [Ended(4.0, [finished(task(5, 1), b"result"), finished(task(5, 3), b"x")])],
        [Ended(4.0, [finished(task(5, 2), b"single")])],
    )
    for _ in range(2):
        found = journal.read([task(5, 1)])[task(5, 1)]
        assert [bytes(payload) for _, payload in found[0]] == [b"one", b"more"]
        assert found[1:] == finished(task(5, 1), b"result")
        single = journal.read([task(5, 2)])[task(5, 2)]
        assert single[2] == b"single"
        assert journal.read([task(5, 0)]) == {}  # has not ended
        assert journal.read([task(9, 9)]) == {}
        journal = make()
        list(journal.load())
    commit(journal, [Forgotten(5.0, [task(5, 1)])])
    assert journal.read([task(5, 1)]) == {}


def test_of_many_tasks_each_row_is_read_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(5, i) for i in range(300)]
    turns: list[list[Record]] = [[Submitted(5, 2.0, [submit(t) for t in tasks], 300)]]
    for i in range(0, 300, 100):
        turns.append([Ended(3.0, [finished(t, b"r%d" % t) for t in tasks[i : i + 100]])])
    journal = begin(make(), *turns, [Printed([output(tasks[7], b"late")])])
    seen: list[int] = []
    read = journal._log.read

    def counting(row: int) -> list[Record]:
        seen.append(row)
        return read(row)

    monkeypatch.setattr(journal._log, "read", counting)
    found = journal.read(tasks[5:])
    assert {t: result for t, (_, _, result) in found.items()} == {t: b"r%d" % t for t in tasks[5:]}
    assert [bytes(payload) for _, payload in found[tasks[7]][0]] == [b"late"]
    assert len(seen) == len(set(seen)) == 4


def test_large_turns_and_payloads_take_several_rows(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROW_BYTES", 1000)
    long = bytes(range(256)) * 40
    turn: list[Record] = [
        Submitted(5, 2.0, [submit(task(5, i), bytes(300)) for i in range(20)], 20),
        Ended(3.0, [finished(task(6, 3), long), finished(task(6, 4), long)]),
        Submitted(5, 4.0, [submit(task(5, 20), long)], 21),
    ]
    journal = begin(make(), turn)
    for _ in range(2):
        found = journal.read([task(6, 4)])[task(6, 4)]
        assert found[2] == long
        journal = make()
        assert flat(list(journal.load())) == flat(turn)


def test_files_are_private(make: Make, tmp_path: Path) -> None:
    begin(make(), [SessionBegan(5, 2.0, "me")])
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_another_controller_is_refused(make: Make, tmp_path: Path) -> None:
    make()
    with pytest.raises(JournalError, match="another controller uses the journal"):
        SqliteJournal(tmp_path / "journal.sqlite", cluster="c", reactor=None)


def test_a_lock_that_is_no_lock(make: Make, tmp_path: Path) -> None:
    lock = tmp_path / "journal.lock"
    lock.write_text("garbage" * 100)
    with pytest.raises(JournalError, match=f"cannot use {lock}: file is not a database; remove it"):
        make()
    lock.unlink()
    make()


def test_the_journal_of_another_cluster_is_refused(make: Make) -> None:
    make("c")
    with pytest.raises(JournalError, match="is the journal of cluster 'c', not of 'd'"):
        make("d")
    make("c")


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_a_journal_that_could_not_be_made_is_in_nobodys_way(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    usage = sqlitefile.shutil.disk_usage(tmp_path)._replace(free=free)
    with monkeypatch.context() as patch:
        patch.setattr(sqlitefile, "_LOG", "CREATE nothing")  # it fails when a part is written
        patch.setattr(sqlitefile.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(JournalError, match="cannot open the journal") as caught:
            make()
    assert ("(the disk is full)" in str(caught.value)) is (not free)
    assert [file.name for file in tmp_path.iterdir()] == ["journal.lock"]
    begin(make(), [LifeBegan(1, 1.0)])


def test_what_a_killed_controller_left_of_a_new_journal_is_made_anew(
    make: Make, tmp_path: Path
) -> None:
    for name in ("journal.sqlite-new", "journal.sqlite-new-journal"):
        (tmp_path / name).write_bytes(b"half of it")
    begin(make(), [LifeBegan(1, 1.0)])
    assert not list(tmp_path.glob("*-new*"))


def test_another_programs_database_is_refused(make: Make, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("CREATE TABLE t (x)")
    database.close()
    with pytest.raises(JournalError, match="another program"):
        make()


def test_the_journal_of_a_newer_release_is_refused(make: Make, tmp_path: Path) -> None:
    make()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute(f"PRAGMA user_version={sqlitefile.SCHEMA + 1}")
    database.close()
    with pytest.raises(JournalError, match="newer release"):
        make()


def test_a_journal_of_the_first_format_goes_on(make: Make, tmp_path: Path) -> None:
    ended = Ended(4.0, [finished(task(5, 1)), finished(task(5, 2))])
    begin(make(), [SessionBegan(5, 2.0, "me")]).close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    for number, record in enumerate((ended, Forgotten(5.0, [task(5, 1)])), 100):
        [fields] = msgspec.msgpack.decode(stored([record])[0].blob)
        blob = msgspec.msgpack.encode([fields[:3]])  # its number, and the two fields of then
        database.execute("INSERT INTO log VALUES (?, ?, 0, ?)", (number, crc32(blob, number), blob))
    database.execute("PRAGMA user_version=1")
    database.commit()
    database.close()
    for _ in range(2):
        assert flat(list(make().load())) == flat(
            [
                SessionBegan(5, 2.0, "me"),
                Ended(4.0, [finished(task(5, 2))]),
                Over(4.0, [finished(task(5, 1))[0]], [0.0]),
            ]
        )
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    assert database.execute("PRAGMA user_version").fetchone() == (sqlitefile.SCHEMA,)
    database.close()


def test_the_journal_of_an_older_release_is_migrated(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(make(), [SessionBegan(5, 2.0, "me")])

    def migrate(database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO meta VALUES ('added', 'by the next release')")

    older = sqlitefile.SCHEMA
    monkeypatch.setattr(sqlitefile, "SCHEMA", older + 1)
    monkeypatch.setitem(sqlitefile.MIGRATIONS, older, migrate)
    for _ in range(2):  # once only
        journal = make()
        assert flat(list(journal.load())) == flat([SessionBegan(5, 2.0, "me")])
    database = journal._log._writer
    assert database.execute("SELECT value FROM meta WHERE key = 'added'").fetchall() == [
        ("by the next release",)
    ]


def test_a_migration_that_fails_changes_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(make(), [SessionBegan(5, 2.0, "me")])

    def broken(database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO meta VALUES ('added', 'by the next release')")
        raise sqlite3.OperationalError("disk I/O error")

    older = sqlitefile.SCHEMA
    with monkeypatch.context() as patch:
        patch.setattr(sqlitefile, "SCHEMA", older + 1)
        patch.setitem(sqlitefile.MIGRATIONS, older, broken)
        with pytest.raises(JournalError, match="disk I/O error"):
            make()
    journal = make()
    assert flat(list(journal.load())) == flat([SessionBegan(5, 2.0, "me")])
    assert not journal._log._writer.execute("SELECT * FROM meta WHERE key = 'added'").fetchall()
