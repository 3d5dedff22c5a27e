"""Why a task is where it is, and what an engine does, for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Final

from ipkernel.controller import away, demands, dependencies
from ipkernel.controller.core import Core
from ipkernel.controller.slots import AWAY, READY, RESTARTING, Engine
from ipkernel.controller.tasks import ENDS, QUEUED, State, Task, clock
from ipkernel.spans import span_text
from ipkernel.wire.messages import Outcome
from ipkernel.wire.records import EngineStory, TaskStory

#: Tasks of a queue that are looked at for how many are ahead of one.
_LOOK: Final = 1000
#: Engines and tasks that a text names.
_NAMED: Final = 3
_TOLD: Final = 100


def explain(core: Core, number: int, now: float = 0.0) -> TaskStory:
    """Return where task ``number`` is, why, and how it came there.

    Args:
        core: The scheduler's tables.
        number: The task's id.
        now: The time, if it is later than that of the last event.
    """
    task = core.tasks.get(number)
    if task is None:
        return _ended(core, number)
    return TaskStory(
        task=number,
        state=task.state.value,
        reason=_reason(core, task, max(now, core.now))[:4000],
        story=task.story(),
        engine=task.engine if task.engine >= 0 else task.target,
    )


def _ended(core: Core, number: int) -> TaskStory:
    """Return what is remembered of a task that has ended, if it is."""
    message = core.history.find(number) or core.retained.find(number)
    if message is None:
        text = "not known here: it ended long ago, or it never was submitted"
        return TaskStory(task=number, state="unknown", reason=text)
    if number in core.retained:
        until = _date(core.retained.since(number) + core.retained.seconds)
        rest = f"its result is kept until {until} for a client to fetch it"
    else:
        rest = "its result was given to whoever asked for it"
    if number in core.archive:
        rest += ", and it can be run again"
    where = f" on engine {message.engine}" if message.engine >= 0 else ""
    past = core.history.past(number)
    origin = past[1] if past is not None else None
    story = []
    if origin is not None:
        label = f" ({message.label})" if message.label else ""
        story.append(f"{clock(origin.submitted)} submitted by session {number >> 40}{label}")
    if message.started:
        story.append(f"{clock(message.started)} begun{where}")
    ended = message.completed or (origin.ended if origin is not None else 0.0)
    if ended:
        story.append(f"{clock(ended)} ended: {_OUTCOMES[message.outcome]}")
    return TaskStory(
        task=number,
        state=ENDS[message.outcome].value,
        reason=f"it ended{where}: {_OUTCOMES[message.outcome]}; {rest}",
        story=story,
        engine=message.engine,
    )


def _date(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")


_OUTCOMES: Final = {
    Outcome.OK: "it succeeded",
    Outcome.ERROR: "it raised an exception",
    Outcome.ABORTED: "it was aborted",
    Outcome.LOST: "its engine, its host or what it needs was lost",
    Outcome.IMPOSSIBLE: "no engine could run it",
    Outcome.TIMEOUT: "it ran for longer than its timeout",
}


def explain_engine(core: Core, number: int, now: float = 0.0) -> EngineStory:
    """Return what an engine is doing, since when, and what waits for it.

    Args:
        core: The scheduler's tables.
        number: The engine's id.
        now: The time, if it is later than that of the last event.
    """
    engine = core.engines.get(number)
    if engine is None:
        return EngineStory(engine=number, state="unknown", reason=f"there is no engine {number}")
    now = max(now, core.now)
    waiting = [task.id for task in islice(engine.direct, _LOOK) if task.state in QUEUED]
    assigned = [tid for tid in engine.assigned if tid not in engine.running]
    return EngineStory(
        engine=number,
        host=engine.host.name,
        pid=engine.pid,
        state=engine.state,
        reason=_engine_reason(engine, now)[:4000],
        running=sorted(engine.running)[:_TOLD],
        queued=[*assigned, *waiting][:_TOLD],
        count=len(assigned) + len(engine.direct) - engine.shelved,
        story=_engine_story(engine),
    )


def _engine_reason(engine: Engine, now: float) -> str:
    absent = away.why(engine)
    if absent:
        return absent
    since = span_text(now - engine.since)
    if engine.state != READY:
        why = f": {engine.reason}" if engine.reason else ""
        return f"{engine.state} for {since}{why}"
    text = _doing(engine, now) if engine.assigned else f"engine {engine.id} has nothing to do"
    if engine.ending:
        text += "; it is being stopped"
    elif engine.draining:
        text += f"; it gets no more than what is bound to it: {engine.draining}"
    return text


def _engine_story(engine: Engine) -> list[str]:
    told = [f"{clock(engine.since)} became {engine.state}"]
    if engine.restarts:
        times = "once" if engine.restarts == 1 else f"{engine.restarts} times"
        told.append(f"started again {times}")
    if engine.last_loss:
        told.append(f"last lost at {engine.last_loss}")
        if engine.last_output:
            told += ["it had printed last:", *(f"    {line}" for line in engine.last_output)]
    if engine.completed:
        mean = f", lately {span_text(engine.mean)} each" if engine.mean else ""
        told.append(f"{engine.completed} tasks ended on it{mean}")
    if engine.host.ends:
        told.append(f"the walltime of its host ends at {clock(engine.host.ends)}")
    return told


def _doing(engine: Engine, now: float) -> str:
    """Return what an engine does that has something, with its name."""
    head = next(iter(engine.running), None)
    if head is None:
        head = next(iter(engine.assigned))
        return f"engine {engine.id} is about to run task {head}"
    label = engine.assigned[head].message.label if head in engine.assigned else ""
    label = f" ({label})" if label else ""
    return f"engine {engine.id} runs task {head}{label} since {span_text(now - engine.began)}"


def _ahead(queue: Iterable[Task], task: Task) -> str:
    """Return how many tasks of a queue are ahead of one of its tasks."""
    count = 0
    for other in islice(queue, _LOOK):
        if other is task:
            break
        count += other.state in QUEUED
    else:
        return f"more than {count} tasks are ahead of it"
    if not count:
        return "it is the next one"
    return f"{count} tasks are ahead of it" if count > 1 else "1 task is ahead of it"


def _reason(core: Core, task: Task, now: float) -> str:
    if task.state is State.RUNNING and task.cancelled:
        return f"it was cancelled, and the host of engine {task.engine} was asked to end it"
    if task.state is State.RUNNING:
        absent = away.why(core.engines[task.engine])
        since = span_text(now - core.engines[task.engine].began)
        return f"engine {task.engine} is running it since {since}" + (
            f"; {absent}" if absent else ""
        )
    if task.state is State.ASSIGNED:
        return _assigned(core, task, now)
    if task.id in core.waits:
        return dependencies.why(core, task)
    if core.sessions[task.session].held:
        return "its client does not take its results: nothing more is started for it"
    if task.target >= 0:
        return _bound(core.engines[task.target], task, now)
    return _shared(core, task, now)


def _assigned(core: Core, task: Task, now: float) -> str:
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
    ahead = next(at for at, tid in enumerate(engine.assigned) if tid == task.id)
    some = f"{ahead} tasks are" if ahead > 1 else "1 task is"
    return f"it waits at engine {engine.id} where {some} ahead of it; {_doing(engine, now)}"


def _bound(engine: Engine, task: Task, now: float) -> str:
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
    busy = f"; {_doing(engine, now)}" if engine.assigned else ""
    return f"it waits for engine {engine.id} to have room{busy}; {_ahead(engine.direct, task)}"


def _shared(core: Core, task: Task, now: float) -> str:
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
    if near is not None and alive > 1:
        which += f", best those of {near.name} that has what it needs,"
    busy = [_doing(engine, now) for engine in islice((e for e in some if e.assigned), _NAMED)]
    place = _ahead(line.level(task.priority), task)
    if alive == 1:
        one = which.replace("engines", "engine", 1).replace("that have", "that has", 1)
        which = f"the only {one} is busy"
    else:
        which = f"all {alive} {which} are busy"
    ready = "1 task is" if line.count == 1 else f"{line.count} tasks are"
    text = f"{which}; {ready} ready in its line, {place}"
    return "; ".join([text, *busy, *_nested(core, some)])


def _nested(core: Core, engines: list[Engine]) -> list[str]:
    """Say which of some busy engines run tasks that have submitted others, and may wait for them."""
    inside = {s.inside for s in core.sessions.values() if s.inside >= 0 and s.attached and s.open}
    parents = sorted(engine.id for engine in engines if engine.assigned and engine.id in inside)
    if not parents:
        return []
    named = ", ".join(map(str, parents[:_NAMED])) + (", ..." if len(parents) > _NAMED else "")
    if len(parents) == 1:
        text = f"engine {named} runs a task that has submitted tasks itself, and may wait for them"
    else:
        text = (
            f"engines {named} run tasks that have submitted tasks themselves, and may wait for them"
        )
    free = sum(1 for engine in engines if engine.usable) - len(parents)
    return [text if free else f"{text}: add engines, or abort one"]
