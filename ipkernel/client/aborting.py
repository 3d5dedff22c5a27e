"""How a client ends tasks, and what it does when Ctrl-C ends a wait for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipkernel.client.cancelling import Cancellation, milliseconds
from ipkernel.client.interrupting import check_choice
from ipkernel.client.result import AsyncResult

if TYPE_CHECKING:
    from ipkernel.client.session import Session

__all__ = ["Aborting"]


class Aborting:
    """The part of :class:`~ipkernel.client.client.Client` that ends tasks."""

    _session: Session
    _interrupt = "ask"

    def _task_id(self, job: Any) -> int:
        """Return a task id for an id or an index in the history."""
        raise RuntimeError("there is no history here")

    def _build_targets(self, targets: Any) -> tuple[list[int], list[int]]:
        """Return engine ids, twice, for compatibility."""
        raise RuntimeError("there are no engines here")

    def _check_open(self) -> None:
        """Raise why the client is of no use any more, if it is not."""
        raise RuntimeError("there is no connection here")

    @property
    def interrupt(self) -> str:
        """What becomes of tasks when Ctrl-C ends the wait for them, which raises KeyboardInterrupt.

        ``"ask"``, as is the case unless it is set: they go on, unless Ctrl-C is pressed once more
        within two seconds, which people at a terminal and in notebooks are told; ``"cancel"``: they
        are aborted; ``"leave"``: they go on.
        """
        return self._interrupt

    @interrupt.setter
    def interrupt(self, choice: str) -> None:
        self._interrupt = check_choice(choice)

    @property
    def grace(self) -> float:
        """Seconds that a task which is aborted has to end; then its engine is killed."""
        return self._session.aborts.grace

    @grace.setter
    def grace(self, seconds: float) -> None:
        milliseconds(seconds)
        self._session.aborts.grace = seconds

    def abort(
        self,
        jobs: Any = None,
        targets: Any = None,
        block: bool | None = None,
        grace: float | None = None,
    ) -> Cancellation:
        """Abort tasks; they end with TaskAborted.

        What has not begun never will. What runs is interrupted (KeyboardInterrupt); if it has not
        ended ``grace`` seconds later, its engine is killed and started again.

        Args:
            jobs: Task ids, indices in the history or results, one or a list; None for all of this
                client that are pending. Tasks of other clients can be named by their ids.
            targets: Only tasks for these engines.
            block: Wait until it is known what became of each task; False for not.
            grace: Seconds; None for :attr:`grace`.

        Returns:
            What became of each task, by its id: ``"dequeued"``, ``"interrupted"``, ``"killed"``,
            ``"ended already"`` or ``"unknown"``.

        Raises:
            ControllerLost: The connection to the controller is gone.
            ValueError: ``grace`` makes no sense.
        """
        self._check_open()
        tasks = list(self._session.pending) if jobs is None else self._tasks_of(jobs)
        if targets is not None:
            engines = set(self._build_targets(targets)[1])
            find = self._session.find
            tasks = [t for t in tasks if (found := find(t)) and found.target in engines]
        answer = self._session.aborts.request(tasks, grace)
        if block is not False:
            answer.wait()
        return answer

    def _tasks_of(self, jobs: Any) -> list[int]:
        """Return the ids of the tasks that a user means by jobs, which may be unknown here."""
        if isinstance(jobs, AsyncResult):
            return jobs.msg_ids
        if isinstance(jobs, (str, int)) or not isinstance(jobs, Iterable):
            return [self._task_id(jobs)]
        return [task for job in jobs for task in self._tasks_of(job)]
