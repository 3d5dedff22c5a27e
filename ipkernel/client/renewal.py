"""What a controller that was started again has to be told of a session that goes on.

It knows what its journal has: functions and tasks. Of objects it knows what hosts and clients say,
and of questions nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from ipkernel.wire.link import Payload
from ipkernel.wire.messages import (
    MAX_LIST,
    Dependency,
    Fetch,
    Function,
    Held,
    Message,
    ObjectMade,
    Release,
    Resubmit,
    Submit,
)

if TYPE_CHECKING:
    from ipkernel.client.session import Session

T = TypeVar("T")

#: What is sent again if the journal does not have it; all other kinds follow from the present state.
_AGAIN = frozenset({Function, Submit, Resubmit, ObjectMade})


def items(
    session: Session, kept: Sequence[tuple[Message, Payload]]
) -> list[tuple[Message, Payload]]:
    """Return what is to be sent first, in order.

    Args:
        session: The session.
        kept: What was sent to the last controller, and is not known to this one.
    """
    objects = session.objects
    again = [
        (_with_ends(session, message), payload)
        for message, payload in kept
        if type(message) in _AGAIN
    ]
    made = dict.fromkeys(m.object for m, _ in again if isinstance(m, ObjectMade))
    ours = [one for one in objects.outbox.kept if one.id not in made]
    used = dict.fromkeys(objects.references.ids)
    # Objects live while something refers to them: for those that only tasks need, and which those
    # tasks are still to say, the session does so until they have.
    only_needed = dict.fromkeys([*(one.id for one in ours), *made])
    for message, _ in again:
        if isinstance(message, Submit):
            only_needed.update(dict.fromkeys(message.needs))
    lent = [one for one in only_needed if one not in used]
    told: list[Message] = [*_held([*used, *lent])]
    told += [ObjectMade(one.id, one.size, 0, session.number) for one in ours]
    asked: list[Message] = [
        # If one is not known, it must not be waited for.
        *_lists(Fetch, session.entrusted(again)),
        *session.cancels,
        *objects.unanswered,
        *_lists(Release, lent),
    ]
    return [*((m, b"") for m in told), *again, *((m, b"") for m in asked)]


def _with_ends(session: Session, message: Message) -> Message:
    """Say how tasks ended meanwhile that a task is to wait for: the controller may have forgotten."""
    if not isinstance(message, Submit) or (terms := message.terms) is None:
        return message
    after, follow = (_known(session, one) for one in (terms.after, terms.follow))
    if after is terms.after and follow is terms.follow:
        return message
    return replace(message, terms=replace(terms, after=after, follow=follow))


def _known(session: Session, wanted: Dependency | None) -> Dependency | None:
    if wanted is None:
        return None
    found = {task: session.find(task) for task in wanted.tasks}
    ended = [one.past for one in found.values() if one is not None and one.cell is not None]
    if not ended:
        return wanted
    left = [task for task, one in found.items() if one is None or one.cell is None]
    return replace(wanted, tasks=left, ended=[*wanted.ended, *ended])


def _held(objects: Sequence[bytes]) -> Iterator[Held]:
    for start in range(0, max(1, len(objects)), MAX_LIST):
        last = start + MAX_LIST >= len(objects)
        yield Held(list(objects[start : start + MAX_LIST]), [], last)


def _lists(kind: Callable[[list[T]], Message], things: Sequence[T]) -> Iterator[Message]:
    for start in range(0, len(things), MAX_LIST):
        yield kind(list(things[start : start + MAX_LIST]))
