"""Questions to the controller whose answers come as messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from ipkernel.wire.messages import Message


class Asking:
    """Matches answers with who waits for them; several with one key get theirs in turn.

    Args:
        tell: Sends a message to the controller.
    """

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._failure: Callable[[], BaseException] | None = None
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork: answers go to the parent."""
        self._lock = threading.Lock()
        self._open: dict[Hashable, deque[tuple[Future[Any], Message]]] = {}

    def ask(self, key: Hashable, question: Message) -> Future[Any]:
        """Send a question; the future is for the answer that comes with the same key."""
        future: Future[Any] = Future()
        with self._lock:
            failure = self._failure
            if failure is None:
                self._open.setdefault(key, deque()).append((future, question))
        if failure is not None:
            future.set_exception(failure())
        else:
            self._tell(question)
        return future

    def answer(self, key: Hashable, answer: object) -> None:
        """Give an answer to who has asked first; one that nobody has asked for is ignored."""
        with self._lock:
            waiting = self._open.get(key)
            future = waiting.popleft()[0] if waiting else None
            if not waiting:
                self._open.pop(key, None)
        if future is not None:
            future.set_result(answer)

    @property
    def unanswered(self) -> list[Message]:
        """The questions that wait for an answer, in the order in which those with one key were asked."""
        with self._lock:
            return [question for waiting in self._open.values() for _, question in waiting]

    def fail(self, failure: Callable[[], BaseException]) -> None:
        """End all questions, also later ones, with what ``failure()`` makes."""
        with self._lock:
            self._failure = failure
            futures = [future for waiting in self._open.values() for future, _ in waiting]
            self._open.clear()
        for future in futures:
            future.set_exception(failure())
