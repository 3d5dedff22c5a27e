"""The hosts of a cluster, their engines, and the ids that engines have."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from msgspec import Struct

from ipkernel.controller.demands import parts_of
from ipkernel.controller.events import HostFacts, HostJoined
from ipkernel.controller.slots import Engine
from ipkernel.controller.tasks import clock
from ipkernel.errors import ConnectError
from ipkernel.objects.tickets import make_ticket
from ipkernel.wire.messages import MAX_ENGINES, HostAccess, Vitals
from ipkernel.wire.records import StoreAccess


class Ids:
    """Small numbers, the lowest free one first."""

    __slots__ = ("_blocks", "_free", "_next", "_taken")

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._blocks: dict[str, range] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, count: int, wanted: Iterable[int] = ()) -> list[int]:
        """Take ids: those of ``wanted`` that are free, then the lowest free ones.

        Args:
            count: How many.
            wanted: Ids that an engine already goes by; no more than ``count`` are looked at.

        Returns:
            ``count`` ids; a wanted one stands where it stood in ``wanted``.

        Raises:
            ConnectError: There are not so many left.
        """
        ids: list[int] = []
        for number in list(wanted)[:count]:
            if number < 0 or number in self._taken:
                ids.append(-1)
            else:
                self._taken.add(number)
                ids.append(number)
        ids += [-1] * (count - len(ids))
        taken = [number if number >= 0 else self._lowest() for number in ids]
        if max(taken, default=0) >= MAX_ENGINES:
            for number in taken:
                self.free(number)
            raise _full()
        return taken

    def take_ranks(self, ranks: list[int], job: str, size: int) -> list[int]:
        """Take ids for some ranks of an MPI job: the ranks themselves, or a like distance further.

        The first who asks for a job has ids for all of it kept free, until all that were taken of
        them are given back.

        Args:
            ranks: Which ranks, less than ``size``.
            job: The job.
            size: How many ranks it has in all.

        Raises:
            ConnectError: There are not so many left, or those are not its ranks.
        """
        if not all(0 <= rank < size for rank in ranks):
            raise ConnectError(f"an MPI job of {size} ranks has no others than these")
        if not ranks:
            return []
        block = self._blocks.get(job)
        if block is None:
            first = 0
            for number in sorted({*self._taken, *(n for b in self._blocks.values() for n in b)}):
                if number >= first + size:
                    break
                first = number + 1
            if first + size > MAX_ENGINES:
                raise _full()
            block = self._blocks[job] = range(first, first + size)
        return self.take(len(ranks), [block.start + rank for rank in ranks])

    def free(self, number: int) -> None:
        """Give an id back."""
        if number in self._taken:
            self._taken.remove(number)
            if number < self._next:
                heappush(self._free, number)
            if self._blocks:
                self._open_blocks()

    def _open_blocks(self) -> None:
        """Keep no ids free for jobs that have ended."""
        for job, block in list(self._blocks.items()):
            if self._taken.isdisjoint(block):
                del self._blocks[job]
                for number in range(block.start, min(block.stop, self._next)):
                    heappush(self._free, number)  # some may be there twice, which does no harm

    def _lowest(self) -> int:
        kept: list[int] = []
        found = -1
        while self._free and found < 0:
            number = heappop(self._free)
            if self._is_kept(number):
                kept.append(number)
            elif number not in self._taken:
                found = number
        for number in kept:
            heappush(self._free, number)
        while found < 0:
            if self._next not in self._taken and not self._is_kept(self._next):
                found = self._next
            self._next += 1
        self._taken.add(found)
        return found

    def _is_kept(self, number: int) -> bool:
        return any(number in block for block in self._blocks.values())


def _full() -> ConnectError:
    return ConnectError(f"a cluster has at most {MAX_ENGINES} engines, and this one is full")


class Absence(Struct, frozen=True):
    """A host is away: its connection is lost, and it may come back.

    Attributes:
        since: When it was lost.
        until: When the host is given up.
        reason: Why it was lost.
    """

    since: float
    until: float
    reason: str

    def __str__(self) -> str:
        return (
            f"its host is away since {clock(self.since)} ({self.reason[:1000]}); "
            f"it has until {clock(self.until)} to come back"
        )


class Host:
    """One host daemon that is connected, or may come back.

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
        each: Parts of each resource that one of its engines has.
        shared: Parts of each resource that all of them have together.
        used: Parts of the latter that tasks use.
        vitals: What the daemon used when it was measured last, or None.
        taken: How many of its messages were dealt with.
        away: Why, and how long, it may be away; None while it is connected.
        unsaid: After a restart of the controller, the tasks of which the host has not said yet
            whether it has them; None when it has said all.
    """

    __slots__ = (
        "_store", "away", "draining", "each", "ends", "engines", "facts", "id", "known", "name",
        "pid", "shared", "since", "taken", "told", "tub_id", "unsaid", "used", "vitals",
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
        self.each = parts_of(facts.resources)
        self.shared = parts_of(facts.shared)
        self.used: dict[str, int] = {}
        self.vitals: Vitals | None = None
        self.taken = 0
        self.unsaid: set[int] | None = None
        self.away: Absence | None = None
        self._store = store  # with a secret: only tickets made of it leave this object

    def renew(self, said: HostJoined) -> None:
        """Take what a host says of itself to a controller that was started again."""
        self.name = said.name
        self.pid = said.pid
        self.known = set()
        self.told = set()
        self.facts = said.facts
        self.ends = said.now + said.facts.left if said.facts.left else 0.0
        self.draining = ""
        self.each = parts_of(said.facts.resources)
        self.shared = parts_of(said.facts.shared)
        self.used = {}
        self.vitals = None
        self.taken = 0
        self._store = said.store

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
