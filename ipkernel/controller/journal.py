"""What is written down before the controller lets anybody know of it.

The rule: inbound event, transition, commit, and only then release what goes out. Records hold
references to the messages and payloads themselves, so to make one costs next to nothing; how they
are encoded is the business of the journal that keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from zope.interface import Interface, implementer

from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Message

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class SessionBegan(Struct, frozen=True, eq=False):
    """A client opened a session."""

    session: int
    time: float
    client: str


class SessionClosed(Struct, frozen=True, eq=False):
    """Nothing of this session is left: no client, no task, no result."""

    session: int
    time: float


class Submitted(Struct, frozen=True, eq=False):
    """What a client sent at once: submissions and functions with their payloads, in order.

    Other kinds of message among ``items`` need not be kept.
    """

    session: int
    time: float
    items: list[tuple[Message, Payload]]


class Ended(Struct, frozen=True, eq=False):
    """These tasks have ended, with these results."""

    time: float
    items: list[tuple[Finished, Payload]]


class Forgotten(Struct, frozen=True, eq=False):
    """The results of these tasks were acknowledged by a client, or kept long enough."""

    time: float
    tasks: list[int]


Record: TypeAlias = SessionBegan | SessionClosed | Submitted | Ended | Forgotten


class IJournal(Interface):
    """Keeps records, for longer than the process if it can."""

    def commit(records: Sequence[Record]) -> Deferred[None] | None:  # noqa: N805
        """Keep ``records``, all of them or none.

        Args:
            records: In the order in which things happened. The journal may keep references to
                them and to what is in them; nothing of that is changed later.

        Returns:
            None when they are safe already; otherwise a Deferred that fires when they are. Until
            it has fired nothing that follows from them leaves the controller, and ``commit`` is
            not called again.
        """


@implementer(IJournal)
class MemoryJournal:
    """A journal that keeps nothing but counts: a restart begins with an empty cluster.

    Attributes:
        commits: How often it was asked to commit.
        records: How many records it was given.
    """

    def __init__(self) -> None:
        self.commits = 0
        self.records = 0

    def commit(self, records: Sequence[Record]) -> None:
        """Count ``records``; nothing has to be waited for."""
        self.commits += 1
        self.records += len(records)
