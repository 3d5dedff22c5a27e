"""Waiting that Ctrl-C can end, on every platform, and never in the reactor's own thread."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
from typing import Any, TypeVar

T = TypeVar("T")

#: Windows does not interrupt a lock that is being waited for, so there it is waited for in
#: slices of so many seconds; elsewhere a signal ends the wait at once.
SLICE: float | None = 0.05 if sys.platform == "win32" else None

#: Identities of the threads that run a reactor and so must never wait for it.
reactor_threads: set[int] = set()


def seconds(timeout: float | None) -> float | None:
    """Return a timeout as users write it (None and negative numbers are for ever) as None or >= 0."""
    return None if timeout is None or timeout < 0 else float(timeout)


def may_block(what: str = "waiting for a result") -> None:
    """Refuse to wait in a reactor's thread, where the answer could never arrive.

    Raises:
        RuntimeError: This is such a thread.
    """
    if threading.get_ident() in reactor_threads:
        raise RuntimeError(
            f"{what} would block the reactor for ever: use await or add_done_callback() here, "
            "or call it from another thread"
        )


def wait_until(
    condition: threading.Condition, ready: Callable[[], object], timeout: float | None = None
) -> bool:
    """Wait until ``ready()`` is true; the caller holds ``condition``.

    Args:
        condition: Notified when the answer of ``ready`` may have changed.
        ready: Called with ``condition`` held.
        timeout: Seconds; None or negative is for ever.

    Returns:
        Whether it became true in time.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; nothing else is affected by it.
        RuntimeError: This thread runs a reactor.
    """
    if ready():
        return True
    limit = seconds(timeout)
    if limit == 0:
        return False
    may_block()
    deadline = None if limit is None else time.monotonic() + limit
    while not ready():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        if SLICE is not None:
            left = SLICE if left is None else min(left, SLICE)
        # The longest time that a lock accepts is threading.TIMEOUT_MAX.
        condition.wait(left if left is None else min(left, threading.TIMEOUT_MAX))
    return True


def deadline_of(timeout: float | None) -> float | None:
    """Return the moment, by the monotonic clock, at which a time limit of users is over."""
    limit = seconds(timeout)
    return None if limit is None else time.monotonic() + limit


def left_until(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, 0 when it is over, None when there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait_for(future: Future[T], timeout: float | None = None) -> T:
    """Return the outcome of a future that another thread brings; Ctrl-C ends the wait.

    Raises:
        TimeoutError: It is not there in time.
        RuntimeError: This thread runs a reactor.
        Exception: The future's own.
    """
    condition = future._condition
    with condition:
        if not wait_until(condition, future.done, timeout):
            raise TimeoutError(f"this took longer than {timeout:g} s")
    return future.result(0)


def wait_for_one(future: Future[Any], timeout: float | None) -> bool:
    """Wait until a future is done, whichever kind it is of; Ctrl-C ends the wait.

    Args:
        future: One of this package, or of the standard library.
        timeout: Seconds; None is for ever.

    Returns:
        Whether it is done.
    """
    condition = future._condition
    waits = getattr(future, "wait", None)
    if waits is not None:
        return bool(waits(timeout))
    with condition:
        return wait_until(condition, future.done, timeout)


def wait_for_any(
    futures: Iterable[Future[Any]], return_when: str, deadline: float | None
) -> tuple[set[Future[Any]], set[Future[Any]]]:
    """Wait as :func:`concurrent.futures.wait` does; Ctrl-C ends the wait, on every platform.

    Args:
        futures: What to wait for.
        return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION``.
        deadline: Until when, by the monotonic clock; None is for ever.

    Returns:
        What is done, and what is not.

    Raises:
        ValueError: There is no such ``return_when``.
        RuntimeError: This thread runs a reactor.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"return_when cannot be {return_when!r}")
    futures = list(futures)
    while True:
        left = left_until(deadline)
        if left != 0:
            may_block()
        step = threading.TIMEOUT_MAX if SLICE is None else SLICE
        found = concurrent.futures.wait(
            futures, step if left is None else min(left, step), return_when
        )
        over = not found.not_done or (return_when == FIRST_COMPLETED and found.done)
        if return_when == FIRST_EXCEPTION:
            over = over or any(not f.cancelled() and f.exception(0) for f in found.done)
        if over or left_until(deadline) == 0:
            return found.done, found.not_done
