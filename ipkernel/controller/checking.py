"""What must be true of the scheduler's tables between two events; for tests."""

from __future__ import annotations

from collections import Counter

from ipkernel.controller.core import MAX_WATCHERS, Core, choice_of, is_plain
from ipkernel.controller.demands import candidates, room_for
from ipkernel.controller.objectchecks import validate_objects
from ipkernel.controller.queues import Line
from ipkernel.controller.slots import MAX_WINDOW, Engine
from ipkernel.controller.tasks import QUEUED, State

_OUT = (State.ASSIGNED, State.RUNNING)


def validate(core: Core) -> None:
    """Check every table against every other.

    Raises:
        AssertionError: They disagree.
    """
    _check_places(core)
    _check_lines(core)
    _check_engines(core)
    _check_sessions(core)
    _check_nothing_idles(core)
    _check_objects(core)
    _check_waits(core)
    _check_labels(core)


def _check_labels(core: Core) -> None:
    open_tasks: dict[str, list[int]] = {}
    for tid, task in core.tasks.items():
        if task.message.label:
            open_tasks.setdefault(task.message.label, []).append(tid)
    assert len(core.labels) == len(open_tasks)
    for label, tasks in open_tasks.items():
        assert core.labels.find(label) == tasks, label
    assert len(core.origins) == len(core.ended)


def _check_places(core: Core) -> None:
    places: Counter[int] = Counter()
    for line in core.lines.all():
        levels = [*line.lower, (line.priority, line.queue)]
        assert levels == sorted(levels, key=lambda level: level[0])
        for task, priority in [(t, p) for p, queue in levels for t in queue]:
            if task.state is State.READY:
                assert task.priority == priority, task
                assert not priority or line.session in core.lines.ranked
                assert task.target < 0, task
                assert not line.plain or is_plain(task.message), task
                assert choice_of(task.message.targets) == line.choice, task
                assert task.near == line.near, task
                assert core.demands.of(task.message.terms) is line.demand, task
                places[task.id] += 1
    for engine in core.engines.values():
        for task in engine.direct:
            if task.state in QUEUED:
                assert task.target == engine.id, task
                assert (task.state is State.READY) == (engine.state == "ready"), task
                places[task.id] += 1
        for tid, task in engine.assigned.items():
            assert tid == task.id and task.engine == engine.id and task.state in _OUT, task
            places[tid] += 1
    for session, parked in core.parked.items():
        for task in parked:
            assert task.session == session and task.state in QUEUED, task
            places[task.id] += 1
    for tid, wait in core.waits.items():
        assert wait.task.id == tid and wait.task.state is State.WAITING, wait.task
        places[tid] += 1
    assert set(places) == set(core.tasks), set(places) ^ set(core.tasks)
    assert all(count == 1 for count in places.values()), places
    for tid, task in core.tasks.items():
        assert task.id == tid
        assert (task.engine >= 0) == (task.state in _OUT), task


def _check_lines(core: Core) -> None:
    lines = core.lines
    assert lines.count == sum(line.count for line in lines.all())
    turning = list(lines.rotation)
    for host, waiting in lines.near.items():
        assert waiting.lines, host
        assert all(line.near == host and not line.loose for line in waiting.lines)
        assert waiting.mark <= lines.rounds
        turning += waiting.lines
    assert len(set(turning)) == len(turning)
    assert all(line.loose or not line.near for line in lines.rotation)
    for line in lines.all():
        assert line.count == sum(t.state is State.READY for t in line.tasks()), line.choice
        assert line.turning == (line in turning)
        assert line.held == core.sessions[line.session].held
        assert not (line.held and line.turning)
        assert line.held or line.turning or not line.count
    assert all(line in lines.all() for line in turning)


def _check_engines(core: Core) -> None:
    for number, engine in core.engines.items():
        assert engine.id == number
        assert core.hosts[engine.host.id].engines[number] is engine
        assert engine.bytes == sum(t.message.size for t in engine.assigned.values())
        assert 1 <= engine.window <= MAX_WINDOW
        running = {t.id for t in engine.assigned.values() if t.state is State.RUNNING}
        assert engine.running == running
        if engine.host.away is None or engine.host.unsaid is None:
            assert engine.used == _taken(core, [engine]), number
        wanted = len(engine.assigned) if engine.open_for_any() else -1
        assert engine.rung == wanted, (number, engine.rung, wanted)
        assert engine.state in ("ready", "away") or not engine.assigned
        assert engine.host.away is None or engine.state in ("away", "dead"), number
        assert engine.usable or not engine.assigned or engine.ending or engine.draining
        assert not engine.host.draining or engine.draining
        assert engine.draining or engine not in core.draining
        shelved = sum(t.state not in QUEUED for t in engine.direct)
        assert engine.shelved == shelved, (engine.shelved, shelved)
    for host in core.hosts.values():
        if host.away is not None and host.unsaid is not None:
            assert not host.used
            continue
        used = _taken(core, list(host.engines.values()))
        assert host.used == {n: p for n, p in used.items() if n not in host.each}
        assert all(parts <= host.shared[name] for name, parts in host.used.items())
    assert core.ladder.open == sum(e.rung >= 0 for e in core.engines.values())
    assert sum(len(h.engines) for h in core.hosts.values()) == len(core.engines)
    for engine in core.draining:
        assert core.engines.get(engine.id) is engine
        assert not engine.idle
    for engine in core.deep:
        assert core.engines.get(engine.id) is engine
        assert engine.running


def _taken(core: Core, engines: list[Engine]) -> dict[str, int]:
    """Return the parts of resources that the tasks of some engines of one host use."""
    used: Counter[str] = Counter()
    for engine in engines:
        each = Counter[str]()
        for task in engine.assigned.values():
            demand = core.demands.of(task.message.terms)
            if demand is not None and task.target < 0:
                each.update(demand.resources)
        assert all(each[name] <= parts for name, parts in engine.host.each.items())
        used += each
    return dict(used)


def _check_sessions(core: Core) -> None:
    tasks: Counter[int] = Counter()
    size: Counter[int] = Counter()
    for task in core.tasks.values():
        tasks[task.session] += 1
        size[task.session] += task.charge
    assert set(tasks) <= set(core.sessions)
    for number, session in core.sessions.items():
        assert session.open == tasks[number], (number, session.open, tasks[number])
        assert session.bytes == size[number]
        assert session.attached or session.open or session.until
        assert session.held or number not in core.parked
        assert session.function_bytes == sum(map(len, session.functions.values()))
    for tid, asked in core.askers.items():
        assert core.tasks[tid].cancelled
        assert 0 < len(asked) == len(set(asked)) <= MAX_WATCHERS
    for watched, watchers in core.watchers.items():
        assert watched in core.tasks
        assert 0 < len(watchers) == len(set(watchers)) <= MAX_WATCHERS
        assert watched >> 40 not in watchers
        assert all(core.sessions[watcher].attached for watcher in watchers)


def _check_waits(core: Core) -> None:
    """Whoever waits for others waits for some that have not ended, and these lead to it."""
    awaited: dict[int, set[int]] = {}
    for tid, wait in core.waits.items():
        assert wait.open, "it waits for nothing"
        assert not any(need.problem for need in wait.needs)
        for need in wait.needs:
            assert need.met or need.open
        for other in wait.open:
            assert other in core.tasks and other != tid
            awaited.setdefault(other, set()).add(tid)
    for other, children in core.awaited.items():
        assert other in core.tasks
        assert children and set(children) <= set(core.waits)
        assert awaited.get(other, set()) <= set(children)
    assert set(awaited) <= set(core.awaited)
    for tid, refused in core.refused.items():
        task = core.tasks[tid]
        assert task.target < 0 and not refused.told.keys() & set(task.message.targets), task
    assert core.failed.keys() <= core.tasks.keys()
    assert core.settled == len(core.ended) == 0


def _check_nothing_idles(core: Core) -> None:
    """No task waits that an engine has room for."""
    if core.ladder.open:
        near = [line for waiting in core.lines.near.values() for line in waiting.lines]
        for line in (*core.lines.rotation, *near):
            _check_line_is_blocked(core, line)
    for engine in core.engines.values():
        if engine.open_for_direct():
            assert not [t for t in engine.direct if t.state in QUEUED], engine.id


def _check_line_is_blocked(core: Core, line: Line) -> None:
    assert line.picky, "a task is ready and an engine has room"
    demand = line.demand
    if demand is not None:
        assert demand.able(core) == {n: e for n, e in core.engines.items() if demand.suits(e)}
    for engine in candidates(core, line.choice, demand):
        assert engine.rung < 0 or (
            demand is not None and not room_for(core, line.session, demand, engine, 1)
        )


def _check_objects(core: Core) -> None:
    """The directory agrees with the tasks, sessions, hosts and results that it is about."""
    objects = core.objects
    assert not objects.busy
    validate_objects(objects)
    needs: dict[bytes, set[int]] = {}
    for tid, task in core.tasks.items():
        for object_id in task.message.needs:
            needs.setdefault(object_id, set()).add(tid)
        if task.state in QUEUED and task.message.needs:
            assert all(not objects.entries[o].lost for o in task.message.needs), task
    assert {o: e.tasks for o, e in objects.entries.items() if e.tasks} == needs
    assert set(objects.at_host) == set(core.hosts)
    attached = {number for number, session in core.sessions.items() if session.attached}
    assert set(objects.with_client) <= attached
    for referrer in objects.references:
        known = referrer in core.sessions or referrer in core.departed
        assert known or referrer in core.retained, referrer
    for session in core.departed:
        assert session not in core.sessions
        assert core.retained.of_session(session)
    for host in core.hosts.values():
        assert host.told <= set(core.hosts)
