"""A host's store in memory, and the way to it: for tests of whoever uses stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ipkernel.errors import ConnectError, StoreFull, UnknownObject
from ipkernel.wire.messages import HostAccess


class FakeStore:
    """A StoreClient that keeps objects in a dictionary.

    Attributes:
        objects: The bytes by id.
        puts, gets, freed: What was asked for, in order.
        limit: Bytes that fit in.
        failure: Raised by every call, if it is set.
        gate: Transfers wait until it is set.
        step: Bytes between two reports of progress.
        entered: Is set when a transfer has begun.
        closed: Whether it was closed.
    """

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.puts: list[bytes] = []
        self.gets: list[bytes] = []
        self.freed: list[bytes] = []
        self.owners: dict[bytes, int] = {}
        self.pieces: dict[bytes, Sequence[Any]] = {}
        self.limit = 1 << 40
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.step = 1 << 16
        self.closed = False
        self.changed = threading.Condition()

    def _move(self, size: int, transfer: Any) -> None:
        if self.failure is not None:
            raise self.failure
        if transfer is not None:
            transfer.route = "fake"
            transfer.on_cancel(self.gate.set)
        self.entered.set()
        assert self.gate.wait(20), "nobody opened the gate"
        for start in range(0, size, self.step):
            if transfer is not None:
                transfer.advance(min(self.step, size - start))

    def put(self, object_id, pieces, size, *, owner, transfer=None):
        if self.failure is not None:
            raise self.failure
        if sum(map(len, self.objects.values())) + size > self.limit:
            raise StoreFull(f"there is no room for {size} bytes")
        self.puts.append(object_id)
        self._move(size, transfer)
        data = b"".join(pieces)
        assert len(data) == size
        with self.changed:
            self.objects[object_id] = data
            self.owners[object_id] = owner
            self.pieces[object_id] = list(pieces)
            self.changed.notify_all()

    def get(self, object_id, *, bringer=None, timeout=None, transfer=None):
        self.gets.append(object_id)
        if self.failure is not None:
            raise self.failure
        data = self.objects.get(object_id)
        if data is None:
            raise UnknownObject("the store does not have it")
        self._move(len(data), transfer)
        return memoryview(bytearray(data))

    def free(self, object_ids):
        for object_id in object_ids:
            self.freed.append(object_id)
            self.objects.pop(object_id, None)

    def wait_freed(self, object_id, timeout):
        return object_id not in self.objects

    def close(self):
        self.closed = True

    def wait_for(self, object_id: bytes, other: Callable[[], bool] = lambda: False) -> bool:
        """Wait until an object has been put here; False if ``other()`` came true instead."""
        with self.changed:
            assert self.changed.wait_for(lambda: object_id in self.objects or other(), 20)
        return object_id in self.objects


class FakeConnector:
    """Leads to fake stores, by host number.

    Attributes:
        stores: By host number.
        near_hosts: The hosts on this machine.
        refuse: Hosts to which nobody can connect.
        opened: (host, near) for each connection.
    """

    def __init__(self, near: Sequence[int] = (), far: Sequence[int] = ()) -> None:
        self.stores = {host: FakeStore() for host in (*near, *far)}
        self.near_hosts = set(near)
        self.refuse: set[int] = set()
        self.opened: list[tuple[int, bool]] = []

    def access(self, host: int, name: str = "") -> HostAccess:
        return HostAccess(host, name or f"n{host}", "tub", "pin", [], "local", "m", b"ticket")

    def is_near(self, access: HostAccess) -> bool:
        return access.host in self.near_hosts

    def near(self, access: HostAccess) -> FakeStore:
        return self._open(access, True)

    def far(self, access: HostAccess) -> FakeStore:
        return self._open(access, False)

    def _open(self, access: HostAccess, near: bool) -> FakeStore:
        self.opened.append((access.host, near))
        if access.host in self.refuse:
            raise ConnectError(f"host {access.name} refuses")
        return self.stores[access.host]
