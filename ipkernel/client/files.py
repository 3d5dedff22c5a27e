"""Sending files and directories to engines, and getting them from there."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ipkernel.client.fileresult import FileResult
from ipkernel.client.flows import Attempt, encoded, wait_over
from ipkernel.client.task import TaskRecord
from ipkernel.engine import files as engine_files
from ipkernel.errors import ConnectError, RemoteError, UnknownObject
from ipkernel.objects.chunks import Flag
from ipkernel.objects.filetree import Source
from ipkernel.objects.filewriter import TreeWriter
from ipkernel.objects.flow import FlowReader, FlowStopped, closing
from ipkernel.objects.transfer import Transfer

if TYPE_CHECKING:
    from ipkernel.client.directview import DirectView

__all__ = ["receive_file", "send_file"]

#: Stands for the engine's id in the paths of files that come from several engines.
ENGINE: Final = "{engine}"


# ---------------------------------------------------------------- sending


def send_file(
    view: DirectView,
    local: str | os.PathLike[str],
    remote: str | os.PathLike[str] | None,
    overwrite: bool,
    block: bool,
) -> Any:
    """Send a file or directory; see ``DirectView.send_file``."""
    source = Source(os.fsdecode(local))
    wanted = None if remote is None else os.fsdecode(remote)
    result = FileResult(view, "send_file")
    arguments = (source.name, wanted, overwrite)
    return result._start(_Sending(result, source), engine_files.receive, arguments, block)


@define(eq=False)
class _Place:
    """Where one or several engines of a host would write the same file.

    Attributes:
        waiting: Those that are ready for it, and were neither sent it nor told of it.
        busy: Whether a thread sees to them.
        path: The file's path, once it is there.
        problem: Why it cannot be put there, if that is known.
    """

    waiting: list[Attempt] = field(factory=list)
    busy: bool = False
    path: str | None = None
    problem: Exception | None = None


class _Sending:
    """Feeds the flows of engines that are ready for a file.

    Engines of one host that would write the same file get it once: the first of them writes it, and the
    others are told what became of it.
    """

    def __init__(self, result: FileResult, source: Source) -> None:
        self._result = result
        self._source = source
        self._lock = threading.Lock()
        self._places: dict[tuple[int, bytes], _Place] = {}

    def opened(self, attempt: Attempt) -> None:
        """An engine is ready."""
        key = (attempt.flows.host_of(attempt.engine), attempt.note.place)
        with self._lock:
            place = self._places.setdefault(key, _Place())
            place.waiting.append(attempt)
            if place.busy:
                return
            place.busy = True
        attempt.flows.files.submit(lambda: self._serve(place))

    def stopped(self) -> None:
        """Engines end the task instead."""

    def _serve(self, place: _Place) -> None:
        while True:
            with self._lock:
                if not place.waiting:
                    place.busy = False
                    return
                attempt = place.waiting.pop(0)
            if place.path is None and place.problem is None:
                self._send(attempt)
                self._learn(place, attempt)
            else:
                self._tell(place, attempt)

    def _learn(self, place: _Place, attempt: Attempt) -> None:
        """See what became of a file; if the engine was lost, nothing did."""
        if not wait_over(attempt) or attempt.record.cell is None:
            return
        good, value = attempt.record.load()
        if good:
            place.path = value
        elif isinstance(value, RemoteError) or attempt.record.id in self._result._here:
            place.problem = value

    def _send(self, attempt: Attempt) -> None:
        result = self._result
        with result._moving(attempt) as transfer:
            with closing(attempt.writer(result._idle_of(attempt))) as flow:
                try:
                    transfer.done, transfer.size = 0, self._source.size()
                    for payload in self._source.payloads(transfer):
                        flow.write([payload])
                    flow.write([], Flag.LAST)
                except (FlowStopped, ConnectError, UnknownObject):
                    raise
                except Exception as problem:  # noqa: BLE001 - whatever it is, the engine is told
                    result._fail(attempt, problem)
                    flow.write([encoded(problem)], Flag.LAST | Flag.ERROR)
                flow.drain()

    def _tell(self, place: _Place, attempt: Attempt) -> None:
        """Tell an engine what became of the file that another one was sent."""
        with (
            self._result._moving(attempt) as transfer,
            closing(attempt.writer(attempt.check)) as flow,
        ):
            if place.problem is None:
                transfer.done = transfer.size = self._source.size()
                answer = (place.path or "").encode("utf-8", "surrogateescape")
                flow.write([answer], Flag.LAST | Flag.DONE)
            else:
                problem = getattr(place.problem, "original", None) or place.problem
                if not isinstance(place.problem, RemoteError):
                    self._result._fail(attempt, place.problem)  # it is of this side
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
    path = os.fsdecode(remote)
    wanted = "" if local is None else os.fsdecode(local)
    result = FileResult(view, "receive_file")
    receiving = _Receiving(result, wanted, overwrite)
    result._convert = receiving.path_of
    return result._start(receiving, engine_files.send, (path,), block)


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
            transfer.done, transfer.size = 0, attempt.note.size
            with closing(attempt.reader(result._idle_of(attempt))) as flow:
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
