"""What becomes of tasks that are to be aborted, as the controller tells it."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ipkernel.client.waiting import deadline_of, left_until, wait_until
from ipkernel.wire.messages import Cancel, Cancelled, Fate

if TYPE_CHECKING:
    from ipkernel.client.session import Session

__all__ = ["FATES", "GENTLE", "GRACE", "WORDS", "Aborts", "Cancellation", "milliseconds"]

#: Seconds that a task has to end after it was interrupted; then its engine is killed.
GRACE: Final = 1.0
#: The same for tasks that must not cost an engine.
GENTLE: Final = 1e6
#: How users are told.
WORDS: Final[dict[Fate, str]] = {
    Fate.DEQUEUED: "dequeued",
    Fate.INTERRUPTED: "interrupted",
    Fate.KILLED: "killed",
    Fate.ENDED: "ended already",
    Fate.UNKNOWN: "unknown",
}
FATES: Final = {word: fate for fate, word in WORDS.items()}
#: Seconds between looks at whether a task has ended of which nobody said so.
_LOOK: Final = 0.5


def milliseconds(grace: float) -> int:
    """Return seconds from an interrupt to a kill as messages have them.

    Raises:
        ValueError: It is negative, or not a number that makes sense.
    """
    if not 0 <= grace <= GENTLE:
        raise ValueError(f"grace cannot be {grace!r}: it is a number of seconds, 0 or more")
    return int(grace * 1000)


class Cancellation(Mapping[int, str]):
    """The answer to a wish to abort tasks: what became of each, by its id.

    That is ``"dequeued"`` (it had not begun), ``"interrupted"``, ``"killed"`` (its engine was, and is
    started again), ``"ended already"`` (also if it ended in spite of all) or ``"unknown"`` (to the
    controller). While answers are missing their tasks are; see :attr:`open`.

    Args:
        tasks: The tasks whose fate is to be told.
        known: What is known of others from the beginning.
        look: Returns the fate of a task of which this client knows that it has ended, else None.
    """

    def __init__(
        self,
        tasks: Iterable[int] = (),
        known: Mapping[int, Fate] | None = None,
        look: Callable[[int], Fate | None] = lambda _: None,
    ) -> None:
        self._condition = threading.Condition()
        self._open: dict[int, None] = dict.fromkeys(tasks)
        self._fates: dict[int, Fate] = dict(known or {})
        self._look = look
        self._failure: Callable[[], BaseException] | None = None

    # ------------------------------------------------- called by the session

    def answer(self, tasks: Iterable[int], fates: Iterable[Fate]) -> bool:
        """Take what the controller tells; return whether that is all."""
        with self._condition:
            for task, fate in zip(tasks, fates, strict=True):
                if task in self._open:
                    del self._open[task]
                    self._fates[task] = fate
            self._condition.notify_all()
            return not self._open

    def fail(self, failure: Callable[[], BaseException]) -> None:
        """No more answers will come."""
        with self._condition:
            self._failure = failure
            self._condition.notify_all()

    # ------------------------------------------------- for users

    @property
    def open(self) -> list[int]:
        """The tasks of which nothing is known yet."""
        with self._condition:
            return list(self._open)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is known what became of each task.

        Args:
            timeout: Seconds; None or negative is for ever.

        Returns:
            Whether it is.

        Raises:
            ControllerLost: The connection to the controller is gone.
            RuntimeError: This thread runs a reactor.
        """
        deadline = deadline_of(timeout)
        with self._condition:
            while self._open and self._failure is None:
                left = left_until(deadline)
                step = _LOOK if left is None else min(left, _LOOK)
                over = wait_until(
                    self._condition, lambda: not self._open or self._failure is not None, step
                )
                if not over:
                    self._look_around()
                    if left is not None and left <= step:
                        break
            if self._open and self._failure is not None:
                raise self._failure()
            return not self._open

    def _look_around(self) -> None:
        """Take what the ends of tasks say: a controller that was started again may not answer."""
        for task in list(self._open):
            fate = self._look(task)
            if fate is not None:
                del self._open[task]
                self._fates[task] = fate

    def count(self, word: str) -> int:
        """Return how many tasks have this fate."""
        return sum(fate == word for fate in self.values())

    def __getitem__(self, task: int) -> str:
        return WORDS[self._fates[task]]

    def __iter__(self) -> Iterator[int]:
        with self._condition:
            return iter(list(self._fates))

    def __len__(self) -> int:
        return len(self._fates)

    def __str__(self) -> str:
        """Return a phrase such as ``2 dequeued, 1 interrupted``."""
        counts = Counter(self.values())
        parts = [f"{counts[word]} {word}" for word in WORDS.values() if counts[word]]
        if missing := len(self.open):
            parts.append(f"{missing} not known yet")
        return ", ".join(parts) or "no tasks"

    def __repr__(self) -> str:
        return f"<Cancellation: {self}>"


class Aborts:
    """The requests of a session to abort tasks, and their answers.

    Args:
        session: Whose.

    Attributes:
        grace: Seconds that a task has to end after it was interrupted, unless a request says so
            otherwise.
        open: The requests that are not answered, by their numbers.
    """

    def __init__(self, session: Session) -> None:
        self.grace = GRACE
        self.open: dict[int, Cancellation] = {}
        self._session = session
        self._serials = itertools.count(1)

    def request(self, tasks: Sequence[int], grace: float | None = None) -> Cancellation:
        """Have tasks aborted, of this session or another one; returns at once.

        Args:
            tasks: Which.
            grace: Seconds that each has to end after it was interrupted, or None for
                :attr:`grace`.

        Returns:
            What becomes of each, as it becomes known.

        Raises:
            ValueError: ``grace`` makes no sense.
        """
        limit = milliseconds(self.grace if grace is None else grace)
        answer = self.prepare(tasks)
        self.send(answer, limit)
        return answer

    def prepare(self, tasks: Sequence[int]) -> Cancellation:
        """Return what the answer for tasks will be in; nothing is asked yet."""
        session = self._session
        wanted, known = [], {}
        for task in dict.fromkeys(tasks):
            if task in session.pending or not session.has_submitted(task):
                wanted.append(task)
            else:
                known[task] = Fate.ENDED
        return Cancellation(wanted, known, self._fate_of)

    def send(self, answer: Cancellation, limit: int) -> None:
        """Ask the controller for an answer that was prepared.

        Args:
            answer: What the answer is to be in.
            limit: Milliseconds that a task has to end after it was interrupted.
        """
        wanted = answer.open
        if not wanted:
            return
        session = self._session
        serial = next(self._serials)
        self.open[serial] = answer
        session.objects.fetcher.cancel(wanted)
        session.send_lists(lambda some: Cancel(some, serial, limit), wanted)
        failure = session.failure
        if failure is not None:
            self.lost(lambda: failure)

    def _fate_of(self, task: int) -> Fate | None:
        record = self._session.find(task)
        if record is None:
            return Fate.ENDED if self._session.has_submitted(task) else None
        return record.fate

    def received(self, message: Cancelled) -> None:
        """Take an answer of the controller."""
        answer = self.open.get(message.serial)
        if answer is not None and answer.answer(message.tasks, message.fates):
            self.open.pop(message.serial, None)

    def lost(self, failure: Callable[[], BaseException]) -> None:
        """End what waits for answers: none will come."""
        while self.open:
            try:
                _, answer = self.open.popitem()
            except KeyError:
                break
            answer.fail(failure)
