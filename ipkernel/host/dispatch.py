"""Which task goes to an engine when: one :class:`Lane` for each, pure and without I/O.

A lane is the queue of an engine at its host daemon. Tasks wait here, where they can still be
given back, and not in the engine's pipe; only of tasks that take microseconds may a
millisecond's worth be in the pipe, so that the engine need not wait for each next one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

from ipkernel.wire.messages import Assign, Kind

__all__ = ["Lane"]

#: Seconds of work that may be in the pipe, by what is known of its duration.
PIPE_TIME: Final = 1e-3
#: Tasks that may be in the pipe.
PIPE_COUNT: Final = 256
#: Payload bytes that may be in the pipe, unless one task alone has more.
PIPE_BYTES: Final = 1 << 20
#: What a task costs at least, in seconds: the engine's own overhead.
OVERHEAD: Final = 5e-6
#: What a task is taken to cost of which nothing is known.
UNKNOWN: Final = 1.0
#: How much of the difference a shorter duration takes off the estimate; a longer one replaces it.
_DECAY: Final = 0.2
#: Functions whose durations are remembered.
_REMEMBERED: Final = 1024

Key = tuple[int, bytes]


class Lane:
    """The tasks of one engine: those that wait here and those that are with it.

    Attributes:
        waiting: Not sent yet: id to message and payload, oldest first.
        held: For each session in which a task waits for objects: that task and those behind it,
            in order. Tasks of other sessions pass.
        flight: Sent and not done, oldest first; the first one runs.
        known: Digests of functions that the engine has.
        sent: How many tasks were sent since the engine started.
        finished: How many tasks it has finished since then.
    """

    __slots__ = (
        "_bytes", "_costs", "_lacking", "_time",
        "finished", "flight", "held", "known", "sent", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waiting: OrderedDict[int, tuple[Assign, Any]] = OrderedDict()
        self.held: dict[int, OrderedDict[int, tuple[Assign, Any]]] = {}
        self.flight: deque[tuple[Assign, float]] = deque()
        self.known: set[bytes] = set()
        self.sent = 0
        self.finished = 0
        self._bytes = 0
        self._time = 0.0
        self._costs: dict[Key, float] = {}
        self._lacking: set[int] = set()

    @property
    def running(self) -> int:
        """Id of the task that the engine runs, as far as is known; 0 for none."""
        flight = self.flight
        return flight[0][0].task if flight else 0

    def add(self, message: Assign, payload: Any) -> None:
        """Queue a task; it waits behind one of its session that waits for objects."""
        held = self.held.get(message.task >> 40) if self.held else None
        (self.waiting if held is None else held)[message.task] = (message, payload)

    def hold(self, message: Assign, payload: Any) -> None:
        """Queue a task that cannot be sent before :meth:`place` says that it can."""
        held = self.held.setdefault(message.task >> 40, OrderedDict())
        held[message.task] = (message, payload)
        self._lacking.add(message.task)

    def place(self, message: Assign) -> None:
        """Let a task go that is held and whose objects are there now.

        Args:
            message: What is to be sent in place of the message that was held.
        """
        task = message.task
        session = task >> 40
        held = self.held[session]
        held[task] = (message, held[task][1])
        self._lacking.discard(task)
        self._move_up(session, held)

    def _move_up(self, session: int, held: OrderedDict[int, tuple[Assign, Any]]) -> None:
        """Let those go that wait for nobody any more."""
        while held:
            task = next(iter(held))
            if task in self._lacking:
                return
            self.waiting[task] = held.pop(task)
        del self.held[session]

    def take(self) -> list[tuple[Assign, Any]]:
        """Return the tasks that are to be sent to the engine now, and count them as sent."""
        taken: list[tuple[Assign, Any]] = []
        waiting, flight, costs = self.waiting, self.flight, self._costs
        time, size = self._time, self._bytes
        while waiting:
            if flight and (time > PIPE_TIME or len(flight) >= PIPE_COUNT or size >= PIPE_BYTES):
                break
            item = waiting.popitem(last=False)[1]
            message = item[0]
            # What was never timed may take forever: nothing is sent behind it.
            # Nor behind what may be interrupted.
            cost = UNKNOWN if message.limit else costs.get((message.kind, message.digest), UNKNOWN)
            flight.append((message, cost))
            taken.append(item)
            time += cost
            size += message.size
        self._time, self._bytes = time, size
        self.sent += len(taken)
        return taken

    def done(self, task: int, duration: float) -> bool:
        """Note that the engine has finished a task.

        Args:
            task: Its id.
            duration: Seconds that it took.

        Returns:
            False when the engine had no such task.
        """
        flight = self.flight
        if not flight or flight[0][0].task != task:
            return False
        message, cost = flight.popleft()
        self.finished += 1
        if flight:
            self._time -= cost
            self._bytes -= message.size
        else:  # sums of floats drift
            self._time = 0.0
            self._bytes = 0
        if not message.digest and message.kind <= Kind.EXECUTE:
            return True  # each call or cell of its own: the next one may be quite different
        key = (message.kind, message.digest)
        costs = self._costs
        new = duration + OVERHEAD
        old = costs.get(key)
        if old is None and len(costs) >= _REMEMBERED:
            costs.clear()
        costs[key] = new if old is None or new > old else old + (new - old) * _DECAY
        return True

    def reclaim(self, tasks: Iterable[int]) -> list[int]:
        """Take tasks back that were not sent, and return their ids."""
        waiting = self.waiting
        if not self.held:
            return [task for task in tasks if waiting.pop(task, None) is not None]
        return [task for task in tasks if waiting.pop(task, None) or self._unhold(task)]

    def _unhold(self, task: int) -> bool:
        session = task >> 40
        held = self.held.get(session)
        if held is None or held.pop(task, None) is None:
            return False
        self._lacking.discard(task)
        self._move_up(session, held)
        return True

    def drop_waiting(self) -> None:
        """Forget what was not sent."""
        self.waiting.clear()
        self.held.clear()
        self._lacking.clear()

    def lost(self, started: int | None) -> tuple[list[int], list[int]]:
        """Empty the lane because its engine is gone.

        Args:
            started: How many tasks the engine had begun since it started; None when nobody
                knows, and then all that were sent count.

        Returns:
            Ids of the tasks that had started, and of those that had not.
        """
        count = len(self.flight)
        begun = count if started is None else max(0, min(count, started - (self.sent - count)))
        flight = [message.task for message, _ in self.flight]
        rest = flight[begun:] + list(self.waiting)
        for held in self.held.values():
            rest.extend(held)
        self.flight.clear()
        self.drop_waiting()
        self.known.clear()
        self.sent = self.finished = self._bytes = 0
        self._time = 0.0
        return flight[:begun], rest
