"""What clients send: submissions, functions, cancellations, requests for results."""

from __future__ import annotations

from ipkernel.controller import again, dependencies, holdings, recall
from ipkernel.controller.core import MAX_WATCHERS, Core, choice_of, no_engine, unable
from ipkernel.controller.demands import Demand
from ipkernel.controller.events import FromClient, Result
from ipkernel.controller.journal import Submitted
from ipkernel.controller.nearness import best_host
from ipkernel.controller.queues import Line
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import READY as ENGINE_READY
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import Payload, State, Task
from ipkernel.wire.messages import (
    Cancel,
    Fetch,
    Finished,
    Function,
    Message,
    Outcome,
    Reason,
    Resubmit,
    Submit,
    encode_reason,
)

_READY = State.READY
#: Messages, beside submissions, of which the client must not be told that they are safe before.
_LASTING = (Function, Resubmit)


class _BrokenRules(Exception):
    """A client sent what it must not send."""


def from_client(core: Core, event: FromClient) -> None:
    """Deal with what a client sent at once."""
    session = core.sessions.get(event.session)
    if session is None or not session.attached:
        return
    number = session.id
    now = event.now
    session.taken += len(event.items)
    tasks = core.tasks
    functions = session.functions
    new_task = core.new_task
    ready = _READY
    line = core.lines.line(number, ())
    line.held = session.held
    append = line.level(0).append
    added = size = 0
    lasting = False
    items = event.items
    place = len(core.records)
    try:
        for message, payload in items:
            if type(message) is Submit:
                lasting = True
                tid = message.task
                if message.terms is None and not (message.targets or message.needs or message.keep):
                    if tid >> 40 != number or tid in tasks:
                        raise _BrokenRules(f"task id {tid} is taken or of another session")
                    if message.digest and message.digest not in functions:
                        _unknown_function(core, message.digest, tid)
                        continue
                    task = tasks[tid] = new_task(tid, message, payload, now, -1, ready)
                    if message.label:
                        core.labels.add(message.label, tid)
                    append(task)
                    added += 1
                    size += message.size
                    continue
                _targeted(core, session, message, payload)
                append = line.level(0).append
            else:
                if added:
                    _grown(core, session, line, added, size)
                    added = size = 0
                lasting |= type(message) in _LASTING
                _other(core, session, message, payload)
                append = line.level(0).append
    except _BrokenRules as fault:
        core.drop_client(number, str(fault))
        items = items[: next(at for at, item in enumerate(items) if item[0] is message)]
    if added:
        _grown(core, session, line, added, size)
    if lasting:
        core.records.insert(place, Submitted(number, now, items, session.taken))


def _grown(core: Core, session: Session, line: Line, count: int, size: int) -> None:
    session.open += count
    session.bytes += size
    core.lines.grown(line, count)


def _unknown_function(core: Core, digest: bytes, task: int) -> None:
    text = (
        f"function {digest.hex()} is not known to the controller: it was never sent, "
        f"or this session has sent too many functions"
    )
    core.reject(task, Outcome.IMPOSSIBLE, Reason("limit", text))


# ------------------------------------------------------------------------ tasks with targets


def _targeted(core: Core, session: Session, message: Submit, payload: Payload) -> None:
    count = 1 if message.spread or not message.targets else len(message.targets)
    first = message.task
    tasks = core.tasks
    if first >> 40 != session.id or (first + count - 1) >> 40 != session.id:
        raise _BrokenRules(f"task id {first} is of another session")
    for tid in range(first, first + count):
        if tid in tasks:
            raise _BrokenRules(f"task id {tid} is taken")
    if message.digest and message.digest not in session.functions:
        for tid in range(first, first + count):
            _unknown_function(core, message.digest, tid)
    elif message.needs and (problem := core.objects.problem(message.needs)):
        reason = Reason("object", problem[:4000])
        for tid in range(first, first + count):
            core.reject(tid, Outcome.LOST, reason, message.label)
    elif message.spread or not message.targets:
        _spread(core, session, message, payload)
    elif (terms := message.terms) is not None and (
        terms.after or terms.follow or terms.resources or terms.where or terms.recovery
    ):
        raise _BrokenRules(
            "only a load-balanced task may wait for others, ask for an engine, or recover"
        )
    else:
        for tid, target in zip(range(first, first + count), message.targets, strict=True):
            _direct(core, session, message, payload, tid, target)


def _spread(core: Core, session: Session, message: Submit, payload: Payload) -> None:
    """Take in a load-balanced task that has a choice of engines, or needs something."""
    terms = message.terms
    if terms is not None:
        terms = session.share_terms(message)
        recovery = terms.recovery if terms is not None else None
        if recovery is not None and recovery.digest and recovery.digest not in session.functions:
            _unknown_function(core, recovery.digest, message.task)
            return
    demand = core.demands.of(terms)
    if (problem := unable(core, message.targets, demand)) is not None:
        core.reject(message.task, Outcome.IMPOSSIBLE, problem, message.label)
        return
    waits = terms is not None and (terms.after is not None or terms.follow is not None)
    task = core.new_task(message.task, message, payload, core.now)
    core.take_in(task)
    session.open += 1
    session.bytes += task.charge
    if message.needs:
        core.objects.need(task.id, message.needs)
    if waits:
        task.state = State.WAITING
        dependencies.admit(core, task)
        return
    line = _line_for(core, session, message, demand)
    line.held = session.held
    task.state = _READY
    task.near = line.near
    core.enqueue(line, task)


def _line_for(core: Core, session: Session, message: Submit, demand: Demand | None) -> Line:
    targets = message.targets
    recent = session.recent
    if (
        recent is not None
        and recent.demand is demand
        and not message.needs
        and recent.choice == tuple(targets)
    ):
        return recent
    if core.lines.crowded:
        for other in core.sessions.values():
            other.recent = None
        core.lines.tidy()
    near = best_host(core, message) if message.needs else 0
    line = core.lines.line(session.id, choice_of(targets), near, demand)
    if not near and line.picky:
        session.recent = line
    return line


def _direct(
    core: Core, session: Session, message: Submit, payload: Payload, tid: int, target: int
) -> None:
    engine = core.engines.get(target)
    if engine is None or not engine.usable:
        core.reject(tid, Outcome.IMPOSSIBLE, no_engine(core, [target]), message.label)
        return
    task = core.new_task(tid, message, payload, core.now, target)
    core.take_in(task)
    if message.needs:
        core.objects.need(tid, message.needs)
    session.open += 1
    session.bytes += task.charge
    if engine.state == ENGINE_READY:
        task.state = _READY
        core.pending[engine] = None
    else:
        task.state = State.WAITING
    queue_direct(core, session, engine, task)


def queue_direct(core: Core, session: Session, engine: Engine, task: Task) -> None:
    """Put a direct task at the end of its engine's queue, or aside while its session is held."""
    if session.held:
        core.parked.setdefault(session.id, []).append(task)
    else:
        engine.direct.append(task)


# ---------------------------------------------------------------------------- other messages


def _other(core: Core, session: Session, message: Message, payload: Payload) -> None:
    kind = type(message)
    if kind is Function:
        assert isinstance(message, Function)
        session.keep_function(message.digest, payload)
    elif kind is Cancel:
        assert isinstance(message, Cancel)
        recall.cancel(core, session, message)
    elif kind is Resubmit:
        assert isinstance(message, Resubmit)
        _again(core, session, message)
    elif kind is Fetch:
        assert isinstance(message, Fetch)
        found = core.retained.take(message.tasks)
        core.hand_over(session.id, found)
        for task in message.tasks:
            if found.pop(task, None) is None:
                _await(core, session, task)
    elif not holdings.from_client(core, session, message):
        raise _BrokenRules(f"a client does not send {kind.__name__}")


def _again(core: Core, session: Session, message: Resubmit) -> None:
    """Take in a task with the content of one that has ended."""
    if message.task >> 40 != session.id or message.task in core.tasks:
        raise _BrokenRules(f"task id {message.task} is taken or of another session")
    filed = core.archive.find(message.of)
    if filed is None:
        reason = Reason("limit", again.why_not(core, message.of))
        core.reject(message.task, Outcome.IMPOSSIBLE, reason)
        return
    items = again.submission_of(core, session, message, filed)
    core.records.append(Submitted(session.id, core.now, items, session.taken))
    for part, payload in items:
        if isinstance(part, Submit):
            _targeted(core, session, part, payload)
        else:
            _other(core, session, part, payload)


def _await(core: Core, session: Session, task: int) -> None:
    """Have a session told of the end of a task, or that there is no result of it."""
    items = core.client_items(session.id)
    if task in core.tasks:
        items += core.retained.take_output(task)
        if task >> 40 != session.id and not _watch(core, session, task):
            text = f"{MAX_WATCHERS} other clients wait for task {task} already: fetch it later"
            items.append(_no_result(task, text))
    else:
        text = f"task {task} is not known: its result was fetched or has expired, or it never was"
        items.append(_no_result(task, text))


def _watch(core: Core, session: Session, task: int) -> bool:
    """Have a session told when another one's task ends; False if too many are waiting."""
    watchers = core.watchers.setdefault(task, [])
    if session.id not in watchers:
        if len(watchers) >= MAX_WATCHERS:
            return False
        watchers.append(session.id)
    return True


def _no_result(task: int, text: str) -> Result:
    reason = encode_reason(Reason("limit", text))
    return Finished(task, Outcome.IMPOSSIBLE, -1, 0.0, 0.0, len(reason), 0), reason
