"""Why a task is where it is, for people."""

from __future__ import annotations

from datetime import datetime

from ipkernel.controller import away, demands, dependencies
from ipkernel.controller.core import Core
from ipkernel.controller.slots import AWAY, READY, RESTARTING, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.records import TaskStory


def explain(core: Core, number: int) -> TaskStory:
    """Return where task ``number`` is, why, and how it came there."""
    task = core.tasks.get(number)
    if task is not None:
        return TaskStory(
            task=number,
            state=task.state.value,
            reason=_reason(core, task),
            story=task.story(),
            engine=task.engine if task.engine >= 0 else task.target,
        )
    if number in core.retained:
        since = core.retained.since(number)
        text = (
            f"it ended and its result is kept until {_date(since + core.retained.seconds)} "
            f"for a client to fetch it"
        )
        return TaskStory(task=number, state="finished", reason=text)
    text = "not known here: its result was delivered or has expired, or it never was submitted"
    return TaskStory(task=number, state="unknown", reason=text)


def _date(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")


def _reason(core: Core, task: Task) -> str:
    if task.state is State.RUNNING and task.cancelled:
        return f"it was cancelled, and the host of engine {task.engine} was asked to end it"
    if task.state is State.RUNNING:
        absent = away.why(core.engines[task.engine])
        return f"engine {task.engine} is running it" + (f"; {absent}" if absent else "")
    if task.state is State.ASSIGNED:
        return _assigned(core, task)
    if task.id in core.waits:
        return dependencies.why(core, task)
    if core.sessions[task.session].held:
        return "its client does not take its results: nothing more is started for it"
    if task.target >= 0:
        return _bound(core.engines[task.target])
    return _shared(core, task)


def _assigned(core: Core, task: Task) -> str:
    engine = core.engines[task.engine]
    if task.cancelled:
        return f"it was cancelled, and the host of engine {engine.id} was asked to give it back"
    lacking = core.objects.why(engine.host.id, task.message.needs) if task.message.needs else ""
    if lacking:
        return f"it waits at engine {engine.id} for what it needs: {lacking}"
    absent = away.why(engine)
    if absent:
        return f"it is with engine {engine.id}: {absent}"
    head = next(iter(engine.assigned))
    if head == task.id:
        return f"engine {engine.id} has it and is about to run it, or has just begun"
    return f"it waits at engine {engine.id}, which has {len(engine.assigned)} tasks in all"


def _bound(engine: Engine) -> str:
    queue = len(engine.direct) - engine.shelved
    absent = away.why(engine)
    if absent:
        return f"it waits for engine {engine.id}: {absent}"
    if engine.state != READY:
        doing = "restarted" if engine.state == RESTARTING else "started"
        why = f" ({engine.reason})" if engine.reason else ""
        return f"engine {engine.id} is being {doing}{why}; {queue} tasks wait for it"
    if engine.ending:
        return f"engine {engine.id} is being stopped"
    if engine.draining:
        return (
            f"engine {engine.id} finishes what is bound to it, and then no more "
            f"({engine.draining}); {queue} tasks wait for it"
        )
    return (
        f"engine {engine.id} is busy with {len(engine.assigned)} tasks and "
        f"{queue} wait for it to have room"
    )


def _shared(core: Core, task: Task) -> str:
    targets = task.message.targets
    some = [e for n in targets if (e := core.engines.get(n))] if targets else core.engines.values()
    some = list(some)
    alive = sum(1 for e in some if e.state == READY and e.usable)
    line = core.line_of(task)
    which = "engines" if not targets else "engines that it may run on"
    if not alive:
        coming = sum(1 for e in some if e.usable and e.state != AWAY)
        absent = next((text for e in some if (text := away.why(e))), "")
        if absent and not coming:
            return f"no {which} to be had now: {absent}"
        hope = f"{coming} are being started" if coming else "it waits for one to join"
        return f"no {which}: {hope}"
    demand = core.demands.of(task.message.terms)
    if demand is not None:
        wanting = demands.why(core, task, demand)
        if wanting:
            return wanting
        which = f"engines that have {demand}"
        alive = sum(1 for e in demands.candidates(core, targets, demand) if e.usable)
    near = core.hosts.get(task.near)
    if near is not None:
        which += f", best those of {near.name} that has what it needs,"
    return f"all {alive} {which} are busy; {line.count} tasks are ready in its line"
