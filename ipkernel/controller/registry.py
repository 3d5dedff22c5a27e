"""The hosts of a cluster, their engines, and the ids that engines have."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from ipkernel.controller.events import HostFacts
from ipkernel.controller.slots import Engine
from ipkernel.objects.tickets import make_ticket
from ipkernel.wire.messages import HostAccess, Vitals
from ipkernel.wire.records import StoreAccess


class Ids:
    """Small numbers, the lowest free one first."""

    __slots__ = ("_free", "_next", "_taken")

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._next = 0

    def take(self, count: int, wanted: Iterable[int] = ()) -> list[int]:
        """Take ids: those of ``wanted`` that are free, then the lowest free ones.

        Args:
            count: How many.
            wanted: Ids that an engine already goes by; no more than ``count`` are looked at.

        Returns:
            ``count`` ids; a wanted one stands where it stood in ``wanted``.
        """
        ids: list[int] = []
        for number in list(wanted)[:count]:
            if number < 0 or number in self._taken:
                ids.append(-1)
            else:
                self._taken.add(number)
                ids.append(number)
        ids += [-1] * (count - len(ids))
        return [number if number >= 0 else self._lowest() for number in ids]

    def free(self, number: int) -> None:
        """Give an id back."""
        if number in self._taken:
            self._taken.remove(number)
            if number < self._next:
                heappush(self._free, number)

    def _lowest(self) -> int:
        while self._free:
            number = heappop(self._free)
            if number not in self._taken:
                self._taken.add(number)
                return number
        while self._next in self._taken:
            self._next += 1
        self._taken.add(self._next)
        self._next += 1
        return self._next - 1


class Host:
    """One host daemon that is connected.

    Attributes:
        id: Its number in this cluster.
        name: Host name.
        pid: Process id of the daemon.
        since: When it came.
        engines: Its engines by id.
        known: Digests of the functions that were sent to it.
        told: Numbers of the hosts whose stores it was told how to reach.
        tub_id: Its TubID.
        facts: What it said of itself besides.
        ends: When its walltime is over, or 0.0.
        draining: Why its engines get nothing more, or empty.
        vitals: What the daemon used when it was measured last, or None.
    """

    __slots__ = (
        "_store", "draining", "ends", "engines", "facts", "id", "known", "name", "pid", "since",
        "told", "tub_id", "vitals",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        name: str,
        pid: int,
        now: float,
        tub_id: str = "",
        store: StoreAccess | None = None,
        facts: HostFacts = HostFacts(),  # noqa: B008 - it is immutable
    ) -> None:
        self.id = number
        self.name = name
        self.pid = pid
        self.since = now
        self.engines: dict[int, Engine] = {}
        self.known: set[bytes] = set()
        self.told: set[int] = set()
        self.tub_id = tub_id
        self.facts = facts
        self.ends = now + facts.left if facts.left else 0.0
        self.draining = ""
        self.vitals: Vitals | None = None
        self._store = store  # with a secret: only tickets made of it leave this object

    @property
    def has_store(self) -> bool:
        """Whether it has a store that others may use."""
        return self._store is not None

    def access_for(self, tub_id: str) -> HostAccess | None:
        """Return how a peer reaches this host's store, with a ticket for that peer only."""
        store = self._store
        if store is None:
            return None
        ticket = make_ticket(store.key, tub_id)
        return HostAccess(
            self.id, self.name, self.tub_id, store.pin,
            store.hints, store.local, store.machine, ticket,
        )  # fmt: skip
