"""Numbers of sessions and hosts, which are not given a second time: task ids contain those of sessions."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from ipkernel.controller.journal import LifeBegan

#: The highest number of a session: with a task's own count, ids have 62 bits.
LAST_SESSION: Final = (1 << 22) - 1
#: So many numbers are set aside in the journal at a time.
BLOCK: Final = 64


class Numbers:
    """Gives numbers that were used neither in this life of the controller nor before.

    Which were used is not known from what is left of sessions and hosts. So numbers are set aside, in the
    journal, before they are given; after a restart those that were set aside count as used. Only after
    four million sessions those begin again at 1, without those that are still known.

    Args:
        life: The number of this life of the controller.
        sessions: The highest number of a session that may have been used; 0 if nothing is known.
        hosts: The same of a host.
        note: Writes a record down with the next commit.
        now: Returns the time.
        known: Tells whether there is a session, or something of it, with a number.
    """

    def __init__(
        self,
        life: int,
        sessions: int,
        hosts: int,
        note: Callable[[LifeBegan], None],
        now: Callable[[], float],
        known: Callable[[int], bool],
    ) -> None:
        self._life = life
        # Hosts may outlive a controller that has no journal and report tasks of the last one, so
        # that two should not begin to count at the same number.
        self._session = sessions or secrets.randbelow(1 << 21)
        self._host = hosts
        self._note = note
        self._now = now
        self._known = known
        self._set_aside()

    def session(self) -> int:
        """Return a number for a session that begins now."""
        while True:
            self._session = self._session % LAST_SESSION + 1
            if not self._known(self._session):
                break
        if not self._sessions - BLOCK <= self._session <= self._sessions:
            self._set_aside()
        return self._session

    def host(self) -> int:
        """Return a number for a host that joins now."""
        self._host += 1
        if self._host > self._hosts:
            self._set_aside()
        return self._host

    def _set_aside(self) -> None:
        self._sessions = self._session + BLOCK
        self._hosts = self._host + BLOCK
        self._note(LifeBegan(self._life, self._now(), self._sessions, self._hosts))
