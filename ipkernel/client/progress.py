"""Progress bars; tqdm is imported when the first one is shown."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any, Protocol

from ipkernel.client.waiting import seconds

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult


class _Bar(Protocol):
    def update(self, n: float) -> object: ...
    def close(self) -> None: ...


def make_bar(total: int, unit: str, description: str, widget: object = None) -> _Bar:
    """Return a progress bar.

    Args:
        total: What counts as all.
        unit: What is counted.
        description: What stands before it.
        widget: True for a notebook's widget, False for text, None to choose.
    """
    chosen: Any
    if widget is None:
        widget = "ipykernel" in sys.modules
    if widget:
        from tqdm.auto import tqdm as chosen
    else:
        from tqdm import tqdm as chosen
    bar: _Bar = chosen(total=total, unit=unit, desc=description)
    return bar


def interactive() -> bool:
    """Return whether somebody looks at what is printed."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


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
    try:
        while True:
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            over = result.wait(max(0.0, left))
            now = result.progress
            bar.update(now - shown)
            shown = now
            first = return_when == FIRST_COMPLETED and shown
            failed = return_when == FIRST_EXCEPTION and result._failures
            if over or first or failed or (deadline and time.monotonic() >= deadline):
                return
    finally:
        bar.close()
