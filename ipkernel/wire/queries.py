# mypy: disable-error-code="misc"
"""The language in which tasks are looked for: what a user writes, and what travels of it.

A user writes conditions as dictionaries, in the way of MongoDB and ipyparallel:
``{"engine_id": 3, "submitted": {"$gt": yesterday}, "$or": [...]}``. :func:`parse` turns that into a
tree of :class:`Test`, :class:`Every` and :class:`Some`, which goes to the controller as bounded data;
:func:`check` is what the controller asks before it believes such a tree.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias, Union

from msgspec import Meta

from ipkernel.errors import QueryError
from ipkernel.wire.messages import MAX_LIST
from ipkernel.wire.records import Record

#: How deep conditions may be in each other, how many there may be, and of these how many patterns.
MAX_DEPTH: Final = 12
MAX_TESTS: Final = 1024
MAX_GLOBS: Final = 32

#: What each field of a task holds: a number, a time, a text, yes or no, or a list of task ids.
FIELDS: Final[dict[str, str]] = {
    "msg_id": "number",
    "session": "number",
    "client": "text",
    "submitted": "time",
    "started": "time",
    "completed": "time",
    "received": "time",
    "engine_id": "number",
    "engine_uuid": "text",
    "state": "text",
    "status": "text",
    "label": "text",
    "method": "text",
    "attempts": "number",
    "retries": "number",
    "priority": "number",
    "after": "list",
    "follow": "list",
    "size": "number",
    "result_size": "number",
    "kept": "flag",
    "resubmittable": "flag",
    "bound_to": "number",
    "by_reference": "flag",
}

Op: TypeAlias = Literal[
    "eq", "ne", "lt", "lte", "gt", "gte", "in", "nin", "all", "mod", "exists", "glob"
]
OPS: Final[tuple[str, ...]] = Op.__args__  # type: ignore[attr-defined]
#: Operators that compare the order of two values.
ORDER: Final = frozenset({"lt", "lte", "gt", "gte"})
#: Operators that take a list.
LISTED: Final = frozenset({"in", "nin", "all"})

_MAX_TEXT: Final = 256
Short: TypeAlias = Annotated[str, Meta(max_length=_MAX_TEXT)]
Scalar: TypeAlias = bool | int | float | Short | None
Scalars: TypeAlias = Annotated[list[Scalar], Meta(max_length=MAX_LIST)]
Value: TypeAlias = bool | int | float | Short | Scalars | None


class Test(Record, tag="test"):
    """A condition on one field.

    Attributes:
        field: One of :data:`FIELDS`.
        op: What is asked about it.
        value: What it is compared with; times are seconds since the epoch.
    """

    __test__ = False  # nothing for pytest

    field: Short
    op: Op
    value: Value


class Every(Record, tag="every"):
    """All of these hold; so do none at all."""

    parts: Annotated[list[Node], Meta(max_length=MAX_TESTS)] = []


class Some(Record, tag="some"):
    """At least one of these holds."""

    parts: Annotated[list[Node], Meta(max_length=MAX_TESTS)] = []


Node: TypeAlias = Union["Test", "Every", "Some"]


class Search(Record):
    """Ask for tasks.

    Attributes:
        where: What they must be like.
        keys: The fields that are wanted of each.
        more: Instead: go on with an earlier search, by the number that its page gave.
    """

    where: Node = Every()
    keys: Annotated[list[Short], Meta(max_length=64)] = []
    more: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0


#: Characters of a text in a row at most; the rest of it is left out.
MAX_SHOWN: Final = _MAX_TEXT
#: Rows of one page at most.
MAX_ROWS: Final = 4096


class Page(Record):
    """Tasks that were found.

    Attributes:
        rows: For each task the values of the fields that were asked for.
        more: What to ask with for those that follow; 0 if these are all.
    """

    rows: Annotated[
        list[Annotated[list[Value], Meta(max_length=64)]], Meta(max_length=MAX_ROWS)
    ] = []
    more: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0


class Purge(Record):
    """Forget tasks that have ended.

    Attributes:
        tasks: Which.
        engines: Those that ran on these engines, too.
        everything: All of them, whatever the other two say.
    """

    tasks: Annotated[list[Annotated[int, Meta(ge=0, lt=1 << 62)]], Meta(max_length=MAX_LIST)] = []
    engines: Annotated[list[Annotated[int, Meta(ge=0, lt=1 << 20)]], Meta(max_length=MAX_LIST)] = []
    everything: bool = False


class Purged(Record):
    """What became of a :class:`Purge`.

    Attributes:
        count: How many tasks were forgotten.
        problem: Empty, or why none was.
    """

    count: int = 0
    problem: Annotated[str, Meta(max_length=4096)] = ""


# ------------------------------------------------------------------------------ what users write


def parse(query: Mapping[str, Any]) -> Every:
    """Return the tree for a query as users write it.

    Args:
        query: Fields with the values that they must have, or with dictionaries of operators;
            ``$and`` and ``$or`` with lists of such queries.

    Raises:
        QueryError: It is none; the text says where and why.
    """
    node = _every(query, 1)
    check(node)
    return node


def _every(query: Any, depth: int) -> Every:
    if not isinstance(query, Mapping):
        raise QueryError(f"a query is a dictionary such as {{'engine_id': 3}}, not {query!r:.100}")
    if depth > MAX_DEPTH:
        raise QueryError(f"the query is nested deeper than {MAX_DEPTH} levels")
    parts: list[Node] = []
    for name, wanted in query.items():
        if name in ("$and", "$or"):
            if not isinstance(wanted, (list, tuple)) or not wanted:
                raise QueryError(f"{name} takes a list of queries, not {wanted!r:.100}")
            inner: list[Node] = [_every(one, depth + 1) for one in wanted]
            parts.append(Every(parts=inner) if name == "$and" else Some(parts=inner))
        elif isinstance(name, str) and name.startswith("$"):
            raise QueryError(f"unknown operator {name!r}: before a field only $and and $or may be")
        else:
            parts += _tests(name, wanted)
    return Every(parts=parts)


def _tests(field: Any, wanted: Any) -> list[Node]:
    kind = kind_of(field)
    if not isinstance(wanted, Mapping):
        return [_test(field, kind, "eq", wanted)]
    if not wanted:
        raise QueryError(f"{field}: an empty dictionary says nothing; use an operator, such as $gt")
    found: list[Node] = []
    for name, value in wanted.items():
        op = name[1:] if isinstance(name, str) and name.startswith("$") else ""
        if op not in OPS:
            raise QueryError(
                f"{field}: unknown operator {name!r}{nearest(str(name), [f'${op}' for op in OPS])}"
            )
        found.append(_test(field, kind, op, value))
    return found


def _test(field: str, kind: str, op: Any, value: Any) -> Test:
    if _is_list(value):
        content: Any = [_plain(field, one) for one in value]
        if len(content) > MAX_LIST:
            raise QueryError(f"{field}: a list may have {MAX_LIST} values, not {len(content)}")
    elif op in LISTED:
        raise QueryError(f"{field}: ${op} takes a list, not {value!r:.100}")
    else:
        content = _plain(field, value)
    return Test(field=field, op=op, value=content)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _plain(field: str, value: Any) -> Any:
    """Return a value as it travels."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day).timestamp()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise QueryError(f"{field}: a text may have {_MAX_TEXT} characters, not {len(value)}")
        return str(value)
    if isinstance(value, float):
        return float(value)
    try:
        number: int = value.__index__()  # numpy's integers, and enumerations
    except (AttributeError, TypeError):
        if hasattr(value, "__float__"):
            return float(value)
        raise QueryError(f"{field} cannot be compared with {value!r:.100}") from None
    if abs(number) >> 62:
        raise QueryError(f"{field}: the number {number} is too large")
    return number


# ------------------------------------------------------------------------------ checking


def kind_of(field: Any) -> str:
    """Return what a field holds.

    Raises:
        QueryError: There is no such field; with the nearest known name.
    """
    kind = FIELDS.get(field) if isinstance(field, str) else None
    if kind is None:
        raise QueryError(f"tasks have no field {field!r:.100}{nearest(str(field), FIELDS)}")
    return kind


def check(node: Node) -> None:
    """Check that a tree is not too large, and that its tests can be made.

    Raises:
        QueryError: It is, or they cannot; the text says why.
    """
    level: list[Node] = [node]
    count = globs = 0
    for _ in range(2 * MAX_DEPTH):
        below: list[Node] = []
        for one in level:
            count += 1
            if isinstance(one, Test):
                _check_test(one)
                globs += one.op == "glob"
            else:
                below += one.parts
        if count > MAX_TESTS:
            raise QueryError(f"a query may have {MAX_TESTS} conditions, not more")
        if globs > MAX_GLOBS:
            raise QueryError(f"a query may have {MAX_GLOBS} patterns ($glob), not more")
        if not below:
            return
        level = below
    raise QueryError(f"the query is nested deeper than {MAX_DEPTH} levels")


_WORDS: Final = {
    "number": "a number",
    "time": "a time (a datetime, or seconds since the epoch)",
    "text": "a text",
    "flag": "True or False",
    "list": "a list of task ids",
}


def _check_test(test: Test) -> None:
    kind, op, value = kind_of(test.field), test.op, test.value
    if op == "exists":
        fits, wanted = isinstance(value, bool), "True or False"
    elif op == "mod":
        fits = kind == "number" and isinstance(value, list) and len(value) == 2
        fits = fits and all(type(one) is int for one in value) and value[0] != 0  # type: ignore[union-attr, index]
        wanted = "[divisor, remainder], two whole numbers, and a field that is a number"
    elif op == "glob":
        fits = kind == "text" and isinstance(value, str)
        wanted = "a pattern such as 'fit-*', and a field that is a text"
    elif op in ORDER:
        fits = kind in ("number", "time", "text") and _fits(kind, value)
        wanted = (
            f"{_WORDS[kind]}; flags and lists have no order"
            if kind in ("flag", "list")
            else (_WORDS[kind])
        )
    elif op in LISTED:
        inner = "number" if kind == "list" else kind
        fits = isinstance(value, list) and all(v is None or _fits(inner, v) for v in value)
        wanted = f"a list, each item of which is {_WORDS[inner]}"
    else:
        fits = value is None or _fits(kind, value)
        wanted = f"{_WORDS[kind]}, or None"
    if not fits:
        raise QueryError(f"{test.field}: ${op} takes {wanted}; not {value!r:.100}")


def _fits(kind: str, value: Value) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "list":
        return isinstance(value, list) and all(type(one) is int for one in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and not (isinstance(value, float) and math.isnan(value))


def check_keys(keys: Iterable[Any]) -> list[str]:
    """Return the names of the fields that are wanted, ``msg_id`` first, each once.

    Raises:
        QueryError: There is no such field.
    """
    return list(dict.fromkeys(["msg_id", *(key for key in keys if kind_of(key))]))


def nearest(given: str, known: Iterable[str]) -> str:
    """Return what to say after the name of something that does not exist."""
    names = list(known)
    near = difflib.get_close_matches(given.lower(), names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"
