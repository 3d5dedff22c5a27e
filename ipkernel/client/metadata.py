"""What is known of a task beside its result, under the names that users know."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ipkernel.client.task import TaskRecord
from ipkernel.errors import RemoteError
from ipkernel.wire.messages import Kind, Outcome, Stream

if TYPE_CHECKING:
    from ipkernel.client.engines import Engine

#: The keys of :class:`Metadata`; they are attributes and items of results as well.
KEYS: Final = (
    "msg_id",
    "submitted",
    "started",
    "completed",
    "received",
    "engine_uuid",
    "engine_id",
    "host",
    "follow",
    "after",
    "status",
    "execute_input",
    "execute_result",
    "error",
    "stdout",
    "stderr",
    "outputs",
    "data",
    "label",
    "attempts",
    "recovered",
    "is_broadcast",
    "is_coalescing",
)

_STATUS: Final = {
    Outcome.OK: "ok",
    Outcome.ERROR: "error",
    Outcome.ABORTED: "aborted",
    Outcome.LOST: "error",
    Outcome.IMPOSSIBLE: "error",
    Outcome.TIMEOUT: "error",
}


class Metadata(dict[str, Any]):
    """A dictionary whose keys can be used as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def moment(seconds: float) -> datetime.datetime | None:
    """Return seconds since the epoch as a local time with its zone; 0 is None."""
    if not seconds:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone()


def describe(record: TaskRecord, engines: Mapping[int, Engine] = MappingProxyType({})) -> Metadata:
    """Return the metadata of a task as it is now.

    Args:
        record: The task.
        engines: The engines that are known, by their ids.
    """
    message, printed = record.message, record.output
    reply = _reply(record)
    return Metadata(
        msg_id=record.id,
        submitted=moment(record.submitted),
        started=moment(message.started) if message else None,
        completed=moment(message.completed) if message else None,
        received=moment(record.received),
        engine_uuid=process(record, engines),
        engine_id=record.engine if record.engine >= 0 else None,
        host=host(record, engines),
        follow=[],
        after=[],
        status=status(record),
        execute_input=reply.get("input"),
        execute_result=reply.get("result"),
        error=error(record),
        stdout=printed.text(Stream.STDOUT) if printed else "",
        stderr=printed.text(Stream.STDERR) if printed else "",
        outputs=displays(record) + list(reply.get("outputs") or []),
        data=published(record),
        label=record.label or None,
        attempts=message.attempts if message else 0,
        recovered=recovered(record),
        is_broadcast=False,
        is_coalescing=False,
    )


def host(record: TaskRecord, engines: Mapping[int, Engine]) -> str | None:
    """Return the name of the host on which a task ran or is to run, as far as that is known."""
    said = _said(record, "host")
    if said:
        return str(said)
    engine = engines.get(record.engine)
    return engine.host if engine is not None else None


def process(record: TaskRecord, engines: Mapping[int, Engine]) -> str | None:
    """Return what names the process that ran a task, or is to run it, as far as that is known.

    That is its host and its process id. Of a process that there is no more it is known only if the
    task has failed there.
    """
    where, pid = _said(record, "host"), _said(record, "pid")
    if where and pid:
        return f"{where}:{pid}"
    engine = engines.get(record.engine)
    if engine is None or not engine.pid:
        return None
    if record.message is not None and record.message.started < engine.began:
        return None  # it was another process
    return f"{engine.host}:{engine.pid}"


def _said(record: TaskRecord, name: str) -> Any:
    """Return what the error of a task that has failed says of its engine, or None."""
    if record.cell is None or record.succeeded:
        return None
    failure = record.load()[1]
    if isinstance(failure, RemoteError):  # which may have attributes of the user's exception
        return failure.engine_info.get(name)
    return getattr(failure, name, None)


def status(record: TaskRecord) -> str | None:
    """Return ``"ok"``, ``"error"`` or ``"aborted"``; None while the task is pending."""
    if record.cell is None:
        return None
    if record.message is not None and (record.succeeded or record.message.outcome != Outcome.OK):
        return _STATUS[record.message.outcome]
    return "ok" if record.succeeded else "error"


def error(record: TaskRecord) -> BaseException | None:
    """Return the exception that a task ended with, if it did."""
    if record.cell is None or record.succeeded:
        return None
    failure: BaseException = record.load()[1]
    return failure


def recovered(record: TaskRecord) -> BaseException | None:
    """Return how a task failed whose result is that of its ``recovery_task``, or None."""
    message = record.message
    if message is None or message.failed is None:
        return None
    return record.exception_of(message.failed.outcome, message.failed.payload)


def displays(record: TaskRecord) -> list[dict[str, Any]]:
    """Return the rich output of a task, in the form that notebooks use."""
    if record.output is None:
        return []
    import msgspec

    from ipkernel.decoding import decode

    decoder = msgspec.msgpack.Decoder(dict[str, Any])
    found: list[dict[str, Any]] = []
    for piece in record.output.of(Stream.DISPLAY):
        try:
            content = decode(decoder, piece)
        except msgspec.MsgspecError:
            continue
        found.append({"output_type": "display_data", **content})
    return found


def published(record: TaskRecord) -> dict[str, Any]:
    """Return what the task has published while it ran; later values replace earlier ones."""
    data: dict[str, Any] = {}
    if record.output is None:
        return data
    from ipkernel.serialize.payload import loads

    for piece in record.output.of(Stream.DATA):
        value = loads(piece)
        data.update(value if isinstance(value, dict) else {"data": value})
    return data


def _reply(record: TaskRecord) -> dict[str, Any]:
    """The reply to an execute request, once it is there."""
    if record.kind is not Kind.EXECUTE or not record.succeeded:
        return {}
    good, value = record.load()
    return value if good and isinstance(value, dict) else {}
