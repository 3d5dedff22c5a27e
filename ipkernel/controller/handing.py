"""Handing tasks out: what an engine's host is sent, and what is written down about it."""

from __future__ import annotations

from math import ceil

from ipkernel.controller.core import Core, is_plain
from ipkernel.controller.events import Item
from ipkernel.controller.queues import Line
from ipkernel.controller.slots import MAX_BYTES, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Assign, Function, Submit

_READY = State.READY
_ASSIGNED = State.ASSIGNED


def assign(core: Core, engine: Engine, task: Task, items: list[Item]) -> None:
    """Hand one task to an engine; the caller sees to the ladder."""
    message = task.message
    task.state = _ASSIGNED
    task.engine = engine.id
    task.assigned = core.now
    engine.assigned[task.id] = task
    engine.bytes += message.size
    digest = message.digest
    if digest and digest not in engine.host.known:
        send_function(core, engine, task)
    if is_plain(message):
        made = Assign(task.id, engine.id, message.kind, message.size, digest, engine.epoch)
    else:
        made = _in_full(message, task.id, engine.id, engine.epoch)
    items.append((made, task.payload))
    tasks, engines = core.assigned_to(engine.host.id)
    tasks.append(task.id)
    engines.append(engine.id)


def _in_full(message: Submit, task: int, engine: int, epoch: int) -> Assign:
    terms = message.terms
    limit = ceil(terms.timeout * 1000.0) if terms is not None else 0
    clear = terms.clear if terms is not None else 0
    return Assign(
        task, engine, message.kind, message.size, message.digest, epoch,
        message.needs, message.stored, message.keep, limit=limit, clear=clear,
    )  # fmt: skip


def send_function(core: Core, engine: Engine, task: Task) -> None:
    """Send the function of ``task`` ahead of it, the first time a host needs it."""
    digest = task.message.digest
    blob = core.sessions[task.session].functions[digest]
    engine.host.known.add(digest)
    core.host_items(engine.host.id).append((Function(digest, len(blob)), blob))


def assign_run(core: Core, engine: Engine, line: Line, quota: int) -> int:
    """Assign up to ``quota`` tasks of a line, at least one; return how many.

    The engine must have what so many of them ask for.
    """
    taken = _assign_level(core, engine, line, quota)
    while not line.queue and line.descend():
        if taken < quota:
            taken += _assign_level(core, engine, line, quota - taken)
    if line.demand is not None and taken:
        line.demand.take(engine, taken)
    return taken


def _assign_level(core: Core, engine: Engine, line: Line, quota: int) -> int:
    """Assign up to ``quota`` of the tasks of a line that have the highest priority."""
    now = core.now
    number = engine.id
    epoch = engine.epoch
    host = engine.host
    known = host.known
    assigned = engine.assigned
    append = core.host_items(host.id).append
    tasks, engines = core.assigned_to(host.id)
    note = tasks.append
    plain = line.plain
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
        note(tid)
        length = message.size
        size += length
        digest = message.digest
        if digest and digest not in known:
            send_function(core, engine, task)
        if plain:
            append((Assign(tid, number, message.kind, length, digest, epoch), task.payload))
        else:
            append((_in_full(message, tid, number, epoch), task.payload))
        taken += 1
    engine.bytes = size
    engines += [number] * taken
    return taken
