# mypy: allow-untyped-calls
"""All clients: sessions are opened, and gone on with after a connection was lost."""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from ipkernel.controller.clientlink import CLIENT_GRACE, ClientLink
from ipkernel.controller.events import Item, SessionOpened, SessionResumed
from ipkernel.controller.hosts import plain
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.errors import ConnectError, ControllerLost
from ipkernel.vitals import process_lives
from ipkernel.wire.connect import peer_tub_id
from ipkernel.wire.records import ClientHello, Resume, Resumed

logger = logging.getLogger(__name__)

#: Sessions that one Tub may have open at a time.
MAX_SESSIONS: Final = 64
#: So many sessions are remembered that were ended for what their clients did.
MAX_DROPPED: Final = 1024


class Opened:
    """A session as it is granted.

    Attributes:
        number: Its number.
        ticket: For its channel.
        resumed: As in the grant.
    """

    def __init__(self, number: int, ticket: bytes, resumed: Resumed | None = None) -> None:
        self.number = number
        self.ticket = ticket
        self.resumed = resumed


class Clients:
    """All sessions that have a client, or whose client may come back as if nothing had been.

    Args:
        reactor: Twisted's reactor, or a Clock.
        scheduler: Knows the sessions.
        turn: Takes events.
        admit: Watches a peer's connection and returns a ticket for its channel.
        life: The number of this life of the controller.
        number: Returns a number for a session that was not used before.
        grace: Seconds that a client has for coming back.
        lives: Tells whether there is a process of this machine.
        cluster: Name of the cluster.

    Attributes:
        links: All links, by the number of their session.
    """

    def __init__(
        self,
        reactor: Any,
        scheduler: Scheduler,
        turn: Turn,
        admit: Callable[[ClientLink, Any], bytes],
        *,
        life: int,
        number: Callable[[], int],
        grace: float = CLIENT_GRACE,
        lives: Callable[[int], bool] = process_lives,
        cluster: str = "",
    ) -> None:
        self.links: dict[int, ClientLink] = {}
        self._cluster = cluster
        self._reactor = reactor
        self._scheduler = scheduler
        self._turn = turn
        self._admit = admit
        self._life = life
        self._grace = grace
        self._lives = lives
        self._away: dict[int, ClientLink] = {}
        self._dropped: OrderedDict[int, str] = OrderedDict()
        self._number = number

    # ------------------------------------------------------------------------- coming

    def open(self, client: Any, hello: ClientHello) -> Deferred[Opened]:
        """Open a session for a client, or let it go on with the one that it had.

        Args:
            client: Its RIClient.
            hello: Who it is.

        Returns:
            Fires with the session. It fails with :class:`~ipkernel.errors.ConnectError` when the
            client has too many, and with :class:`~ipkernel.errors.ControllerLost` when the one that
            it had was ended for what it did.
        """
        resume = hello.resume
        if resume is None:
            return self._begin(client, hello)
        if resume.number in self._dropped:
            return fail(ControllerLost(self._dropped[resume.number]))
        return self._go_on(client, hello, resume)

    def _begin(self, client: Any, hello: ClientHello) -> Deferred[Opened]:
        tub_id = peer_tub_id(client)
        if sum(known.tub_id == tub_id for known in self.links.values()) >= MAX_SESSIONS:
            text = f"this client has {MAX_SESSIONS} sessions open already: close some"
            return fail(ConnectError(text))
        number = self._number()
        who = _who(hello)
        link = self._link(number, tub_id, hello)
        self._turn.add(SessionOpened(number, self._turn.now(), who, tub_id, self._inside(hello)))
        ticket = self._admit(link, client)
        logger.info("session %d: %s", number, who)
        return self._turn.settled().addCallback(lambda _: Opened(number, ticket))

    def _inside(self, hello: ClientHello) -> int:
        """Return the engine of this cluster that a client is a part of, or -1."""
        return hello.engine if hello.within == self._cluster else -1

    def _link(
        self, number: int, tub_id: str, hello: ClientHello, *, resumed: bool = False
    ) -> ClientLink:
        here = hello.host == socket.gethostname() and self._lives(hello.pid)
        link = self.links[number] = ClientLink(
            self._reactor,
            self._turn,
            self._ended,
            number,
            self._scheduler.sessions.get,
            tub_id,
            resumed=resumed,
            patience=self._grace,
            is_gone=(lambda: not self._lives(hello.pid)) if here else (lambda: False),
            away=self._away,
        )
        return link

    def _go_on(self, client: Any, hello: ClientHello, resume: Resume) -> Deferred[Opened]:
        """Let a client go on with its session, which as far as is known may be connected still."""
        tub_id = peer_tub_id(client)
        number = resume.number
        known = self.links.get(number)
        if known is not None and known.tub_id == tub_id:
            known.lost("its client has connected anew")

        def settled(_: object) -> Opened | Deferred[Opened]:
            # What had arrived is safe now, and may have cost the client its session.
            if number in self._dropped:
                raise ControllerLost(self._dropped[number])
            session = self._scheduler.sessions.get(number)
            if session is None or session.tub_id != tub_id:
                return self._begin(client, hello)
            link = self.links.get(number)
            if link is not None and resume.life == self._life:
                try:
                    link.resume(resume.received)
                except ValueError as problem:
                    link.lost(f"it cannot go on: {problem}", final=True)
                    raise ControllerLost(f"the session cannot go on: {problem}") from None
                ticket = self._admit(link, client)
                logger.info("session %d: its client is back", number)
                return Opened(number, ticket, Resumed(same=True, taken=session.taken))
            if link is not None:
                link.give_up("its client comes from another life")
            self._turn.add(SessionResumed(number, self._turn.now(), _who(hello)))
            ticket = self._admit(self._link(number, tub_id, hello, resumed=True), client)
            logger.info("session %d: its client is back, after a long time", number)
            opened = Opened(number, ticket, Resumed(same=False, taken=session.taken))
            return self._turn.settled().addCallback(lambda _: opened)

        return self._turn.settled().addCallback(settled)

    # -------------------------------------------------------------------------- going

    def _ended(self, link: ClientLink) -> None:
        if self.links.get(link.number) is link:
            del self.links[link.number]
        logger.info("session %d: its client is gone: %s", link.number, link.reason)

    def drop(self, number: int, reason: str) -> None:
        """End the session of a client that broke the rules."""
        link = self.links.get(number)
        if link is not None:
            logger.warning("session %d is dropped: %s", number, reason)
            self._dropped[number] = f"the controller has ended this session: {reason}"
            if len(self._dropped) > MAX_DROPPED:
                self._dropped.popitem(last=False)
            link.lost(reason, final=True)

    def close(self, reason: str) -> None:
        """End all connections, and wait for nobody."""
        for link in list(self.links.values()):
            link.lost(reason, final=True)

    # -------------------------------------------------------------------------- using

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return len(self.links) - len(self._away)

    def deliver(self, number: int, items: list[Item]) -> None:
        """Send messages to the client of a session, now or when it is back."""
        link = self.links.get(number)
        if link is not None:
            link.deliver(items)
        else:  # it went after this was decided; the scheduler is about to learn of it
            ClientLink.give_back(self._turn, items)

    def deliver_to_all(self, items: list[Item]) -> None:
        """Send messages to all clients."""
        for link in list(self.links.values()):
            link.deliver(items)

    def acknowledge_late(self) -> None:
        """Acknowledge what had to wait, where it need not any more."""
        for link in self.links.values():
            if link.owes:
                link.acknowledge()


def _who(hello: ClientHello) -> str:
    return plain(f"{hello.user or 'somebody'} on {hello.host or '?'} (pid {hello.pid})")
