"""What a client can be asked about its tasks and its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ipkernel import errors
from ipkernel.client.result import AsyncResult

if TYPE_CHECKING:
    from ipkernel.client.session import Session
    from ipkernel.wire.records import EngineInfo, Status, Stuck


class Questions:
    """The part of :class:`~ipkernel.client.client.Client` that answers questions.

    Attributes:
        block: Whether :meth:`get_result` waits.
    """

    block: bool
    _session: Session

    def _call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        """Call a method of the client door."""
        raise RuntimeError("there is no door here")

    def _build_targets(self, targets: Any) -> tuple[list[int], list[int]]:
        """Return engine ids, twice, for compatibility."""
        raise RuntimeError("there are no engines here")

    @property
    def _outstanding_dict(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {engine: set() for engine in self._session.engines.ids}
        for task, record in list(self._session.pending.items()):
            if record.target >= 0:
                found.setdefault(record.target, set()).add(task)
        return found

    def status(self) -> Status:
        """Return the state of the cluster, as the controller sees it."""
        from ipkernel.wire.records import Status, unpack

        return unpack(Status, self._call("status"))

    def stuck(self) -> list[Stuck]:
        """Return the work on which nobody makes progress: why, and what to do about it.

        The controller looks every few seconds; it tells of what has been so for a minute, or as
        configured.
        """
        return self.status().stuck

    def engine_infos(self) -> dict[int, EngineInfo]:
        """Return what the controller knows of each engine, by id."""
        return {info.engine: info for info in self.status().engines}

    def explain(
        self, jobs: Any = (), *, label: str = "", engine: Any = None, job: str = ""
    ) -> list[Any]:
        """Return where tasks are, how they came there and why; or the same of engines and jobs.

        Args:
            jobs: Task ids, indices in the history or results, one or a list; or a label.
            label: The tasks with this label that have not ended, too, whoever submitted them: the
                oldest 1024.
            engine: Also an engine, or several: what it does, since when, and what waits for it.
            job: Also a batch job, or another program that brings engines, by its name as ``ipcluster
                status`` shows it or a word of that.

        Returns:
            :class:`~ipkernel.wire.records.TaskStory`, then
            :class:`~ipkernel.wire.records.EngineStory`, then
            :class:`~ipkernel.cluster.jobstories.JobStory`.
        """
        from ipkernel.wire.records import TaskQuery, TaskStories, pack, unpack

        if isinstance(jobs, str):
            jobs, label = (), label or jobs
        ids = self._ids_of(jobs)
        stories: list[Any] = []
        for start in range(0, len(ids), 1024):
            query = pack(TaskQuery(tasks=ids[start : start + 1024]))
            stories += unpack(TaskStories, self._call("explain", query)).stories
        if label:
            answer = self._call("explain", pack(TaskQuery(label=label)))
            stories += [
                story for story in unpack(TaskStories, answer).stories if story.task not in ids
            ]
        if engine is not None:
            engines = [engine] if isinstance(engine, int) else [int(one) for one in engine]
            answer = self._call("explain", pack(TaskQuery(engines=engines)))
            stories += unpack(TaskStories, answer).engines
        if job:
            from ipkernel.cluster.diagnosis import directory_of
            from ipkernel.cluster.jobstories import job_stories

            place = getattr(self, "_place", None)
            stories += job_stories(job, self.status(), directory_of(place))
        return stories

    def _task_id(self, job: Any) -> int:
        """Return a task id for an id or an index in the history."""
        try:
            number = int(job)
        except (TypeError, ValueError):
            raise errors.KernelError(
                f"{job!r} is not the id of a task, an index in the history or a result"
                + (
                    f"; if it is a label, get_result() and explain() take label={job!r}"
                    if isinstance(job, str)
                    else ""
                )
            ) from None
        history = self._session.history
        if number < 0 or number < len(history):
            try:
                return history[number]
            except IndexError:
                raise errors.KernelError(
                    f"there is no task {number} in the history of {len(history)}"
                ) from None
        if number >> 62:
            raise errors.KernelError(f"there is no task {number}")
        return number

    def _ids_of(self, jobs: Any) -> list[int]:
        if isinstance(jobs, AsyncResult):
            return jobs.msg_ids
        if isinstance(jobs, (list, tuple, set, frozenset, range)):
            return [task for job in jobs for task in self._ids_of(job)]
        return [self._task_id(jobs)]

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> dict[Any, Any]:
        """Return what engines have to do.

        Args:
            targets: Which engines.
            verbose: Lists of task ids instead of numbers; of those that have ended, the latest.

        Returns:
            For each engine id a dictionary with ``queue``, ``completed`` and ``tasks`` (running);
            and under ``"unassigned"`` how many tasks wait for an engine, or which. If the controller
            finds that nobody makes progress on something, it is told under ``"stuck"``, in sentences.
        """
        from ipkernel.client import finding

        return finding.queue_status(self, targets, verbose)

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[Any, Any]:
        """Return which tasks are pending and which have ended.

        Args:
            msg_ids: Task ids, indices in the history or results, one or a list.
            status_only: Leave the results out.

        Returns:
            ``pending`` and ``completed``, lists of ids; with ``status_only=False`` also the result, or
            the exception, of each ended task that this client holds, or that nobody has fetched, by
            id.

        Raises:
            KernelError: The controller does not know one of them.
        """
        from ipkernel.client import finding

        return finding.result_status(self, self._ids_of(msg_ids), status_only)

    def hub_history(self) -> list[int]:
        """Return the ids of the tasks that the controller knows of, of all clients, oldest first.

        Those are the tasks that have not ended, those whose results nobody has fetched, and the
        latest of the others.
        """
        from ipkernel.client import finding

        return finding.history(self)

    def db_query(self, query: Mapping[str, Any], keys: Any = None) -> list[dict[str, Any]]:
        """Return records of tasks, of all clients, the oldest first; see :doc:`finding`.

        Args:
            query: Fields with the values that they must have, or with dictionaries of operators,
                such as ``{"engine_id": 3, "submitted": {"$gt": yesterday}}``. Times are datetimes.
            keys: The fields that are wanted; None for all. ``msg_id`` is always among them.

        Raises:
            QueryError: There is no such field or operator, or the value does not fit it.
        """
        from ipkernel.client import finding

        return finding.query(self, query, keys)

    def resubmit(
        self, indices_or_msg_ids: Any = None, metadata: Any = None, block: bool | None = None
    ) -> Any:
        """Run tasks that have ended again, with the same content; whoever has submitted them.

        Args:
            indices_or_msg_ids: A task id, an index in the history, an AsyncResult, or a list; None
                for the last task.
            metadata: Has no effect.
            block: Wait and return the value; by default as ``block``.

        Returns:
            The AsyncResult of the new tasks, which have ids of their own; or their values.

        Raises:
            KernelError: One of them has not ended, or what it was made of is not kept any more:
                it is of tasks that failed and of those whose results nobody has fetched.
        """
        from ipkernel.client import finding

        jobs = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        again = finding.resubmittable(self, self._ids_of(jobs))
        result = AsyncResult(self._session, _is_single(jobs), "resubmit", owner=self)
        self._session.submit_again(result, again)
        return result.get() if (self.block if block is None else block) else result

    def get_result(
        self,
        indices_or_msg_ids: Any = None,
        block: bool | None = None,
        owner: bool = True,
        *,
        label: str = "",
    ) -> Any:
        """Return a result by task id: of this client, or of any other client of the cluster.

        The controller keeps results that nobody has fetched, for a while.

        Args:
            indices_or_msg_ids: A task id, an index in the history, an AsyncResult, or a list; None
                for the last task.
            block: Wait and return the value; by default as ``block``.
            owner: Has no effect.
            label: Instead: all tasks with this label that have not ended, or whose results can
                still be had, as one list.

        Raises:
            KernelError: There is no task with the label.
        """
        from ipkernel.client import finding
        from ipkernel.client.reactor_thread import in_reactor_thread

        jobs: Any = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        found = finding.labelled(self, label) if label else {}
        if label:
            jobs = list(found)
        ids = self._ids_of(jobs)
        strange = [task for task in ids if self._session.find(task) is None]
        # In the reactor's thread nobody may wait for an answer; the result itself comes anyway.
        about = {} if in_reactor_thread() else finding.about(self, strange)
        result = AsyncResult(self._session, _is_single(jobs), "get_result", owner=self)
        self._session.fetch(ids, result, about)
        return result.get() if (self.block if block is None else block) else result

    def purge_local_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Do not find results by id any more, here; who holds an AsyncResult keeps it.

        Args:
            jobs: Task ids, indices in the history, results, a list of these, or ``"all"``.
            targets: Results of these engines; ``"all"`` for all.
        """
        if any(isinstance(which, str) and which == "all" for which in (jobs, targets)):
            self._session.forget_all()
            return
        ids = set(self._ids_of(jobs)) if isinstance(jobs, AsyncResult) or jobs else set()
        if isinstance(targets, int) or targets:
            engines = set(self._build_targets(targets)[1])
            held = self._session.held()
            ids |= {task for task, record in held.items() if record.engine in engines}
        pending = ids & set(self._session.pending)
        if pending:
            raise RuntimeError(f"{len(pending)} of these tasks are pending; abort them first")
        self._session.forget(ids)

    def purge_hub_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Have the controller forget tasks that have ended, with results that nobody has fetched.

        Args:
            jobs: Task ids, indices in the history, results, a list of these, or ``"all"`` for the
                tasks of all clients.
            targets: Tasks that ran on these engines; ``"all"`` for all.

        Raises:
            KernelError: Some of ``jobs`` have not ended.
        """
        from ipkernel.client import finding

        if any(isinstance(which, str) and which == "all" for which in (jobs, targets)):
            finding.purge(self, everything=True)
            return
        ids = self._ids_of(jobs) if isinstance(jobs, (AsyncResult, int)) or jobs else []
        some = isinstance(targets, int) or targets
        finding.purge(self, ids, self._build_targets(targets)[1] if some else [])

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget tasks that have ended, here and at the controller; who holds a result keeps it.

        Arguments and errors are those of :meth:`purge_local_results` and :meth:`purge_hub_results`.
        """
        self.purge_local_results(jobs, targets)
        self.purge_hub_results(jobs, targets)

    def purge_everything(self) -> None:
        """Forget all tasks that have ended, here and at the controller, of all clients."""
        self._session.forget_all()
        self.purge_hub_results("all")

    def spin(self) -> None:
        """Do nothing; results arrive by themselves."""

    def spin_thread(self, interval: float = 1) -> None:
        """Do nothing; results arrive by themselves."""

    def stop_spin_thread(self) -> None:
        """Do nothing; see :meth:`spin_thread`."""


def _is_single(jobs: Any) -> bool:
    """Tell whether a user means one task, and so a value, not a list of one."""
    if isinstance(jobs, AsyncResult):
        return bool(jobs._single)
    return not isinstance(jobs, (list, tuple, range))
