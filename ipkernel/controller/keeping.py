"""Requests for much of a resource, which small ones pass: in the end it is kept free for them.

A task that asks for all of what a host has finds it only when nobody else uses any. As long as others
come that ask for less, that is never. So a line that was passed often enough by others that use
the same gets a place: there, these others get no more of it until the line was served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from ipkernel.controller.demands import candidates, has

if TYPE_CHECKING:
    from ipkernel.controller.core import Core
    from ipkernel.controller.queues import Line
    from ipkernel.controller.slots import Engine

#: How often a line is passed, in turns of the scheduler, before something is kept free for it.
PASSES: Final = 32


def passed(core: Core, blocked: Iterable[Line], fed: Collection[Line]) -> None:
    """Note that some lines found no room in a turn, while others have got what they ask for."""
    names = {name for line in fed if line.demand is not None for name in line.demand.resources}
    for line in blocked:
        if line.demand is None or line in fed:
            continue
        if not names.isdisjoint(line.demand.resources):
            line.passed += 1
            if line.passed == PASSES:
                core.lines.overdue.append(line)


def keep(core: Core) -> None:
    """See that what is kept free is what overdue lines ask for, one at each place."""
    _release(core)
    for line in list(core.lines.overdue):
        if not (line.turning and line.count):  # its tasks have ended, or are not to be started
            served(core, line)
            continue
        engine = _place(core, line)
        line.place = engine
        if engine is not None:
            _keep_at(core, line, engine)


def served(core: Core, line: Line) -> None:
    """A line has got something, or needs nothing: nothing is kept for it any more."""
    line.passed = 0
    line.place = None
    if line in core.lines.overdue:
        core.lines.overdue.remove(line)
        _release(core)


def _release(core: Core) -> None:
    for engine in core.kept:
        engine.kept = None
    core.kept.clear()


def _place(core: Core, line: Line) -> Engine | None:
    """Return where a line is to get what it asks for: where it was to before, if that is possible."""
    demand = line.demand
    assert demand is not None
    found = [engine for engine in candidates(core, line.choice, demand) if engine.usable]
    if line.place in found:
        return line.place

    def left(engine: Engine) -> int:
        host = engine.host
        used = (
            engine.used.get(name, 0) if name in host.each else host.used.get(name, 0)
            for name in demand.resources
        )
        return sum(has(engine, name) for name in demand.resources) - sum(used)

    return max(found, key=left, default=None)


def _keep_at(core: Core, line: Line, engine: Engine) -> None:
    demand = line.demand
    assert demand is not None
    host = engine.host
    shared = any(name not in host.each for name in demand.resources)
    engines = list(host.engines.values()) if shared else [engine]
    if all(other.kept is None for other in engines):
        for other in engines:
            other.kept = demand
        core.kept += engines
