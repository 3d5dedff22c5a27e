"""Progress bars; tqdm is imported when the first one is shown."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from ipkernel.client.waiting import deadline_of, left_until, seconds, wait_until
from ipkernel.objects.transfer import Transfer

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult

#: Seconds after which a transfer that somebody waits for is shown, and between looks at it.
SHOW_AFTER: Final = 1.0
LOOK: Final = 0.2


class _Bar(Protocol):
    total: float

    def update(self, n: float) -> object: ...
    def set_postfix_str(self, s: str) -> object: ...
    def close(self) -> None: ...


def make_bar(
    total: int, unit: str, description: str, widget: object = None, initial: int = 0
) -> _Bar:
    """Return a progress bar.

    Args:
        total: What counts as all.
        unit: What is counted; ``"B"`` for bytes, of which thousands and millions are shown.
        description: What stands before it.
        widget: True for a notebook's widget, False for text, None to choose.
        initial: How much there is already.
    """
    chosen: Any
    if widget is None:
        widget = "ipykernel" in sys.modules
    if widget:
        from tqdm.auto import tqdm as chosen
    else:
        from tqdm import tqdm as chosen
    bar: _Bar = chosen(
        total=total, unit=unit, desc=description, unit_scale=unit == "B", initial=initial
    )
    return bar


def interactive() -> bool:
    """Return whether somebody looks at what is printed.

    That is so in notebooks and on terminals, unless the environment variable ``IPP_NONINTERACTIVE``
    is set.
    """
    if os.environ.get("IPP_NONINTERACTIVE"):
        return False
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())


class TransferBar:
    """One bar for all the transfers that somebody waits for: bytes, rate and time left."""

    def __init__(self) -> None:
        self._bar: _Bar | None = None
        self._seen: dict[int, Transfer] = {}
        self._shown = 0

    def show(self, transfers: Iterable[Transfer]) -> None:
        """Show how far these are, and those that were shown before."""
        for transfer in transfers:
            self._seen.setdefault(id(transfer), transfer)
        seen = list(self._seen.values())
        if not seen:
            return
        total = sum(transfer.size for transfer in seen)
        done = sum(min(transfer.done, transfer.size or transfer.done) for transfer in seen)
        if self._bar is None:
            self._bar = make_bar(total, "B", seen[0].what, initial=done)
            self._shown = done
        self._bar.total = total
        self._bar.update(done - self._shown)
        self._shown = done

    def close(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()


class SelfShown(Transfer):
    """A transfer that shows itself when it takes long, in the thread that moves the bytes.

    It is a context, at whose end the bar is left as it is.

    Args:
        what: What is moved, for people.
        size: Bytes in all.
        shown: Whether to show it.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        what: str,
        size: int,
        *,
        shown: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(what, size, clock=clock)
        self._bar = TransferBar() if shown else None

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes; see :meth:`Transfer.advance`."""
        super().advance(count)
        if self._bar is not None and self._clock() - self.began >= SHOW_AFTER:
            self._bar.show((self,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()


def wait_showing(
    condition: threading.Condition,
    ready: Callable[[], object],
    timeout: float | None,
    transfers: Callable[[], Iterable[Transfer]],
    visible: bool,
) -> bool:
    """Wait as :func:`~ipkernel.client.waiting.wait_until` does, with a bar if it takes long.

    Args:
        condition: Held by the caller.
        ready: What is waited for.
        timeout: Seconds; None or negative is for ever.
        transfers: Returns what to show; the bar appears when that is something.
        visible: Whether to show it at all.
    """
    if not visible:
        return wait_until(condition, ready, timeout)
    deadline = deadline_of(timeout)
    bar = TransferBar()
    step = SHOW_AFTER
    try:
        while True:
            left = left_until(deadline)
            if wait_until(condition, ready, step if left is None else min(step, left)):
                return True
            if left is not None and left <= step:
                return False
            step = LOOK
            bar.show(transfers())
    finally:
        bar.close()


def wait_interactive(
    result: AsyncResult,
    interval: float = 0.1,
    timeout: float | None = -1.0,
    widget: object = None,
    return_when: str = ALL_COMPLETED,
) -> None:
    """Wait for a result with a progress bar; see ``AsyncResult.wait_interactive``."""
    limit = seconds(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    records = result._records
    bar = make_bar(len(records), "tasks", result._fname, widget)
    shown = 0
    said = ""
    with result._interruptible(), closing(bar):
        while True:
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            over = result.wait(max(0.0, left))
            now = result.progress
            bar.update(now - shown)
            shown = now
            trouble = str(result._session.contact)
            if trouble != said:
                said = trouble
                bar.set_postfix_str(trouble)
            first = return_when == FIRST_COMPLETED and shown
            failed = return_when == FIRST_EXCEPTION and result._failures
            if over or first or failed or (deadline and time.monotonic() >= deadline):
                return
