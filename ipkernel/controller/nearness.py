"""Load-balanced tasks that need objects go where these are, if an engine there has room.

What needs nothing, or nothing that one host has more of than others, is none of this module's
business. A task never waits for its best host while another one is idle.
"""

from __future__ import annotations

from ipkernel.controller.core import Core
from ipkernel.controller.demands import best_of, room_for
from ipkernel.controller.handing import assign_run
from ipkernel.controller.queues import Line
from ipkernel.controller.slots import Engine
from ipkernel.wire.messages import Submit


def best_host(core: Core, message: Submit) -> int:
    """Return the host that has most bytes of what a load-balanced task needs.

    Returns:
        0 when no host is better than the others; one of them in turn when several are.
    """
    hosts = core.hosts
    if len(hosts) < 2:
        return 0
    sizes: dict[int, int] = {}
    for object_id in message.needs:
        entry = core.objects.entries[object_id]
        for host in entry.holders:
            sizes[host] = sizes.get(host, 0) + entry.length
    if message.targets:
        engines = core.engines
        allowed = {engines[n].host.id for n in message.targets if n in engines}
        sizes = {host: size for host, size in sizes.items() if host in allowed}
    if not sizes:
        return 0
    most = max(sizes.values())
    best = [host for host, size in sizes.items() if size == most]
    return 0 if len(best) == len(hosts) else best[message.task % len(best)]


# ------------------------------------------------------------------------------ assigning


def fill_near(core: Core) -> None:
    """Let the engines that have room look at the tasks that their hosts are best for.

    Where others wait too, these get half of the room.
    """
    lines = core.lines
    lines.let_go_late()
    for engine in core.ladder.all():
        if engine.host.id in lines.near:
            _serve(core, engine, bool(lines.rotation))


def fill_rest(core: Core) -> None:
    """Give tasks to their best hosts, and then to any host, until there is no room or no task."""
    lines = core.lines
    busy = True
    while busy and lines.near:
        busy = False
        for engine in core.ladder.all():
            if engine.host.id in lines.near and engine.rung >= 0:
                busy |= _serve(core, engine, False)
    blocked: set[Line] = set()
    while core.ladder.open:
        found = _next_line(core, blocked)
        if found is None:
            return
        if _take_anywhere(core, found):
            if found.turning:
                lines.near[found.near].lines.rotate(-1)
            lines.served(found.near)
        else:
            blocked.add(found)


def _next_line(core: Core, blocked: set[Line]) -> Line | None:
    for waiting in core.lines.near.values():
        for line in waiting.lines:
            if line not in blocked:
                return line
    return None


def _serve(core: Core, engine: Engine, shared: bool) -> bool:
    """Give an engine tasks that its host is best for; tell whether there were some."""
    room = engine.window - len(engine.assigned)
    if shared:
        if room == 1:
            engine.near_turn = not engine.near_turn
            room = 0 if engine.near_turn else 1
        else:
            room = (room + 1) // 2
    lines = core.lines
    host = engine.host
    queue = lines.near[host.id].lines
    others = sum(1 for other in host.engines.values() if other.rung >= 0)
    taken = 0
    for _ in range(len(queue)):
        if taken >= room or engine.rung < 0:
            break
        line = queue[0]
        queue.rotate(-1)
        if line.choice and engine.id not in line.choice:
            continue
        quota = min(room - taken, -(-line.count // others))
        if line.demand is not None:
            suits = line.demand.suits(engine)
            quota = room_for(core, line.session, line.demand, engine, quota) if suits else 0
        if quota:
            taken += _assign(core, engine, line, quota)
    if taken:
        lines.served(host.id)
    return taken > 0


def _take_anywhere(core: Core, line: Line) -> bool:
    """Give tasks of a line to the least loaded engine, wherever that is, if any has room."""
    ladder = core.ladder
    engine = ladder.first()
    if engine is None:
        return False
    others = ladder.open
    if line.picky:
        found = best_of(core, line)
        if found is None:
            return False
        engine, others = found
    quota = min(engine.window - len(engine.assigned), -(-line.count // others))
    if line.demand is not None:
        quota = room_for(core, line.session, line.demand, engine, quota)
    return _assign(core, engine, line, quota) > 0


def _assign(core: Core, engine: Engine, line: Line, quota: int) -> int:
    taken = assign_run(core, engine, line, quota)
    line.count -= taken
    core.lines.count -= taken
    core.ladder.update(engine)
    if not line.count:
        core.lines.leave(line)
        line.clear()
    return taken
