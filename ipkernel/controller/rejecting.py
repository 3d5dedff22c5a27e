"""Engines that reject tasks: each task is offered to the others, until none is left."""

from __future__ import annotations

import msgspec

from ipkernel.controller.core import Core
from ipkernel.controller.demands import candidates, give_back
from ipkernel.controller.nearness import best_host
from ipkernel.controller.queues import Line
from ipkernel.controller.retrying import summary
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import Payload, Refused, State, Task
from ipkernel.wire.messages import Fate, Outcome, Reason


def reject(core: Core, engine: Engine, task: Task, payload: Payload) -> bool:
    """Take back a load-balanced task that an engine rejected; it stands on no engine any more.

    Args:
        core: The scheduler's tables.
        engine: Who rejected it.
        task: The task.
        payload: Why, as engines describe exceptions.

    Returns:
        False for a task that is bound to this engine: it has failed.
    """
    if task.target >= 0:
        return False
    why = summary(payload)
    task.note(core.now, f"engine {engine.id} rejected it: {why}")
    refused = core.refused.get(task.id)
    if refused is None:
        refused = core.refused[task.id] = Refused(task.message.targets)
    told = refused.told
    told[engine.id] = f"engine {engine.id} on {engine.host.name}: {why}"
    refused.unwritten[engine.id] = told[engine.id]
    engine.bytes -= task.message.size
    give_back(core, engine, task)
    engine.running.discard(task.id)
    if task.cancelled:
        text = "cancelled; an engine had it and rejected it"
        core.end(task, Outcome.ABORTED, Reason("aborted", text, fate=Fate.DEQUEUED))
        return True
    able = candidates(core, task.message.targets, core.demands.of(task.message.terms))
    left = [e.id for e in able if e.id not in told and e.usable]
    if not left:
        text = f"no engine can run this task; {'; '.join(told.values())}"
        core.end(task, Outcome.IMPOSSIBLE, Reason("dependency", text[:4000]))
        return True
    task.message = msgspec.structs.replace(task.message, targets=sorted(left))
    if task.near:
        task.near = best_host(core, task.message)
    core.requeue_first(task)
    return True


def offer(core: Core, engines: list[int]) -> None:
    """Let new engines be asked as well by tasks that others have rejected and that still wait."""
    queued: dict[Line, list[Task]] = {}
    for tid, refused in core.refused.items():
        wanted = refused.targets
        new = [n for n in engines if (not wanted or n in wanted) and core.engines[n].usable]
        if not new:
            continue
        task = core.tasks[tid]
        if task.state is State.READY:
            queued.setdefault(core.line_of(task), []).append(task)
        for number in new:
            refused.told.pop(number, None)  # that was another engine with this id
        targets = sorted({*task.message.targets, *new})
        task.message = msgspec.structs.replace(task.message, targets=targets)
        core.note_again(task)
    for line, tasks in queued.items():
        for task in reversed(core.lines.take_out(line, tasks)):
            core.put_first(task)
