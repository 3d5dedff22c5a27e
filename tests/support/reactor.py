"""One global Twisted reactor in one background thread, for tests that need a real one.

A test is written as a coroutine and awaits Deferreds::

    from tests.support.reactor import inreactor

    @inreactor
    async def test_something(tmp_path):
        port = await listen(...)
        ...

pytest sees an ordinary function: it runs in pytest's thread, hands the coroutine to the reactor
thread and waits for its result.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREAD_NAME = "test-reactor"
TIMEOUT = 60.0
"""Seconds that a test may take in the reactor before it is cancelled."""

_starting = threading.Lock()
_thread: threading.Thread | None = None


def reactor() -> Any:
    """Return the global reactor, running in its daemon thread (started on first use)."""
    from twisted.internet import reactor as the_reactor

    global _thread
    with _starting:
        # A client made by an earlier test may have started it already, in a thread of its own.
        if _thread is None and not the_reactor.running:
            running = threading.Event()
            the_reactor.callWhenRunning(running.set)
            _thread = threading.Thread(
                target=the_reactor.run,
                kwargs={"installSignalHandlers": False},
                name=THREAD_NAME,
                daemon=True,
            )
            _thread.start()
            if not running.wait(10):
                raise RuntimeError("the test reactor did not start within 10 s")
    return the_reactor


def _wait(start: Callable[[], Awaitable[T]], timeout: float) -> T:
    """Start something awaitable in the reactor thread; wait for it here; cancel it when late."""
    from twisted.internet.defer import Deferred, ensureDeferred
    from twisted.python.threadable import isInIOThread

    the_reactor = reactor()
    if isInIOThread():
        raise RuntimeError("already in the reactor thread: await instead")
    outcome: Future[T] = Future()
    running: list[Deferred[T]] = []

    def go() -> None:
        try:
            awaitable = start()
            deferred = (
                awaitable
                if isinstance(awaitable, Deferred)
                else ensureDeferred(_coroutine(awaitable))
            )
        except BaseException as error:
            outcome.set_exception(error)
            return
        running.append(deferred)
        deferred.addCallbacks(outcome.set_result, lambda f: outcome.set_exception(f.value))

    the_reactor.callFromThread(go)
    try:
        return outcome.result(timeout)
    except FutureTimeoutError:
        if outcome.done():  # the test itself raised TimeoutError
            raise
    for deferred in running:
        the_reactor.callFromThread(deferred.cancel)
    try:  # gives the test's own ``finally`` clauses a chance, and shows where it stood
        outcome.exception(5)
        where = outcome.exception()
    except FutureTimeoutError:
        where = None
    raise TimeoutError(f"not finished in the reactor after {timeout} s") from where


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


def inreactor(
    function: Callable[P, Coroutine[Any, Any, T]] | None = None, *, timeout: float = TIMEOUT
) -> Any:
    """Run an ``async def`` test in the global reactor; ``@inreactor(timeout=5)`` shortens its time."""
    if function is None:
        return functools.partial(inreactor, timeout=timeout)
    test = function

    @functools.wraps(test)
    def in_reactor(*args: P.args, **kwargs: P.kwargs) -> T:
        return _wait(lambda: test(*args, **kwargs), timeout)

    return in_reactor


def run_in_reactor(function: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """Call ``function`` in the reactor thread and return what it, or its awaitable, comes to."""

    async def call() -> Any:
        result = function()
        return await result if isinstance(result, Awaitable) else result

    return _wait(call, timeout)
