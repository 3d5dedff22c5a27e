"""Hosts that come back, after a moment or to a controller that was started again."""

from __future__ import annotations

from ipkernel.controller import away, losses
from ipkernel.controller.core import Core
from ipkernel.controller.events import EnginesAdded, EnginesGone, HostBack
from ipkernel.controller.slots import AWAY, READY


def host_back(core: Core, event: HostBack) -> None:
    """A host is connected again, and nothing that either side has said was lost."""
    host = core.hosts.get(event.host)
    if host is None or host.away is None:
        return
    host.away = None
    for engine in host.engines.values():
        if engine.state == AWAY:
            engine.state = engine.before
            if engine.state == READY:
                away.resume(core, engine)
    gone = sorted(host.engines.keys() - set(event.engines))
    if gone:
        losses.engines_gone(core, EnginesGone(gone, "its host does not have it any more", core.now))
    new = [number for number in event.engines if number not in host.engines]
    if new:
        losses.engines_added(core, EnginesAdded(host.id, new, core.now))
    core.demands.changed()
    losses.end_impossible(core)  # what waited because it might have been possible there
