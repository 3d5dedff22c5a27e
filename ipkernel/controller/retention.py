"""The results that wait for somebody to fetch them.

Without a journal they are in memory. With one, memory has the latest of them and an index of the
rest, whose payloads and output are read from the journal when they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from ipkernel.controller.events import Result
from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Outcome, Output, Reason, encode_reason

if TYPE_CHECKING:
    from ipkernel.controller.journal import Recorded

#: How long, in seconds, and how many bytes of results are kept for clients that have gone.
RETAIN_SECONDS: Final = 3600.0
RETAIN_BYTES: Final = 256 << 20
#: The same where there is a journal.
KEEP_SECONDS: Final = 7 * 86400.0
KEEP_BYTES: Final = 1 << 30
#: How many bytes of them are in memory where there is a journal.
MEMORY_BYTES: Final = 64 << 20
#: How much of a task's output is kept with them.
RETAIN_OUTPUT: Final = 64 << 10
#: What a retained result costs besides its payload, in bytes.
_OVERHEAD: Final = 512

#: The output of a task, and its result.
Taken: TypeAlias = tuple[list[tuple[Output, Payload]], Result]


class OutputTail:
    """The last part of a task's output, up to :data:`RETAIN_OUTPUT` bytes."""

    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items: deque[tuple[Output, Payload]] = deque()
        self.bytes = 0

    def add(self, message: Output, payload: Payload) -> int:
        """Add output; return by how many bytes the tail grew."""
        before = self.bytes
        self.items.append((message, payload))
        self.bytes += len(payload) + _OVERHEAD
        while self.bytes > RETAIN_OUTPUT and len(self.items) > 1:
            _, old = self.items.popleft()
            self.bytes -= len(old) + _OVERHEAD
        return self.bytes - before


class _Kept:
    """A result: when it was put here, how the task ended, its payload, or None if that is elsewhere."""

    __slots__ = ("message", "payload", "size", "when")

    def __init__(self, when: float, message: Finished, payload: Payload | None, size: int) -> None:
        self.when = when
        self.message = message
        self.payload = payload
        self.size = size


class Retained:
    """Results and output that nobody has fetched, oldest first, for a limited time and size.

    Args:
        seconds: How long a result is kept.
        size: How many bytes are kept; the oldest results make room for new ones.
        read: Returns the output and the results of tasks from the journal, as far as they are there.
        memory: With a journal, how many bytes are kept here.

    Attributes:
        seconds: As given.
        bytes: How many bytes are kept.
        in_memory: How many of them are here.
    """

    __slots__ = (
        "_cached",
        "_cut",
        "_memory",
        "_output",
        "_read",
        "_results",
        "_sessions",
        "_size",
        "bytes",
        "in_memory",
        "seconds",
    )

    def __init__(
        self,
        seconds: float = RETAIN_SECONDS,
        size: int = RETAIN_BYTES,
        *,
        read: Callable[[Collection[int]], dict[int, Recorded]] | None = None,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self.seconds = seconds
        self._size = size
        self._read = read
        self._memory = memory
        self._results: OrderedDict[int, _Kept] = OrderedDict()
        self._output: OrderedDict[int, OutputTail] = OrderedDict()
        self._cached: deque[_Kept] = deque()  # results with payloads here, oldest first
        self._cut: set[int] = set()  # tasks of whose output some is in the journal only
        self._sessions: dict[int, int] = {}
        self.bytes = 0
        self.in_memory = 0

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, task: int) -> bool:
        return task in self._results

    def __iter__(self) -> Iterator[int]:
        return iter(self._results)

    def of_session(self, session: int) -> int:
        """Return how many results of a session's tasks are here."""
        return self._sessions.get(session, 0)

    def with_output(self, session: int) -> list[int]:
        """Return the tasks of a session of which output is here."""
        return [task for task in self._output if task >> 40 == session]

    def since(self, task: int) -> float:
        """Return when the result of ``task``, which must be here, was put here."""
        return self._results[task].when

    def find(self, task: int) -> Finished | None:
        """Return how ``task`` ended, if its result is here."""
        found = self._results.get(task)
        return found.message if found is not None else None

    # -------------------------------------------------------------------------- keeping

    def keep(
        self, message: Finished, payload: Payload, now: float, *, written: bool = False
    ) -> list[int]:
        """Keep a result; return the tasks whose results had to make room.

        Args:
            message: How the task ended.
            payload: What came of it.
            now: Since when it is kept.
            written: It comes from the journal, with its output: that need not be in memory.
        """
        if message.task in self._results:
            self._remove(message.task)
        size = len(payload)
        away = written and self._read is not None
        kept = _Kept(now, message, None if away else payload, size)
        self._results[message.task] = kept
        self.bytes += size + _OVERHEAD
        if away:
            self._cut.add(message.task)
        else:
            self.in_memory += size
            if self._read is not None:
                self._cached.append(kept)
        session = message.task >> 40
        self._sessions[session] = self._sessions.get(session, 0) + 1
        return self._shrink()

    def keep_output(self, message: Output, payload: Payload) -> list[int]:
        """Keep output of a task; return the tasks whose results had to make room."""
        tail = self._output.get(message.task)
        if tail is None:
            tail = self._output[message.task] = OutputTail()
        grown = tail.add(message, payload)
        self.bytes += grown
        self.in_memory += grown
        return self._shrink()

    def committed(self) -> None:
        """All that was put here is in the journal by now: keep no more of it here than is allowed."""
        if self._read is None:
            return
        while self.in_memory > self._memory and (self._cached or self._output):
            if self._cached:
                self._put_away(self._cached.popleft())
            else:
                task, tail = self._output.popitem(last=False)
                self._cut.add(task)
                self.bytes -= tail.bytes
                self.in_memory -= tail.bytes

    def _put_away(self, kept: _Kept) -> None:
        task = kept.message.task
        if kept.payload is None or self._results.get(task) is not kept:
            return
        kept.payload = None
        self.in_memory -= kept.size
        tail = self._output.pop(task, None)
        if tail is not None:
            self._cut.add(task)
            self.bytes -= tail.bytes
            self.in_memory -= tail.bytes

    # --------------------------------------------------------------------------- taking

    def take(self, tasks: Iterable[int]) -> dict[int, Taken]:
        """Return the output and the results of those of ``tasks`` that are here, in this order.

        They are kept no longer.
        """
        here = {task: kept for task in tasks if (kept := self._results.get(task)) is not None}
        recorded: dict[int, Recorded] = {}
        if self._read is not None:
            away = [t for t, kept in here.items() if kept.payload is None or t in self._cut]
            if away:
                recorded = self._read(away)
        taken: dict[int, Taken] = {}
        for task, kept in here.items():
            tail = self._output.get(task)
            output = list(tail.items) if tail is not None else []
            if task in recorded:
                printed, _, payload = recorded[task]
                taken[task] = _last(printed), (kept.message, payload)
            elif kept.payload is None:
                taken[task] = output, _unreadable(kept.message)
            else:
                taken[task] = output, (kept.message, kept.payload)
            self._remove(task)
        return taken

    def drop(self, task: int) -> bool:
        """Keep the result of a task no longer; return whether it was here."""
        if task not in self._results:
            return False
        self._remove(task)
        return True

    def take_output(self, task: int) -> list[tuple[Output, Payload]]:
        """Return what is kept of the output of a task, and keep it no longer."""
        tail = self._output.pop(task, None)
        if tail is None:
            return []
        self.bytes -= tail.bytes
        self.in_memory -= tail.bytes
        return list(tail.items)

    def expire(self, now: float) -> list[int]:
        """Forget results that were kept long enough; return their tasks."""
        gone = []
        while self._results:
            task, kept = next(iter(self._results.items()))
            if kept.when > now - self.seconds:
                break
            self._remove(task)
            gone.append(task)
        return gone

    def _remove(self, task: int) -> None:
        kept = self._results.pop(task)
        self.bytes -= kept.size + _OVERHEAD
        if kept.payload is not None:
            self.in_memory -= kept.size
            kept.payload = None
        while self._cached and self._cached[0].payload is None:
            self._cached.popleft()
        self._cut.discard(task)
        session = task >> 40
        left = self._sessions[session] - 1
        if left:
            self._sessions[session] = left
        else:
            del self._sessions[session]
        self.take_output(task)

    def _shrink(self) -> list[int]:
        gone = []
        while self.bytes > self._size and (self._results or self._output):
            if self._results:
                task = next(iter(self._results))
                self._remove(task)
                gone.append(task)
            else:
                self.take_output(next(iter(self._output)))
        return gone


def _last(items: list[tuple[Output, Payload]]) -> list[tuple[Output, Payload]]:
    """Return the last part of a task's output."""
    tail = OutputTail()
    for message, payload in items:
        tail.add(message, payload)
    return list(tail.items)


def _unreadable(message: Finished) -> Result:
    """Return what is said in place of a result that the journal has lost."""
    text = "its result was kept in the controller's journal, which cannot be read any more"
    reason = encode_reason(Reason("limit", text, message.engine))
    end = Finished(
        message.task,
        Outcome.LOST,
        message.engine,
        message.started,
        message.completed,
        len(reason),
        message.attempts,
        label=message.label,
        kind=message.kind,
    )
    return end, reason
