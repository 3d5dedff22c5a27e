"""Tasks that have submitted others and keep the engines that those need.

Whether a task waits for what it has submitted only its own engine knows. What can be seen here is that
nothing of it can begin before a task ends that may wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ipkernel.controller.core import Core
from ipkernel.controller.demands import candidates
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import QUEUED, State

__all__ = ["Deadlock", "find"]

#: Tasks bound to one engine that are looked at.
_LOOK = 1000


class Deadlock(NamedTuple):
    """Engines whose tasks may wait for each other's, for ever.

    Attributes:
        engines: The engines.
        running: The tasks that they run.
        waiting: Of the tasks that none of them can begin, the first of each line or engine.
        size: How many there are, at least.
    """

    engines: list[int]
    running: list[int]
    waiting: list[int]
    size: int


class _Place(NamedTuple):
    """Where some tasks of a session are.

    Attributes:
        task: The first.
        size: How many are not begun.
        engines: Those that may run them.
    """

    task: int
    size: int
    engines: set[int]


def find(core: Core) -> Deadlock | None:
    """Return the engines whose tasks keep each other's from being begun; None if there are none."""
    inside: dict[int, list[Session]] = {}
    for session in core.sessions.values():
        engine = core.engines.get(session.inside)
        if engine is not None and session.open and _may_wait(engine, session):
            inside.setdefault(engine.id, []).append(session)
    if not inside:
        return None
    places = _places(core, {session.id for sessions in inside.values() for session in sessions})
    stuck = set(inside)
    while True:
        free = {
            number
            for number in stuck
            if any(_goes_on(places[session.id], stuck) for session in inside[number])
        }
        if not free:
            break
        stuck -= free
    waiting = [
        place
        for number in stuck
        for session in inside[number]
        for place in places[session.id]
        if place.size
    ]
    if not waiting:
        return None
    return Deadlock(
        engines=sorted(stuck),
        running=sorted(task for number in stuck for task in core.engines[number].running),
        waiting=sorted(place.task for place in waiting),
        size=sum(place.size for place in waiting),
    )


def _may_wait(engine: Engine, session: Session) -> bool:
    """Tell whether an engine runs a task that may have opened a session, and wait for its tasks."""
    if not engine.running or not session.attached or session.held:
        return False
    return all(number >> 40 != session.id for number in engine.running)


def _goes_on(places: list[_Place], stuck: set[int]) -> bool:
    """Tell whether a session's tasks may be begun elsewhere, or wait for something else."""
    return not places or any(place.engines - stuck for place in places)


def _places(core: Core, sessions: set[int]) -> dict[int, list[_Place]]:
    found: dict[int, list[_Place]] = {number: [] for number in sessions}
    for engine in core.engines.values():
        for number, task in engine.assigned.items():
            if task.session in found:
                found[task.session].append(
                    _Place(number, number not in engine.running, {engine.id})
                )
        for task in islice(engine.direct, _LOOK):
            if task.session in found and task.state in QUEUED:
                found[task.session].append(_Place(task.id, 1, {engine.id}))
    for session in sessions:
        found[session] += _lines(core, session)
    return found


def _lines(core: Core, session: int) -> Iterator[_Place]:
    for line in core.lines.of_session(session):
        first = next((task.id for task in line.tasks() if task.state is State.READY), None)
        if first is None:
            continue
        able = candidates(core, line.choice, line.demand)
        yield _Place(first, line.count, {engine.id for engine in able if engine.usable})
