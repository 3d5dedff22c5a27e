"""Submissions of tasks that have ended, so that they can be run again; and labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator
from typing import Final, NamedTuple

from ipkernel.controller.tasks import Origin, Payload, Task
from ipkernel.wire.messages import Digest, Outcome, Submit, TaskId

#: How many bytes of submissions are kept.
ARCHIVE_BYTES: Final = 64 << 20
#: What a submission costs besides its payload, in bytes.
_OVERHEAD: Final = 768


class Filed(NamedTuple):
    """A submission that is kept.

    Attributes:
        message: As it was when the task ended.
        payload: What goes to the engine.
        target: The engine that the task was bound to, or -1.
        submitted: When it came.
        outcome: How the task ended; if well, it is kept only as long as its result.
    """

    message: Submit
    payload: Payload
    target: int
    submitted: float
    outcome: Outcome

    @property
    def origin(self) -> Origin:
        """What the history knows of younger ones."""
        return Origin(self.submitted)


class Archive:
    """The submissions of tasks that failed, and of those whose results are kept.

    Args:
        size: How many bytes are kept; the oldest make room for new ones.

    Attributes:
        bytes: How many there are.
    """

    __slots__ = ("_filed", "_functions", "_size", "bytes")

    def __init__(self, size: int = ARCHIVE_BYTES) -> None:
        self._filed: OrderedDict[TaskId, Filed] = OrderedDict()
        self._functions: dict[Digest, tuple[int, Payload]] = {}
        self._size = size
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._filed)

    def __contains__(self, task: TaskId) -> bool:
        return task in self._filed

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._filed)

    def find(self, task: TaskId) -> Filed | None:
        """Return the submission of a task, if it is here."""
        return self._filed.get(task)

    def function(self, digest: Digest) -> Payload | None:
        """Return the function that submissions which are here name so."""
        found = self._functions.get(digest)
        return found[1] if found is not None else None

    def file(self, task: Task, outcome: Outcome, function: Payload | None) -> None:
        """Keep the submission of a task that has ended.

        Args:
            task: Which.
            outcome: How.
            function: The function that it names, or None if it names none.
        """
        message = task.message
        if message.digest and function is None:
            return
        payload = task.payload if type(task.payload) is bytes else bytes(task.payload)
        if len(payload) + (len(function) if function is not None else 0) > self._size // 4:
            return
        self.drop(task.id)
        self._filed[task.id] = Filed(message, payload, task.target, task.submitted, outcome)
        self.bytes += len(payload) + _OVERHEAD
        if function is not None:
            self._hold(message.digest, function)
        while self.bytes > self._size:
            self.drop(next(iter(self._filed)))

    def drop(self, task: TaskId) -> None:
        """Keep a submission no longer."""
        filed = self._filed.pop(task, None)
        if filed is None:
            return
        self.bytes -= len(filed.payload) + _OVERHEAD
        digest = filed.message.digest
        if digest:
            count, function = self._functions[digest]
            if count > 1:
                self._functions[digest] = count - 1, function
            else:
                del self._functions[digest]
                self.bytes -= len(function)

    def fetched(self, task: TaskId) -> None:
        """Keep a submission no longer unless the task failed: its result is not here any more."""
        filed = self._filed.get(task)
        if filed is not None and filed.outcome is Outcome.OK:
            self.drop(task)

    def _hold(self, digest: Digest, function: Payload) -> None:
        count, known = self._functions.get(digest, (0, None))
        if known is None:
            known = bytes(function)
            self.bytes += len(known)
        self._functions[digest] = count + 1, known


class Labels:
    """The open tasks with each label, oldest first. Tasks without a label cost nothing.

    Args:
        tasks: All open tasks.
    """

    __slots__ = ("_labelled", "_tasks")

    def __init__(self, tasks: Container[TaskId]) -> None:
        self._tasks = tasks
        self._labelled: dict[str, _Labelled] = {}

    def __len__(self) -> int:
        return len(self._labelled)

    def add(self, label: str, task: TaskId) -> None:
        """Note that an open task has a label."""
        labelled = self._labelled.get(label)
        if labelled is None:
            labelled = self._labelled[label] = _Labelled()
        labelled.tasks.append(task)
        labelled.open += 1

    def ended(self, label: str) -> None:
        """Note that one of the tasks with a label has ended, and is among the open ones no more."""
        labelled = self._labelled[label]
        labelled.open -= 1
        if not labelled.open:
            del self._labelled[label]
        elif len(labelled.tasks) > 64 + 2 * labelled.open:
            labelled.tasks = self._still_open(labelled)

    def find(self, label: str) -> list[TaskId]:
        """Return the open tasks with a label."""
        labelled = self._labelled.get(label)
        return [] if labelled is None else self._still_open(labelled)

    def _still_open(self, labelled: _Labelled) -> list[TaskId]:
        # A client that counts wrongly may give a task the id of one that has ended.
        latest = dict.fromkeys(task for task in reversed(labelled.tasks) if task in self._tasks)
        return list(reversed(latest))


class _Labelled:
    """Tasks with one label: ``open`` of them have not ended."""

    __slots__ = ("open", "tasks")

    def __init__(self) -> None:
        self.tasks: list[TaskId] = []
        self.open = 0
