"""Results that are put together from parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ipkernel.client.partition import items_of
from ipkernel.client.result import AsyncResult, Submitter
from ipkernel.client.task import TaskRecord
from ipkernel.client.waiting import wait_until

if TYPE_CHECKING:
    from ipkernel.client.partition import Dist


class AsyncMapResult(AsyncResult):
    """The result of a ``map``, ``parallel`` call or ``gather``: the parts put together again.

    Iterating yields the items of a part when it arrives: in the order of the input, or as they come
    if ``ordered`` is False. ``len()`` is the number of items.

    Args:
        session: As for :class:`AsyncResult`.
        dist: How the input was divided and the parts are put together.
        sizes: How many items each part has, as far as that is known; the list may still grow.
        ordered: Whether iteration keeps the order of the input.
        fname: What was mapped, for messages.
        return_exceptions: Whether exceptions become items of the result.
        owner: Kept alive as long as this result (the client).
    """

    def __init__(
        self,
        session: Submitter,
        dist: Dist,
        sizes: list[int] | None = None,
        ordered: bool = True,
        fname: str = "map",
        *,
        return_exceptions: bool = False,
        owner: Any = None,
    ) -> None:
        super().__init__(session, False, fname, return_exceptions=return_exceptions, owner=owner)
        self._dist = dist
        self._sizes = sizes
        self._ordered = ordered

    def _values(self, return_exceptions: bool) -> Any:
        parts = super()._values(return_exceptions)
        if self._dist.apart:
            return parts
        if return_exceptions:
            parts = [
                self._failed_part(record, part) if not record.succeeded else part
                for record, part in zip(self._records, parts, strict=True)
            ]
        return self._dist.join(parts)

    def _failed_part(self, record: TaskRecord, failure: Any) -> list[Any]:
        """Stand in for the items of a part that is lost as a whole."""
        index = record.id - self._records[0].id
        size = self._sizes[index] if self._sizes and index < len(self._sizes) else 1
        return [failure] * size

    def partial(self, default: Any = None, return_exceptions: bool = True) -> Any:
        """Return the items that are there by now; see :meth:`AsyncResult.partial`.

        Of a part that is not there as many items are ``default`` as it has, as far as that is known.
        """
        if self._dist.apart:
            return [self._part_of(one, default, return_exceptions) for one in self._records]
        parts = []
        for record in self._records:
            value = self._part_of(record, default, return_exceptions)
            if not record.succeeded:
                value = self._failed_part(record, value)
            elif not return_exceptions:
                value = [default if isinstance(v, BaseException) else v for v in items_of(value)]
            parts.append(items_of(value))
        return self._dist.join([list(part) for part in parts])

    def __len__(self) -> int:
        return sum(self._sizes) if self._sizes is not None else len(self._records)

    def _iterate(self) -> Iterator[Any]:
        if self._ordered and not self._dist.contiguous:
            yield from self.get()
            return
        for record in self._records if self._ordered else self._as_they_come():
            self._await_record(record)
            value = self._value(record, self._return_exceptions)
            if self._dist.apart:
                yield value
            else:
                yield from items_of(value) if record.succeeded else self._failed_part(record, value)

    def _as_they_come(self) -> Iterator[TaskRecord]:
        if self._total == 1:
            yield self._records[0]
            return
        for index in range(self._total or 0):
            with self._interruptible(), self._condition:
                wait_until(
                    self._condition,
                    lambda: len(self._order or ()) > index or self.dropped,  # noqa: B023
                )
            if self.dropped:
                raise self._given_up(0)
            yield (self._order or [])[index]

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return self.get()[key]
