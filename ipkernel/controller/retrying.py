"""Tasks that have failed, and ask to be run again: as often as their retries allow."""

from __future__ import annotations

from typing import Final

import msgspec

from ipkernel.controller.core import Core
from ipkernel.controller.demands import give_back
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import Payload, Task
from ipkernel.decoding import decode
from ipkernel.wire.messages import Done, Outcome

#: Characters of what an engine says that are kept.
_TOLD: Final = 300


class _Told(msgspec.Struct):
    """What of an exception, as engines describe it, is of interest here."""

    ename: str
    evalue: str


_told = msgspec.msgpack.Decoder(_Told)


def retried(core: Core, engine: Engine, task: Task, message: Done, payload: Payload) -> bool:
    """Take back a load-balanced task that has failed, and stands on no engine any more, to be run again.

    It may be on the same engine or another one, and is the next of its line. The retries that were
    used because engines were lost count as well.

    Args:
        core: The scheduler's tables.
        engine: Where it has failed.
        task: The task.
        message: How it ended.
        payload: Its result: why it has failed, or what is there of it.

    Returns:
        False if it is not run again: its retries are used up, it was cancelled, or it is bound to
        this engine.
    """
    retries = task.message.retries
    if task.cancelled or task.target >= 0 or task.attempts >= retries:
        return False
    why = summary(payload) if message.outcome is Outcome.RETRY else "some of its items have failed"
    task.attempts += 1
    task.note(
        core.now, f"failed on engine {engine.id}: {why}; run again, {task.attempts} of {retries}"
    )
    engine.bytes -= task.message.size
    give_back(core, engine, task)
    engine.running.discard(task.id)
    core.requeue_first(task)
    return True


def summary(payload: Payload) -> str:
    """Return the name and the text of an exception that an engine describes, in short."""
    try:
        told = decode(_told, payload)
    except msgspec.MsgspecError:  # engines may say anything
        return "it did not say why"
    return (f"{told.ename}: {told.evalue}" if told.evalue else told.ename)[:_TOLD]
