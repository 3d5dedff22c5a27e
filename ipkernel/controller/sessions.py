"""The sessions of clients, and the results that wait for somebody to fetch them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from msgspec.structs import force_setattr

from ipkernel.controller.events import Result
from ipkernel.controller.queues import Line
from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Output, Submit, Terms

#: Functions that one session may keep here, in bytes.
MAX_FUNCTIONS: Final = 256 << 20
#: How long, in seconds, and how many bytes of results are kept for clients that have gone.
RETAIN_SECONDS: Final = 3600.0
RETAIN_BYTES: Final = 256 << 20
#: How much of a task's output is kept with them.
RETAIN_OUTPUT: Final = 64 << 10
#: What a retained result costs besides its payload, in bytes.
_OVERHEAD: Final = 512
#: What a function costs besides its blob; clients stop sending functions well before it matters.
_ENTRY: Final = 128


class Session:
    """One client's session, which outlives its connection.

    Attributes:
        id: Its number.
        client: Who it is, for people.
        since: When it was opened.
        attached: Whether the client is connected.
        held: Whether nothing of it is to be started because its client takes no results.
        open: Tasks that have not ended.
        bytes: Their payload, each byte counted once.
        functions: The functions that the client has sent, by digest.
        function_bytes: Their size.
        recent: The line of its latest load-balanced task for which not every engine will do.
        tub_id: The client's TubID.
        taken: How many of its messages were dealt with.
        until: Until when it is kept for its client, which has gone, though nothing of it is left;
            0.0 if that will not come back.
    """

    __slots__ = (
        "_terms",
        "attached",
        "bytes",
        "client",
        "function_bytes",
        "functions",
        "held",
        "id",
        "open",
        "recent",
        "since",
        "taken",
        "tub_id",
        "until",
    )

    def __init__(self, number: int, client: str, now: float, tub_id: str = "") -> None:
        self.id = number
        self.client = client
        self.since = now
        self.attached = True
        self.held = False
        self.open = 0
        self.bytes = 0
        self.functions: dict[bytes, Payload] = {}
        self.function_bytes = 0
        self.recent: Line | None = None
        self._terms: Terms | None = None
        self.tub_id = tub_id
        self.taken = 0
        self.until = 0.0

    def share_terms(self, message: Submit) -> Terms | None:
        """Let a task share its terms with the one before it if they are equal; return them."""
        terms = message.terms
        if terms == self._terms:
            terms = self._terms
            force_setattr(message, "terms", terms)
        self._terms = terms
        return terms

    def keep_function(self, digest: bytes, blob: Payload) -> bool:
        """Keep a function; return False when the session has too many of them."""
        if digest in self.functions:
            return True
        kept = self.function_bytes + _ENTRY * len(self.functions)
        if kept + len(blob) > MAX_FUNCTIONS:
            return False
        self.functions[digest] = blob
        self.function_bytes += len(blob)
        return True


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


class Retained:
    """Results and output that nobody has fetched, oldest first, for a limited time and size.

    Args:
        seconds: How long a result is kept.
        size: How many bytes are kept; the oldest results make room for new ones.
    """

    __slots__ = ("_output", "_results", "_seconds", "_sessions", "_size", "bytes")

    def __init__(self, seconds: float = RETAIN_SECONDS, size: int = RETAIN_BYTES) -> None:
        self._seconds = seconds
        self._size = size
        self._results: OrderedDict[int, tuple[float, Result]] = OrderedDict()
        self._output: OrderedDict[int, OutputTail] = OrderedDict()
        self._sessions: dict[int, int] = {}
        self.bytes = 0

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
        return self._results[task][0]

    def find(self, task: int) -> Finished | None:
        """Return how ``task`` ended, if its result is here."""
        found = self._results.get(task)
        return found[1][0] if found is not None else None

    def keep(self, message: Finished, payload: Payload, now: float) -> list[int]:
        """Keep a result; return the tasks whose results had to make room."""
        if message.task in self._results:
            self._remove(message.task)
        self._results[message.task] = (now, (message, payload))
        self.bytes += len(payload) + _OVERHEAD
        session = message.task >> 40
        self._sessions[session] = self._sessions.get(session, 0) + 1
        return self._shrink()

    def keep_output(self, message: Output, payload: Payload) -> list[int]:
        """Keep output of a task; return the tasks whose results had to make room."""
        tail = self._output.get(message.task)
        if tail is None:
            tail = self._output[message.task] = OutputTail()
        self.bytes += tail.add(message, payload)
        return self._shrink()

    def take(self, task: int) -> tuple[list[tuple[Output, Payload]], Result] | None:
        """Return the output and the result of a task, and keep them no longer."""
        found = self._results.get(task)
        if found is None:
            return None
        tail = self._output.get(task)
        output = list(tail.items) if tail is not None else []
        self._remove(task)
        return output, found[1]

    def take_output(self, task: int) -> list[tuple[Output, Payload]]:
        """Return what is kept of the output of a task, and keep it no longer."""
        tail = self._output.pop(task, None)
        if tail is None:
            return []
        self.bytes -= tail.bytes
        return list(tail.items)

    def expire(self, now: float) -> list[int]:
        """Forget results that were kept long enough; return their tasks."""
        gone = []
        while self._results:
            task, (when, _) = next(iter(self._results.items()))
            if when > now - self._seconds:
                break
            self._remove(task)
            gone.append(task)
        return gone

    def _remove(self, task: int) -> None:
        _, (_, payload) = self._results.pop(task)
        self.bytes -= len(payload) + _OVERHEAD
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
