"""What tasks ask of engines: amounts of resources, and properties.

Tasks of a session that ask for the same stand in one line. Amounts are counted in ten-thousandths, so
that sums are exact. A resource that engines have, each as much, is taken from the engine; one that
their host has is shared by its engines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakValueDictionary

from ipkernel.wire.messages import Reason, Simple, Terms

if TYPE_CHECKING:
    from ipkernel.controller.core import Core
    from ipkernel.controller.queues import Line
    from ipkernel.controller.slots import Engine
    from ipkernel.controller.tasks import Task

#: So many parts make one of a resource.
PARTS: Final = 10_000
#: Engines that a text names.
_NAMED: Final = 20

Key: TypeAlias = tuple[tuple[tuple[str, float], ...], tuple[tuple[str, Simple], ...]]


class Demand:
    """What some tasks ask of the engine that runs them.

    Attributes:
        resources: Parts of each resource that one of them uses.
        where: The properties that the engine must have, with these values.
    """

    __slots__ = ("__weakref__", "_able", "_mark", "resources", "where")

    def __init__(self, terms: Terms) -> None:
        self.resources = parts_of(terms.resources or {})
        self.where: dict[str, Simple] = terms.where or {}
        self._able: dict[int, Engine] = {}
        self._mark = -1

    def able(self, core: Core) -> dict[int, Engine]:
        """Return the engines that have what is asked for, in use or not."""
        if self._mark != core.demands.mark:
            self._mark = core.demands.mark
            self._able = {n: e for n, e in core.engines.items() if self.suits(e)}
        return self._able

    def suits(self, engine: Engine) -> bool:
        """Tell whether an engine has what is asked for, in use or not."""
        properties = engine.properties
        for name, value in self.where.items():
            if name not in properties or properties[name] != value:
                return False
        return all(has(engine, name) >= parts for name, parts in self.resources.items())

    def room(self, engine: Engine, most: int) -> int:
        """Return how many tasks, up to ``most``, find on an engine what they use now."""
        each, shared = engine.host.each, engine.host.shared
        for name, parts in self.resources.items():
            if name in each:
                left = each[name] - engine.used.get(name, 0)
            else:
                left = shared.get(name, 0) - engine.host.used.get(name, 0)
            if left < most * parts:
                most = max(0, left // parts)
        return most

    def take(self, engine: Engine, count: int) -> None:
        """Note that ``count`` more tasks use it on an engine; negative for fewer."""
        each = engine.host.each
        for name, parts in self.resources.items():
            for used in (engine.used, *(() if name in each else (engine.host.used,))):
                left = used.get(name, 0) + count * parts
                if left:
                    used[name] = left
                else:
                    del used[name]

    def __str__(self) -> str:
        wanted = [f"{amount(parts)} {name}" for name, parts in self.resources.items()]
        wanted += [f"{name}={value!r}" for name, value in self.where.items()]
        return " and ".join(wanted)


class Demands:
    """All that is asked for, each once.

    Attributes:
        mark: Another number whenever engines, or their properties, are not what they were.
    """

    __slots__ = ("_known", "mark")

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Key, Demand] = WeakValueDictionary()
        self.mark = 0

    def of(self, terms: Terms | None) -> Demand | None:
        """Return what a task with these terms asks of its engine, or None for nothing."""
        if terms is None or not (terms.resources or terms.where):
            return None
        key = (
            tuple(sorted((terms.resources or {}).items())),
            tuple(sorted((terms.where or {}).items(), key=_name)),
        )
        demand = self._known.get(key)
        if demand is None:
            demand = self._known[key] = Demand(terms)
        return demand

    def changed(self) -> None:
        """Take note that engines have come or gone, or that what they have is something else."""
        self.mark += 1


def _name(item: tuple[str, Simple]) -> str:
    return item[0]


def parts_of(amounts: Mapping[str, float]) -> dict[str, int]:
    """Return amounts of resources in parts; the least of them is one part."""
    return {name: max(1, round(amount * PARTS)) for name, amount in amounts.items()}


def amount(parts: int) -> str:
    """Return an amount as people write it."""
    return f"{parts / PARTS:g}"


def has(engine: Engine, name: str) -> int:
    """Return how much of a resource an engine has, alone or with the others of its host."""
    each = engine.host.each
    return each[name] if name in each else engine.host.shared.get(name, 0)


def give_back(core: Core, engine: Engine, task: Task) -> None:
    """Note that a task uses nothing on an engine any more."""
    demand = core.demands.of(task.message.terms)
    if demand is not None:
        demand.take(engine, -1)


# -------------------------------------------------------------------------------- choosing


def candidates(core: Core, choice: Sequence[int], demand: Demand | None) -> Iterable[Engine]:
    """Return the engines that could run tasks with this choice and demand, if they are there."""
    if demand is None:
        engines = core.engines
        return [engines[n] for n in choice if n in engines] if choice else engines.values()
    able = demand.able(core)
    return [able[n] for n in choice if n in able] if choice else able.values()


def room_for(core: Core, session: int, demand: Demand, engine: Engine, most: int) -> int:
    """Return how many tasks of a session, up to ``most``, may use now what they ask of an engine.

    What is kept for others is refused, but not to what tasks have submitted: what it is kept for may
    wait for just these tasks.
    """
    kept = engine.kept
    if kept is None or kept is demand or kept.resources.keys().isdisjoint(demand.resources):
        return demand.room(engine, most)
    return 0 if core.sessions[session].inside < 0 else demand.room(engine, most)


def best_of(core: Core, line: Line) -> tuple[Engine, int] | None:
    """Return the first engine with room for the tasks of a line, and how many have some."""
    demand = line.demand
    found = [
        engine
        for engine in candidates(core, line.choice, demand)
        if engine.rung >= 0 and (demand is None or room_for(core, line.session, demand, engine, 1))
    ]
    return (core.ladder.pick(found), len(found)) if found else None


def others_could(core: Core, task: Task, engine: Engine) -> bool:
    """Tell whether an engine other than this one has room for a load-balanced task now."""
    demand = core.demands.of(task.message.terms)
    if demand is None and not task.message.targets:
        return True
    return any(
        other.rung >= 0
        and other is not engine
        and (demand is None or room_for(core, task.session, demand, other, 1))
        for other in candidates(core, task.message.targets, demand)
    )


# ------------------------------------------------------------------------ what cannot be


def impossible(core: Core, targets: Collection[int], demand: Demand) -> Reason | None:
    """Return why no engine of some, or of all, has what is asked for; None if one has.

    Where there is no engine at all, one may come that has it; and a host that is away may come back
    with it.
    """
    if core.objects.rebuilding:
        return None  # engines are about to come back, and what they have is not known yet
    chosen = list(targets)
    if any(engine.usable for engine in candidates(core, chosen, demand)):
        return None
    usable = [engine for engine in candidates(core, chosen, None) if engine.usable]
    if not usable or any(host.away is not None for host in core.hosts.values()):
        return None
    return Reason("resources", _lacking(demand, usable, chosen)[:4000])


def _lacking(demand: Demand, engines: list[Engine], chosen: list[int]) -> str:
    named = ", ".join(map(str, chosen[:_NAMED])) + (", ..." if len(chosen) > _NAMED else "")
    nobody = f"none of the engines {named} has" if chosen else "no engine has"
    for name, parts in demand.resources.items():
        best = max(engines, key=lambda engine: has(engine, name))
        if has(best, name) < parts:
            most = amount(has(best, name)) if has(best, name) else "none"
            return f"{nobody} {amount(parts)} {name}; engine {best.id} has {most}"
    for name, value in demand.where.items():
        if any(name in e.properties and e.properties[name] == value for e in engines):
            continue
        other = next((e for e in engines if name in e.properties), None)
        but = (
            f"engine {other.id} has {name}={other.properties[name]!r}" if other else "none has one"
        )
        return f"{nobody} the property {name}={value!r}; {but}"
    return f"{nobody} {demand}, all at once"


def why(core: Core, task: Task, demand: Demand) -> str:
    """Return what a ready task waits for that is in use; empty if that is not the reason."""
    able = candidates(core, task.message.targets, demand)
    for engine in sorted(able, key=lambda engine: engine.rung < 0):  # those with room first
        if not engine.usable:
            continue
        if demand.room(engine, 1):
            if not room_for(core, task.session, demand, engine, 1):
                return (
                    f"it waits for {demand}, which is kept free on engine {engine.id} for tasks that "
                    f"ask for {engine.kept} and were passed by others for long"
                )
            continue
        for name, parts in demand.resources.items():
            each = engine.host.each
            users = [engine] if name in each else list(engine.host.engines.values())
            tasks = [
                (user.id, tid)
                for user in users
                if name in user.used
                for tid, other in user.assigned.items()
                if (d := core.demands.of(other.message.terms)) and name in d.resources
            ]
            used = engine.used if name in each else engine.host.used
            if has(engine, name) - used.get(name, 0) >= parts or not tasks:
                continue
            number, tid = tasks[0]
            more = f" and {len(tasks) - 1} others" if len(tasks) > 1 else ""
            left = amount(has(engine, name) - used.get(name, 0))
            return (
                f"it waits for {amount(parts)} {name}, of which {left} is free: "
                f"engine {number} has it in use by task {tid}{more}"
            )
    return ""
