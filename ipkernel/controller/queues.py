"""Load-balanced tasks that wait for an engine, in one line per session and choice of engines.

The lines take turns, so a client that submits a million tasks does not shut others out. Priorities
order the tasks of one session: within a line, and among the lines that take turns at all engines.
Tasks that some host is best for, because it has what they need, stand in lines of their own: that
host's engines look at these first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from ipkernel.controller.demands import Demand
from ipkernel.controller.tasks import State, Task

if TYPE_CHECKING:
    from ipkernel.controller.slots import Engine

_READY: Final = State.READY
#: From so many lines on, empty ones are removed before their sessions end.
_MANY: Final = 1024
#: After other lines were served so many times, those that wait for a host may go to any.
PATIENCE: Final = 64

Choice: TypeAlias = tuple[int, ...]
"""The engines that may run a task, sorted; empty stands for any."""


class Line:
    """Tasks of one session that may run on the same engines and ask for the same, in their order.

    Those of a higher priority go first. An aborted task stays in its queue until it is met, or until
    half of the queue is such tasks.

    Attributes:
        session: Number of the session.
        choice: The engines that may run them.
        queue: The tasks of the highest priority that there are; those that are not ready any more
            are to be skipped.
        priority: Their priority.
        lower: The tasks of lower priorities, as (priority, queue), the lowest first.
        count: How many of all these are ready.
        turning: Whether the line stands in the rotation.
        held: The session's client does not take its results: nothing of it is to be started.
        near: The host that is best for its tasks, or 0.
        demand: What they ask of their engines, or None.
        plain: Whether engines need to be told no more of its tasks than what to do.
        loose: It has waited for that host for too long: any engine will do.
        passed: How often others have got what it asks for since it has got something itself.
        place: The engine where what it asks for is kept free, if it is.
    """

    __slots__ = (
        "choice", "count", "demand", "held", "loose", "lower", "near", "passed", "place", "plain", "priority",
        "queue", "session", "turning",
    )  # fmt: skip

    def __init__(
        self, session: int, choice: Choice, near: int = 0, demand: Demand | None = None
    ) -> None:
        self.session = session
        self.choice = choice
        self.near = near
        self.demand = demand
        self.plain = True
        self.loose = False
        self.passed = 0
        self.place: Engine | None = None
        self.queue: deque[Task] = deque()
        self.priority = 0
        self.lower: list[tuple[int, deque[Task]]] = []
        self.count = 0
        self.turning = False
        self.held = False

    @property
    def picky(self) -> bool:
        """Whether not every engine will do."""
        return bool(self.choice) or self.demand is not None

    def level(self, priority: int) -> deque[Task]:
        """Return the queue of the tasks of a priority, to be added to at once."""
        if priority == self.priority:
            return self.queue
        lower = self.lower
        if not self.queue and not lower:
            self.priority = priority
            return self.queue
        if priority > self.priority:
            if self.queue:
                lower.append((self.priority, self.queue))
                self.queue = deque()
            self.priority = priority
            return self.queue
        at = bisect_left(lower, priority, key=_priority_of)
        if at == len(lower) or lower[at][0] != priority:
            lower.insert(at, (priority, deque()))
        return lower[at][1]

    def descend(self) -> bool:
        """Go on to the next lower priority, if there is one, now that the queue is empty."""
        if not self.lower:
            return False
        self.priority, self.queue = self.lower.pop()
        return True

    def drop(self, task: Task) -> None:
        """Count out a task that has been aborted."""
        self.count -= 1
        task.payload = b""
        queue = self.level(task.priority)
        if len(queue) > 2 * self.count + 64:
            live = [t for t in queue if t.state is _READY]
            queue.clear()
            queue.extend(live)

    def tasks(self) -> Iterator[Task]:
        """Iterate over the tasks, and those that are to be skipped."""
        yield from self.queue
        for _, queue in reversed(self.lower):
            yield from queue

    def clear(self) -> None:
        """Forget the tasks that are to be skipped: there are no others."""
        self.queue.clear()
        self.lower.clear()
        self.plain = True


def _priority_of(level: tuple[int, deque[Task]]) -> int:
    return level[0]


class NearLines:
    """The lines that wait for one host, in turn.

    Attributes:
        lines: The lines.
        mark: How often others had been served when one of these lines was served last.
    """

    __slots__ = ("lines", "mark")

    def __init__(self, mark: int) -> None:
        self.lines: deque[Line] = deque()
        self.mark = mark


class Lines:
    """All lines, and the rotation of those that have ready tasks.

    Attributes:
        rotation: The lines that take turns at all engines; the first is next.
        near: The lines with ready tasks that wait for a host, by its number; that which was
            served longest ago comes first.
        rounds: How often the rotation was served.
        count: Ready tasks in all lines, those of held ones included.
        ranked: The sessions that have given tasks a priority.
        overdue: The lines that were passed by others too often, the first one first.
    """

    __slots__ = ("_lines", "_many", "count", "near", "overdue", "ranked", "rotation", "rounds")

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Choice, int, Demand | None], Line] = {}
        self._many = _MANY
        self.rotation: deque[Line] = deque()
        self.near: dict[int, NearLines] = {}
        self.rounds = 0
        self.count = 0
        self.ranked: set[int] = set()
        self.overdue: list[Line] = []

    def first(self) -> Line:
        """Return the line whose turn it is, which is at the head of the rotation then.

        A session uses its turn for that of its lines which has the task of the highest priority.
        """
        rotation = self.rotation
        line = rotation[0]
        if line.session not in self.ranked:
            return line
        best, found = line, 0
        for at, other in enumerate(rotation):
            if other.session == line.session and other.priority > best.priority:
                best, found = other, at
        if found:
            rotation[0], rotation[found] = best, line
        return best

    def line(
        self, session: int, choice: Choice, near: int = 0, demand: Demand | None = None
    ) -> Line:
        """Return the line for these tasks, made if need be."""
        key = (session, choice, near, demand)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(session, choice, near, demand)
        return line

    def grown(self, line: Line, count: int) -> None:
        """Note that ``count`` ready tasks were added to the queue of ``line``."""
        line.count += count
        self.count += count
        if not line.turning and not line.held:
            self._enter(line)

    def dropped(self, line: Line, task: Task) -> None:
        """Note that a ready task of ``line`` was aborted."""
        line.drop(task)
        self.count -= 1

    def take_out(self, line: Line, tasks: list[Task]) -> list[Task]:
        """Take ready tasks out of a line; return them in the order in which they stood there."""
        wanted = {task.id for task in tasks}
        found: list[Task] = []
        for _, queue in [*line.lower, (0, line.queue)][::-1]:
            found += [task for task in queue if task.id in wanted]
            left = [task for task in queue if task.id not in wanted]
            queue.clear()
            queue.extend(left)
        line.count -= len(found)
        self.count -= len(found)
        if not line.count and line.turning:
            self.leave(line)
        return found

    def hold(self, session: int, held: bool) -> None:
        """Stop, or let go on, all lines of a session."""
        for line in self.of_session(session):
            line.held = held
            if held and line.turning:
                self.leave(line)
            elif not held and line.count and not line.turning:
                self._enter(line)

    def _enter(self, line: Line) -> None:
        line.turning = True
        line.loose = False
        if not line.near:
            self.rotation.append(line)
            return
        waiting = self.near.get(line.near)
        if waiting is None:
            waiting = self.near[line.near] = NearLines(self.rounds)
        waiting.lines.append(line)

    def leave(self, line: Line) -> None:
        """Take a line out of the turns."""
        line.turning = False
        if not line.near or line.loose:
            self.rotation.remove(line)
            return
        waiting = self.near[line.near]
        waiting.lines.remove(line)
        if not waiting.lines:
            del self.near[line.near]

    def waiting_near(self) -> int:
        """Return how many tasks stand in lines that wait for a host."""
        return sum(line.count for waiting in self.near.values() for line in waiting.lines)

    def served(self, host: int) -> None:
        """Note that a line which waits for a host has got something."""
        waiting = self.near.pop(host, None)
        if waiting is not None:
            waiting.mark = self.rounds
            self.near[host] = waiting

    def let_go(self, host: int) -> None:
        """Have the lines that wait for a host take turns at all engines."""
        for line in self.near.pop(host).lines:
            line.loose = True
            self.rotation.append(line)

    def let_go_late(self) -> None:
        """Do so where a host has kept its lines waiting for too long while others were served."""
        while self.near:
            host, waiting = next(iter(self.near.items()))
            if self.rounds - waiting.mark <= PATIENCE:
                return
            self.let_go(host)

    def of_session(self, session: int) -> list[Line]:
        """Return the lines of a session."""
        return [line for line in self._lines.values() if line.session == session]

    @property
    def crowded(self) -> bool:
        """Whether there are so many lines that it is worth while to look for empty ones."""
        return len(self._lines) > self._many

    def tidy(self) -> None:
        """Remove empty lines. Nobody may hold on to one that has a choice of engines or a host."""
        for key, line in list(self._lines.items()):
            if (line.picky or line.near) and not line.count and not line.turning:
                del self._lines[key]
        self._many = max(_MANY, 2 * len(self._lines))

    def all(self) -> list[Line]:
        """Return all lines."""
        return list(self._lines.values())

    def forget(self, session: int) -> None:
        """Remove the lines of a session that has no tasks left."""
        self.ranked.discard(session)
        for line in self.of_session(session):
            if line.turning:
                self.leave(line)
            del self._lines[(line.session, line.choice, line.near, line.demand)]
