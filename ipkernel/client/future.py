"""A :class:`concurrent.futures.Future` that costs next to nothing until somebody waits for it.

The one of the standard library makes a condition, with its lock and queues, for every future
(2 µs). Here it is made when somebody waits. One lock for the whole process guards that step
against the moment in which the future is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipkernel.client.waiting import wait_until

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_making = threading.RLock()


def renew_lock() -> None:
    """Make the lock anew: after a fork somebody may seem to hold it who is not there any more."""
    global _making
    _making = threading.RLock()


class LightFuture(Future[Any]):
    """A future whose heavier parts are made on demand.

    Subclasses say what the outcome is (:meth:`result`); whoever brings it calls :meth:`_finish`.
    """

    _state = PENDING
    _cond: threading.Condition | None = None
    _callbacks: list[Callable[[Any], object]] | None = None
    _watching: list[Any] | None = None

    def __init__(self) -> None:
        # Deliberately not Future.__init__: its parts are the properties below.
        pass

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        cond = self._cond
        if cond is None:
            with _making:
                cond = self._cond
                if cond is None:
                    cond = self._cond = threading.Condition()
        return cond

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        # What concurrent.futures.wait() and as_completed() put here they remove themselves.
        if self._watching is None:
            self._watching = []
        return self._watching

    def _finish(self) -> None:
        """Make it done, tell everybody who waits, run the callbacks."""
        with _making:
            cond = self._cond
            if cond is None:
                if self._state is not PENDING:
                    return
                self._state = FINISHED
        if cond is not None:
            with cond:
                if self._state is not PENDING:
                    return
                self._state = FINISHED
                if self._watching:
                    bad = self._failed()
                    for waiter in self._watching:
                        (waiter.add_exception if bad else waiter.add_result)(self)
                cond.notify_all()
            if self._callbacks is not None:
                self._run_callbacks()

    def _failed(self) -> bool:
        """Return whether the outcome, which is there, is an exception."""
        return False

    def _notify(self) -> None:
        """Wake those who wait for a part of the outcome."""
        cond = self._cond
        if cond is not None:
            with cond:
                cond.notify_all()

    def _drop(self) -> bool:
        """Make it cancelled, unless it is done; return whether it is cancelled now."""
        with self._condition:
            if self._state is not PENDING:
                return self._state is not FINISHED
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        if self._callbacks is not None:
            self._run_callbacks()
        return True

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks or (), None
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                logging.getLogger("ipkernel.client").exception(
                    "a callback of %r raised an exception", self
                )

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have ``fn(self)`` called once this is done; at once if it is.

        It is called in the thread that receives results, so it must not wait for anything.
        """
        with self._condition:
            if self._state is PENDING:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                return
        fn(self)

    def done(self) -> bool:
        """Return whether there is an outcome: result, exception or cancellation."""
        return self._state is not PENDING

    @property
    def dropped(self) -> bool:
        """Whether :meth:`cancel` has given it up before it was done."""
        state = self._state
        return state is CANCELLED_AND_NOTIFIED or state is CANCELLED

    def cancelled(self) -> bool:
        """Return whether :meth:`cancel` has given it up."""
        return self.dropped

    def running(self) -> bool:
        """Return False: a client does not follow where its tasks are; see ``Client.explain``."""
        return False

    def _await_done(self, timeout: float | None) -> bool:
        """Wait until it is done; return whether it is."""
        if self._state is not PENDING:
            return True
        with self._condition:
            return wait_until(self._condition, self.done, timeout)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no asyncio here: a Twisted program
            return self.as_deferred().__await__()
        return self._in_loop(loop).__await__()

    def _in_loop(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Return a future of asyncio with the same outcome; cancelling that does not cancel this."""
        outcome = loop.create_future()

        def settle() -> None:
            if outcome.done():
                return
            try:
                outcome.set_result(self.result(0))
            except BaseException as failure:  # noqa: BLE001 - a cancellation is no Exception
                outcome.set_exception(failure)

        def settle_there(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle)

        self.add_done_callback(settle_there)
        return outcome

    def as_deferred(self) -> Deferred[Any]:
        """Return a Twisted Deferred that fires, in the reactor's thread, with the outcome.

        Cancelling it cancels this.
        """
        from twisted.internet import defer, reactor

        from ipkernel.client.reactor_thread import call_in_reactor

        def give_up(_: object) -> None:
            self.cancel()

        deferred: Deferred[Any] = defer.Deferred(give_up)

        def fire() -> None:
            if deferred.called:
                return
            try:
                value = self.result(0)
            except BaseException as failure:  # noqa: BLE001 - a cancellation is no Exception
                deferred.errback(failure)
            else:
                deferred.callback(value)

        self.add_done_callback(
            lambda _: self._when_readable(lambda: call_in_reactor(reactor, fire))
        )
        return deferred

    def _when_readable(self, call: Callable[[], object]) -> None:
        """Have ``call()`` called when reading the outcome, which is here, waits for nothing."""
        call()
