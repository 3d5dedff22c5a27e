"""The result of moving files: paths, and how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from ipkernel.client.flows import NEWS, Attempt, wait_over
from ipkernel.client.result import AsyncResult
from ipkernel.client.task import FAILURE, TaskRecord
from ipkernel.objects.chunks import new_key
from ipkernel.objects.flow import FlowStopped
from ipkernel.objects.transfer import Transfer
from ipkernel.serialize.functions import dump_call
from ipkernel.wire.messages import Kind

if TYPE_CHECKING:
    from ipkernel.client.directview import DirectView
    from ipkernel.client.flows import Listener

__all__ = ["FileResult"]


class FileResult(AsyncResult):
    """The result of sending or receiving files: paths, or one path.

    Args:
        view: The engines.
        fname: What is done, ``"send_file"`` or ``"receive_file"``.
    """

    def __init__(self, view: DirectView, fname: str) -> None:
        engines, single = view._resolve(None)
        super().__init__(view._session, single, fname, owner=view.client)
        self._view = view
        word = "to" if fname == "send_file" else "from"
        self._by_engine = {e: Transfer(f"{fname} {word} engine {e}") for e in engines}
        #: Why tasks have failed that failed here.
        self._here: dict[int, BaseException] = {}
        self._master = new_key()
        self._objects = view._session.objects
        self._objects.active = True  # progress is shown to those who wait

    @property
    def transfers(self) -> list[Transfer]:
        """What is moved, one for each engine: ``done`` of ``size`` bytes, at a ``rate``."""
        return list(self._by_engine.values())

    def _transfers(self) -> list[Transfer]:
        return [one for one in self.transfers if one.size and one.done < one.size]

    def cancel(self) -> bool:
        """Give it up: what is being moved ends, and nothing half-written is left.

        Returns:
            False if it is done already.
        """
        for transfer in self._by_engine.values():
            transfer.cancel()
        return super().cancel()

    def _arrive(self, record: TaskRecord) -> bool:
        # What went wrong here is the reason, and what the engine says of it is not.
        problem = self._here.get(record.id)
        if problem is not None:
            record.cell = (FAILURE, problem)
        last = super()._arrive(record)
        if last:
            self._objects.flows.forget(self._master)
        return last

    @contextlib.contextmanager
    def _moving(self, attempt: Attempt) -> Iterator[Transfer]:
        """A context in which files are moved.

        An exception that leaves it becomes the failure of the task, which is interrupted: its engine
        does not know that nothing more will come.
        """
        transfer = self._by_engine[attempt.engine]
        try:
            with self._objects.mover.transfers.moving(transfer):
                attempt.check()
                yield transfer
        except FlowStopped:
            pass  # the task is over, and its outcome says why
        except Exception as problem:  # noqa: BLE001 - whatever it is, who waits is to know it
            if wait_over(attempt, NEWS):
                return  # the engine is lost, and its store with it perhaps
            self._fail(attempt, problem)
            with contextlib.suppress(Exception):  # nobody may be there
                attempt.interrupt()

    def _fail(self, attempt: Attempt, problem: Exception) -> None:
        """Note why a task fails here, before its engine hears of it and ends it."""
        # What the frames of its traceback refer to would stay in the store.
        clear_frames(problem.__traceback__)
        self._here.setdefault(attempt.record.id, problem)

    def _idle_of(self, attempt: Attempt) -> Callable[[], None]:
        """Return what raises when there is no need to go on."""
        transfer = self._by_engine[attempt.engine]

        def idle() -> None:
            attempt.check()
            if attempt.record.id not in self._here:
                transfer.advance(0)

        return idle

    def _start(
        self, listener: Listener, function: Callable[..., Any], args: tuple[Any, ...], block: bool
    ) -> Any:
        """Run one of the engines' functions on each of them.

        Args:
            listener: Moves what they open flows for.
            function: The function; its first argument is the result's key.
            args: Its other arguments.
            block: Wait for it.

        Returns:
            Itself, or its value.
        """
        view, engines = self._view, list(self._by_engine)
        session = view._session
        self._objects.flows.expect(self._master, listener)
        try:
            call = dump_call(function, (self._master, *args), {}, view.client._functions)
            if self._single:
                session.submit(self, Kind.APPLY, call, engines[0], (), view.retries, view.label)
            else:
                session.submit_same(self, Kind.APPLY, call, engines, view.label, view.retries)
        except BaseException:
            self._objects.flows.forget(self._master)
            raise
        view._note(self)
        if not block:
            return self
        try:
            return self.get()
        except KeyboardInterrupt:
            self.cancel()
            raise
