"""A host's store with a controller and other hosts that are lists; the test moves everything."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from ipkernel.errors import ConnectError
from ipkernel.host.objects import HostObjects
from ipkernel.objects.memory import make_memory
from ipkernel.objects.store import HostStore
from ipkernel.objects.transfer import Transfer
from ipkernel.wire.messages import HostAccess, Placed

SIZE = 10_000
LIMIT = 1 << 20


def oid(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Require:
    """What has become of a requirement."""

    def __init__(self, deferred: Deferred[list[Placed]]) -> None:
        self.deferred = deferred
        self.placed: list[Placed] | None = None
        self.error: Exception | None = None
        deferred.addCallbacks(self._there, self._failed)

    def _there(self, placed: list[Placed]) -> None:
        self.placed = placed

    def _failed(self, failure: Any) -> None:
        self.error = failure.value

    @property
    def open(self) -> bool:
        return self.placed is None and self.error is None


class Fetch:
    """One fetch that the test ends."""

    def __init__(
        self, access: HostAccess, object_id: bytes, target: memoryview, transfer: Transfer
    ):
        self.access, self.object_id, self.target, self.transfer = (
            access,
            object_id,
            target,
            transfer,
        )
        self.done: Deferred[bytes] = Deferred()

    def succeed(self) -> None:
        self.target[:] = self.object_id[-1:] * len(self.target)
        self.target.release()
        self.done.callback(b"digest of 16 byt")

    def fail(self, error: Exception | None = None) -> None:
        self.target.release()
        self.done.errback(error or ConnectError("it does not answer"))


class Scene:
    """A real store, a controller that is a list, and fetches that wait for the test."""

    backlog = 0

    def __init__(self, limit: int = LIMIT) -> None:
        self.sent: list[Any] = []
        self.fetches: list[Fetch] = []
        self.forgotten: list[int] = []
        self.clock = Clock()
        self.store = HostStore(
            self.clock,
            make_memory(),
            limit=limit,
            defer_to_thread=lambda function, *args: succeed(function(*args)),
            segment_size=1 << 18,
        )
        self.objects = HostObjects(self.clock, self.store, self, self)
        self.objects.searches.number = 1
        for host in (2, 3):
            self.say(HostAccess(host, f"n{host}", "tub", "pin"))

    # the uplink

    def send(self, message: Any, payload: Any = b"") -> None:
        self.sent.append(message)

    # the fetches

    def fetch(
        self, access: HostAccess, object_id: bytes, target: memoryview, transfer: Transfer
    ) -> Deferred[bytes]:
        self.fetches.append(Fetch(access, object_id, target, transfer))
        return self.fetches[-1].done

    def forget(self, host: int) -> None:
        self.forgotten.append(host)

    # for tests

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.objects.handle(message)

    def require(self, *ids: bytes, holder: str = "e", owner: int = 5) -> Require:
        return Require(self.objects.require(ids, holder, owner))

    def put(self, object_id: bytes, size: int = SIZE, writer: str = "client") -> Any:
        made: list[Any] = []
        self.store.create(object_id, size, owner=5, writer=writer).addCallback(made.append)
        self.store.view(made[0])[:] = object_id[-1:] * size
        return made[0]

    def has(self, object_id: bytes) -> None:
        self.put(object_id)
        self.store.seal(object_id)

    def leases(self, object_id: bytes) -> int:
        info = self.store.info(object_id)
        return info.leases if info is not None else 0

    def close(self) -> None:
        for fetch in self.fetches:
            fetch.target.release()
        self.store.close()

    def quiet(self) -> bool:
        """Whether nothing is leased, and nobody waits."""
        stats = self.store.stats()
        return stats.leased == 0 and stats.waiting == 0 and not self.objects.searches
