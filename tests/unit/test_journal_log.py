"""The log of the journal: whatever is written, swept and loaded again, nothing that matters is lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.controller import latest, living, rows, sqlitefile, sqlitelog
from ipkernel.controller.journal import (
    Again,
    Assigned,
    Ended,
    Forgotten,
    HostCame,
    HostWent,
    LifeBegan,
    Over,
    Printed,
    Record,
    SessionBegan,
    SessionClosed,
    Submitted,
    Unwanted,
)
from ipkernel.controller.rows import encode, payload_bytes
from ipkernel.controller.sqlitelog import Log
from ipkernel.wire.messages import Submit
from tests.support.journals import finished, function, output, plain, submit, task


def opened(path: Path) -> Log:
    """Open a log; nothing here is about a loss of power, so no disk is waited for."""
    log = Log(path, power=False)
    log._writer.execute("PRAGMA synchronous=OFF")
    return log


def write(log: Log, *records: Record) -> None:
    """Add a turn to a log, as the journal does."""
    made = encode(records, payload_bytes(records))
    if len(made) > 1 or not log.gather(made[0].blob):
        log.append(made)
    for number, row in enumerate(made, log.last - len(made) + 1):
        log.live.note(number, row.records)


def load(log: Log) -> list[Record]:
    """Return what a log that was just opened has, as the journal does."""
    for number, records in log.scan():
        log.live.note(number, records)
    found: list[Record] = []
    for number, records in log.scan():
        left = log.live.sift(number, records)
        found += records if left is None else left
    return found


def pieces(records: list[Record]) -> list[Any]:
    """Return records with one item each, without what says only how many messages were taken."""
    found: list[Any] = []
    for record in records:
        if isinstance(record, Forgotten | Over):
            continue  # said once more of tasks that were submitted with others; looked at by itself
        if isinstance(record, Unwanted):
            found += [("Unwanted", record.time, t, record.grace) for t in record.tasks]
            continue
        if isinstance(record, Assigned):
            pairs = zip(record.tasks, record.engines, strict=True)
            found += [("Assigned", record.host, t, e) for t, e in pairs]
            continue
        name, fields = plain(record)
        if "items" in fields:
            fields.pop("taken", None)
            fields.pop("submitted", None)
            found += [(name, {**fields, "items": [item]}) for item in fields["items"]]
        else:
            found.append((name, fields))
    return found


class Model:
    """What a log must have, by the plainest of means."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def live(self) -> list[Any]:
        forgotten: set[int] = set()
        ended: set[int] = set()
        closed: set[int] = set()
        life: Any = None
        hosts: dict[int, Any] = {}
        for record in self.records:
            match record:
                case Forgotten():
                    forgotten |= set(record.tasks)
                case Ended():
                    ended |= {message.task for message, _ in record.items}
                case SessionClosed():
                    closed.add(record.session)
                case LifeBegan():
                    life = record
                case HostCame():
                    hosts[record.host] = record
                case HostWent():
                    hosts.pop(record.host, None)

        def waits(tid: int) -> bool:
            return tid not in forgotten | ended and tid >> 40 not in closed

        left: list[Record] = []
        for record in self.records:
            match record:
                case Submitted() if record.session not in closed:
                    for message, payload in record.items:
                        if isinstance(message, Submit):
                            count = 1 if message.spread else len(message.targets)
                            ids = range(message.task, message.task + count)
                            if not any(waits(tid) for tid in ids):
                                continue
                        left.append(Submitted(record.session, record.time, [(message, payload)]))
                case Ended():
                    items = [item for item in record.items if item[0].task not in forgotten]
                    left.append(Ended(record.time, items))
                case Printed():
                    printed = [item for item in record.items if item[0].task not in forgotten]
                    left.append(Printed(printed))
                case Assigned():
                    for tid, engine in zip(record.tasks, record.engines, strict=True):
                        if waits(tid):
                            left.append(Assigned(record.host, [tid], [engine]))
                case Unwanted():
                    some = [tid for tid in record.tasks if waits(tid)]
                    left += [Unwanted(record.time, some, record.grace)]
                case Again() if waits(record.task):
                    left.append(record)
                case SessionBegan() if record.session not in closed:
                    left.append(record)
                case LifeBegan() if record is life:
                    left.append(record)
                case HostCame() if record is hosts.get(record.host):
                    left.append(record)
        return pieces(left)

    def over(self) -> list[tuple[int, float]]:
        """Return the tasks that have ended, in order, and when they came."""
        ends = [record for record in self.records if isinstance(record, Ended)]
        return [
            (message.task, came)
            for record in ends
            for (message, _), came in zip(record.items, record.came, strict=True)
        ]

    def forgotten(self) -> tuple[set[int], set[int]]:
        """Return the tasks of which no result is kept, and those of which nothing is to be known."""
        forgotten = [record for record in self.records if isinstance(record, Forgotten)]
        gone = {tid for record in forgotten for tid in record.tasks}
        return gone, {tid for record in forgotten if record.purged for tid in record.tasks}

    def taken(self) -> dict[int, int]:
        closed = {r.session for r in self.records if isinstance(r, SessionClosed)}
        return {
            r.session: r.taken
            for r in self.records
            if isinstance(r, Submitted) and r.session not in closed
        }


class LogMachine(RuleBasedStateMachine):
    """Turns of any content, with sweeps, restarts and crashes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sqlitelog, "SMALL", 600)
        self.patch.setattr(sqlitelog, "LOOK", 100)
        self.patch.setattr(sqlitelog, "STRIDE", 100)
        self.patch.setattr(sqlitelog, "MANY", 3)
        self.patch.setattr(sqlitelog, "LARGE", 120)
        self.patch.setattr(rows, "ROW_BYTES", 150)
        self.patch.setattr(latest, "MEMORY", 8)
        self.patch.setattr(latest, "_PART", 3)
        self.patch.setattr(living, "_BITS", 3)
        self.patch.setattr(living, "CHUNK", 8)
        self.patch.setattr(living, "_CHUNK_OF_SESSION", 37)
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "journal.sqlite"
        sqlitefile.create(self.path, "c")
        self.log = opened(self.path)
        self.model = Model()
        self.sessions: dict[int, int] = {}  # those that are open, and the next count of each
        self.tasks: list[int] = []  # those that are not forgotten
        self.ended: set[int] = set()
        self.turn: list[Record] = []
        self.next = 1
        self.time = 0.0

    def teardown(self) -> None:
        self.log.close()
        self.patch.undo()
        shutil.rmtree(self.directory)

    def add(self, *records: Record) -> None:
        self.turn += records

    def now(self) -> float:
        self.time += 1.0
        return self.time

    @rule()
    def open_session(self) -> None:
        self.sessions[self.next] = 0
        self.add(SessionBegan(self.next, self.now(), "me", "tub"))
        self.next += 1

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), size=st.sampled_from([1, 40, 400]), many=st.integers(1, 6))
    def submit(self, data: Any, size: int, many: int) -> None:
        session = data.draw(st.sampled_from(sorted(self.sessions)))
        count = self.sessions[session]
        items: list[Any] = []
        if data.draw(st.booleans()):
            items.append(function(bytes([count % 256]) * 16, bytes(size)))
        for _ in range(many):
            targets = data.draw(st.sampled_from([(), (), (0,), (0, 1, 2)]))
            tid = task(session, count)
            count += max(1, len(targets))
            self.tasks += [tid + i for i in range(max(1, len(targets)))]
            items.append(submit(tid, bytes(size), targets))
        self.sessions[session] = count
        self.add(Submitted(session, self.now(), items, count))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), size=st.sampled_from([0, 30, 500]))
    def end(self, data: Any, size: int) -> None:
        some = data.draw(st.lists(st.sampled_from(self.tasks), max_size=5, unique=True))
        new = [tid for tid in some if tid not in self.ended]
        self.add(Printed([output(tid, b"out") for tid in new]))
        came = [float(tid % 100) for tid in new]
        self.add(Ended(self.now(), [finished(tid, bytes(size)) for tid in new], came))
        self.ended |= set(new)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), host=st.integers(1, 3))
    def assign(self, data: Any, host: int) -> None:
        some = data.draw(st.lists(st.sampled_from(self.tasks), max_size=5, unique=True))
        some = [tid for tid in some if tid >> 40 in self.sessions]
        self.add(Assigned(host, some, [7] * len(some)))
        if some:
            self.add(Again(some[0], self.now(), 1, "its engine was lost"))
            self.add(Unwanted(self.now(), some[:2], host))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), share=st.sampled_from([0.1, 0.9, 1.0]))
    def forget(self, data: Any, share: float) -> None:
        known = [tid for tid in self.tasks if tid in self.ended]
        some = known[: int(len(known) * share)]
        data.draw(st.randoms(use_true_random=False)).shuffle(some)
        gone = set(some)
        self.tasks = [tid for tid in self.tasks if tid not in gone]
        self.add(Forgotten(self.now(), some))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def purge(self, data: Any) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.ended)), max_size=5, unique=True))
        self.tasks = [tid for tid in self.tasks if tid not in some]
        self.add(Forgotten(self.now(), some, purged=True))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close_session(self, data: Any) -> None:
        session = data.draw(st.sampled_from(sorted(self.sessions)))
        del self.sessions[session]
        self.tasks = [t for t in self.tasks if t >> 40 != session or t in self.ended]
        self.add(SessionClosed(session, self.now()))

    @rule(host=st.integers(1, 3), came=st.booleans())
    def host(self, host: int, came: bool) -> None:
        now = self.now()
        self.add(HostCame(host, now, "h", 1, "tub", [int(now)]) if came else HostWent(host, now))

    @rule()
    def commit(self) -> None:
        turn, self.turn = self.turn, []
        if turn:
            write(self.log, *turn)
            self.model.records += turn

    @rule()
    def tidy(self) -> None:
        self.log.sweep(300)
        self.log.tidy()

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.log = opened(self.path)
        self.compare(load(self.log))
        self.add(LifeBegan(int(self.now()), self.time))

    @rule()
    def crash(self) -> None:
        """Another process sees what is there at this moment, nothing closed or finished."""
        copy = Path(tempfile.mkdtemp())
        try:
            for path in self.directory.iterdir():
                if not path.name.endswith("-shm"):
                    shutil.copy(path, copy)
            log = opened(copy / self.path.name)
            try:
                self.compare(load(log))
            finally:
                log.close()
        finally:
            shutil.rmtree(copy)

    def compare(self, found: list[Record]) -> None:
        assert pieces(found) == self.model.live()
        taken = {r.session: r.taken for r in found if isinstance(r, Submitted)}
        assert taken == self.model.taken()
        self.compare_ends(found)

    def compare_ends(self, found: list[Record]) -> None:
        """Of the latest tasks it is known how they ended, though their results are forgotten."""
        records = [record for record in found if isinstance(record, Over)]
        known = [
            (message.task, came)
            for record in records
            for message, came in zip(record.ends, record.submitted, strict=True)
        ]
        gone, purged = self.model.forgotten()
        over = self.model.over()
        wanted = {one for one in over[-latest.MEMORY :] if one[0] in gone - purged}
        assert wanted <= set(known) <= {one for one in over if one[0] in gone - purged}
        assert known == sorted(known, key=over.index), "once each, and in order"
        assert len(known) <= 2 * latest.MEMORY + 10

    @invariant()
    def results_can_be_read(self) -> None:
        committed = self.model.records
        for record in committed[-3:]:
            if isinstance(record, Ended):
                for message, payload in record.items:
                    if message.task not in self.tasks:
                        continue
                    items = [
                        item
                        for row in self.log.live.rows([message.task])
                        for r in self.log.read(row)
                        if isinstance(r, Ended)
                        for item in r.items
                    ]
                    assert [bytes(p) for m, p in items if m == message] == [payload]

    @invariant()
    def it_stays_small(self) -> None:
        live = sum(len(repr(piece)) for piece in self.model.live())
        assert self.log.size <= 40_000 + 10 * live


LogMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
test_the_log_has_what_matters = LogMachine.TestCase


def swept(path: Path, monkeypatch: pytest.MonkeyPatch, *turns: list[Record]) -> Log:
    """Write turns into rows of a few bytes, sweep them, and return the log, opened anew."""
    monkeypatch.setattr(rows, "ROW_BYTES", 150)
    sqlitefile.create(path, "c")
    log = opened(path)
    for turn in turns:
        write(log, *turn)
    monkeypatch.setattr(sqlitelog, "SMALL", 0)
    while log.sweep(1 << 20):
        pass
    log.close()
    return opened(path)


def test_of_a_long_payload_that_nobody_needs_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tid = task(1, 0)
    log = swept(
        tmp_path / "journal.sqlite",
        monkeypatch,
        [SessionBegan(1, 1.0, "me")],
        [Submitted(1, 1.0, [submit(tid, bytes(400))], 1)],
        [Ended(2.0, [finished(tid)])],
    )
    [submitted] = [record for record in load(log) if isinstance(record, Submitted)]
    assert submitted.items == [] and submitted.taken == 1  # so much the session has sent
    assert log.size < 400
    assert log.damaged == 0
    log.close()


def test_a_long_payload_is_kept_for_those_engines_that_still_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tid = task(1, 0)
    log = swept(
        tmp_path / "journal.sqlite",
        monkeypatch,
        [SessionBegan(1, 1.0, "me")],
        [Submitted(1, 1.0, [submit(tid, bytes(400), (0, 1))], 2)],
        [Ended(2.0, [finished(tid)]), Forgotten(3.0, [tid])],
    )
    found = load(log)
    [submitted] = [record for record in found if isinstance(record, Submitted)]
    [(_, payload)] = submitted.items
    assert bytes(payload) == bytes(400)
    assert [record.tasks for record in found if isinstance(record, Forgotten)] == [[tid]]
    assert log.damaged == 0
    log.close()


def test_tasks_weigh_until_they_have_ended_and_until_they_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"_BITS": 2, "CHUNK": 4, "_CHUNK_OF_SESSION": 38}.items():
        monkeypatch.setattr(living, name, value)
    live = living.Live()
    tids = [task(1, count) for count in range(10)]
    live.note(1, [Submitted(1, 1.0, [submit(tid) for tid in tids], 10)])
    live.note(2, [Submitted(2, 1.0, [submit(task(2, 1)), submit(task(2, 2))], 2)])
    assert live.weight() == 24
    live.note(3, [Ended(2.0, [finished(tid) for tid in (*tids[:5], task(2, 1))])])
    assert live.weight() == 18
    live.note(4, [Forgotten(3.0, tids[:3])])
    assert live.weight() == 15
    live.note(5, [SessionClosed(2, 4.0)])
    assert live.weight() == 14
    live.note(6, [Forgotten(5.0, [task(2, 1), task(2, 2)])])
    assert live.weight() == 12


def test_what_is_forgotten_of_tasks_that_were_submitted_together_stays_forgotten() -> None:
    first = task(1, 1)
    submitted = Submitted(1, 1.0, [submit(first, targets=(0, 1))], 1)
    live = living.Live()
    live.note(1, [SessionBegan(1, 1.0, "me"), submitted])
    live.note(2, [Ended(2.0, [finished(first)]), Forgotten(3.0, [first])])
    left = live.sift(1, [submitted])
    assert left is not None
    assert left[0] is submitted
    assert isinstance(left[1], Forgotten)
    assert left[1].tasks == [first]
    again = living.Live()
    again.note(1, left)
    assert again.live([first, first + 1]) == {first + 1}
