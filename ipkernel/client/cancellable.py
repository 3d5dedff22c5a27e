"""Futures of tasks that can be cancelled, also while they run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures._base import FINISHED
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ipkernel.client.cancelling import WORDS, Cancellation, milliseconds
from ipkernel.client.future import LightFuture
from ipkernel.client.task import TaskRecord
from ipkernel.client.waiting import reactor_threads, seconds
from ipkernel.errors import KernelError, TaskAborted
from ipkernel.wire.messages import Fate

if TYPE_CHECKING:
    from ipkernel.client.result import Submitter

__all__ = ["Cancellable"]

#: Seconds for which whoever asks for a cancelled result waits for what became of it.
PATIENCE: Final = 5.0


class Cancellable(LightFuture):
    """The part of :class:`~ipkernel.client.result.AsyncResult` that ends tasks."""

    _session: Submitter
    _single: bool
    _fname: str
    _records: Sequence[TaskRecord] = ()
    _cancellation: Cancellation | None = None

    def abort(self, grace: float | None = None, block: bool = True) -> Cancellation:
        """Abort the tasks that have not ended; they end with TaskAborted.

        One that runs is interrupted (KeyboardInterrupt). If it has not ended ``grace`` seconds
        later, its engine is killed and started again.

        Args:
            grace: Seconds; None for ``Client.grace``.
            block: Wait until it is known what became of each.

        Returns:
            What became of each task, by its id.

        Raises:
            ControllerLost: The connection to the controller is gone.
            ValueError: ``grace`` makes no sense.
        """
        answer = self._cancellation = self._session.aborts.request(
            [record.id for record in self._records], grace
        )
        if block:
            answer.wait()
        return answer

    def cancel(self) -> bool:
        """Give the result up, and abort its tasks as :meth:`abort` does, without waiting for it.

        Who waits for the result gets TaskAborted, which is a
        :class:`concurrent.futures.CancelledError`; :attr:`fates` tells what became of each task.

        Returns:
            False if it has ended already.
        """
        if self.done():
            return self.cancelled()
        aborts = self._session.aborts
        # First, as whoever waits is woken and wants to know what becomes of the tasks.
        answer = self._cancellation = aborts.prepare([record.id for record in self._records])
        if not self._drop():
            return False
        aborts.send(answer, milliseconds(aborts.grace))
        return True

    def cancelled(self) -> bool:
        """Return whether :meth:`cancel` has given it up, or its only task was aborted."""
        if self._state is not FINISHED:
            return self.dropped
        return self._single and self._records[0].aborted

    def _failed(self) -> bool:
        return not self.cancelled() and not all(record.succeeded for record in self._records)

    @property
    def fates(self) -> dict[int, str]:
        """What became of the tasks that were to be aborted, by their ids, as far as it is known.

        The words are those of :class:`~ipkernel.client.cancelling.Cancellation`.
        """
        told: Mapping[int, str] = self._cancellation or {}
        found: dict[int, str] = {}
        for record in self._records:
            if record.aborted:
                found[record.id] = WORDS[record.fate or Fate.UNKNOWN]
            elif record.id in told:
                found[record.id] = told[record.id]
        return found

    def _given_up(self, timeout: float | None) -> TaskAborted:
        """Return what a result raises that was cancelled, with what became of its tasks."""
        answer = self._cancellation
        if answer is None:
            return TaskAborted("the result was cancelled")
        limit = seconds(timeout)
        if threading.get_ident() not in reactor_threads:
            with suppress(KernelError):  # it was cancelled in any case
                answer.wait(PATIENCE if limit is None else min(limit, PATIENCE))
        known = next(iter(answer.values()), "") if len(answer) == 1 else ""
        return TaskAborted(f"the result of {self._fname!r} was cancelled: {answer}", fate=known)
