"""Sums over the times of tasks."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ipkernel.client.task import TaskRecord


def submitted(records: Sequence[TaskRecord]) -> float:
    """Return when the first was submitted, seconds since the epoch; 0 without tasks."""
    return min((record.submitted for record in records), default=0.0)


def serial(records: Iterable[TaskRecord]) -> float:
    """Return the seconds that engines spent on those that have ended."""
    messages = [record.message for record in records if record.message is not None]
    return sum(m.completed - m.started for m in messages if m.started and m.completed)


def wall(records: Sequence[TaskRecord]) -> float:
    """Return the seconds from the first submission to the last arrival; 0 before that."""
    arrived = [record.received for record in records if record.received]
    return max(arrived) - submitted(records) if arrived else 0.0


def between(
    start: Any,
    end: Any,
    start_key: Callable[[Iterable[Any]], datetime.datetime],
    end_key: Callable[[Iterable[Any]], datetime.datetime],
) -> float:
    """Return the seconds between two moments, each a datetime or several to choose from."""
    if not isinstance(start, datetime.datetime):
        start = start_key(start)
    if not isinstance(end, datetime.datetime):
        end = end_key(end)
    seconds: float = (end - start).total_seconds()
    return seconds
