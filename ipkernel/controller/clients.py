"""Sessions that begin, are held up and lose their client."""

from __future__ import annotations

from collections import deque

from ipkernel.controller import holdings
from ipkernel.controller.core import Core
from ipkernel.controller.events import (
    Item,
    SessionDetached,
    SessionHeld,
    SessionOpened,
    SessionResumed,
    Undelivered,
)
from ipkernel.controller.journal import SessionBegan
from ipkernel.controller.sessions import Session
from ipkernel.controller.tasks import QUEUED, Task
from ipkernel.wire.messages import Finished, Output


def opened(core: Core, event: SessionOpened) -> None:
    """A client has come."""
    session = Session(event.session, event.client, event.now, event.tub_id)
    session.inside = event.inside
    core.sessions[event.session] = session
    core.records.append(SessionBegan(event.session, event.now, event.client, event.tub_id))
    holdings.client_came(core, core.sessions[event.session])


def resumed(core: Core, event: SessionResumed) -> None:
    """A client has come back: what was kept for it goes to it, and it is as it was."""
    session = core.sessions.get(event.session)
    if session is None or session.attached:
        return
    session.attached = True
    session.until = 0.0
    if event.client:
        session.client = event.client
    holdings.client_came(core, session)
    kept = core.retained
    core.hand_over(session.id, kept.take([task for task in kept if task >> 40 == session.id]))
    items = core.client_items(session.id)
    for task in kept.with_output(session.id):
        items += kept.take_output(task)


def detached(core: Core, event: SessionDetached) -> None:
    """A client has gone: what it did not take is kept, and its tasks go on."""
    session = core.sessions.get(event.session)
    if session is None or not session.attached:
        return
    _set_held(core, session, False)
    session.attached = False
    decided = core.client_items(session.id)  # before it was known that nobody takes it
    undelivered = [*event.undelivered, *decided]
    decided.clear()
    holdings.client_went(core, session)
    _keep(core, undelivered)
    for message, _ in undelivered:
        if isinstance(message, Finished) and message.object:  # it is kept with the result now
            core.objects.release(session.id, [message.object])
    for task in [t for t, watchers in core.watchers.items() if session.id in watchers]:
        core.watchers[task].remove(session.id)
        if not core.watchers[task]:
            del core.watchers[task]
    session.until = event.now + event.keep if event.keep else 0.0
    core.retire_if_over(session)


def expire(core: Core) -> None:
    """Let go of results, and of sessions, that were kept long enough."""
    core.forget(core.retained.expire(core.now))
    for session in [s for s in core.sessions.values() if s.until]:
        core.retire_if_over(session)


def undelivered(core: Core, event: Undelivered) -> None:
    """Results, and output, did not reach their client any more: keep them."""
    _keep(core, event.items)


def _keep(core: Core, items: list[Item]) -> None:
    """Keep what others may fetch."""
    for message, payload in items:
        if isinstance(message, Finished):
            core.retain(message, payload)
        elif isinstance(message, Output):
            core.forget(core.retained.keep_output(message, payload))


def held(core: Core, event: SessionHeld) -> None:
    """A client does not take its results, or does again."""
    session = core.sessions.get(event.session)
    if session is not None and session.attached:
        _set_held(core, session, event.held)


def _set_held(core: Core, session: Session, held: bool) -> None:
    if session.held == held:
        return
    session.held = held
    core.lines.hold(session.id, held)
    if held:
        _park(core, session)
    else:
        for task in core.parked.pop(session.id, []):
            engine = core.engines[task.target]
            engine.direct.append(task)
            core.pending[engine] = None


def _park(core: Core, session: Session) -> None:
    """Take the direct tasks of a session out of the queues of their engines, in order."""
    parked: list[Task] = []
    for engine in core.engines.values():
        mine = [t for t in engine.direct if t.session == session.id and t.state in QUEUED]
        if mine:
            parked += mine
            aside = set(mine)
            engine.direct = deque(t for t in engine.direct if t not in aside)
    if parked:
        core.parked[session.id] = parked
