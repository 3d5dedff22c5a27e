"""What is known of the tasks of a result: who they are, where they run, how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ipkernel.client import metadata as meta
from ipkernel.client import timing
from ipkernel.client.cancellable import Cancellable

if TYPE_CHECKING:
    import datetime
    import os

__all__ = ["Described"]

_KEYS = frozenset(meta.KEYS)


class Described(Cancellable):
    """The part of :class:`~ipkernel.client.result.AsyncResult` that tells of its tasks."""

    @property
    def msg_ids(self) -> list[int]:
        """The ids of the tasks."""
        return [record.id for record in self._records]

    @property
    def owner(self) -> bool:
        """True: the tasks were submitted, or asked for, by this client."""
        return True

    @property
    def metadata(self) -> Any:
        """The metadata as it is now: a dictionary, or a list of one for each task."""
        found = self._metadata
        return found[0] if self._single else found

    @property
    def _metadata(self) -> list[meta.Metadata]:
        known = self._session.engines.known
        return [meta.describe(record, known) for record in self._records]

    def _metadata_item(self, key: str) -> Any:
        if self._single:
            return self._metadata[0][key]
        return [described[key] for described in self._metadata]

    def __getattr__(self, name: str) -> Any:
        if name in _KEYS:
            return self._metadata_item(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_KEYS})

    # ------------------------------------------------- time

    @property
    def progress(self) -> int:
        """How many of the tasks have ended."""
        return sum(record.cell is not None for record in self._records)

    @property
    def elapsed(self) -> float:
        """Seconds since the first task was submitted, until now or until all were done."""
        return self.wall_time if self.done() else time.time() - timing.submitted(self._records)

    @property
    def serial_time(self) -> float:
        """Seconds that engines have spent on the tasks, in all."""
        return timing.serial(self._records)

    @property
    def wall_time(self) -> float:
        """Seconds from the first submission to the last arrival."""
        return timing.wall(self._records)

    def timedelta(
        self,
        start: Any,
        end: Any,
        start_key: Callable[[Iterable[Any]], datetime.datetime] = min,
        end_key: Callable[[Iterable[Any]], datetime.datetime] = max,
    ) -> float:
        """Return the seconds between two moments, each a datetime or a list to choose one from.

        Args:
            start: Such as ``ar.submitted``.
            end: Such as ``ar.received``.
            start_key: Chooses from a list of starts.
            end_key: Chooses from a list of ends.
        """
        return timing.between(start, end, start_key, end_key)

    def timeline(self, path: str | os.PathLike[str]) -> Any:
        """Draw which engine did what when, as an SVG file at ``path``."""
        from ipkernel.client.timeline import timeline_svg

        return timeline_svg(self._metadata, path)
