"""Which task goes to which engine, and when."""

from __future__ import annotations

from ipkernel.controller import keeping, nearness
from ipkernel.controller.core import Core
from ipkernel.controller.demands import best_of, room_for
from ipkernel.controller.handing import assign, assign_run
from ipkernel.controller.queues import Line
from ipkernel.controller.slots import MAX_BYTES, Engine
from ipkernel.controller.tasks import State

_READY = State.READY


def fill(core: Core) -> None:
    """Assign all that can be assigned."""
    lines = core.lines
    pending = core.pending
    others = bool(lines.rotation or lines.near)
    if lines.overdue or core.kept:
        keeping.keep(core)
    if pending:
        core.pending = {}
        for engine in pending:
            _fill_direct(core, engine, shared=others)
    if others and core.ladder.open:
        if lines.near:
            nearness.fill_near(core)
        if lines.rotation and core.ladder.open:
            _fill_shared(core)
        if lines.near and core.ladder.open:
            nearness.fill_rest(core)
        for engine in pending:  # places that nobody else wanted
            if engine.direct:
                _fill_direct(core, engine, shared=False)


# --------------------------------------------------------------------------- direct tasks


def _fill_direct(core: Core, engine: Engine, *, shared: bool) -> None:
    """Assign direct tasks to an engine, leaving half of its room to others if ``shared``."""
    queue = engine.direct
    if not queue or not engine.open_for_direct():
        return
    room = engine.window - len(engine.assigned)
    if shared and engine.rung >= 0:
        if room == 1:
            engine.turn = not engine.turn
            room = 1 if engine.turn else 0
        else:
            room = (room + 1) // 2
    items = core.host_items(engine.host.id) if room else []
    while queue and room and engine.bytes < MAX_BYTES:
        task = queue.popleft()
        if task.state is not _READY:
            engine.shelved -= 1
            continue
        assign(core, engine, task, items)
        room -= 1
    core.ladder.update(engine)


# ------------------------------------------------------------------- load-balanced tasks


def _fill_shared(core: Core) -> None:
    lines = core.lines
    rotation = lines.rotation
    ladder = core.ladder
    blocked: list[Line] = []
    fed: set[Line] = set()  # those that have got some of a resource
    elsewhere = lines.waiting_near() if lines.near else 0
    lines.rounds += 1
    while rotation:
        engine = ladder.first()
        if engine is None:
            break
        line = lines.first() if lines.ranked else rotation[0]
        demand = line.demand
        if line.choice or demand is not None:
            found = best_of(core, line)
            if found is None:
                blocked.append(rotation.popleft())
                continue
            engine, others = found
            quota = max(1, line.count // others)
        else:
            quota = _quota(lines.count - elsewhere, ladder.step(), ladder.open)
        room = engine.window - len(engine.assigned)
        if quota > room:
            quota = room
        turns = len(rotation)
        if turns > 1:
            quota = max(1, quota // turns)
        if demand is not None:
            quota = room_for(core, line.session, demand, engine, quota)
        taken = assign_run(core, engine, line, quota)
        line.count -= taken
        lines.count -= taken
        ladder.update(engine)
        if demand is not None:
            fed.add(line)
            if line.passed:
                if line in lines.overdue:  # what was kept for it, others may have again
                    rotation.extend(blocked)
                    blocked.clear()
                keeping.served(core, line)
        if not line.count:
            rotation.popleft()
            line.turning = False
            line.clear()
        elif turns > 1:
            rotation.rotate(-1)
    rotation.extend(blocked)
    if blocked and fed:
        keeping.passed(core, blocked, fed)


def _quota(ready: int, step: int, engines: int) -> int:
    """Return how many of ``ready`` tasks the least loaded engine should get in one go.

    It gets what levels it with the next one (``step`` tasks, 0 for "no other") and its share
    of what is left then.
    """
    if not step or ready <= step:
        return ready
    return step + (ready - step) // engines
