"""Engines and hosts that come and go, and what becomes of their tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec
from attrs import frozen

from ipkernel.controller import away, draining, holdings, rejecting
from ipkernel.controller.core import Core, unable
from ipkernel.controller.demands import give_back
from ipkernel.controller.events import (
    EnginesAdded,
    EnginesDescribed,
    EnginesEnding,
    EnginesGone,
    HostJoined,
    HostLost,
)
from ipkernel.controller.journal import HostWent
from ipkernel.controller.recovering import can_recover, recover
from ipkernel.controller.registry import Host
from ipkernel.controller.slots import AWAY, DEAD, READY, RESTARTING, STARTING, Engine
from ipkernel.controller.tasks import QUEUED, State, Task, clock
from ipkernel.wire.messages import (
    MAX_PROPERTIES,
    EngineJoined,
    EngineLeft,
    Fate,
    Outcome,
    Reason,
    encode_reason,
)

#: Lines of what an engine printed last that are kept for people to see.
_LINES: Final = 8


@frozen
class Loss:
    """How an engine was lost.

    Attributes:
        text: What happened, as a sentence.
        kind: ``"engine"`` or ``"host"``.
        started: The tasks that it had begun.
        known: What its host knows about the end of the process.
        excused: Whether what it had begun is run again whatever its retries: its machine was
            taken away, which says nothing about the task.
    """

    text: str
    kind: str
    started: AbstractSet[int] = frozenset()
    known: Reason | None = None
    excused: bool = False

    def reason(self, engine: Engine, what: str) -> Reason:
        """Return why a task ended: ``what`` says what it was doing."""
        text = f"engine {engine.id} on {engine.host.name} was lost {what}: {self.text}"[:4000]
        if self.known is None:
            return Reason(self.kind, text, engine.id, engine.host.name, engine.pid)
        return msgspec.structs.replace(
            self.known, kind=self.kind, text=text, engine=engine.id, host=engine.host.name
        )


# ------------------------------------------------------------------------------ coming


def host_joined(core: Core, event: HostJoined) -> None:
    """A host daemon has come; its engines follow when they are ready."""
    host = Host(
        event.host, event.name, event.pid, event.now, event.tub_id, event.store, event.facts
    )
    core.hosts[event.host] = host
    holdings.host_came(core, host)
    engines_added(core, EnginesAdded(event.host, event.engines, event.now))


def engines_added(core: Core, event: EnginesAdded) -> None:
    """A host is about to start engines; tasks may be bound to them from now on."""
    host = core.hosts.get(event.host)
    if host is None:
        for number in event.engines:
            core.ids.free(number)
        return
    for number in event.engines:
        engine = Engine(number, host, event.now)
        engine.draining = host.draining
        if host.away is not None:
            away.put_away(core, engine)
        host.engines[number] = engine
        core.engines[number] = engine
    core.note_engines(host)
    core.demands.changed()
    if core.refused:
        rejecting.offer(core, event.engines)
    end_impossible(core)  # what waited for any engine, and asks for what these do not have


def engine_joined(core: Core, host: Host, message: EngineJoined) -> None:
    """An engine is ready for work."""
    engine = host.engines.get(message.engine)
    if engine is None or engine.state == READY:
        return
    if engine.state not in (STARTING, AWAY):
        engine.restarts += 1
    engine.state = READY
    engine.reason = ""
    engine.pid = message.pid
    engine.epoch = message.epoch
    engine.born = message.began
    engine.since = core.now
    away.resume(core, engine)
    if not engine.draining:
        core.tell_all((joined_message(engine), b""))


def joined_message(engine: Engine) -> EngineJoined:
    """Return what clients are told of an engine that is ready."""
    host = engine.host
    return EngineJoined(engine.id, host.name, engine.pid, host_id=host.id, began=engine.born)


# ------------------------------------------------------------------------------- going


def engine_left(core: Core, host: Host, message: EngineLeft) -> None:
    """A host reports that an engine's process has ended."""
    engine = host.engines.get(message.engine)
    if engine is None:
        return
    excused = message.excused and bool(host.draining)
    loss = Loss(message.reason, "engine", frozenset(message.started), message.loss, excused)
    engine.last_loss = f"{clock(core.now)}: {message.reason}"[:4000]
    if message.loss is not None:
        engine.last_output = message.loss.last_output[-_LINES:]
    restarting = message.restarting and not engine.ending
    _leave(core, engine, loss, RESTARTING if restarting else DEAD)
    expected = bool(engine.draining)
    told = EngineLeft(engine.id, message.reason, restarting, [], message.loss, expected)
    core.tell_all((told, b""))
    if engine.ending:
        _remove(core, engine)
        core.note_engines(host)
    if not restarting or engine.draining:
        end_impossible(core)


def host_lost(core: Core, event: HostLost) -> None:
    """A host is gone: all its engines are lost, and their ids are free."""
    host = core.hosts.pop(event.host, None)
    if host is None:
        return
    for engine in list(host.engines.values()):
        started = set(engine.running)
        head = next(iter(engine.assigned), None)
        if head is not None:
            started.add(head)
        text = f"its host is gone ({event.reason})"[:4000]
        excused = bool(host.draining) or 0.0 < host.ends <= core.now
        if excused:
            text += f"; {host.draining or 'its walltime was over'}"
        _leave(core, engine, Loss(text, "host", frozenset(started), excused=excused), DEAD)
        _remove(core, engine)
        core.tell_all((EngineLeft(engine.id, text, excused=bool(engine.draining)), b""))
    core.records.append(HostWent(host.id, event.now))
    if host.unsaid is not None:
        core.expected.discard(host.id)
        core.reported = True
    holdings.host_went(core, host, event.reason)
    end_impossible(core)


def engines_ending(core: Core, event: EnginesEnding) -> None:
    """Engines are about to be stopped on purpose, or not after all."""
    for number in event.engines:
        engine = core.engines.get(number)
        if engine is not None:
            engine.ending = event.ending
            if not event.ending:
                draining.keep(core, engine)
            core.ladder.update(engine)
            if engine.direct:
                core.pending[engine] = None
    if not event.ending:
        end_impossible(core)


def engines_gone(core: Core, event: EnginesGone) -> None:
    """Engines were stopped, or never came up: they exist no longer."""
    hosts: dict[Host, None] = {}
    for number in event.engines:
        engine = core.engines.get(number)
        if engine is None:
            continue
        hosts[engine.host] = None
        _leave(core, engine, Loss(event.reason, "engine", frozenset(engine.running)), DEAD)
        _remove(core, engine)
        core.tell_all((EngineLeft(number, event.reason, excused=bool(engine.draining)), b""))
    for host in hosts:
        core.note_engines(host)
    end_impossible(core)


def engines_described(core: Core, event: EnginesDescribed) -> None:
    """Clients have said something of engines, which tasks may ask for from now on."""
    hosts: dict[Host, None] = {}
    for number in event.engines:
        engine = core.engines.get(number)
        if engine is None:
            continue
        dropped = event.drop
        left = {name: v for name, v in engine.properties.items() if name not in dropped}
        if len(left.keys() | event.put.keys()) <= MAX_PROPERTIES:
            engine.properties = left | event.put
            hosts[engine.host] = None
    for host in hosts:
        core.note_engines(host)
    core.demands.changed()
    end_impossible(core)


def _remove(core: Core, engine: Engine) -> None:
    del core.engines[engine.id]
    engine.host.engines.pop(engine.id, None)
    core.demands.changed()
    core.ids.free(engine.id)


def _leave(core: Core, engine: Engine, loss: Loss, state: str) -> None:
    """Take everything from an engine whose process has ended and decide what becomes of it."""
    assigned = list(engine.assigned.values())
    running = engine.running | loss.started
    if engine.used:
        for task in assigned:
            give_back(core, engine, task)
    engine.reset()
    engine.state = state
    engine.reason = loss.text[:2000]  # it becomes part of texts that are bounded themselves
    engine.pid = 0
    engine.since = core.now
    core.ladder.remove(engine)
    core.pending.pop(engine, None)
    core.deep.pop(engine, None)
    _leave_queue(core, engine, loss)
    again = [task for task in assigned if _survives(core, engine, task, task.id in running, loss)]
    for task in reversed(again):
        core.requeue_first(task)


def _leave_queue(core: Core, engine: Engine, loss: Loss) -> None:
    """Deal with the tasks that are bound to an engine and had not been sent to it."""
    direct = [t for t in engine.direct if t.state in QUEUED]
    parked = [t for tasks in list(core.parked.values()) for t in tasks if t.target == engine.id]
    if engine.usable:
        away.suspend(core, engine)
        return
    engine.direct = deque()
    engine.shelved = 0
    for tasks in core.parked.values():
        tasks[:] = [t for t in tasks if t.target != engine.id]
    for task in (*direct, *parked):
        core.end(task, Outcome.LOST, loss.reason(engine, "before it could run this task"))


def _survives(core: Core, engine: Engine, task: Task, begun: bool, loss: Loss) -> bool:
    """Decide whether a task that was on a lost engine is to be run again; end it if not."""
    task.state = State.LOST
    if begun:
        task.attempts += not loss.excused
        task.note(core.now, f"engine {engine.id} was lost while it ran: {loss.text}"[:500])
    else:
        task.note(core.now, f"engine {engine.id} was lost before it began: {loss.text}"[:500])
    what = "while it ran this task" if begun else "before it ran this task"
    began = task.assigned if begun else 0.0
    if task.cancelled:
        fate = Fate.KILLED if begun else Fate.DEQUEUED
        text = f"cancelled; then {loss.reason(engine, what).text}"[:4000]
        core.end(task, Outcome.ABORTED, Reason("aborted", text, engine.id, fate=fate), began)
        return False
    if begun and not loss.excused and task.attempts > task.message.retries:
        if can_recover(task):
            lost = encode_reason(loss.reason(engine, what))
            recover(core, task, Outcome.LOST, lost, len(lost))
            return False
        core.end(task, Outcome.LOST, loss.reason(engine, what), began)
        return False
    if task.target >= 0 and not engine.usable:
        core.end(task, Outcome.LOST, loss.reason(engine, what))
        return False
    return True


def end_impossible(core: Core) -> None:
    """End tasks that no engine could run any more."""
    for line in core.lines.all():
        if not line.picky or not line.count:
            continue
        reason = unable(core, line.choice, line.demand)
        if reason is None:
            continue
        for task in [t for t in line.tasks() if t.state is State.READY]:
            core.end(task, Outcome.IMPOSSIBLE, reason)
            core.lines.dropped(line, task)
