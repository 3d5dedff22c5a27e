"""Where the scheduler and the directory of objects meet."""

from __future__ import annotations

from itertools import islice
from typing import Final

import msgspec

from ipkernel.controller.core import Core
from ipkernel.controller.instructions import JoinPeers
from ipkernel.controller.registry import Host
from ipkernel.controller.sessions import Session
from ipkernel.controller.tasks import QUEUED, Task
from ipkernel.wire.messages import (
    Copied,
    Done,
    Finished,
    Held,
    HostGone,
    Message,
    Moving,
    NotProvided,
    ObjectMade,
    Outcome,
    Reason,
    Relay,
    Release,
    Seek,
    SessionGone,
    Source,
)

#: So many tasks that need an object are asked for their sessions, of which there are few.
MOST_TASKS: Final = 256

# ---------------------------------------------------------------------- coming and going


def client_came(core: Core, session: Session) -> None:
    """Tell a client how to reach the stores of the hosts."""
    for host in core.hosts.values():
        _tell_client(core, session, host)


def client_went(core: Core, session: Session) -> None:
    """A client brings no more objects; what its session refers to lives until that ends."""
    core.objects.client_gone(session.id)
    for host in core.hosts.values():
        if host.has_store:
            core.host_items(host.id).append((SessionGone(session.id), b""))


def host_came(core: Core, host: Host) -> None:
    """Tell clients how to reach the store of a new host."""
    core.objects.host_joined(host.id, host.name)
    for session in core.sessions.values():
        if session.attached:
            _tell_client(core, session, host)


def host_went(core: Core, host: Host, reason: str) -> None:
    """A host is gone, with all that was in its store."""
    core.objects.host_lost(host.id, reason[:500])
    gone = (HostGone(host.id, reason[:2000]), b"")
    if host.has_store:
        core.tell_all(gone)
    for other in core.hosts.values():
        if host.id in other.told:  # it may have had a store before
            other.told.discard(host.id)
            core.host_items(other.id).append(gone)


def _tell_client(core: Core, session: Session, host: Host) -> None:
    access = host.access_for(session.tub_id)
    if access is not None:
        core.client_items(session.id).append((access, b""))


# --------------------------------------------------------------------------- messages


def from_client(core: Core, session: Session, message: Message) -> bool:
    """Deal with what a client says about objects; return False if it is about something else."""
    objects = core.objects
    number = session.id
    if isinstance(message, ObjectMade):
        if objects.made(message.object, message.length, message.host, number):
            objects.refer(number, message.object)
    elif isinstance(message, Release):
        objects.release(number, message.objects)
    elif isinstance(message, Held):
        objects.used(number, message.objects)
        if message.last:
            core.expected.discard(-number)
            core.reported = True
    elif isinstance(message, Seek):
        objects.seek(-number, message.object, message.failed, message.problem)
    elif isinstance(message, NotProvided):
        objects.not_provided(number, message.object, message.host, message.problem)
    elif isinstance(message, Relay):
        problem = _cannot_join(core, message.host)
        if problem:
            answer = Relay(message.host, b"", problem)
            core.client_items(number).append((answer, b""))
        else:
            core.instruct(JoinPeers(message.host, session=number))
    else:
        return False
    return True


def from_host(core: Core, host: Host, message: Message) -> None:
    """Deal with what a host says about objects; other messages are passed over."""
    objects = core.objects
    if isinstance(message, Held):
        objects.held(host.id, message.objects, message.lengths)
    elif isinstance(message, ObjectMade):
        if objects.made(message.object, message.length, host.id) and (
            message.owner in core.sessions
        ):
            objects.refer(message.owner, message.object)
    elif isinstance(message, Moving):
        entry = objects.entries.get(message.object)
        if entry is not None:
            some = islice(entry.tasks, MOST_TASKS)
            waiting = {core.tasks[task].session for task in some if task in core.tasks}
            objects.sources.moving(entry, host.id, message.done, waiting)
    elif isinstance(message, Copied):
        objects.copied(host.id, message.objects)
    elif isinstance(message, Seek):
        objects.seek(host.id, message.object, message.failed, message.problem)
    elif isinstance(message, Relay):
        problem = _cannot_join(core, message.host)
        if problem:
            answer = Relay(message.host, b"", problem)
            core.host_items(host.id).append((answer, b""))
        else:
            core.instruct(JoinPeers(message.host, asker=host.id))


def _cannot_join(core: Core, number: int) -> str:
    host = core.hosts.get(number)
    if host is None:
        return f"host {number} is gone"
    return "" if host.has_store else f"host {host.name} has no store"


# ------------------------------------------------------------------------------- tasks


def done(core: Core, host: Host, task: Task, message: Done, finished: Finished) -> Finished:
    """A task that needed objects, or made one, has ended.

    Returns:
        ``finished``, with the object that is the result.
    """
    objects = core.objects
    if message.object:
        finished = msgspec.structs.replace(
            finished, object=message.object, length=message.length, host=host.id
        )
        objects.made(message.object, message.length, host.id)
        session = core.sessions[task.session]
        if session.attached and not core.watchers:  # else it depends on who gets the result
            objects.refer(session.id, message.object)
    if task.message.needs:
        objects.need_no_more(task.id, task.message.needs)
    return finished


def settle(core: Core) -> None:
    """Bring the directory in order after a batch of events, and say what follows."""
    objects = core.objects
    objects.settle()
    while objects.missing:
        missing, objects.missing = objects.missing, []
        for number, text in missing:
            task = core.tasks.get(number)
            if task is not None and task.state in QUEUED:
                core.end_queued(task, Outcome.LOST, Reason("object", text[:4000]))
        objects.settle()
    for place, message in objects.take_out():
        if place < 0:
            session = core.sessions.get(-place)
            if session is not None and session.attached:
                core.client_items(session.id).append((message, b""))
        elif (host := core.hosts.get(place)) is not None:
            if type(message) is Source and message.host:
                _introduce(core, message.host, host)
            core.host_items(place).append((message, b""))


def _introduce(core: Core, number: int, to: Host) -> None:
    """Tell a host how to reach the store of another one, the first time that it needs it."""
    if number in to.told:
        return
    access = core.hosts[number].access_for(to.tub_id)
    if access is not None:
        to.told.add(number)
        core.host_items(to.id).append((access, b""))
