"""``map`` in its forms: with all of the input at once, and lazily."""

from __future__ import annotations

import queue
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ipkernel.client.partition import BLOCK, Dist, dist_of
from ipkernel.client.waiting import SLICE, may_block
from ipkernel.client.wholes import first_of, is_table
from ipkernel.errors import SerializationError
from ipkernel.wire.messages import Kind

if TYPE_CHECKING:
    from ipkernel.client.baseview import View
    from ipkernel.client.result import AsyncResult
    from ipkernel.client.task import TaskRecord
    from ipkernel.serialize.cache import FunctionCache
    from ipkernel.serialize.calls import CallPayload

#: Where an item is among the arguments of a chunk: its sequence, and its place there.
_ITEM = re.compile(r"argument 1\[(\d+)\]\[(\d+)\]")


@attrs.frozen
class MapCalls:
    """How a map is to be done.

    Attributes:
        elementwise: Call the function with items (True) or with whole parts.
        dist: How sequences are divided among engines.
        chunksize: Items of a chunk; None chooses.
        ordered: Whether iteration keeps the order of the input.
        return_exceptions: Whether exceptions become items of the result.
        label: The user's name for the tasks.
        retries: How often to run a chunk again after it was lost.
        keep: Leave each result where it is; each item is a task of its own then.
    """

    elementwise: bool = True
    dist: Dist = BLOCK
    chunksize: int | None = None
    ordered: bool = True
    return_exceptions: bool = False
    label: str = ""
    retries: int = 0
    keep: bool = False

    @property
    def kind(self) -> Kind:
        """What engines are asked to do with a chunk."""
        return Kind.MAP if self.elementwise and not self.keep else Kind.APPLY

    @classmethod
    def of(cls, view: View, options: dict[str, Any], **more: Any) -> MapCalls:
        """Return what the keyword arguments of ``map`` mean.

        Raises:
            TypeError: There is no such argument.
            ValueError: One has an impossible value.
        """
        options = dict(options)
        options.pop("track", None)
        label = options.pop("label", None)
        keep = options.pop("keep", None)
        fields = {
            "label": view.label if label is None else label,
            "retries": view.retries,
            "keep": view.keep if keep is None else bool(keep),
            **more,
        }
        if "dist" in options:
            fields["dist"] = dist_of(options.pop("dist"))
        for name in ("chunksize", "ordered", "return_exceptions"):
            if name in options:
                fields[name] = options.pop(name)
        if options:
            raise TypeError(f"map() has no argument {', '.join(map(repr, options))}")
        size = fields.get("chunksize")
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"chunksize must be at least 1, or None to choose; not {size!r}")
        if fields["keep"] and fields.get("elementwise", True):
            if size not in (None, 1):
                raise ValueError(
                    f"chunksize={size} is not possible with keep=True: each item has a result apart"
                )
            fields["chunksize"] = 1
        return cls(**fields)

    def sources(self, sequences: Sequence[Any]) -> list[Any]:
        """Return the sequences as they are to be cut: as ever, the items of a table are no rows."""
        if not self.elementwise:
            return list(sequences)
        return [list(each) if is_table(each) else each for each in sequences]

    def encode(
        self, func: Any, parts: Sequence[Any], numbers: Sequence[int], functions: FunctionCache
    ) -> CallPayload:
        """Return the payload for one part of each sequence.

        Args:
            func: The function.
            parts: The parts.
            numbers: Which items of its sequence a part has.
            functions: What is known to be pickled already.

        Raises:
            SerializationError: Something cannot be sent; the text names it.
        """
        from ipkernel.serialize.functions import dump_call

        if not self.elementwise:
            return dump_call(func, tuple(parts), {}, functions)
        if self.keep:
            return dump_call(func, tuple(map(first_of, parts)), {}, functions)
        try:
            return dump_call(func, (list(parts), self.return_exceptions), {}, functions)
        except SerializationError as error:
            raise _of_item(error, numbers, len(parts)) from error.__cause__


def _of_item(error: SerializationError, numbers: Sequence[int], count: int) -> SerializationError:
    """Say of an item of a chunk which one of all items it is."""
    found = _ITEM.match(error.path)
    if found is None:
        return error
    sequence, index = int(found.group(1)), int(found.group(2))
    which = f" of sequence {sequence + 1}" if count > 1 else ""
    path = f"item {numbers[index]}{which}{error.path[found.end() :]}"
    return SerializationError(f"cannot send {path}: {error.reason}", path=path, reason=error.reason)


def load_items(record: TaskRecord, items: Any) -> Any:
    """Turn the failures among the results of a part into exceptions."""
    from ipkernel.serialize.failure import ItemFailure

    if isinstance(items, list):
        return [item.load() if type(item) is ItemFailure else item for item in items]
    return items


class LazyMapIterator:
    """Results of a call for each of many arguments, of which only some are under way at a time.

    Args:
        submit: Submits one call.
        arguments: The arguments of each call, consumed as needed.
        ordered: Yield in order, not as results come.
        max_outstanding: How many calls may be under way; 0 is any number.
        return_exceptions: Yield exceptions instead of raising them.
        timeout: Seconds from now in which results must be there; None is for ever.
    """

    def __init__(
        self,
        submit: Callable[..., AsyncResult],
        arguments: Iterator[tuple[Any, ...]],
        *,
        ordered: bool = True,
        max_outstanding: int = 0,
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._submit = submit
        self._arguments: Iterator[tuple[Any, ...]] | None = arguments
        self._ordered = ordered
        self._limit = max_outstanding
        self._return_exceptions = return_exceptions
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._outstanding: deque[AsyncResult] = deque()
        self._arrived: queue.SimpleQueue[AsyncResult] = queue.SimpleQueue()
        self._under_way: set[AsyncResult] = set()
        self._fill()

    def __repr__(self) -> str:
        under_way = len(self._outstanding if self._ordered else self._under_way)
        more = "all submitted" if self._arguments is None else "more to come"
        return f"<{type(self).__name__}: {under_way} calls under way, {more}>"

    def __iter__(self) -> LazyMapIterator:
        return self

    def __next__(self) -> Any:
        self._fill()
        if self._ordered:
            if not self._outstanding:
                raise StopIteration
            result = self._outstanding[0]
            if not result.wait(self._left()):
                raise TimeoutError("the next result was not there in time")
            self._outstanding.popleft()
        else:
            if not self._under_way:
                raise StopIteration
            result = self._next_arrived()
            self._under_way.discard(result)
        self._fill()
        return result.get(return_exceptions=self._return_exceptions)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _next_arrived(self) -> AsyncResult:
        while True:
            left = self._left()
            try:
                return self._arrived.get(block=False)
            except queue.Empty:
                may_block()
            try:
                return self._arrived.get(
                    timeout=left
                    if SLICE is None
                    else min(SLICE, left if left is not None else SLICE)
                )
            except queue.Empty:
                if left is not None and not self._left():
                    raise TimeoutError("the next result was not there in time") from None

    def _fill(self) -> None:
        waiting = self._outstanding if self._ordered else self._under_way
        while self._arguments is not None and (not self._limit or len(waiting) < self._limit):
            try:
                arguments = next(self._arguments)
            except StopIteration:
                self._arguments = None
                return
            result = self._submit(*arguments)
            if self._ordered:
                self._outstanding.append(result)
            else:
                self._under_way.add(result)
                result.add_done_callback(self._arrived.put)

    def cancel(self) -> None:
        """Consume no more of the input, abort what has not started, and end the iteration."""
        self._arguments = None
        for result in [*self._outstanding, *self._under_way]:
            if not result.done():
                result.cancel()
        self._outstanding.clear()
        self._under_way.clear()
