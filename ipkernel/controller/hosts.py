# mypy: allow-untyped-calls
"""Host daemons that join, are lost for a moment, come back, and go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import structs
from twisted.internet.defer import Deferred, fail

from ipkernel.controller.absence import Absences, Absent
from ipkernel.controller.events import HostBack, HostFacts, HostJoined, Item
from ipkernel.controller.hostlink import HostLink
from ipkernel.controller.journal import HostCame
from ipkernel.controller.links import Link
from ipkernel.controller.restoring import REASON
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.errors import ConnectError
from ipkernel.wire.records import HostGrant, HostHello, Resumed
from ipkernel.wire.replay import Replay
from ipkernel.wire.tub import call, peer_tub_id

if TYPE_CHECKING:
    from ipkernel.controller.reviving import HostReviver

logger = logging.getLogger(__name__)


def plain(text: str) -> str:
    """Return what others said without anything that could forge a log line or a screen."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Hosts:
    """The hosts of a cluster, as far as they are about connections.

    Args:
        reactor: Twisted's reactor, or a Clock.
        scheduler: Knows engines and hosts.
        turn: Takes events.
        admit: Watches a peer's connection and returns a ticket for its channel.
        cluster: Name of the cluster.
        life: The number of this life of the controller.
        number: Returns a number for a host that was not used before.
        grace: Seconds within which a host may come back whose connection is lost.
        gone: Is called when the last connection to a host is lost.
        reviver: Starts host daemons again that were killed; None if nobody here does.

    Attributes:
        links: The connections by the hosts' numbers.
        absences: The hosts that are away.
    """

    def __init__(
        self,
        reactor: Any,
        scheduler: Scheduler,
        turn: Turn,
        admit: Callable[[Link, Any], bytes],
        *,
        cluster: str,
        life: int,
        number: Callable[[], int],
        grace: float,
        gone: Callable[[], None],
        reviver: HostReviver | None = None,
    ) -> None:
        self.links: dict[int, HostLink] = {}
        self.absences = Absences(reactor, turn, self._given_up)
        self._reactor = reactor
        self._scheduler = scheduler
        self._turn = turn
        self._admit = admit
        self._cluster = cluster
        self._life = life
        self._grace = grace
        self._gone = gone
        self._reviver = reviver
        self._number = number

    # --------------------------------------------------------------------------- joining

    def register(self, host: Any, hello: HostHello) -> Deferred[HostGrant]:
        """Let a host daemon join, or come back.

        Args:
            host: Its RIHost.
            hello: Who it is and which engines it has.

        Returns:
            Fires with its number, a ticket and its engine ids.
        """
        tub_id = peer_tub_id(host)
        self._displace(tub_id, hello)
        settled = self._turn.settled()
        return settled.addCallback(lambda _: self._register(host, hello, tub_id))

    def _displace(self, tub_id: str, hello: HostHello) -> None:
        """Let go of whatever else is known of a host that connects now."""
        number = hello.resume.number if hello.resume is not None else 0
        for link in [link for link in self.links.values() if link.tub_id == tub_id]:
            if link.host == number:
                link.lost("it has connected anew")
            else:
                link.lost("it registered anew", final=True)
        for absent in self.absences.of(tub_id):
            if absent.host != number:
                self.absences.give_up(absent, "it registered anew")

    def _register(self, host: Any, hello: HostHello, tub_id: str) -> Deferred[HostGrant]:
        self._displace(tub_id, hello)  # it may be in a hurry and have asked twice
        resume = hello.resume
        for absent in self.absences.of(tub_id):
            assert resume is not None
            same = resume.life == self._life and not absent.restored
            if not same:
                absent.replay = Replay()
            try:
                absent.replay.resume(resume.received if same else 0)
            except ValueError as error:
                logger.warning("host %d cannot go on: %s", absent.host, error)
                self.absences.give_up(absent, "it registered anew")
                settled = self._turn.settled()
                return settled.addCallback(lambda _: self._join(host, hello, tub_id))
            return self._come_back(host, hello, absent, same)
        return self._join(host, hello, tub_id)

    def _join(self, host: Any, hello: HostHello, tub_id: str) -> Deferred[HostGrant]:
        if hello.job_size:
            ids = self._scheduler.take_ids_for_ranks(hello.engines, hello.job, hello.job_size)
        else:
            ids = self._scheduler.take_ids(hello.slots, hello.engines)
        number = self._number()
        joined = self._joined(number, hello, ids, tub_id)
        self._turn.add(joined)
        if self._reviver is not None:
            self._reviver.joined(joined.name, hello.pid)
        ticket = self._connect(host, hello, number, tub_id, Replay())
        logger.info("host %s (pid %d) joined with engines %s", joined.name, hello.pid, ids)
        grant = self._grant(number, ticket, ids)
        return self._turn.settled().addCallback(lambda _: grant)

    def _come_back(
        self, host: Any, hello: HostHello, absent: Absent, same: bool
    ) -> Deferred[HostGrant]:
        number = absent.host
        ids = self._ids_of(number, hello)
        self.absences.take(absent)
        joined = self._joined(number, hello, ids, absent.tub_id)
        self._turn.add(HostBack(number, joined.now, ids, None if same else joined))
        ticket = self._connect(host, hello, number, absent.tub_id, absent.replay)
        logger.info("host %s (pid %d) is back with engines %s", joined.name, hello.pid, ids)
        grant = self._grant(number, ticket, ids)

        def granted(_: None) -> HostGrant:
            known = self._scheduler.hosts.get(number)
            taken = known.taken if known is not None and same else 0
            return structs.replace(grant, resumed=Resumed(same=same, taken=taken))

        return self._turn.settled().addCallback(granted)

    def _ids_of(self, number: int, hello: HostHello) -> list[int]:
        """Return the ids of a known host's engines, and new ones for those that have none."""
        known = self._scheduler.hosts[number].engines
        wanted = [*hello.engines, *[-1] * (hello.slots - len(hello.engines))][: hello.slots]
        own: dict[int, int] = {}  # its engines, each once, with their places
        for place, one in enumerate(wanted):
            if one in known:
                own.setdefault(one, place)
        others = [place for place, one in enumerate(wanted) if own.get(one) != place]
        fresh = self._scheduler.take_ids(len(others), [wanted[place] for place in others])
        for place, one in zip(others, fresh, strict=True):
            wanted[place] = one
        return wanted

    def _joined(self, number: int, hello: HostHello, engines: list[int], tub_id: str) -> HostJoined:
        facts = HostFacts(
            plain(hello.launcher),
            plain(hello.label),
            hello.left,
            hello.restarts,
            hello.job,
            hello.resources,
            hello.host_resources,
            self.absences.is_here(hello.host, hello.pid),
        )
        return HostJoined(
            number, plain(hello.host), hello.pid, engines, self._turn.now(), tub_id,
            hello.store, facts,
        )  # fmt: skip

    def _connect(
        self, host: Any, hello: HostHello, number: int, tub_id: str, replay: Replay
    ) -> bytes:
        link = HostLink(self._reactor, self._turn, self._ended, number, tub_id, replay, self._grace)
        self.links[number] = link
        self.absences.seen(number, hello.host, hello.pid)
        return self._admit(link, host)

    def _grant(self, number: int, ticket: bytes, engines: list[int]) -> HostGrant:
        return HostGrant(
            host_id=number, ticket=ticket, engines=engines, cluster=self._cluster, life=self._life
        )

    def restore(self, hosts: list[HostCame], seconds: float) -> None:
        """Wait so many seconds for hosts that the controller before this one had."""
        for came in hosts:
            self.absences.seen(came.host, came.name, came.pid, before=came.local)
            absent = Absent(came.host, came.tub_id, Replay(), REASON, restored=True)
            self.absences.begin(absent, seconds)

    # ----------------------------------------------------------------------------- going

    def _ended(self, link: HostLink) -> None:
        if self.links.get(link.host) is link:
            del self.links[link.host]
        if link.may_return:
            logger.info("host %d is away: %s", link.host, link.reason)
            absent = Absent(link.host, link.tub_id, link.replay, link.reason, restored=False)
            self.absences.begin(absent, self._grace)
        else:
            logger.info("host %d is gone: %s", link.host, link.reason)
            self.absences.forget(link.host)
            self._revive(link.host)
        if not self.links:
            self._gone()

    def _given_up(self, host: int) -> None:
        logger.info("host %d did not come back", host)
        self._revive(host)

    def _revive(self, number: int) -> None:
        """A host is lost for good: have its daemon started again with the engines that are to stay."""
        host = self._scheduler.hosts.get(number)
        if self._reviver is not None and host is not None:
            stay = [e.id for e in host.engines.values() if not (e.ending or e.draining)]
            self._reviver.lost(host.name, host.pid, stay)

    def close(self, reason: str) -> None:
        """End all connections, and wait for nobody."""
        for link in list(self.links.values()):
            link.lost(reason, final=True)
        for absent in self.absences.all():
            self.absences.give_up(absent, reason)

    # ----------------------------------------------------------------------------- using

    def deliver(self, host: int, items: list[Item]) -> None:
        """Send messages to a host, now or when it is back."""
        link = self.links.get(host)
        if link is not None:
            link.deliver(items)
        else:
            self.absences.deliver(host, items)

    def call(self, host: int, method: str, request: bytes) -> Deferred[bytes]:
        """Call a method of a host's door."""
        link = self.links.get(host)
        if link is None or link.reference is None:
            return fail(ConnectError("the host is not connected"))
        return call(link.reference, method, request)

    def name(self, host: int) -> str:
        """Return what people call a host."""
        known = self._scheduler.hosts.get(host)
        return f"host {known.name if known is not None else host}"
