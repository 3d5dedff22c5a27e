"""Telling several programs something at the same time, and what they are called."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds that batch systems take to end a job, and to say so.
QUEUE: Final = 15.0
#: To how many something is done at the same time.
_AT_ONCE: Final = 32


def previewed(launcher: Any) -> str:
    """Return what a launcher would run."""
    told = getattr(launcher, "preview", None)
    if callable(told):
        return str(told()).rstrip()
    return "# its launcher does not tell what it would run"


def tell_all(
    launchers: Sequence[Any],
    how: Callable[[Any], object],
    patience: float,
    queue: float = QUEUE,
) -> list[Any]:
    """Tell programs to end, all at once; return those that have not after a while.

    Args:
        launchers: Theirs.
        how: Tells one of them.
        patience: Seconds to wait.
        queue: Seconds to wait for batch jobs at least.
    """
    at_once(launchers, how)
    began = time.monotonic()
    left = []
    for one in launchers:
        limit = patience if getattr(one, "immediate", True) else max(patience, queue)
        if not one.wait(max(0.0, began + limit - time.monotonic())):
            left.append(one)
    return left


def at_once(things: Sequence[T], do: Callable[[T], object]) -> None:
    """Do something to several things at the same time; wait until it is done to all of them.

    Raises:
        BaseException: What it raised first, after it is done.
    """
    if len(things) < 2:
        for one in things:
            do(one)
        return
    left = deque(things)
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                one = left.popleft()
            except IndexError:
                return
            try:
                do(one)
            except BaseException as error:  # noqa: BLE001 - it is raised in the calling thread
                errors.append(error)

    threads = [
        threading.Thread(target=work, name="ipkernel-at-once", daemon=True)
        for _ in range(min(len(things), _AT_ONCE))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        left.clear()  # what has begun is not left alone, the rest does not begin
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]
