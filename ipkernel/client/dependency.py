"""What a call waits for: other calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ipkernel.client.result import AsyncResult
from ipkernel.wire import messages
from ipkernel.wire.messages import MAX_LIST, Past

if TYPE_CHECKING:
    from ipkernel.client.task import TaskRecord


class Dependency:
    """Calls that another one waits for, and how they must end.

    Args:
        dependencies: An :class:`~ipkernel.client.result.AsyncResult`, the id of a task, or any iterable
            of these.
        all: Wait for all of them; else one that ends as wanted is enough.
        success: One that succeeded is as wanted.
        failure: One that failed, or was aborted, is as wanted.

    Raises:
        TypeError: Something in ``dependencies`` is neither a result nor an id.
        ValueError: Neither ``success`` nor ``failure`` is true, or there are more than 65536 tasks.
    """

    def __init__(
        self,
        dependencies: Any = (),
        all: bool = True,
        success: bool = True,
        failure: bool = False,
    ) -> None:
        if not (success or failure):
            raise ValueError("a dependency needs success=True or failure=True, or can never be met")
        self.all = bool(all)
        self.success = bool(success)
        self.failure = bool(failure)
        self._records: dict[int, TaskRecord | None] = {}
        self._add(dependencies)
        if len(self._records) > MAX_LIST:
            raise ValueError(
                f"a dependency may be on {MAX_LIST} tasks at most, not on {len(self._records)}"
            )

    @classmethod
    def of(cls, value: Any) -> Dependency | None:
        """Return what a flag's value stands for: None when there is nothing to wait for."""
        if value is None:
            return None
        made = value if isinstance(value, Dependency) else cls(value)
        return made if made else None

    def _add(self, item: Any) -> None:
        if isinstance(item, AsyncResult):
            for record in item._records:
                self._records[record.id] = record
        elif isinstance(item, Dependency):
            self._records.update(item._records)
        elif isinstance(item, int) and not isinstance(item, bool):
            if not 0 <= item < 1 << 62:
                raise ValueError(f"{item} is not the id of a task")
            self._records.setdefault(item, None)
        elif isinstance(item, Iterable) and not isinstance(item, str | bytes):
            for one in item:
                self._add(one)
        else:
            raise TypeError(f"a call can wait for an AsyncResult or a task's id, not for {item!r}")

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return (
            f"Dependency({list(self)}, all={self.all}, success={self.success}, "
            f"failure={self.failure})"
        )

    def told(self) -> messages.Dependency:
        """Return what the controller is told: of what has ended here already, how."""
        open_ones: list[int] = []
        ended: list[Past] = []
        for task, record in self._records.items():
            if record is None or record.cell is None:
                open_ones.append(task)
            else:
                ended.append(record.past)
        return messages.Dependency(open_ones, ended, self.all, self.success, self.failure)
