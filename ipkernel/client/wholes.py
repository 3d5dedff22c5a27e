"""Sequences of other libraries and plain memory: cut by position, and put together to what they were.

No library is imported for this: whoever has a value of its types has imported it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Rows", "first_of", "is_memory", "is_pandas", "is_table", "whole_of"]


def _is(value: object, module: str, *names: str) -> bool:
    """Tell whether a value is of one of these types of a module, which may not be loaded."""
    loaded = sys.modules.get(module)
    return loaded is not None and any(
        isinstance(value, kind)
        for name in names
        if isinstance(kind := getattr(loaded, name, None), type)
    )


def is_pandas(value: object) -> bool:
    """Tell whether this is a table or a column of pandas, whose slices may be by label."""
    return _is(value, "pandas", "DataFrame", "Series")


def is_table(value: object) -> bool:
    """Tell whether this has rows, but yields columns when it is iterated over."""
    return _is(value, "pandas", "DataFrame") or _is(value, "pyarrow", "Table", "RecordBatch")


def is_memory(value: object) -> bool:
    """Tell whether this is plain memory, which is one item and not a sequence of numbers."""
    return isinstance(value, (bytes, bytearray, memoryview))


class Rows:
    """A table or column of pandas as a sequence of rows.

    Args:
        table: The table or column.
    """

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: int | slice) -> Any:
        return self._table.iloc[key]


def first_of(part: Any) -> Any:
    """Return the first item of a part: of a table its first row."""
    return part.iloc[0] if is_pandas(part) else part[0]


def whole_of(parts: Sequence[Any], dealt: bool) -> Any:
    """Put parts together to one value of their type.

    Args:
        parts: The parts; there is at least one.
        dealt: Whether each has every n-th item, and not all from one place to another.

    Returns:
        The value; None if the parts are to be treated as sequences of items: their types are not known
        here, or differ, or their lengths are not those of parts that were dealt out.
    """
    first = parts[0]
    join = _join_of(first)
    if join is None or any(type(part) is not type(first) for part in parts):
        return None
    if len(parts) == 1:
        return first
    try:
        return _dealt(parts, join) if dealt else join(parts)
    except Exception:  # noqa: BLE001 - whatever their library says, they are no parts of one value
        return None


def _dealt(parts: Sequence[Any], join: Callable[[Sequence[Any]], Any]) -> Any:
    lengths = list(map(len, parts))
    if lengths != sorted(lengths, reverse=True) or lengths[0] - lengths[-1] > 1:
        return None
    order = array("q", bytes(8 * sum(lengths)))
    begin = 0
    for index, length in enumerate(lengths):
        order[index :: len(parts)] = array("q", range(begin, begin + length))
        begin += length
    return _in_order(join(parts), order)


def _join_of(value: Any) -> Callable[[Sequence[Any]], Any] | None:
    """Return what puts values of this one's type together, or None."""
    if isinstance(value, bytearray):
        return lambda parts: bytearray().join(parts)
    if isinstance(value, memoryview):
        return _join_views
    if isinstance(value, array):
        return _join_arrays
    if is_pandas(value):
        concat: Callable[[Sequence[Any]], Any] = sys.modules["pandas"].concat
        return concat
    if _is(value, "pandas", "Index"):
        return lambda parts: parts[0].append(list(parts[1:]))
    for name, join in _ARROW.items():
        if _is(value, "pyarrow", name):
            return join
    return None


def _join_views(parts: Sequence[memoryview]) -> memoryview:
    forms = {(part.format, part.ndim) for part in parts}
    if len(forms) > 1 or parts[0].ndim > 1:
        raise ValueError("these are no parts of one stretch of memory")
    joined = bytearray().join(part if part.c_contiguous else part.tobytes() for part in parts)
    return _as_view(joined, parts[0].format)


def _as_view(data: bytearray, form: Any) -> memoryview:
    return memoryview(data).cast(form)


def _join_arrays(parts: Sequence[array[Any]]) -> array[Any]:
    whole = array(parts[0].typecode)
    for part in parts:
        whole.extend(part)
    return whole


def _pyarrow() -> Any:
    return sys.modules["pyarrow"]


def _join_columns(parts: Sequence[Any]) -> Any:
    chunks = [chunk for part in parts for chunk in part.chunks]
    return _pyarrow().chunked_array(chunks, parts[0].type)


_ARROW: dict[str, Callable[[Sequence[Any]], Any]] = {
    "Table": lambda parts: _pyarrow().concat_tables(parts),
    "RecordBatch": lambda parts: _pyarrow().concat_batches(parts),
    "ChunkedArray": _join_columns,
    "Array": lambda parts: _pyarrow().concat_arrays(parts),
}
"""How values of pyarrow's types are put together."""


def _in_order(whole: Any, order: array[int]) -> Any:
    """Return the items of a value in another order."""
    if is_pandas(whole):
        return whole.iloc[order]
    if isinstance(whole, bytearray):
        return bytearray(map(whole.__getitem__, order))
    if isinstance(whole, memoryview):
        return _as_view(bytearray(_taken(whole, whole.format, order)), whole.format)
    if isinstance(whole, array):
        return _taken(whole, whole.typecode, order)
    if _is(whole, "pandas", "Index"):
        return whole.take(order)
    return whole.take(_pyarrow().array(order, "int64"))


def _taken(whole: Any, code: Any, order: array[int]) -> array[Any]:
    return array(code, map(whole.__getitem__, order))
