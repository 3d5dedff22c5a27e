"""Tickets: the right to open one channel, handed out by a door, bound to one peer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from ipkernel.wire.channel import Channel

#: Bytes in a ticket.
TICKET_SIZE: Final = 32
#: At most so many tickets are good at a time; the oldest gives way.
MAX_TICKETS: Final = 10_000


class Clock(Protocol):
    """What is needed of a reactor: the time."""

    def seconds(self) -> float:
        """Return a time in seconds that never goes back."""


@frozen
class Ticket:
    """What a ticket is good for.

    Attributes:
        tub_id: The only peer that may use it.
        expires: When it ends, in seconds of the clock.
        make_channel: Makes the server's end of the channel.
        opened: Is called with that end when the peer is there, ahead of any message.
    """

    tub_id: str
    expires: float
    make_channel: Callable[[], Channel]
    opened: Callable[[Channel], None]


class Tickets:
    """The tickets that are good now.

    Args:
        clock: Tells the time.
        limit: The most that are kept.
    """

    def __init__(self, clock: Clock, limit: int = MAX_TICKETS) -> None:
        self._clock = clock
        self._limit = limit
        self._tickets: dict[bytes, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def issue(
        self,
        tub_id: str,
        opened: Callable[[Channel], None],
        make_channel: Callable[[], Channel],
        lifetime: float,
    ) -> bytes:
        """Return a new ticket for ``tub_id``, good for ``lifetime`` seconds and one channel."""
        if len(self._tickets) >= self._limit:
            self._make_room()
        ticket = os.urandom(TICKET_SIZE)
        expires = self._clock.seconds() + lifetime
        self._tickets[ticket] = Ticket(tub_id, expires, make_channel, opened)
        return ticket

    def redeem(self, ticket: bytes, tub_id: str) -> Ticket | None:
        """Take a ticket out.

        Returns:
            What it is good for, or None when it is unknown, used, expired or another
            peer's. A ticket shown by the wrong peer stays good for the right one.
        """
        found = self._tickets.get(ticket)
        if found is None or found.tub_id != tub_id:
            return None
        del self._tickets[ticket]
        return found if self._clock.seconds() <= found.expires else None

    def owner(self, ticket: bytes) -> str:
        """Return the peer that may use a ticket; empty if it is not known."""
        found = self._tickets.get(ticket)
        return "" if found is None else found.tub_id

    def revoke(self, ticket: bytes) -> None:
        """Make a ticket worthless; one that is not known is so already."""
        self._tickets.pop(ticket, None)

    def _make_room(self) -> None:
        now = self._clock.seconds()
        self._tickets = {t: v for t, v in self._tickets.items() if v.expires >= now}
        while len(self._tickets) >= self._limit:
            del self._tickets[next(iter(self._tickets))]
