"""Engines that are to go when they have nothing to do: no more for them, and word when that is so."""

from __future__ import annotations

from ipkernel.controller import losses, recall
from ipkernel.controller.core import Core
from ipkernel.controller.demands import candidates
from ipkernel.controller.events import EnginesDraining
from ipkernel.controller.instructions import EnginesDrained
from ipkernel.controller.registry import Host
from ipkernel.controller.slots import AWAY, READY, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import EngineLeft


def engines_draining(core: Core, event: EnginesDraining) -> None:
    """Give these engines nothing more, and take back what others can run."""
    for number in event.engines:
        engine = core.engines.get(number)
        if engine is not None:
            _begin(core, engine, event.reason)
    losses.end_impossible(core)


def host_drains(core: Core, host: Host, reason: str) -> None:
    """A host is about to go, with all of its engines and those that it is yet to start."""
    host.draining = reason[:500] or "its host is about to go"
    for engine in host.engines.values():
        _begin(core, engine, host.draining)
    losses.end_impossible(core)


def keep(core: Core, engine: Engine) -> None:
    """An engine is not to go after all, unless its host is."""
    if engine.draining and not engine.host.draining:
        engine.draining = ""
        core.draining.pop(engine, None)
        if _is_known(engine):
            core.tell_all((losses.joined_message(engine), b""))


def _begin(core: Core, engine: Engine, reason: str) -> None:
    new = not engine.draining
    engine.draining = reason
    core.draining[engine] = None  # those that are idle leave it when the event has been dealt with
    core.ladder.update(engine)
    if not new:
        return
    tasks = [t.id for t in engine.assigned.values() if _others_can_run(core, t)]
    if tasks:
        recall.reclaim(core, engine, tasks)
    if _is_known(engine):  # to clients it is as good as gone: they send it nothing more
        core.tell_all((EngineLeft(engine.id, reason, excused=True), b""))


def _is_known(engine: Engine) -> bool:
    """Tell whether clients have been told that an engine is there."""
    return (engine.before if engine.state == AWAY else engine.state) == READY


def _others_can_run(core: Core, task: Task) -> bool:
    if task.state is not State.ASSIGNED or task.target >= 0 or task.cancelled:
        return False
    demand = core.demands.of(task.message.terms)
    if demand is None and not task.message.targets:
        return True
    return any(engine.usable for engine in candidates(core, task.message.targets, demand))


def report(core: Core) -> None:
    """Tell which of the draining engines have nothing to do any more."""
    done = [
        engine
        for engine in core.draining
        if engine.idle or core.engines.get(engine.id) is not engine
    ]
    for engine in done:
        del core.draining[engine]
    if done:
        core.instruct(EnginesDrained([engine.id for engine in done]))
