"""Sending files and directories to engines, and getting them from there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Final

from ipkernel.client.flows import NEWS, Attempt, encoded, wait_over
from ipkernel.client.result import AsyncResult
from ipkernel.client.task import FAILURE, TaskRecord
from ipkernel.engine import files as engine_files
from ipkernel.errors import ConnectError, UnknownObject
from ipkernel.objects.chunks import Flag, new_key
from ipkernel.objects.filetree import Source, expand
from ipkernel.objects.filewriter import TreeWriter
from ipkernel.objects.flow import FlowReader, FlowStopped, closing
from ipkernel.objects.transfer import Transfer
from ipkernel.serialize.functions import dump_call
from ipkernel.wire.messages import Kind

if TYPE_CHECKING:
    from ipkernel.client.directview import DirectView

__all__ = ["FileResult", "receive_file", "send_file"]

#: Stands for the engine's id in the paths of files that come from several engines.
ENGINE: Final = "{engine}"


class FileResult(AsyncResult):
    """The result of sending or receiving files: paths, or one path.

    Attributes:
        transfers: What is moved, one for each engine: ``done`` of ``size`` bytes, and ``rate``.
    """

    def __init__(self, view: DirectView, fname: str) -> None:
        engines, single = view._resolve(None)
        super().__init__(view._session, single, fname, owner=view.client)
        word = "to" if fname == "send_file" else "from"
        self._by_engine = {e: Transfer(f"{fname} {word} engine {e}") for e in engines}
        #: Why tasks have failed that failed here.
        self._here: dict[int, BaseException] = {}
        self._master = new_key()
        self._objects = view._session.objects
        self._objects.active = True  # progress is shown to those who wait

    @property
    def transfers(self) -> list[Transfer]:
        """What is moved, one for each engine."""
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

    def _idle(self, attempt: Attempt) -> Callable[[], None]:
        """Return what raises when there is no need to go on."""
        transfer = self._by_engine[attempt.engine]

        def idle() -> None:
            attempt.check()
            if attempt.record.id not in self._here:
                transfer.advance(0)

        return idle

    def _finish_here(self, block: bool) -> Any:
        if not block:
            return self
        try:
            return self.get()
        except KeyboardInterrupt:
            self.cancel()
            raise


def _submit(
    view: DirectView, result: FileResult, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """Run one of the engine's functions on each of the engines."""
    engines = list(result._by_engine)
    session = view._session
    try:
        call = dump_call(function, args, {}, view.client._functions)
        if result._single:
            session.submit(result, Kind.APPLY, call, engines[0], (), view.retries, view.label)
        else:
            session.submit_same(result, Kind.APPLY, call, engines, view.label, view.retries)
    except BaseException:
        result._objects.flows.forget(result._master)
        raise
    view._note(result)


# ---------------------------------------------------------------- sending


def send_file(
    view: DirectView,
    local: str | os.PathLike[str],
    remote: str | os.PathLike[str] | None,
    overwrite: bool,
    block: bool,
) -> Any:
    """Send a file or directory; see ``DirectView.send_file``."""
    source = Source(expand(os.fspath(local)))
    wanted = None if remote is None else os.fspath(remote)
    result = FileResult(view, "send_file")
    result._objects.flows.expect(result._master, _Sending(result, source))
    arguments = (result._master, source.name, source.is_directory, wanted, overwrite)
    _submit(view, result, engine_files.receive, arguments)
    return result._finish_here(block)


class _Sending:
    """Feeds the flows of engines that are ready for a file."""

    def __init__(self, result: FileResult, source: Source) -> None:
        self._result = result
        self._source = source

    def opened(self, attempt: Attempt) -> None:
        """An engine is ready."""
        attempt.flows.files.submit(lambda: self._send(attempt))

    def stopped(self) -> None:
        """Engines end the task instead."""

    def _send(self, attempt: Attempt) -> None:
        result = self._result
        with result._moving(attempt) as transfer:
            transfer.done = 0
            transfer.size = self._source.size()
            with closing(attempt.writer(result._idle(attempt))) as flow:
                try:
                    for payload in self._source.payloads(transfer):
                        flow.write([payload])
                    flow.write([], Flag.LAST)
                except (FlowStopped, ConnectError, UnknownObject):
                    raise
                except Exception as problem:  # noqa: BLE001 - whatever it is, the engine is told
                    result._fail(attempt, problem)
                    flow.write([encoded(problem)], Flag.LAST | Flag.ERROR)
                flow.drain()


# ---------------------------------------------------------------- receiving


def receive_file(
    view: DirectView,
    remote: str | os.PathLike[str],
    local: str | os.PathLike[str] | None,
    overwrite: bool,
    block: bool,
) -> Any:
    """Get a file or directory; see ``DirectView.receive_file``."""
    path = os.fspath(remote)
    wanted = "" if local is None else os.fspath(local)
    result = FileResult(view, "receive_file")
    receiving = _Receiving(result, wanted, overwrite)
    result._convert = receiving.path_of
    result._objects.flows.expect(result._master, receiving)
    _submit(view, result, engine_files.send, (result._master, path))
    return result._finish_here(block)


class _Receiving:
    """Writes what comes out of the flows of engines."""

    def __init__(self, result: FileResult, wanted: str, overwrite: bool) -> None:
        self._result = result
        self._overwrite = overwrite
        self._base = os.getcwd()  # that of the moment of the call
        self._wanted = wanted
        self._paths: dict[int, str] = {}

    def path_of(self, record: TaskRecord, value: Any) -> str:
        """Return where the file of a task was put."""
        return self._paths[record.id]

    def target(self, engine: int) -> str:
        """Return where the file of an engine is to be put; a slash at the end says a directory."""
        wanted = self._wanted
        if ENGINE in wanted:
            wanted = wanted.replace(ENGINE, str(engine))
        elif not self._result._single:
            wanted = os.path.join(wanted, str(engine), "")
        slash = "" if wanted and not wanted.endswith(("/", os.sep)) else os.sep
        return os.path.join(self._base, os.path.expanduser(wanted)) + slash

    def opened(self, attempt: Attempt) -> None:
        """An engine is ready."""
        attempt.flows.files.submit(lambda: self._receive(attempt))

    def stopped(self) -> None:
        """Engines end the task instead."""

    def _receive(self, attempt: Attempt) -> None:
        result = self._result
        with result._moving(attempt) as transfer:
            transfer.done = 0
            transfer.size = attempt.note.size
            with closing(attempt.reader(result._idle(attempt))) as flow:
                try:
                    self._write(attempt, transfer, flow)
                except (FlowStopped, ConnectError, UnknownObject):
                    raise
                except Exception as problem:  # noqa: BLE001 - whatever it is, the engine is told
                    result._fail(attempt, problem)
                    flow.refuse(encoded(problem))
                    wait_over(attempt)

    def _write(self, attempt: Attempt, transfer: Transfer, flow: FlowReader) -> None:
        with TreeWriter(self.target(attempt.engine), self._overwrite, transfer) as writer:
            while not flow.ended:
                with flow.read().payload as payload:
                    writer.feed(payload)
                if not flow.ended:
                    flow.free()
            self._paths[attempt.record.id] = writer.finish()
            flow.free()  # the engine is told last: everything is in its place
