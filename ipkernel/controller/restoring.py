"""The scheduler's tables as they were when the controller before this one ended."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from attrs import frozen

from ipkernel.controller import dependencies, holdings, recall
from ipkernel.controller.core import Core, no_engine
from ipkernel.controller.events import HostFacts
from ipkernel.controller.folding import Folded, OldTask
from ipkernel.controller.instructions import Commit
from ipkernel.controller.journal import HostCame, Record
from ipkernel.controller.registry import Absence, Host
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import AWAY, Engine
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Dependency, Outcome, Past, Submit

#: Why hosts are away at first.
REASON = "the controller was started again"


@frozen
class Restored:
    """What is known after a restart.

    Attributes:
        life: The number of the life before, or 0 if nothing was kept.
        hosts: The hosts that are waited for.
        sessions: The highest number of a session, or 0.
        used: The highest numbers that sessions and hosts may have had, or 0.
        records: What followed from it at once and is to be written down.
    """

    life: int
    hosts: list[HostCame]
    sessions: int
    used: tuple[int, int]
    records: list[Record]


def restore(
    core: Core, records: Iterable[Record], now: float, grace: float, keep: float
) -> Restored:
    """Fill empty tables.

    Args:
        core: The tables.
        records: All that is live in the journal, in order.
        now: The time.
        grace: Seconds that hosts have for coming back.
        keep: Seconds for which sessions are kept whose clients do not come back.
    """
    old = Folded(records)
    core.now = core.began = now
    numbers = {*old.sessions, *(task >> 40 for task in old.results)}
    if old.hosts or old.sessions or old.results:
        core.objects.rebuilding = True
    for came in old.hosts.values():
        _host(core, came, now, grace)
    for number, session in old.sessions.items():
        began = session.began
        new = core.sessions[number] = Session(number, began.client, began.time, began.tub_id)
        new.attached = False
        new.until = now + keep
        new.taken = session.taken
        for digest, blob in session.functions.items():
            new.keep_function(digest, blob)
    for session_number in core.sessions:
        core.expected.add(-session_number)
    _results(core, old)
    for number, task in old.tasks.items():
        if number not in old.assigned:
            _queued(core, number, task)
    for number, task in old.assigned.items():
        _assigned(core, number, task)
    for number, task in old.tasks.items():
        if not task.free and number in core.waits:
            _wait(core, core.tasks[number], task.past)
    if not core.expected:
        core.objects.rebuilt()
    dependencies.settle(core)
    while core.objects.busy:
        holdings.settle(core)
        dependencies.settle(core)
    first = next(iter(core.take_instructions()), None)
    written = first.records if isinstance(first, Commit) else []
    sessions = max(numbers, default=0)
    used = (max(old.numbers[0], sessions), max([old.numbers[1], *old.hosts]))
    return Restored(old.life, list(old.hosts.values()), sessions, used, written)


def _host(core: Core, came: HostCame, now: float, grace: float) -> None:
    facts = HostFacts(local=came.local)
    host = Host(came.host, came.name, came.pid, now, came.tub_id, facts=facts)
    host.away = Absence(now, now + grace, REASON)
    host.unsaid = set()
    core.hosts[host.id] = host
    core.objects.host_joined(host.id, host.name)
    core.expected.add(host.id)
    for number in core.ids.take(len(came.engines), came.engines):
        engine = Engine(number, host, now)
        engine.state = AWAY
        engine.properties = came.properties.get(number, {})
        host.engines[number] = core.engines[number] = engine


def _results(core: Core, old: Folded) -> None:
    ends = [(message, b"") for message, _ in old.ends.values()]
    core.history.add(ends, [origin for _, origin in old.ends.values()], len(ends))
    for number, (when, message, payload) in sorted(old.results.items(), key=lambda one: one[1][0]):
        session = number >> 40
        if session not in core.sessions:
            core.departed.add(session)
        core.forget(core.retained.keep(message, payload, when, written=True))
        if message.object and number in core.retained:
            core.objects.expect(message.object, message.length)
            core.objects.refer(number, message.object)
        core.count_end(message.outcome)
    for session in [s for s in core.departed if not core.retained.of_session(s)]:
        core.departed.discard(session)
    for number, output in old.output.items():
        if number in old.tasks:
            for printed, payload in output:
                core.forget(core.retained.keep_output(printed, payload))


def _new(core: Core, number: int, old: OldTask) -> Task | None:
    session = core.sessions.get(number >> 40)
    if session is None:
        return None  # its client was thrown out, and nobody waits for it
    task = core.new_task(number, old.message, old.payload, old.submitted, old.target)
    task.attempts = old.attempts
    task.grace = old.grace
    for when, text in old.notes:
        task.note(when, text)
    core.take_in(task)
    if old.refused is not None:
        core.refused[number] = old.refused
    for object_id in old.message.needs:
        core.objects.expect(object_id, 0)
    if old.message.needs:
        core.objects.need(number, old.message.needs)
    session.open += 1
    session.bytes += task.charge
    return task


def _queued(core: Core, number: int, old: OldTask) -> None:
    task = _new(core, number, old)
    if task is None:
        return
    if task.cancelled:
        task.state = State.READY
        core.end(task, Outcome.ABORTED, recall.aborted(task))
    elif old.target >= 0:
        engine = core.engines.get(old.target)
        task.state = State.WAITING
        if engine is None:
            core.end(task, Outcome.LOST, no_engine(core, [old.target]))
        else:
            engine.direct.append(task)
    elif not old.free:
        task.state = State.WAITING
        core.waits[number] = dependencies.Wait(task, [])
    else:
        task.state = State.READY
        core.enqueue(core.line_of(task), task)


def _assigned(core: Core, number: int, old: OldTask) -> None:
    engine = core.engines.get(old.engine)
    if engine is None or engine.host.id != old.host or engine.host.unsaid is None:
        _queued(core, number, old)
        return
    task = _new(core, number, old)
    if task is None:
        return
    task.state = State.READY
    task.state = State.ASSIGNED
    task.engine = engine.id
    task.assigned = core.now
    engine.assigned[number] = task
    engine.bytes += task.message.size
    engine.host.unsaid.add(number)


def _wait(core: Core, task: Task, past: list[Past]) -> None:
    """Let a task wait again for those of others that have not ended."""
    terms = task.message.terms
    assert terms is not None
    known = {one.task: one for one in past}
    terms = msgspec.structs.replace(
        terms, after=_less(terms.after, known), follow=_less(terms.follow, known)
    )
    message: Submit = msgspec.structs.replace(task.message, terms=terms)
    task.message = message
    del core.waits[task.id]
    dependencies.admit(core, task)


def _less(wanted: Dependency | None, known: dict[int, Past]) -> Dependency | None:
    """Return a dependency with what is known of the ends of its tasks."""
    if wanted is None:
        return None
    ended = [known[task] for task in wanted.tasks if task in known]
    left = [task for task in wanted.tasks if task not in known]
    return msgspec.structs.replace(wanted, tasks=left, ended=[*wanted.ended, *ended])
