"""What is over takes a bounded share of the journal, so a restart never reads much more than what lives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipkernel.controller import living, sqlitefile, sqlitelog
from ipkernel.controller.journal import Assigned, Ended, Forgotten, Record, SessionBegan, Submitted
from ipkernel.controller.rows import encode, payload_bytes
from ipkernel.controller.sqlitelog import Log
from tests.support.journals import finished, submit, task

SESSION = 5
SMALL, LOOK, STRIDE = 3000, 300, 200
#: What the payload of a task takes, and that of a result.
GIVEN, RESULT = 200, 10
#: What a few tasks take that live for a moment, counted some times.
SLACK = 6000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it all happen with few bytes and tasks."""
    for name, value in {"SMALL": SMALL, "LOOK": LOOK, "STRIDE": STRIDE, "MANY": 4}.items():
        monkeypatch.setattr(sqlitelog, name, value)
    for name, value in {"_BITS": 4, "CHUNK": 16, "_CHUNK_OF_SESSION": 36}.items():
        monkeypatch.setattr(living, name, value)


class Work:
    """Tasks that come and go, and the log of that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        sqlitefile.create(path, "c")
        self.log = self.opened()
        self.count = 1
        self.waiting: list[int] = []
        self.kept: list[int] = []
        self.written = 0
        self.add(SessionBegan(SESSION, 1.0, "me"))

    def opened(self) -> Log:
        log = Log(self.path, power=False)
        log._writer.execute("PRAGMA synchronous=OFF")
        return log

    def add(self, *records: Record) -> None:
        [row] = encode(records, payload_bytes(records))
        if not self.log.gather(row.blob):
            self.log.append([row])
        self.log.live.note(self.log.last, row.records)
        self.written += len(row.blob)

    def submit(self, number: int) -> None:
        for some in _turns(range(self.count, self.count + number)):
            tids = [task(SESSION, count) for count in some]
            self.add(Submitted(SESSION, 1.0, [submit(tid, bytes(GIVEN)) for tid in tids], some[-1]))
            self.waiting += tids
        self.count += number

    def end(self, tids: Sequence[int]) -> None:
        for some in _turns(tids):
            self.add(Assigned(1, some, [0] * len(some)))
            self.add(Ended(2.0, [finished(tid, bytes(RESULT)) for tid in some]))
        self.waiting = [tid for tid in self.waiting if tid not in set(tids)]
        self.kept += tids

    def forget(self, tids: Sequence[int]) -> None:
        for some in _turns(tids):
            self.add(Forgotten(3.0, some))
        self.kept = [tid for tid in self.kept if tid not in set(tids)]

    def pass_by(self, number: int) -> None:
        """Let a few tasks come and go until so many bytes were written."""
        until = self.written + number
        while self.written < until:
            self.submit(3)
            gone = self.waiting[-3:]
            self.end(gone)
            self.forget(gone)

    def live(self) -> list[Record]:
        """Return what another process would find."""
        account = living.Live()
        for number, records in self.log.scan():
            account.note(number, records)
        found: list[Record] = []
        for number, records in self.log.scan():
            left = account.sift(number, records)
            found += records if left is None else left
        return found


def _turns(items: Sequence[int]) -> Iterator[list[int]]:
    for at in range(0, len(items), 5):
        yield list(items[at : at + 5])


def _size(records: Sequence[Record]) -> int:
    return sum(len(encode([one], payload_bytes([one]))[0].blob) + 24 for one in records)


def _ids(records: Sequence[Record], kind: Any) -> list[int]:
    return [
        message.task
        for record in records
        if isinstance(record, kind)
        for message, _ in record.items
    ]


def check(work: Work) -> None:
    live = work.live()
    assert _ids(live, Submitted) == sorted(work.waiting)
    assert sorted(_ids(live, Ended)) == sorted(work.kept)
    most = max(SMALL, sqlitelog.GROWTH * _size(live))
    assert work.log.size <= most + most // sqlitelog.RATE + LOOK + SLACK


STEPS = st.tuples(
    st.sampled_from(["submit", "end oldest", "end newest", "end some", "forget", "forget some"]),
    st.integers(1, 120),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=12), seed=st.integers(0, 1000))
def test_what_is_over_takes_a_bounded_share(
    tmp_path: Path, steps: list[tuple[str, int]], seed: int
) -> None:
    chance = random.Random(seed)
    work = Work(tmp_path / "journal.sqlite")
    try:
        for what, number in steps:
            if what == "submit":
                work.submit(number)
            elif what == "forget":
                work.forget(work.kept[:number])
            elif what == "forget some":
                work.forget(chance.sample(work.kept, min(number, len(work.kept))))
            elif what == "end some":
                work.end(sorted(chance.sample(work.waiting, min(number, len(work.waiting)))))
            else:
                waiting = work.waiting
                work.end(waiting[:number] if what == "end oldest" else waiting[-number:])
        work.pass_by(work.log.size)
        check(work)
        work.pass_by(SMALL)
        check(work)
    finally:
        work.log.close()


@pytest.mark.parametrize("forgotten", [True, False])
@pytest.mark.parametrize("left", [0, 1])
def test_what_a_log_once_had_is_no_reason_to_leave_it_long(
    tmp_path: Path, forgotten: bool, left: int
) -> None:
    work = Work(tmp_path / "journal.sqlite")
    try:
        work.submit(1000)
        work.log._begin_sweep()
        while work.log.sweep(1 << 20):
            pass
        work.end(work.waiting[left:])
        if forgotten:
            work.forget(list(work.kept))
        work.pass_by(work.log.size // 2)
        check(work)
    finally:
        work.log.close()


def test_a_log_that_nobody_writes_to_is_swept_though_it_has_hardly_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlitelog, "LOOK", 1 << 20)
    work = Work(tmp_path / "journal.sqlite")
    try:
        work.submit(20)
        work.log._begin_sweep()
        work.log.sweep(1 << 20)
        work.submit(1)  # it looks whether that is due, and not again soon
        work.end(list(work.waiting))
        assert SMALL < work.log.size
        work.forget(list(work.kept))
        while work.log.sweep(1 << 20):
            pass
        assert work.log.size < SMALL
    finally:
        work.log.close()


def test_small_rows_gather_while_the_log_is_swept(tmp_path: Path) -> None:
    work = Work(tmp_path / "journal.sqlite")
    try:
        work.submit(100)
        work.log.sweep(1)
        assert work.log._sweep is not None
        [row] = encode([Forgotten(1.0, [])], 0)
        assert work.log.gather(row.blob)
    finally:
        work.log.close()
