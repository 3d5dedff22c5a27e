"""Load-balanced tasks that wait for an engine, in one line per session and choice of engines.

The lines take turns, so a client that submits a million tasks does not shut others out.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from ipkernel.controller.tasks import State, Task

_READY: Final = State.READY
#: From so many lines on, empty ones are removed before their sessions end.
_MANY: Final = 1024

Choice: TypeAlias = tuple[int, ...]
"""The engines that may run a task, sorted; empty stands for any."""


class Line:
    """Tasks of one session that may run on the same engines, first come first served.

    An aborted task stays in the queue until it is met, or until half of the queue is such tasks.

    Attributes:
        session: Number of the session.
        choice: The engines that may run them.
        queue: The tasks; those that are not ready any more are to be skipped.
        count: How many of them are ready.
        turning: Whether the line stands in the rotation.
        held: The session's client does not take its results: nothing of it is to be started.
    """

    __slots__ = ("choice", "count", "held", "queue", "session", "turning")

    def __init__(self, session: int, choice: Choice) -> None:
        self.session = session
        self.choice = choice
        self.queue: deque[Task] = deque()
        self.count = 0
        self.turning = False
        self.held = False

    def drop(self, task: Task) -> None:
        """Count out a task of the queue that has been aborted."""
        self.count -= 1
        task.payload = b""
        if len(self.queue) > 2 * self.count + 64:
            self.queue = deque(t for t in self.queue if t.state is _READY)


class Lines:
    """All lines, and the rotation of those that have ready tasks.

    Attributes:
        rotation: The lines that take turns; the first is next.
        count: Ready tasks in all lines, those of held ones included.
    """

    __slots__ = ("_lines", "_many", "count", "rotation")

    def __init__(self) -> None:
        self._lines: dict[tuple[int, Choice], Line] = {}
        self._many = _MANY
        self.rotation: deque[Line] = deque()
        self.count = 0

    def line(self, session: int, choice: Choice) -> Line:
        """Return the line for these tasks, made if need be."""
        key = (session, choice)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(session, choice)
        return line

    def grown(self, line: Line, count: int) -> None:
        """Note that ``count`` ready tasks were added to the queue of ``line``."""
        line.count += count
        self.count += count
        if not line.turning and not line.held:
            line.turning = True
            self.rotation.append(line)

    def dropped(self, line: Line, task: Task) -> None:
        """Note that a ready task of ``line`` was aborted."""
        line.drop(task)
        self.count -= 1

    def hold(self, session: int, held: bool) -> None:
        """Stop, or let go on, all lines of a session."""
        for line in self.of_session(session):
            line.held = held
            if held and line.turning:
                line.turning = False
                self.rotation.remove(line)
            elif not held and line.count and not line.turning:
                line.turning = True
                self.rotation.append(line)

    def of_session(self, session: int) -> list[Line]:
        """Return the lines of a session."""
        return [line for (owner, _), line in self._lines.items() if owner == session]

    @property
    def crowded(self) -> bool:
        """Whether there are so many lines that it is worth while to look for empty ones."""
        return len(self._lines) > self._many

    def tidy(self) -> None:
        """Remove empty lines. Nobody may hold on to one that has a choice of engines."""
        for key, line in list(self._lines.items()):
            if line.choice and not line.count and not line.turning:
                del self._lines[key]
        self._many = max(_MANY, 2 * len(self._lines))

    def all(self) -> list[Line]:
        """Return all lines."""
        return list(self._lines.values())

    def forget(self, session: int) -> None:
        """Remove the lines of a session that has no tasks left."""
        for line in self.of_session(session):
            if line.turning:
                self.rotation.remove(line)
            del self._lines[(line.session, line.choice)]
