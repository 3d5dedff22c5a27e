"""What the scheduler wants done. The shell does it in order, after the journal has committed."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from ipkernel.controller.events import Item
from ipkernel.controller.journal import Record


class Commit(Struct, frozen=True, eq=False):
    """Write these to the journal before anything else is done."""

    records: list[Record]


class ToHost(Struct, frozen=True, eq=False):
    """Send these messages to a host, in order."""

    host: int
    items: list[Item]


class ToClient(Struct, frozen=True, eq=False):
    """Send these messages to the client of a session, in order."""

    session: int
    items: list[Item]


class ToAllClients(Struct, frozen=True, eq=False):
    """Send these messages to every client."""

    items: list[Item]


class DropClient(Struct, frozen=True, eq=False):
    """Close the channel of a client that broke the rules."""

    session: int
    reason: str


class SessionEnded(Struct, frozen=True, eq=False):
    """Nothing of this session is left."""

    session: int


class JoinPeers(Struct, frozen=True, eq=False):
    """Connect a client, or a host, with a host that it cannot reach directly.

    Attributes:
        host: Whom they want to reach.
        session: The client that asks, or 0.
        asker: The host that asks, or 0.
    """

    host: int
    session: int = 0
    asker: int = 0


class EnginesDrained(Struct, frozen=True, eq=False):
    """These engines, which are draining, have nothing to do any more, or are gone."""

    engines: list[int]


Instruction: TypeAlias = (
    Commit
    | ToHost
    | ToClient
    | ToAllClients
    | DropClient
    | SessionEnded
    | JoinPeers
    | EnginesDrained
)
