"""Taking tasks back that have not started: for an idle engine, or because they are cancelled."""

from __future__ import annotations

from ipkernel.controller import losses
from ipkernel.controller.core import Core
from ipkernel.controller.slots import PREFETCH, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Outcome, Reason, Reclaim


def cancel(core: Core, wanted: list[int]) -> None:
    """Abort those of these tasks that have not started.

    Tasks that wait here end at once. Those at a host are asked back; what the host has begun
    meanwhile runs to its end.
    """
    asked: dict[Engine, list[int]] = {}
    for tid in wanted:
        task = core.tasks.get(tid)
        if task is None or task.cancelled:
            continue
        if task.state is State.ASSIGNED:
            task.cancelled = True
            task.note(core.now, "its client cancelled it; its host was asked to give it back")
            asked.setdefault(core.engines[task.engine], []).append(tid)
        elif task.state is not State.RUNNING:
            core.end_queued(task, Outcome.ABORTED, aborted(task))
    for engine, tasks in asked.items():
        reclaim(core, engine, tasks)


def aborted(task: Task) -> Reason:
    """Return the reason of a task that was cancelled before it began."""
    where = f" for engine {task.target}" if task.target >= 0 else ""
    return Reason("aborted", f"cancelled before it began, while it waited{where}")


def reclaim(core: Core, engine: Engine, tasks: list[int]) -> None:
    """Ask an engine's host to give these tasks back if they have not begun."""
    engine.reclaims += 1
    core.ladder.update(engine)
    core.host_items(engine.host.id).append((Reclaim(engine.id, tasks), b""))


def returned(core: Core, engine: Engine, tasks: list[int]) -> None:
    """Deal with tasks that a host gives back because they have not started."""
    if engine.reclaims:
        engine.reclaims -= 1
    for tid in reversed(tasks):
        task = engine.assigned.get(tid)
        if task is None or task.state is not State.ASSIGNED:
            continue
        del engine.assigned[tid]
        engine.bytes -= task.message.size
        task.note(core.now, f"given back by engine {engine.id} before it began")
        if task.cancelled:
            core.end(task, Outcome.ABORTED, aborted(task))
        else:
            core.requeue_first(task)
    core.ladder.update(engine)
    if engine.direct:
        core.pending[engine] = None
    if not engine.running:
        core.deep.pop(engine, None)
    if engine.draining:
        losses.end_impossible(core)


def relieve(core: Core) -> None:
    """Take back what waits behind long tasks, where another engine would begin it sooner.

    That is so when an engine is idle, and when a task takes much longer than its predecessors:
    then a great many may be waiting behind it. Each long task is a reason to ask once: what the
    host does not give back then may be in the engine's pipe already.
    """
    for engine in list(core.deep):
        if engine.reclaims:
            continue
        surprised = engine.mean < PREFETCH
        if not core.ladder.any_idle and not (surprised and len(core.engines) > 1):
            continue
        tasks = [t.id for t in engine.assigned.values() if _could_move(core, engine, t)]
        del core.deep[engine]
        if tasks:
            reclaim(core, engine, tasks)


def _could_move(core: Core, engine: Engine, task: Task) -> bool:
    if task.state is not State.ASSIGNED or task.target >= 0 or task.cancelled:
        return False
    targets = task.message.targets
    if not targets:
        return True
    others = (core.engines.get(t) for t in targets)
    return any(o is not None and o is not engine and o.rung >= 0 for o in others)
