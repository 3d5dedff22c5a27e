"""Which task goes to which engine, and when."""

from __future__ import annotations

from collections.abc import Sequence

from ipkernel.controller.core import Core
from ipkernel.controller.events import Item
from ipkernel.controller.queues import Line
from ipkernel.controller.slots import MAX_BYTES, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Assign, Function

_READY = State.READY
_ASSIGNED = State.ASSIGNED


def fill(core: Core) -> None:
    """Assign all that can be assigned."""
    pending = core.pending
    if pending:
        core.pending = {}
        for engine in pending:
            _fill_direct(core, engine, shared=bool(core.lines.rotation))
    if core.lines.rotation and core.ladder.open:
        _fill_shared(core)
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
            room = 0 if engine.turn else 1
        else:
            room = (room + 1) // 2
    items = core.host_items(engine.host.id) if room else []
    while queue and room and engine.bytes < MAX_BYTES:
        task = queue.popleft()
        if task.state is not _READY:
            engine.shelved -= 1
            continue
        _assign(core, engine, task, items)
        room -= 1
    core.ladder.update(engine)


def _assign(core: Core, engine: Engine, task: Task, items: list[Item]) -> None:
    message = task.message
    task.state = _ASSIGNED
    task.engine = engine.id
    task.assigned = core.now
    engine.assigned[task.id] = task
    engine.bytes += message.size
    digest = message.digest
    if digest and digest not in engine.host.known:
        send_function(core, engine, task)
    items.append(
        (
            Assign(task.id, engine.id, message.kind, message.size, digest, engine.epoch),
            task.payload,
        )
    )


def send_function(core: Core, engine: Engine, task: Task) -> None:
    """Send the function of ``task`` ahead of it, the first time a host needs it."""
    digest = task.message.digest
    blob = core.sessions[task.session].functions[digest]
    engine.host.known.add(digest)
    core.host_items(engine.host.id).append((Function(digest, len(blob)), blob))


# ------------------------------------------------------------------- load-balanced tasks


def _fill_shared(core: Core) -> None:
    lines = core.lines
    rotation = lines.rotation
    ladder = core.ladder
    blocked: list[Line] = []
    while rotation:
        engine = ladder.first()
        if engine is None:
            break
        line = rotation[0]
        if line.choice:
            found = _best_of(core, line.choice)
            if found is None:
                blocked.append(rotation.popleft())
                continue
            engine, others = found
            quota = max(1, line.count // others)
        else:
            quota = _quota(lines.count, ladder.step(), ladder.open)
        room = engine.window - len(engine.assigned)
        if quota > room:
            quota = room
        turns = len(rotation)
        if turns > 1:
            quota = max(1, quota // turns)
        taken = _assign_run(core, engine, line, quota)
        line.count -= taken
        lines.count -= taken
        ladder.update(engine)
        if not line.count:
            rotation.popleft()
            line.turning = False
            line.queue.clear()
        elif turns > 1:
            rotation.rotate(-1)
    rotation.extend(blocked)


def _quota(ready: int, step: int, engines: int) -> int:
    """Return how many of ``ready`` tasks the least loaded engine should get in one go.

    It gets what levels it with the next one (``step`` tasks, 0 for "no other") and its share
    of what is left then.
    """
    if not step or ready <= step:
        return ready
    return step + (ready - step) // engines


def _best_of(core: Core, choice: Sequence[int]) -> tuple[Engine, int] | None:
    """Return the least loaded engine of a choice that has room, and how many have."""
    best: Engine | None = None
    count = 0
    engines = core.engines
    for number in choice:
        engine = engines.get(number)
        if engine is not None and engine.rung >= 0:
            count += 1
            if best is None or engine.rung < best.rung:
                best = engine
    return (best, count) if best is not None else None


def _assign_run(core: Core, engine: Engine, line: Line, quota: int) -> int:
    """Assign up to ``quota`` tasks of a line, at least one; return how many."""
    now = core.now
    number = engine.id
    epoch = engine.epoch
    host = engine.host
    known = host.known
    assigned = engine.assigned
    append = core.host_items(host.id).append
    queue = line.queue
    popleft = queue.popleft
    size = engine.bytes
    taken = 0
    ready = _READY
    new = _ASSIGNED
    while taken < quota and queue and size < MAX_BYTES:
        task = popleft()
        if task.state is not ready:
            continue
        message = task.message
        task.state = new
        task.engine = number
        task.assigned = now
        tid = task.id
        assigned[tid] = task
        length = message.size
        size += length
        digest = message.digest
        if digest and digest not in known:
            send_function(core, engine, task)
        append((Assign(tid, number, message.kind, length, digest, epoch), task.payload))
        taken += 1
    engine.bytes = size
    return taken
