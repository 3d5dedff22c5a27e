"""Hosts whose connection is lost for a while: nothing is lost with it, and nothing given to them."""

from __future__ import annotations

from ipkernel.controller.core import Core
from ipkernel.controller.events import HostAway
from ipkernel.controller.registry import Absence
from ipkernel.controller.slots import AWAY, DEAD, Engine
from ipkernel.controller.tasks import State


def host_away(core: Core, event: HostAway) -> None:
    """The connection of a host is lost; its engines go on, and so do their tasks."""
    host = core.hosts.get(event.host)
    if host is None:
        return
    host.away = Absence(event.now, event.until, event.reason)
    for engine in host.engines.values():
        put_away(core, engine)


def put_away(core: Core, engine: Engine) -> None:
    """Give nothing more to an engine whose host is away; whatever is bound to it waits."""
    if engine.state in (AWAY, DEAD):
        return
    engine.before = engine.state
    engine.state = AWAY
    core.ladder.update(engine)
    core.pending.pop(engine, None)
    suspend(core, engine)


def suspend(core: Core, engine: Engine) -> None:
    """Have the tasks that are bound to an engine wait: it is not ready any more."""
    for task in engine.direct:
        if task.state is State.READY:
            task.state = State.WAITING
    for parked in core.parked.values():
        for task in parked:
            if task.target == engine.id and task.state is State.READY:
                task.state = State.WAITING


def resume(core: Core, engine: Engine) -> None:
    """Let the tasks that are bound to an engine run: it is ready now."""
    for task in engine.direct:
        if task.state is State.WAITING:
            task.state = State.READY
    for parked in core.parked.values():
        for task in parked:
            if task.target == engine.id and task.state is State.WAITING:
                task.state = State.READY
    core.ladder.update(engine)
    if engine.direct:
        core.pending[engine] = None


def why(engine: Engine) -> str:
    """Return why an engine is away, or an empty text if it is not."""
    if engine.state != AWAY:
        return ""
    return str(engine.host.away or "its host is back, and about to say how it is")
