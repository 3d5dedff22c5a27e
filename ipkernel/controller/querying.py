"""Looking for tasks: a query is made into a predicate, and evaluated over all tasks that are known.

Those are the open ones, those whose results are kept, and the latest that have ended. A search does
a bounded amount of work at a time, so that whoever runs it can do other things in between.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from ipkernel.controller.core import Core
from ipkernel.controller.tasks import ENDS, Origin, State, Task
from ipkernel.wire.messages import Dependency, Finished, Outcome
from ipkernel.wire.queries import (
    MAX_ROWS,
    MAX_SHOWN,
    Every,
    Node,
    Search,
    Some,
    Test,
    check,
    check_keys,
)

#: About how many bytes of values one page may have.
_PAGE_BYTES: Final = 2 << 20
#: What a value counts besides its text, in bytes.
_VALUE: Final = 9
#: Conditions that a query may have before fewer tasks are looked at for it at a time.
_FREE: Final = 16
#: Task ids of a list that are told.
_MAX_IDS: Final = 1000

_STATUS: Final = {Outcome.OK: "ok", Outcome.ABORTED: "aborted"}


class Row:
    """One task, in whatever way it is known.

    Attributes:
        core: The scheduler's tables.
        id: The task's id.
        task: The task if it is open, or None.
        message: How it ended if it has, or None.
        origin: What is known of its submission if it has ended.
    """

    __slots__ = ("core", "id", "message", "origin", "task")

    def __init__(
        self,
        core: Core,
        number: int,
        task: Task | None,
        message: Finished | None,
        origin: Origin | None,
    ) -> None:
        self.core = core
        self.id = number
        self.task = task
        self.message = message
        self.origin = origin


def find_row(core: Core, number: int) -> Row | None:
    """Return what is known of a task, or None if nothing is."""
    task = core.tasks.get(number)
    if task is not None:
        return Row(core, number, task, None, None)
    past = core.history.past(number)
    if past is not None and past[1] is not None:
        return Row(core, number, None, *past)
    message = past[0] if past is not None else core.retained.find(number)
    if message is None:
        return None
    filed = core.archive.find(number)
    return Row(core, number, None, message, filed.origin if filed is not None else None)


# ------------------------------------------------------------------------------- fields


def _submitted(row: Row) -> float | None:
    if row.task is not None:
        return row.task.submitted
    return (row.origin.submitted or None) if row.origin is not None else None


def _started(row: Row) -> float | None:
    if row.message is not None:
        return row.message.started or None
    task = row.task
    return task.assigned if task is not None and task.state is State.RUNNING else None


def _received(row: Row) -> float | None:
    if row.origin is not None and row.origin.ended:
        return row.origin.ended
    return row.core.retained.since(row.id) if row.id in row.core.retained else None


def _completed(row: Row) -> float | None:
    return (row.message.completed or _received(row)) if row.message is not None else None


def _engine_id(row: Row) -> int | None:
    if row.task is not None:
        number = row.task.engine if row.task.engine >= 0 else row.task.target
    else:
        number = row.message.engine if row.message is not None else -1
    return number if number >= 0 else None


def _engine_uuid(row: Row) -> str | None:
    number = _engine_id(row)
    engine = row.core.engines.get(number) if number is not None else None
    if engine is None or not engine.pid:
        return None
    if row.message is not None and row.message.started < (engine.born or engine.since):
        return None  # it was another process
    return f"{engine.host.name[: MAX_SHOWN - 24]}:{engine.pid}"


def _client(row: Row) -> str | None:
    session = row.core.sessions.get(row.id >> 40)
    return session.client[:MAX_SHOWN] if session is not None else None


def _state(row: Row) -> str:
    if row.task is not None:
        return row.task.state.value
    return ENDS[row.message.outcome].value if row.message is not None else "unknown"


def _status(row: Row) -> str | None:
    return _STATUS.get(row.message.outcome, "error") if row.message is not None else None


def _label(row: Row) -> str | None:
    if row.task is not None:
        return row.task.message.label or None
    return (row.message.label or None) if row.message is not None else None


def _method(row: Row) -> str | None:
    if row.task is not None:
        return row.task.message.kind.name.lower()
    return row.message.kind.name.lower() if row.message is not None else None


def _attempts(row: Row) -> int:
    if row.task is not None:
        return row.task.attempts + (row.task.state is State.RUNNING)
    return row.message.attempts if row.message is not None else 0


def _dependency(row: Row, which: str) -> list[int] | None:
    terms = row.task.message.terms if row.task is not None else None
    wanted: Dependency | None = getattr(terms, which) if terms is not None else None
    if wanted is None:
        return None
    return [*wanted.tasks, *(past.task for past in wanted.ended)][:_MAX_IDS]


def _of_submission(name: str) -> Callable[[Row], Any]:
    def read(row: Row) -> Any:
        if row.task is not None:
            return getattr(row.task.message, name)
        filed = row.core.archive.find(row.id)
        return getattr(filed.message, name) if filed is not None else None

    return read


def _bound_to(row: Row) -> int | None:
    filed = row.task if row.task is not None else row.core.archive.find(row.id)
    return filed.target if filed is not None and filed.target >= 0 else None


def _priority(row: Row) -> int | None:
    return row.task.priority if row.task is not None else None


def _result_size(row: Row) -> int | None:
    return (row.message.length or row.message.size) if row.message is not None else None


_READ: Final[dict[str, Callable[[Row], Any]]] = {
    "msg_id": operator.attrgetter("id"),
    "session": lambda row: row.id >> 40,
    "client": _client,
    "submitted": _submitted,
    "started": _started,
    "completed": _completed,
    "received": _received,
    "engine_id": _engine_id,
    "engine_uuid": _engine_uuid,
    "state": _state,
    "status": _status,
    "label": _label,
    "method": _method,
    "attempts": _attempts,
    "retries": _of_submission("retries"),
    "priority": _priority,
    "after": lambda row: _dependency(row, "after"),
    "follow": lambda row: _dependency(row, "follow"),
    "size": _of_submission("size"),
    "result_size": _result_size,
    "kept": lambda row: row.id in row.core.retained,
    "bound_to": _bound_to,
    "by_reference": _of_submission("keep"),
    "resubmittable": lambda row: row.id in row.core.archive,
}

# ------------------------------------------------------------------------------- predicates

Predicate: TypeAlias = Callable[[Row], bool]
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


def compile_query(node: Node) -> Predicate:
    """Return what tells whether a task is one of those that a query wants.

    Args:
        node: The query, which was checked.
    """
    if isinstance(node, Test):
        read, holds = _READ[node.field], compile_test(node)
        return lambda row: holds(read(row))
    parts = [compile_query(part) for part in node.parts]
    if isinstance(node, Every):
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)
    return lambda row: any(part(row) for part in parts)


def compile_test(test: Test) -> Callable[[Any], bool]:
    """Return what tells whether a value passes a test that was checked.

    None, for a field that says nothing of a task, is equal to None only and comes before or after
    nothing.
    """
    op, wanted = test.op, test.value
    if op in _ORDER:
        compare = _ORDER[op]
        return lambda value: value is not None and compare(value, wanted)
    if op == "exists":
        return lambda value: (value is not None) is wanted
    if op == "mod":
        assert isinstance(wanted, list)
        divisor, rest = wanted
        return lambda value: value is not None and value % divisor == rest
    if op == "glob":
        matches = re.compile(fnmatch.translate(str(wanted))).match
        return lambda value: value is not None and matches(value) is not None
    if op == "eq":
        return lambda value: value == wanted
    if op == "ne":
        return lambda value: value != wanted
    return _membership(op, wanted)


def _membership(op: str, wanted: Any) -> Callable[[Any], bool]:
    among = frozenset(wanted)

    def some(value: Any) -> bool:
        return not among.isdisjoint(value) if isinstance(value, list) else value in among

    if op == "in":
        return some
    if op == "nin":
        return lambda value: not some(value)
    return lambda value: among <= set(value if isinstance(value, list) else [value])


# ------------------------------------------------------------------------------- which to look at


def _pinned(node: Node, field: str) -> list[Any] | None:
    """Return the only values that a field may have in what is wanted, if the query says so."""
    if isinstance(node, Test):
        if node.field != field or node.op not in ("eq", "in"):
            return None
        return node.value if isinstance(node.value, list) else [node.value]
    if isinstance(node, Some):
        return None
    found = (_pinned(part, field) for part in node.parts)
    return min((values for values in found if values is not None), key=len, default=None)


def _candidates(core: Core, node: Node) -> Sequence[int]:
    """Return all tasks that a query can be about, each once: as few as it is easy to find."""
    tasks = _pinned(node, "msg_id")
    if tasks is not None:
        return list(dict.fromkeys(task for task in tasks if type(task) is int))
    states = _pinned(node, "state")
    over = states is None or any(State(s) in ENDS.values() for s in states if s in _STATES)
    found = _open(core, node)
    if not over:
        return list(found)
    retained = core.retained  # perhaps very many; the others are few
    few = dict.fromkeys(task for task in core.archive if task not in retained)
    few.update(dict.fromkeys(task for task in core.history if task not in retained))
    return [*few, *retained, *found]


_STATES: Final = frozenset(state.value for state in State)


def _open(core: Core, node: Node) -> Iterable[int]:
    labels = _pinned(node, "label")
    if labels is not None and None not in labels:
        return [task for label in dict.fromkeys(labels) for task in core.labels.find(label)]
    engines = _pinned(node, "engine_id")
    if engines is not None and None not in engines:
        return list(dict.fromkeys(_of_engines(core, engines)))
    return core.tasks


def _of_engines(core: Core, numbers: Iterable[Any]) -> Iterator[int]:
    wanted = set(numbers)
    for number in wanted:
        engine = core.engines.get(number)
        if engine is not None:
            yield from engine.assigned
            yield from (task.id for task in engine.direct if task.id in core.tasks)
    for parked in core.parked.values():
        yield from (task.id for task in parked if task.target in wanted)


def _size(node: Node) -> int:
    return 1 if isinstance(node, Test) else 1 + sum(map(_size, node.parts))


class Searching:
    """A search that goes on for as long as it is asked to, a part at a time.

    Args:
        core: The scheduler's tables.
        query: What is looked for.

    Attributes:
        rows: What was found since they were taken last.
        done: Whether all was looked at.

    Raises:
        QueryError: The query is wrong; the text says where and why.
    """

    __slots__ = ("_at", "_bytes", "_core", "_cost", "_read", "_tasks", "_wanted", "done", "rows")

    def __init__(self, core: Core, query: Search) -> None:
        check(query.where)
        self._core = core
        self._cost = 1 + _size(query.where) // _FREE
        self._wanted = compile_query(query.where)
        self._read = [_READ[key] for key in check_keys(query.keys)]
        self._tasks = _candidates(core, query.where)
        self._at = 0
        self._bytes = 0
        self.rows: list[list[Any]] = []
        self.done = not self._tasks

    @property
    def full(self) -> bool:
        """Whether these rows are as many as one page may have."""
        return len(self.rows) >= MAX_ROWS or self._bytes >= _PAGE_BYTES

    def step(self, count: int) -> None:
        """Look at so many tasks more, unless the page becomes full before.

        Fewer are looked at if that takes longer, because the query is large.
        """
        core, wanted, read = self._core, self._wanted, self._read
        tasks = self._tasks
        end = min(self._at + max(1, count // self._cost), len(tasks))
        while self._at < end and not self.full:
            row = find_row(core, tasks[self._at])
            self._at += 1
            if row is None or not wanted(row):
                continue
            values = [of(row) for of in read]
            self.rows.append(values)
            self._bytes += sum(map(_weight, values))
        self.done = self._at >= len(tasks)

    def take(self) -> list[list[Any]]:
        """Return what was found, and begin another page."""
        rows, self.rows = self.rows, []
        self._bytes = 0
        return rows


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return _VALUE + 4 * len(value)
    return _VALUE * (1 + len(value)) if isinstance(value, list) else _VALUE
