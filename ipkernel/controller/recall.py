"""Taking tasks back: for an idle engine, or because they are cancelled, and then running ones too."""

from __future__ import annotations

from ipkernel.controller import losses
from ipkernel.controller.core import MAX_WATCHERS, Core, Question
from ipkernel.controller.demands import give_back, others_could
from ipkernel.controller.journal import Unwanted
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import PREFETCH, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Cancel, Fate, Interrupt, Outcome, Reason, Reclaim


def cancel(core: Core, session: Session, message: Cancel) -> None:
    """Abort tasks, whoever has submitted them, and tell the client what became of each.

    Tasks that wait here end at once. Those at a host are asked back, and interrupted if it has sent
    them to their engine.
    """
    question = (session.id, message.serial)
    answer = core.answer if message.serial else _nothing
    reclaimed: dict[Engine, list[int]] = {}
    interrupted: dict[Engine, list[int]] = {}
    over: set[int] | None = None
    for tid in dict.fromkeys(message.tasks):
        task = core.tasks.get(tid)
        if task is None:
            if over is None:
                over = {ended.task for ended, _ in core.ended}
            known = tid in over or tid in core.retained or core.history.find(tid) is not None
            answer(question, tid, Fate.ENDED if known else Fate.UNKNOWN)
            continue
        if task.state is not State.ASSIGNED and task.state is not State.RUNNING:
            core.end_queued(task, Outcome.ABORTED, aborted(task))
            answer(question, tid, Fate.DEQUEUED)
            continue
        if message.serial:
            _ask(core, tid, question)
        if task.cancelled:
            continue
        task.grace = message.grace
        engine = core.engines[task.engine]
        interrupted.setdefault(engine, []).append(tid)
        if task.state is State.ASSIGNED:
            task.note(core.now, "cancelled; its host was asked to give it back, or to end it")
            reclaimed.setdefault(engine, []).append(tid)
        else:
            task.note(core.now, "cancelled; its host was asked to end it")
    if interrupted:
        unwanted = [tid for tasks in interrupted.values() for tid in tasks]
        core.records.append(Unwanted(core.now, unwanted, message.grace))
    for engine, tasks in reclaimed.items():
        reclaim(core, engine, tasks)
    for engine, tasks in interrupted.items():
        _interrupt(core, engine, tasks, message.grace)


def ask_host(core: Core, engine: Engine, tasks: list[Task]) -> None:
    """Have a host end cancelled tasks that it has, now that it is back."""
    waiting = [task.id for task in tasks if task.state is State.ASSIGNED]
    if waiting:
        reclaim(core, engine, waiting)
    for grace in dict.fromkeys(task.grace for task in tasks):
        _interrupt(core, engine, [task.id for task in tasks if task.grace == grace], grace)


def _interrupt(core: Core, engine: Engine, tasks: list[int], grace: int) -> None:
    if engine.host.unsaid is None:  # else it is asked when it has said what it has
        order = Interrupt(engine.id, engine.epoch, tasks, grace)
        core.host_items(engine.host.id).append((order, b""))


def _nothing(question: Question, task: int, fate: Fate) -> None:
    """Tell nobody."""


def _ask(core: Core, task: int, question: Question) -> None:
    """Have a client told what becomes of a task."""
    asked = core.askers.setdefault(task, [])
    if question not in asked:
        asked.append(question)
        del asked[:-MAX_WATCHERS]


def aborted(task: Task) -> Reason:
    """Return the reason of a task that was cancelled before it began."""
    where = f" for engine {task.target}" if task.target >= 0 else ""
    text = f"cancelled before it began, while it waited{where}"
    return Reason("aborted", text, fate=Fate.DEQUEUED)


def reclaim(core: Core, engine: Engine, tasks: list[int]) -> None:
    """Ask an engine's host to give these tasks back if they have not begun."""
    if engine.host.unsaid is not None:
        return
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
        if engine.used:
            give_back(core, engine, task)
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
    return others_could(core, task, engine)
