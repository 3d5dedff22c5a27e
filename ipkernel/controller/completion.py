"""What hosts send: results, and how their engines fare."""

from __future__ import annotations

from msgspec.structs import replace

from ipkernel.controller import draining, holdings, losses, recall, returning
from ipkernel.controller.core import Core
from ipkernel.controller.demands import give_back
from ipkernel.controller.events import FromHost
from ipkernel.controller.recovering import can_recover, recover
from ipkernel.controller.registry import Host
from ipkernel.controller.rejecting import reject
from ipkernel.controller.retrying import retried
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import ENDS, Origin, Payload, State, Task
from ipkernel.wire.messages import (
    Done,
    Draining,
    EngineJoined,
    EngineLeft,
    Finished,
    Holding,
    Kind,
    Measured,
    Message,
    Outcome,
    Output,
    Returned,
    Started,
)

_FINISHED = State.FINISHED
_RUNNING = State.RUNNING
_OK = Outcome.OK
_APPLY = Kind.APPLY


def from_host(core: Core, event: FromHost) -> None:
    """Deal with what a host sent at once."""
    host = core.hosts.get(event.host)
    if host is None:
        return
    items = event.items
    start = 0
    end = len(items)
    host.taken += end
    while start < end:
        message = items[start][0]
        if type(message) is Done:
            start = _done(core, host, event, start)
        else:
            _other(core, host, message, items[start][1])
            start += 1


def _done(core: Core, host: Host, event: FromHost, start: int) -> int:
    """Deal with a run of results of one engine for one session; return where the next begins.

    Results that nobody waits for any more are passed over: the task was given to another
    engine when this one's host was thought lost, or has been ended.
    """
    items = event.items
    number = items[start][0].engine  # type: ignore[attr-defined]
    owner = items[start][0].task >> 40  # type: ignore[attr-defined]
    engine = host.engines.get(number)
    session = core.sessions.get(owner)
    end = len(items)
    if engine is None or session is None:
        if items[start][0].object:  # type: ignore[attr-defined]
            core.objects.stray(host.id, items[start][0].object)  # type: ignore[attr-defined]
        return start + 1
    tasks = core.tasks
    assigned_pop = engine.assigned.pop
    running = engine.running
    using = engine.used
    ended_append = core.ended.append
    origins_append = core.origins.append
    plain = session.attached and not (core.watchers or core.askers or core.failed)
    send = core.client_items(owner).append if plain else None
    done = good = size = charge = 0
    seconds = 0.0
    now = core.now
    at = start
    while at < end:
        message, payload = items[at]
        if type(message) is not Done or message.engine != number:
            break
        tid = message.task
        if tid >> 40 != owner:
            break
        at += 1
        task = assigned_pop(tid, None)
        if task is None:
            if message.object:
                core.objects.stray(host.id, message.object)
            continue
        outcome = message.outcome
        if outcome is not _OK:
            settled = _settled(core, engine, task, message, payload)
            if settled is None:  # it goes on
                if message.object:  # what it said is not looked at any more
                    core.objects.stray(host.id, message.object)
                freed(core, engine)
                continue
            outcome = settled
        if outcome is _OK:
            task.state = _FINISHED
            good += 1
        else:
            task.state = ENDS[outcome]
            core.count_end(outcome)
        del tasks[tid]
        if running:
            running.discard(tid)
        began = message.started
        completed = message.completed
        submit = task.message
        label = submit.label
        if label:
            core.labels.ended(label)
        if using:
            give_back(core, engine, task)
        length = submit.size
        size += length
        charge += length if task.target < 0 and submit.terms is None else task.charge
        done += 1
        seconds += completed - began
        finished = Finished(tid, outcome, number, began, completed, message.size, task.attempts + 1)
        if label or submit.kind is not _APPLY:
            finished = replace(finished, label=label, kind=submit.kind)
        if submit.needs or message.object:
            finished = holdings.done(core, host, task, message, finished)
        if send is not None:
            item = (finished, payload)
            send(item)
            ended_append(item)
            origins_append(Origin(task.submitted, now))
            if outcome:
                core.file(task, outcome)
        else:
            core.deliver(finished, payload, task)
    if done:
        core.totals.finished += good
        engine.bytes -= size
        engine.completed += done
        engine.measured(done, seconds)
        freed(core, engine)
        core.discharge(session, done, charge)
    return at


def _settled(
    core: Core, engine: Engine, task: Task, message: Done, payload: Payload
) -> Outcome | None:
    """Return how a task that did not simply succeed has ended; None if it is run again."""
    outcome = message.outcome
    if outcome is Outcome.REJECTED:
        if reject(core, engine, task, payload):
            return None
        outcome = Outcome.ERROR
    elif outcome is Outcome.RETRY or outcome is Outcome.RETRY_ITEMS:
        if retried(core, engine, task, message, payload):
            return None
        outcome = Outcome.ERROR if outcome is Outcome.RETRY else Outcome.OK
    if outcome is not Outcome.OK and can_recover(task):
        engine.bytes -= task.message.size
        give_back(core, engine, task)
        engine.running.discard(task.id)
        recover(core, task, outcome, payload, message.length or len(payload))
        return None
    return outcome


def freed(core: Core, engine: Engine) -> None:
    """Note that an engine may have more room than before."""
    core.ladder.update(engine)
    if engine.direct:
        core.pending[engine] = None
    if core.deep and not engine.running:
        core.deep.pop(engine, None)


def _other(core: Core, host: Host, message: Message, payload: Payload) -> None:
    if isinstance(message, Started):
        if message.tasks:
            _started(core, host, message.tasks)
        else:
            returning.all_said(core, host)
    elif isinstance(message, Holding):
        returning.holding(core, host, message)
    elif isinstance(message, Output):
        _output(core, host, message, payload)
    elif isinstance(message, Returned):
        engine = host.engines.get(message.engine)
        if engine is not None:
            recall.returned(core, engine, message.tasks)
    elif isinstance(message, EngineJoined):
        losses.engine_joined(core, host, message)
    elif isinstance(message, EngineLeft):
        losses.engine_left(core, host, message)
    elif isinstance(message, Measured):
        _measured(host, message)
    elif isinstance(message, Draining):
        draining.host_drains(core, host, message.reason)
    else:
        holdings.from_host(core, host, message)


def _started(core: Core, host: Host, started: list[int]) -> None:
    for tid in started:
        task = core.tasks.get(tid)
        if task is None or task.state is not State.ASSIGNED:
            continue
        engine = host.engines.get(task.engine)
        if engine is None:
            continue
        task.state = _RUNNING
        engine.running.add(tid)
        engine.began = core.now
        core.ladder.update(engine)
        if len(engine.assigned) > len(engine.running):
            core.deep[engine] = None


def _measured(host: Host, message: Measured) -> None:
    for vitals in message.processes:
        if vitals.engine < 0:
            host.vitals = vitals
        elif (engine := host.engines.get(vitals.engine)) is not None:
            engine.vitals = vitals


def _output(core: Core, host: Host, message: Output, payload: Payload) -> None:
    """Pass output on, if it comes from the engine that its task is on."""
    task = message.task
    engine = host.engines.get(message.engine)
    if engine is None or task not in engine.assigned:
        return
    core.printed.append((message, payload))
    session = core.sessions.get(task >> 40)
    if session is not None and session.attached:
        core.client_items(session.id).append((message, payload))
        return
    watchers = core.watchers.get(task)
    if watchers:
        for watcher in watchers:
            core.client_items(watcher).append((message, payload))
    else:
        core.forget(core.retained.keep_output(message, payload))
