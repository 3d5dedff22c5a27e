"""Questions of other threads to the reactor's thread, which can be given up."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

__all__ = ["ReactorCall"]

T = TypeVar("T")


class ReactorCall(Generic[T]):
    """A question to the reactor's thread, whose answer another thread waits for."""

    def __init__(self, reactor: Any, function: Callable[..., Any], *args: Any) -> None:
        self._reactor = reactor
        self._outcome: queue.SimpleQueue[T | Failure] = queue.SimpleQueue()
        self._deferred: Deferred[T] | None = None
        reactor.callFromThread(self._begin, function, args)

    def _begin(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._deferred = maybeDeferred(function, *args)
        self._deferred.addBoth(self._outcome.put)

    def wait(self, timeout: float) -> T:
        """Return the answer; raise what it has failed with, or queue.Empty when it is late."""
        outcome = self._outcome.get(timeout=timeout)
        if not isinstance(outcome, Failure):
            return outcome
        error = outcome.value
        assert error is not None
        try:
            raise error
        finally:
            del outcome, error  # or error and stack keep each other, and what the stack refers to

    def fail(self, error: Exception) -> None:
        """Have the waiting thread get this error; from any thread."""
        self._outcome.put(Failure(error))

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._reactor.callFromThread(self._cancel)

    def _cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()
