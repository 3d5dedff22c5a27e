"""What in the journal still matters: its own account of it, ids only, independent of the scheduler.

The tasks of a session are numbered as they come, and end about in that order. So this keeps, for
each session, the range of its numbers, and which of them are forgotten: as sets for chunks of the
range in which some are and some are not, as one number for a chunk that is forgotten altogether,
and as nothing for a chunk in which all are live. A million tasks that wait cost a few bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence, Set
from typing import Final

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
from ipkernel.controller.latest import LatestEnds
from ipkernel.wire.messages import Submit

_BITS: Final = 12
#: Tasks of one chunk.
CHUNK: Final = 1 << _BITS
_CHUNK_OF_SESSION: Final = 40 - _BITS
#: Of a row with results of several tasks in the index.
_SEVERAL: Final = -1

#: Records of which only the latest one matters.
_LATEST: Final = frozenset((LifeBegan, SessionBegan, HostCame))


class _Session:
    """The tasks of one session: those from ``first`` to before ``end``, without those gone.

    Attributes:
        first: The first number.
        end: The number after the last.
        began: The row with the latest word of its beginning.
        submitted: The row with its latest submissions.
        forgotten: How many tasks are forgotten.
        gone: Which, for chunks of which some are.
        whole: The chunks of which all are.
        closed: Whether it is closed; results of its tasks may be kept nevertheless.
    """

    __slots__ = (
        "began",
        "closed",
        "end",
        "first",
        "forgotten",
        "gone",
        "submitted",
        "whole",
    )

    def __init__(self, first: int) -> None:
        self.first = self.end = first
        self.began = self.submitted = -1
        self.forgotten = 0
        self.gone: dict[int, set[int]] = {}
        self.whole: set[int] = set()
        self.closed = False

    def cover(self, first: int, end: int) -> None:
        """Take these numbers in."""
        if self.first == self.end:
            self.first, self.end = first, end
            return
        if first < self.first:
            chunk = self.first >> _BITS
            if chunk in self.whole:  # it was, from the old beginning
                self.whole.discard(chunk)
                self.gone[chunk] = set(range(self.first, (chunk + 1) << _BITS))
            self.first = first
        if end > self.end:
            self.end = end

    def over(self, chunk: int) -> Collection[int]:
        """Return what is forgotten of the tasks of a chunk; a range if that is all of them."""
        if chunk in self.whole:
            return range(chunk << _BITS, (chunk + 1) << _BITS)
        return self.gone.get(chunk, ())

    def forget(self, chunk: int, tasks: Sequence[int]) -> bool:
        """Forget tasks of one chunk; tell whether nothing of that chunk is left."""
        if chunk in self.whole:
            return True
        if min(tasks) < self.first or max(tasks) >= self.end:  # not all of them are known
            tasks = [task for task in tasks if self.first <= task < self.end]
            if not tasks:
                return False
        gone = self.gone.get(chunk)
        if gone is None:
            gone = self.gone[chunk] = set()
        before = len(gone)
        gone.update(tasks)
        self.forgotten += len(gone) - before
        low = max(self.first, chunk << _BITS)
        if len(gone) < ((chunk + 1) << _BITS) - low:
            return False
        del self.gone[chunk]
        self.whole.add(chunk)
        return True

    @property
    def count(self) -> int:
        """How many tasks are live."""
        return self.end - self.first - self.forgotten


class Live:
    """What of the records in a log still matters, and in which rows results are.

    Rows have numbers that grow; they must be told of in order.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}
        self._hosts: dict[int, int] = {}  # the row with the latest word of each
        self._life = -1  # the row with the latest one
        # By chunk of tasks: rows with results or output, as pairs of row and task, or _SEVERAL.
        self._where: dict[int, array[int]] = {}
        # By chunk: tasks that have ended and are not forgotten, and chunks of which all are.
        self._ended: dict[int, set[int]] = {}
        self._all_ended: set[int] = set()
        self._latest = LatestEnds()

    # ----------------------------------------------------------------------- telling it

    def note(self, row: int, records: Sequence[Record]) -> None:
        """Take note of records.

        Args:
            row: Number of the row in which they are.
            records: Which.
        """
        for record in records:
            kind = type(record)
            if kind is Submitted:
                self._submitted(row, record)  # type: ignore[arg-type]
            elif kind is Ended or kind is Printed:
                tasks = [message.task for message, _ in record.items]  # type: ignore[union-attr]
                self._written(row, tasks, kind is Ended)
            elif kind is Forgotten:
                self._forgotten(record.tasks)  # type: ignore[union-attr]
                if record.purged:  # type: ignore[union-attr]
                    self._latest.purge(row, record.tasks)  # type: ignore[union-attr]
            elif kind is Over:
                self._latest.note(row, len(record.ends))  # type: ignore[union-attr]
            elif kind is HostCame:
                self._hosts[record.host] = row  # type: ignore[union-attr]
            elif kind is HostWent:
                self._hosts.pop(record.host, None)  # type: ignore[union-attr]
            elif kind is LifeBegan:
                self._life = row
            elif kind is SessionBegan:
                self._session(record.session).began = row  # type: ignore[union-attr]
            elif kind is SessionClosed:
                self._closed(record.session)  # type: ignore[union-attr]

    def _session(self, number: int) -> _Session:
        session = self._sessions.get(number)
        if session is None:
            session = self._sessions[number] = _Session(number << 40)
        return session

    def _submitted(self, row: int, record: Submitted) -> None:
        number = record.session
        session = self._session(number)
        session.submitted = row
        first = end = 0
        for message, _ in record.items:
            if type(message) is Submit:
                task = message.task
                if task >> 40 != number:
                    continue  # against the rules: it never was taken in
                if not end or task < first:
                    first = task
                if task >= end:
                    end = task + 1
                if not message.spread and len(message.targets) > 1:
                    end = max(end, task + len(message.targets))
        if end:
            session.cover(first, end)

    def _written(self, row: int, tasks: list[int], ended: bool) -> None:
        if not tasks:
            return
        low, high = min(tasks), max(tasks)
        if ended:
            self._latest.note(row, len(tasks))
            self._cover(tasks, low, high)
        if low >> _BITS == high >> _BITS:
            chunk = low >> _BITS
            self._point(row, chunk, low if len(tasks) == 1 else _SEVERAL)
            if ended:
                self._end(chunk, tasks)
            return
        for chunk, some in _by_chunk(tasks).items():
            self._point(row, chunk, _SEVERAL)
            if ended:
                self._end(chunk, some)

    def _end(self, chunk: int, tasks: Sequence[int]) -> None:
        if chunk in self._all_ended:
            return
        ended = self._ended.get(chunk)
        if ended is None:
            ended = self._ended[chunk] = set()
        ended.update(tasks)
        if len(ended) == CHUNK:
            del self._ended[chunk]
            self._all_ended.add(chunk)

    def _cover(self, tasks: list[int], low: int, high: int) -> None:
        """See that tasks that have ended count as known, whether or not they were submitted."""
        if low >> 40 == high >> 40:
            self._session(low >> 40).cover(low, high + 1)
        else:
            for task in tasks:
                self._session(task >> 40).cover(task, task + 1)

    def _point(self, row: int, chunk: int, task: int) -> None:
        where = self._where.get(chunk)
        if where is None:
            where = self._where[chunk] = array("q")
        where.append(row)
        where.append(task)

    def _forgotten(self, tasks: list[int]) -> None:
        if not tasks:
            return
        if min(tasks) >> _BITS == max(tasks) >> _BITS:
            self._forget(tasks[0] >> _BITS, tasks)
            return
        for chunk, some in _by_chunk(tasks).items():
            self._forget(chunk, some)

    def _forget(self, chunk: int, tasks: Sequence[int]) -> None:
        number = chunk >> _CHUNK_OF_SESSION
        session = self._sessions.get(number)
        if session is None:
            return
        if session.forget(chunk, tasks):
            self._leave(chunk)
        elif (ended := self._ended.get(chunk)) is not None:
            ended.difference_update(tasks)
        if session.closed and session.count <= 0:
            self._drop(number)

    def _closed(self, number: int) -> None:
        session = self._sessions.get(number)
        if session is not None:
            session.closed = True
            if session.count <= 0:
                self._drop(number)

    def _drop(self, number: int) -> None:
        session = self._sessions.pop(number)
        for chunk in session.gone:  # in the others nothing is left
            self._leave(chunk)

    def _leave(self, chunk: int) -> None:
        """Forget what is known of a chunk of which nothing is left."""
        self._where.pop(chunk, None)
        self._ended.pop(chunk, None)
        self._all_ended.discard(chunk)

    def drop(self, sessions: Iterable[int]) -> None:
        """Forget what is known of closed sessions of which nothing is in the log."""
        for number in sessions:
            session = self._sessions.pop(number, None)
            if session is not None:
                for chunk in range(session.first >> _BITS, (session.end - 1 >> _BITS) + 1):
                    self._leave(chunk)

    # ----------------------------------------------------------------------- asking it

    def closed(self) -> set[int]:
        """Return the sessions that are closed, and of which something may be in the log."""
        return {number for number, session in self._sessions.items() if session.closed}

    def weight(self) -> int:
        """Return how many tasks are not forgotten, with those that have not ended counted twice."""
        weight = 0
        gone: dict[int, dict[int, set[int]]] = {}  # of sessions that are not closed
        for number, session in self._sessions.items():
            weight += session.count
            if not session.closed:
                weight += session.count
                gone[number] = session.gone
        for chunk, ended in self._ended.items():
            if chunk >> _CHUNK_OF_SESSION in gone:
                weight -= len(ended)
        for chunk in self._all_ended:
            number = chunk >> _CHUNK_OF_SESSION
            if number in gone:
                weight -= CHUNK - len(gone[number].get(chunk, ()))
        return weight

    def live(self, tasks: Collection[int], *, waiting: bool = False) -> Set[int]:
        """Return those of ``tasks`` that have not been forgotten.

        Args:
            tasks: Any, though it takes longer if their numbers are far from each other.
            waiting: Only those that have not ended, of sessions that are not closed.
        """
        if not tasks:
            return frozenset()
        low, high = min(tasks), max(tasks)
        chunk = low >> _BITS
        if chunk != high >> _BITS:
            return frozenset().union(
                *[self.live(some, waiting=waiting) for some in _by_chunk(tasks).values()]
            )
        session = self._sessions.get(low >> 40)
        if session is None or (waiting and session.closed):
            return frozenset()
        over = session.over(chunk)
        if type(over) is range or (waiting and chunk in self._all_ended):
            return frozenset()
        left = {task for task in tasks if task not in over} if over else set(tasks)
        if waiting and (ended := self._ended.get(chunk)):
            left -= ended
        if low < session.first or high >= session.end:  # not all of them are known
            left = {task for task in left if session.first <= task < session.end}
        return left

    def rows(self, tasks: Collection[int]) -> list[int]:
        """Return the rows that may have output or results of tasks, in order."""
        rows: set[int] = set()
        for chunk, some in _by_chunk(self.live(tasks)).items():
            wanted = {_SEVERAL, *some}
            where = self._where.get(chunk, ())
            rows.update(
                row for row, task in zip(where[::2], where[1::2], strict=True) if task in wanted
            )
        return sorted(rows)

    def sift(self, row: int, records: Sequence[Record]) -> list[Record] | None:
        """Return what of the records in a row still matters, or None if all of them do."""
        left: list[Record] = []
        same = True
        latest: set[tuple[type, int]] = set()
        for record in reversed(records):
            kept = self._kept(row, record)
            if type(kept) in _LATEST:  # there may be several in a row
                key = type(kept), _number(kept)
                kept = None if key in latest else kept
                latest.add(key)
            same = same and kept is record
            if type(record) is Ended and kept is not record and (over := self._over(row, record)):
                left.append(over)
            if kept is None:
                continue
            if type(kept) is Submitted and (gone := self._gone_of(kept)):
                same = False
                left.append(Forgotten(kept.time, gone))  # it comes after them in the end
            left.append(kept)
        left.reverse()
        return None if same else left

    def _kept(self, row: int, record: Record) -> Record | None:
        kind = type(record)
        if kind is Submitted:
            return self._kept_submitted(row, record)  # type: ignore[arg-type]
        if kind is Ended or kind is Printed:
            live = self.live([message.task for message, _ in record.items])  # type: ignore[union-attr]
            if not live:
                return None
            return _of_tasks(record, live)  # type: ignore[arg-type]
        if kind is Assigned:
            return self._kept_assigned(record)  # type: ignore[arg-type]
        if isinstance(record, Again):
            return record if self.live([record.task], waiting=True) else None
        if isinstance(record, Unwanted):
            waiting = self.live(record.tasks, waiting=True)
            left = [task for task in record.tasks if task in waiting]
            if len(left) == len(record.tasks):
                return record
            return Unwanted(record.time, left, record.grace) if left else None
        if isinstance(record, Over):
            return self._latest.left(row, record)
        if isinstance(record, HostCame):
            return record if self._hosts.get(record.host) == row else None
        if isinstance(record, LifeBegan):
            return record if self._life == row else None
        if isinstance(record, SessionBegan):
            session = self._sessions.get(record.session)
            return (
                record
                if session is not None and session.began == row and not session.closed
                else None
            )
        return None  # what says that something ended is of no use once that has been dropped

    def _over(self, row: int, record: Ended) -> Over | None:
        """Return what is to be remembered of those results in a row that are forgotten."""
        live = self.live([message.task for message, _ in record.items])
        return self._latest.of(row, record, live)

    def _kept_submitted(self, row: int, record: Submitted) -> Record | None:
        session = self._sessions.get(record.session)
        if session is None or session.closed:
            return None
        items = record.items
        tasks = _tasks_of(record)
        waiting = self.live(tasks, waiting=True)
        if not waiting:
            items = [item for item in items if type(item[0]) is not Submit]
        elif len(waiting) < len(tasks):
            items = [
                item
                for item in items
                if type(item[0]) is not Submit or not waiting.isdisjoint(_ids(item[0]))
            ]
        if len(items) == len(record.items):
            return record if items or session.submitted == row else None
        if not items and session.submitted != row:
            return None
        return Submitted(record.session, record.time, items, record.taken)

    def _gone_of(self, record: Submitted) -> list[int]:
        """Return the tasks that are forgotten of submissions for several engines that are kept."""
        several = [
            task
            for message, _ in record.items
            if type(message) is Submit and not message.spread and len(message.targets) > 1
            for task in _ids(message)
        ]
        live = self.live(several)
        return [task for task in several if task not in live]

    def _kept_assigned(self, record: Assigned) -> Record | None:
        waiting = self.live(record.tasks, waiting=True)
        if not waiting:
            return None
        pairs = [
            (task, engine)
            for task, engine in zip(record.tasks, record.engines, strict=True)
            if task in waiting
        ]
        if len(pairs) == len(record.tasks):
            return record
        return Assigned(record.host, [t for t, _ in pairs], [e for _, e in pairs])


def _ids(message: Submit) -> Sequence[int]:
    """Return the tasks of a submission."""
    if message.spread or len(message.targets) < 2:
        return (message.task,)
    return range(message.task, message.task + len(message.targets))


def _tasks_of(record: Submitted) -> list[int]:
    """Return the tasks of submissions."""
    tasks: list[int] = []
    for message, _ in record.items:
        if type(message) is Submit:
            if message.spread or not message.targets:
                tasks.append(message.task)
            else:
                tasks += _ids(message)
    return tasks


def _of_tasks(record: Ended | Printed, tasks: Set[int]) -> Record:
    """Return what a record says of these tasks; itself if that is all."""
    at = [at for at, (message, _) in enumerate(record.items) if message.task in tasks]  # type: ignore[attr-defined]
    if len(at) == len(record.items):
        return record
    if isinstance(record, Printed):
        return Printed([record.items[one] for one in at])
    came = record.came
    return Ended(record.time, [record.items[one] for one in at], [came[one] for one in at])


def _number(record: Record | None) -> int:
    if isinstance(record, SessionBegan):
        return record.session
    return record.host if isinstance(record, HostCame) else 0


def _by_chunk(tasks: Iterable[int]) -> dict[int, list[int]]:
    chunks: dict[int, list[int]] = {}
    for task in tasks:
        chunks.setdefault(task >> _BITS, []).append(task)
    return chunks
