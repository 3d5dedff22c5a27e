"""The reactor in a thread of its own, so that scripts and prompts need not know of it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ipkernel.client.waiting import may_block, reactor_threads, wait_until

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

T = TypeVar("T")

# Reentrant: the garbage collector may close a forgotten client, which comes here again, anywhere.
_starting = threading.RLock()
_thread: threading.Thread | None = None
_forked = False
_open = 0
_normal_interval = 0.005
_normal_thresholds = gc.get_threshold()
#: When the garbage collector looks, as long as clients are open; see the gc module.
PATIENCE: Final = (10_000, 20, 20)


def start_reactor() -> Any:
    """Return the global reactor, running: in a daemon thread, unless the program runs it itself.

    Raises:
        RuntimeError: The reactor of this process has been stopped, or was running in the process
            that this one was forked from.
    """
    global _thread
    if _forked:
        raise RuntimeError(
            "this process was forked from one that had a Client, and Twisted's reactor does not "
            "survive a fork: start it with multiprocessing's 'spawn' method or with subprocess"
        )
    from twisted.internet import reactor as the_reactor

    reactor: Any = the_reactor
    with _starting:
        if reactor.running:
            if _thread is None:  # the program's own; its thread must not wait either
                reactor.callFromThread(lambda: reactor_threads.add(threading.get_ident()))
            return reactor
        if _thread is not None:
            raise RuntimeError(
                "Twisted's reactor has been stopped and cannot run again in this process"
            )
        from ipkernel.wire.lean import lighten

        lighten(reactor)
        ready = threading.Event()
        _thread = threading.Thread(
            target=_run, args=(reactor, ready), name="ipkernel-reactor", daemon=True
        )
        _thread.start()
        ready.wait(10)
    return reactor


def _run(reactor: Any, ready: threading.Event) -> None:
    reactor_threads.add(threading.get_ident())
    reactor.callWhenRunning(ready.set)
    reactor.run(installSignalHandlers=False)


def is_forked() -> bool:
    """Return whether this process was forked from one whose reactor was running."""
    return _forked


def in_reactor_thread() -> bool:
    """Return whether the reactor runs in this thread."""
    from twisted.python.threadable import isInIOThread

    return bool(isInIOThread())


def call_in_reactor(reactor: Any, function: Callable[[], object]) -> None:
    """Call ``function`` in the reactor's thread: now, if this is it, else soon."""
    if in_reactor_thread():
        function()
    else:
        reactor.callFromThread(function)


def run_in_reactor(
    reactor: Any,
    start: Callable[[], Deferred[T] | Coroutine[Any, Any, T]],
    what: str,
    timeout: float | None = None,
) -> T:
    """Run something in the reactor's thread and wait for it in this one.

    Args:
        reactor: The running reactor.
        start: Called in the reactor's thread; returns a Deferred or a coroutine.
        what: What is done, for messages.
        timeout: Seconds after which it is cancelled; None is never.

    Raises:
        TimeoutError: It took longer than ``timeout``.
        KeyboardInterrupt: Ctrl-C was pressed; it is cancelled.
        RuntimeError: This is the reactor's thread.
    """
    from twisted.internet.defer import Deferred, ensureDeferred

    if in_reactor_thread():
        reactor_threads.add(threading.get_ident())
    may_block(what)
    outcome: Future[T] = Future()
    running: list[Deferred[T]] = []

    def go() -> None:
        started = start()
        deferred = started if isinstance(started, Deferred) else ensureDeferred(started)
        running.append(deferred)
        deferred.addCallbacks(outcome.set_result, lambda f: outcome.set_exception(f.value))

    def cancel() -> None:
        for deferred in running:
            deferred.cancel()

    reactor.callFromThread(go)
    condition = outcome._condition
    try:
        with condition:
            if wait_until(condition, outcome.done, timeout):
                pass
        if outcome.done():
            return outcome.result(0)
        raise TimeoutError(f"{what} took longer than {timeout:g} s")
    finally:
        if not outcome.done():
            reactor.callFromThread(cancel)


def client_opened(interval: float | None) -> None:
    """Have the interpreter serve an open client better.

    A thread that computes lets others wait for up to the switch interval; Python's 5 ms are too
    long for a result that is there. And thousands of pending results are no garbage: having the
    collector look at all of them every few hundred takes a tenth of the time of a task. What
    somebody has set to be even more patient stays as it is.

    Args:
        interval: The switch interval, in seconds; None leaves it alone.
    """
    global _open, _normal_interval, _normal_thresholds
    with _starting:
        if _open == 0:
            _normal_interval = sys.getswitchinterval()
            _normal_thresholds = gc.get_threshold()
        _open += 1
        if 0 < gc.get_threshold()[0] < PATIENCE[0]:
            gc.set_threshold(*PATIENCE)
        if interval is not None and interval < sys.getswitchinterval():
            sys.setswitchinterval(interval)


def client_closed() -> None:
    """Undo one :func:`client_opened`; the last one restores what was before."""
    global _open
    with _starting:
        _open -= 1
        if _open == 0:
            _restore()


def _restore() -> None:
    sys.setswitchinterval(_normal_interval)
    if gc.get_threshold() == PATIENCE:  # nobody else has changed it since
        gc.set_threshold(*_normal_thresholds)


def _after_fork() -> None:
    global _starting, _open, _forked
    _starting = threading.RLock()
    _open = 0
    _forked = _forked or _thread is not None
    _restore()


if hasattr(os, "register_at_fork"):

    def _in_child() -> None:
        from ipkernel.client.forking import after_fork

        _after_fork()
        after_fork()

    os.register_at_fork(after_in_child=_in_child)
