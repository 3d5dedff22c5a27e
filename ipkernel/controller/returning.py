"""Hosts that come back, after a moment or to a controller that was started again."""

from __future__ import annotations

from ipkernel.controller import away, holdings, losses, recall
from ipkernel.controller.core import Core
from ipkernel.controller.demands import give_back
from ipkernel.controller.events import EnginesAdded, EnginesGone, HostBack, HostJoined, RestartOver
from ipkernel.controller.registry import Host
from ipkernel.controller.slots import AWAY, DEAD, READY, STARTING, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Fate, Holding, Outcome, Reason


def host_back(core: Core, event: HostBack) -> None:
    """A host is connected again."""
    host = core.hosts.get(event.host)
    if host is None or host.away is None:
        return
    host.away = None
    if event.joined is None:
        for engine in host.engines.values():
            unsaid = engine.before == STARTING and engine.assigned  # cut off before it could say
            if engine.state == AWAY and not unsaid:
                engine.state = engine.before
                if engine.state == READY:
                    away.resume(core, engine)
    else:
        _begin_anew(core, host, event.joined)
    gone = sorted(host.engines.keys() - set(event.engines))
    if gone:
        losses.engines_gone(core, EnginesGone(gone, "its host does not have it any more", core.now))
    new = [number for number in event.engines if number not in host.engines]
    if new:
        losses.engines_added(core, EnginesAdded(host.id, new, core.now))
    core.demands.changed()
    losses.end_impossible(core)  # what waited because it might have been possible there


def _begin_anew(core: Core, host: Host, said: HostJoined) -> None:
    """A host comes that knows nothing of this life: it is about to say what its engines have."""
    host.renew(said)
    host.unsaid = set()
    core.expected.add(host.id)
    core.objects.host_lost(host.id, "it is about to say what it has")
    holdings.host_came(core, host)
    core.demands.changed()
    for engine in host.engines.values():
        if engine.state != DEAD:
            engine.state = AWAY
            engine.before = STARTING
        engine.reclaims = 0
        if engine not in core.draining:  # else somebody waits until it has nothing to do
            engine.draining = ""
        host.unsaid.update(engine.assigned)
        engine.used = {}
        for task in engine.assigned.values():
            demand = core.demands.of(task.message.terms)
            if demand is not None:
                demand.take(engine, 1)


def holding(core: Core, host: Host, message: Holding) -> None:
    """A host says which tasks an engine has begun, or is about to begin."""
    engine = host.engines.get(message.engine)
    if engine is None or host.unsaid is None:
        return
    listed: dict[int, Task] = {}
    for at, number in enumerate(message.tasks):
        task = engine.assigned.get(number)
        if task is None:
            continue  # it has ended, or is with another engine by now: what comes of it is ignored
        host.unsaid.discard(number)
        listed[number] = task
        if at == 0 and task.state is State.ASSIGNED:
            task.state = State.RUNNING
            engine.running.add(number)
    rest = {number: t for number, t in engine.assigned.items() if number not in listed}
    engine.assigned = {**listed, **rest}
    if engine.running and len(engine.assigned) > len(engine.running):
        core.deep[engine] = None
    core.ladder.update(engine)


def all_said(core: Core, host: Host) -> None:
    """A host has said all: what it has not mentioned never was begun there."""
    unsaid, host.unsaid = host.unsaid, None
    if unsaid is None:
        return
    for engine in host.engines.values():
        missing = [task for number, task in engine.assigned.items() if number in unsaid]
        for task in reversed(missing):
            _not_begun(core, engine, task)
        if missing and not engine.running:
            core.deep.pop(engine, None)
        core.ladder.update(engine)
        if engine.direct:
            core.pending[engine] = None
        cancelled = [t for t in engine.assigned.values() if t.cancelled]
        if cancelled:
            recall.ask_host(core, engine, cancelled)
    core.expected.discard(host.id)
    core.reported = True


def _not_begun(core: Core, engine: Engine, task: Task) -> None:
    del engine.assigned[task.id]
    engine.running.discard(task.id)
    engine.bytes -= task.message.size
    if engine.used:
        give_back(core, engine, task)
    task.state = State.LOST
    text = f"the controller was started again before engine {engine.id} began it"
    task.note(core.now, text)
    if task.cancelled:
        reason = Reason("aborted", f"cancelled; then {text}", fate=Fate.DEQUEUED)
        core.end(task, Outcome.ABORTED, reason)
    elif task.target >= 0 and not engine.usable:
        core.end(task, Outcome.LOST, Reason("engine", f"{text}, and that is gone", engine.id))
    else:
        core.requeue_first(task)


def restart_over(core: Core, event: RestartOver) -> None:
    """Clients that have not come back by now are not waited for any more."""
    core.expected = {one for one in core.expected if one > 0}
    core.reported = True


def over(core: Core) -> None:
    """If nobody is waited for any more, free objects that nobody has mentioned."""
    core.reported = False
    if not core.expected and core.objects.rebuilding:
        core.objects.rebuilt()
        core.demands.changed()
        losses.end_impossible(core)
