"""Tasks that have ended: run again with the same content, or forgotten for good."""

from __future__ import annotations

import msgspec

from ipkernel.controller.archive import Filed
from ipkernel.controller.core import Core
from ipkernel.controller.events import Item, TasksPurged
from ipkernel.controller.sessions import Session
from ipkernel.wire.messages import Function, Outcome, Resubmit


def submission_of(core: Core, session: Session, message: Resubmit, filed: Filed) -> list[Item]:
    """Return what a client could have sent to run a task again.

    Args:
        core: The scheduler's tables.
        session: For whom.
        message: Which task, and the id of the new one.
        filed: What is kept of its submission.

    Returns:
        The submission, after the function that it names if the session has not sent that. What the
        task waited for is waited for again only if it never came; it has no recovery task if the
        session has not sent the function of that.
    """
    again = msgspec.structs.replace(filed.message, task=message.task)
    if filed.target >= 0:
        again = msgspec.structs.replace(again, targets=[filed.target], spread=False)
    terms = again.terms
    if terms is not None:
        if filed.outcome is not Outcome.IMPOSSIBLE:
            terms = msgspec.structs.replace(terms, after=None, follow=None)
        recovery = terms.recovery
        if recovery is not None and recovery.digest and recovery.digest not in session.functions:
            terms = msgspec.structs.replace(terms, recovery=None)
    again = msgspec.structs.replace(again, terms=terms)
    items: list[Item] = []
    digest = again.digest
    if digest and digest not in session.functions:
        blob = core.archive.function(digest)
        assert blob is not None
        items.append((Function(digest, len(blob)), blob))
    items.append((again, filed.payload))
    return items


def why_not(core: Core, task: int) -> str:
    """Return why a task cannot be run again, whose submission is not kept."""
    if task in core.tasks:
        state = core.tasks[task].state.value
        return f"task {task} has not ended ({state}): only a task that has ended can be run again"
    past = core.history.past(task)
    if past is not None or task in core.retained:
        origin = past[1] if past is not None else None
        ended = origin.ended if origin is not None else core.retained.since(task)
        if ended < core.began:
            return (
                f"task {task} ended before the controller was started again, and what tasks were made "
                f"of is not kept over that: submit it anew"
            )
        return (
            f"what task {task} was made of is not kept any more: that is kept of tasks that failed, "
            f"and of those whose results nobody has fetched, as far as there is room"
        )
    return f"task {task} is not known to the controller: it never was submitted, or ended long ago"


def purged(core: Core, event: TasksPurged) -> None:
    """Forget tasks that have ended: how they did, their results and their submissions."""
    for task in event.tasks:
        if task in core.tasks:
            continue
        known = core.history.forget(task) or task in core.archive
        if core.retained.drop(task):
            known = True
            core.not_retained(task)
        core.archive.drop(task)
        if known:
            core.purged += 1
            core.unknown.append(task)
