"""Tasks that have failed for good, and have another call that is to be run then in their place."""

from __future__ import annotations

from typing import Final

import msgspec

from ipkernel.controller.core import Core
from ipkernel.controller.tasks import Payload, Task
from ipkernel.wire.messages import Failed, Kind, Outcome, Reason, encode_reason

#: Bytes of what is said about a failure that are kept.
_KEPT: Final = 1 << 16


def can_recover(task: Task) -> bool:
    """Tell whether a task that has failed has something that is to be run in its place."""
    terms = task.message.terms
    return terms is not None and terms.recovery is not None and not task.cancelled


def recover(core: Core, task: Task, outcome: Outcome, payload: Payload, size: int) -> None:
    """Turn a task that has failed, and stands nowhere, into the one that recovers from it.

    Its result then counts as that of the task. It may run wherever the task could.

    Args:
        core: The scheduler's tables.
        task: The task; :func:`can_recover` has said yes.
        outcome: How it failed.
        payload: What belongs to that.
        size: Its bytes, also if it is an object.
    """
    message = task.message
    terms = message.terms
    assert terms is not None and terms.recovery is not None
    recovery = terms.recovery
    core.file(task, outcome)  # what would be run again is the task, not this
    if size > min(len(payload), _KEPT):
        text = f"the task failed; what it said about that is too long: {size} bytes"
        outcome, payload = Outcome.IMPOSSIBLE, encode_reason(Reason("limit", text))
    core.failed[task.id] = Failed(outcome, bytes(payload))
    task.note(core.now, f"it failed ({outcome.name.lower()}); its recovery task is run instead")
    if message.needs:
        core.objects.need_no_more(task.id, message.needs)
    charge = task.charge
    task.message = msgspec.structs.replace(
        message,
        kind=Kind.APPLY,
        size=len(recovery.payload),
        digest=recovery.digest,
        needs=[],
        stored=False,
        terms=msgspec.structs.replace(terms, after=None, follow=None, recovery=None),
    )
    task.payload = recovery.payload
    core.sessions[task.session].bytes += task.charge - charge
    task.near = 0
    task.attempts = 0
    core.requeue_first(task)
