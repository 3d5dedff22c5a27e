"""A few threads that move bytes, while there are bytes to move."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds after which a thread without work ends.
IDLE: Final = 5.0


class Workers:
    """Runs calls in at most so many threads, which come and go as needed.

    The threads are daemons, so that a transfer cannot keep a program from ending; :meth:`close` ends
    them.

    Args:
        name: What the threads are called.
        limit: How many there may be.
        idle: Seconds after which a thread without work ends.
    """

    def __init__(self, name: str, limit: int, idle: float = IDLE) -> None:
        self._name = name
        self._limit = limit
        self._idle_time = idle
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closed = False
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork: the threads are the parent's."""
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have a call made by one of the threads.

        At the end of the process, when no thread can be started any more, it is made here and now.

        Returns:
            Its outcome; cancelled if this is closed before it is its turn.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            self._jobs.append((future, call))
            if self._waiting >= len(self._jobs):
                self._changed.notify()
                return future
            if len(self._threads) >= self._limit or self._start():
                return future
            self._jobs.pop()
        _do(future, call)
        return future

    def _start(self) -> bool:
        """Start a thread; return whether there is one now."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
        return bool(self._threads)

    def _run(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            _do(*job)
            del job  # what it refers to must not live until the next one comes

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._jobs:
                patient = False
                if not self._closed:
                    self._waiting += 1
                    patient = self._changed.wait(self._idle_time)
                    self._waiting -= 1
                if not self._jobs and (self._closed or not patient):
                    self._threads.discard(threading.current_thread())
                    return None
            return self._jobs.popleft()

    def close(self, timeout: float = 0.0) -> None:
        """Take no more calls and end the threads; calls that have not begun are cancelled.

        Args:
            timeout: Seconds to wait for the calls under way.
        """
        with self._changed:
            self._closed = True
            jobs, self._jobs = self._jobs, deque()
            threads = list(self._threads)
            self._changed.notify_all()
        for future, _ in jobs:
            future.cancel()
        deadline = time.monotonic() + timeout
        for thread in threads:
            # The last reference to a client may be dropped in one of these threads.
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = call()
    except BaseException as problem:  # noqa: BLE001 - it is the future's to raise
        future.set_exception(problem)
    else:
        future.set_result(value)
