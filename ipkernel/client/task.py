"""One task as its client knows it, and what its result means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from msgspec import MsgspecError

from ipkernel import errors
from ipkernel.client.cancelling import FATES, WORDS
from ipkernel.client.stored import Stored
from ipkernel.objects.ref import ObjectRef
from ipkernel.serialize.payload import loads
from ipkernel.wire.messages import (
    METHODS,
    Fate,
    Finished,
    Kind,
    Outcome,
    Past,
    Reason,
    Stream,
    decode_reason,
)

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult
    from ipkernel.serialize.payload import Pieces

Payload = bytes | bytearray | memoryview

#: What :attr:`TaskRecord.cell` holds beside an :class:`Outcome`: a value, or an exception.
VALUE: Final = -1
FAILURE: Final = -2

#: Bytes of output that are kept of one task.
MAX_OUTPUT: Final = 10 << 20


class Printed:
    """What a task has printed, displayed or published so far."""

    __slots__ = ("pieces", "size", "truncated")

    def __init__(self) -> None:
        self.pieces: list[tuple[Stream, Payload]] = []
        self.size = 0
        self.truncated = False

    def add(self, stream: Stream, data: Payload) -> None:
        """Keep a piece, unless there is too much already."""
        if self.truncated:
            return
        if self.size + len(data) > MAX_OUTPUT:
            self.truncated = True
            notice = f"\n[output stopped here: the task printed more than {MAX_OUTPUT >> 20} MB]\n"
            stream, data = Stream.STDERR, notice.encode()
        self.size += len(data)
        self.pieces.append((stream, data))

    def text(self, stream: Stream) -> str:
        """Return what went to one of the text streams."""
        joined = b"".join([data for which, data in self.pieces if which is stream])
        return joined.decode("utf-8", "replace")

    def of(self, stream: Stream) -> list[Payload]:
        """Return the pieces of one of the other streams."""
        return [data for which, data in self.pieces if which is stream]


class TaskRecord:
    """One task: its id, where it was sent, and what came back.

    Attributes:
        id: The task's id.
        kind: What was asked of the engine.
        target: The engine it was sent to, or -1.
        label: The user's own name for it.
        submitted: When it was submitted, seconds since the epoch.
        received: When the result arrived, seconds since the epoch, or 0.
        message: The :class:`Finished` that ended it, or None.
        cell: None while it is pending; then what the second item is (an :class:`Outcome`,
            :data:`VALUE` or :data:`FAILURE`) and the raw payload, the value or the exception.
            It is replaced as a whole, so that threads need no lock to read it.
        output: What it printed, or None.
        keep: Whether its result is a reference to an object.
        serials: The last serial of its output, for each engine that it came from, or None.
        watchers: The results to tell when it has ended.
    """

    __slots__ = (
        "__weakref__",
        "cell",
        "id",
        "keep",
        "kind",
        "label",
        "message",
        "output",
        "received",
        "serials",
        "submitted",
        "target",
        "watchers",
    )

    cell: tuple[int, Any] | None
    message: Finished | None
    output: Printed | None
    serials: dict[int, int] | None
    watchers: tuple[AsyncResult, ...]

    def __init__(
        self,
        task: int,
        kind: Kind,
        target: int,
        label: str,
        submitted: float,
        *watchers: AsyncResult,
    ) -> None:
        self.id = task
        self.kind = kind
        self.target = target
        self.label = label
        self.submitted = submitted
        self.watchers = watchers
        self.cell = self.message = self.output = self.serials = None
        self.received = 0.0
        self.keep = False

    def __repr__(self) -> str:
        state = "pending" if self.cell is None else "done"
        return f"<task {self.id}: {METHODS[self.kind]}, {state}>"

    def take_watchers(self) -> tuple[AsyncResult, ...]:
        """Return the results to tell, and let go of them."""
        watchers, self.watchers = self.watchers, ()
        return watchers

    def finish(self, message: Finished, payload: Payload, received: float) -> None:
        """Take the result as it came; it is decoded when somebody asks for it."""
        self.message = message
        self.received = received
        self.cell = (message.outcome, payload)

    def finish_with(
        self, message: Finished, content: Stored | ObjectRef | memoryview | BaseException
    ) -> None:
        """Take a result that is an object: its bytes, what leads to them, or why there are none."""
        self.message = message
        self.received = time.time()
        if isinstance(content, BaseException):
            self.cell = (FAILURE, content)
        elif isinstance(content, ObjectRef):
            self.cell = (VALUE, content)
        else:
            self.cell = (message.outcome, content)

    def fail(self, failure: BaseException) -> None:
        """End the task with an exception of the client's own making."""
        self.received = time.time()
        self.cell = (FAILURE, failure)

    def keep_result(self) -> None:
        """Map a result that is in a store, so that it stays readable without it."""
        content = self.cell[1] if self.cell is not None else None
        if isinstance(content, Stored):
            with suppress(errors.KernelError):  # load() will say the same
                content.view()

    @property
    def is_stored(self) -> bool:
        """Whether its result is in a store on this machine, and is not mapped yet."""
        content = self.cell[1] if self.cell is not None else None
        return isinstance(content, Stored) and not content.mapped

    @property
    def engine(self) -> int:
        """Where it ran or was to run, or -1."""
        message = self.message
        return self.target if message is None or message.engine < 0 else message.engine

    @property
    def past(self) -> Past:
        """How it has ended, for the controller."""
        message = self.message
        if message is None:  # its end is of this client's own making
            return Past(self.id, -1, False)
        return Past(self.id, message.engine, message.outcome is Outcome.OK)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        cell = self.cell
        return cell is not None and (cell[0] == Outcome.OK or cell[0] == VALUE)

    @property
    def fate(self) -> Fate | None:
        """What became of it as a task that is to be aborted; None while it is pending."""
        cell = self.cell
        if cell is None:
            return None
        if cell[0] == Outcome.ABORTED:
            self.load()
            cell = self.cell or cell
        fate = getattr(cell[1], "fate", None) if cell[0] == FAILURE else None
        return FATES.get(fate or "", Fate.ENDED)

    @property
    def aborted(self) -> bool:
        """Whether it has ended because it was aborted."""
        return self.cell is not None and (
            self.cell[0] == Outcome.ABORTED or isinstance(self.cell[1], errors.TaskAborted)
        )

    def load(self) -> tuple[bool, Any]:
        """Decode the result, once.

        Returns:
            Whether it is a value, and the value or the exception.
        """
        cell = self.cell
        if cell is None:
            raise RuntimeError(f"{self!r} has no result yet")
        what, content = cell
        if what >= 0:
            decoded = self._decode(what, content)
            if self.cell is cell:  # else another thread was faster; its answer stands
                self.cell = decoded
            what, content = self.cell or decoded
        return what == VALUE, content

    def _decode(self, outcome: int, payload: Payload | Stored) -> tuple[int, Any]:
        try:
            data = payload.view() if isinstance(payload, Stored) else payload
            if outcome == Outcome.OK:
                return VALUE, loads(data)
            if outcome == Outcome.ERROR:
                from ipkernel.serialize.failure import decode

                return FAILURE, self._locate(errors.remote_error(decode(data)))
            return FAILURE, self._reason(data)
        except Exception as problem:  # noqa: BLE001 - whatever unpickling a value raises is its result
            return FAILURE, problem

    def _reason(self, data: Payload) -> errors.KernelError:
        try:
            return failure_of(decode_reason(data), self.target)
        except MsgspecError as error:
            return errors.KernelError(f"what was said of why the task ended is damaged: {error}")

    def exception_of(self, outcome: Outcome, payload: Payload) -> BaseException:
        """Return the exception that a failure, as the controller tells it, stands for."""
        failure: BaseException = self._decode(outcome, payload)[1]
        return failure

    def _locate(self, error: errors.RemoteError) -> errors.RemoteError:
        """Say where it happened, as far as the engine did not."""
        info = error.engine_info
        if info.get("engine", info.get("engine_id")) is None and self.engine >= 0:
            info["engine"] = self.engine
        info.setdefault("method", METHODS[self.kind])
        return error

    def has_heard(self, engine: int, serial: int) -> bool:
        """Tell whether a piece of output has come before, and take note of it if not.

        Args:
            engine: Where it comes from.
            serial: Its number there, or 0 if nobody counts.
        """
        if not serial:
            return False
        if self.serials is None:
            self.serials = {}
        if serial <= self.serials.get(engine, 0):
            return True
        self.serials[engine] = serial
        return False

    def add_output(self, stream: Stream, data: Payload) -> None:
        """Take a piece of output while the task runs."""
        printed = self.output
        if printed is None:
            printed = self.output = Printed()
        printed.add(stream, data)


def failure_of(reason: Reason, target: int = -1) -> errors.KernelError:
    """Return the exception for a task that ended without a result of its own.

    Args:
        reason: What the controller says about it.
        target: The engine that was asked for, or -1.
    """
    if reason.kind == "engine":
        return errors.EngineLost(
            reason.text,
            engine=reason.engine if reason.engine >= 0 else None,
            host=reason.host or None,
            pid=reason.pid or None,
            exitcode=reason.exitcode,
            signal=reason.signal,
            uptime=reason.uptime or None,
            memory=reason.memory or None,
            last_output=reason.last_output,
        )
    if reason.kind == "host":
        engines = [reason.engine] if reason.engine >= 0 else []
        return errors.HostLost(reason.text, host=reason.host, engines=engines)
    if reason.kind == "no-engine":
        if target >= 0:
            return errors.InvalidEngineID(reason.text or f"there is no engine {target}")
        return errors.NoEnginesRegistered(reason.text or "there is no engine")
    if reason.kind == "object":
        return errors.ObjectLost(reason.text or "an object that the task needs is lost")
    if reason.kind == "store-full":
        return errors.StoreFull(reason.text or "an object that the task needs has no room")
    if reason.kind in ("dependency", "resources"):
        return errors.ImpossibleDependency(reason.text or "what the task depends on failed")
    if reason.kind == "unknown-task":
        return errors.InvalidDependency(reason.text or "the task depends on one that is not known")
    if reason.kind == "timeout":
        return errors.TaskTimeout(reason.text or "the task ran for longer than its timeout")
    if reason.kind == "aborted":
        fate = WORDS[reason.fate] if reason.fate is not None else ""
        return errors.TaskAborted(reason.text or "the task was aborted", fate=fate)
    return errors.KernelError(reason.text or f"the task could not be run ({reason.kind})")


def size_of(pieces: Pieces | Sequence[Payload]) -> int:
    """Return the number of bytes of a payload in pieces."""
    if len(pieces) == 1 and type(pieces[0]) is bytes:
        return len(pieces[0])
    return sum(p.nbytes if isinstance(p, memoryview) else len(p) for p in pieces)
