"""A store in memory with leases and waiting, and what tests of flows want to know of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence

from ipkernel.errors import ConnectError, StoreFull, UnknownObject
from ipkernel.objects.interfaces import TRANSIENT, Buffer
from ipkernel.objects.transfer import Transfer


class _Memory(bytearray):
    """Bytes that can be referred to weakly: the lease ends when the last view of them is gone."""

    __slots__ = ("__weakref__",)


class FlowStore:
    """A ``StoreClient`` with a dictionary. Blocking; callable from any thread.

    Args:
        limit: Bytes that fit into it.
        patience: Real seconds that any wait with a time limit takes at most, however long it is to be: so
            tests do not wait for time to pass.

    Attributes:
        objects: What is there, by id.
        owners: The session of each.
        most: The most bytes and the most objects that were ever there.
        puts: How many objects were put.
        broken: Set to make every call raise ConnectError.
        gone: Sessions that bring no more objects.
        leases: How often each object is being looked at.
        changed: Is notified when anything changes.
    """

    def __init__(self, limit: int = 1 << 40, patience: float = 0.02) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.owners: dict[bytes, int] = {}
        self.puts = 0
        self.most = (0, 0)
        self.broken = False
        self.gone: set[int] = set()
        self._limit = limit
        self._patience = patience
        self.leases: Counter[bytes] = Counter()
        self.changed = threading.Condition()

    # ------------------------------------------------- StoreClient

    def put(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        *,
        owner: int,
        transfer: Transfer | None = None,
    ) -> None:
        data = b"".join(pieces)
        assert len(object_id) == 16 and len(data) == size
        if transfer is not None:
            transfer.advance(size)
        with self.changed:
            self._check()
            if object_id in self.objects:
                return
            if owner - TRANSIENT in self.gone:
                raise UnknownObject("its session is gone")
            if self.bytes + size > self._limit:
                raise StoreFull(f"{size} bytes do not fit")
            self.objects[object_id] = data
            self.owners[object_id] = owner
            self.puts += 1
            self.most = (max(self.most[0], self.bytes), max(self.most[1], len(self.objects)))
            self.changed.notify_all()

    def get(
        self,
        object_id: bytes,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
        transfer: Transfer | None = None,
    ) -> memoryview:
        def there() -> bool:
            return object_id in self.objects

        with self.changed:
            self._check()
            if not there():
                if bringer is None:
                    raise UnknownObject("there is no such object")
                self._wait(lambda: there() or bringer in self.gone, timeout)
                if not there():
                    if bringer in self.gone:
                        raise UnknownObject("its bringer is gone")
                    raise TimeoutError("it did not come in time")
            memory = _Memory(self.objects[object_id])
            self.leases[object_id] += 1
        weakref.finalize(memory, self._release, object_id).atexit = False
        if transfer is not None:
            transfer.advance(len(memory))
        return memoryview(memory)

    def free(self, object_ids: Sequence[bytes]) -> None:
        with self.changed:
            self._check()
            self._forget(object_ids)

    def wait_freed(self, object_id: bytes, timeout: float) -> bool:
        with self.changed:
            self._check()
            self._wait(lambda: object_id not in self.objects, timeout)
            return object_id not in self.objects

    def close(self) -> None:
        self.break_down()

    # ------------------------------------------------- for tests

    @property
    def bytes(self) -> int:
        """How many bytes are there."""
        return sum(map(len, self.objects.values()))

    @property
    def leased(self) -> int:
        """How many leases there are."""
        return sum(self.leases.values())

    def session_gone(self, session: int) -> None:
        """This session brings no more objects."""
        with self.changed:
            self.gone.add(session)
            self._forget([o for o, owner in self.owners.items() if owner == session + TRANSIENT])

    def break_down(self) -> None:
        """Fail all calls from now on, those that wait included."""
        with self.changed:
            self.broken = True
            self.changed.notify_all()

    def wait_for(self, ready) -> None:
        """Wait until something is so of what is there."""
        with self.changed:
            assert self.changed.wait_for(lambda: ready(self), 20)

    # ------------------------------------------------- how it works

    def _check(self) -> None:
        if self.broken:
            raise ConnectError("the store is gone")

    def _wait(self, ready, timeout: float | None) -> None:
        deadline = time.monotonic() + min(
            self._patience if timeout is None else timeout, self._patience
        )
        while not ready():
            left = deadline - time.monotonic()
            if timeout is not None and left <= 0:
                return
            self.changed.wait(None if timeout is None else left)
            self._check()

    def _release(self, object_id: bytes) -> None:
        with self.changed:
            self.leases[object_id] -= 1

    def _forget(self, object_ids: Sequence[bytes]) -> None:
        for object_id in object_ids:
            self.objects.pop(object_id, None)
            self.owners.pop(object_id, None)
        self.changed.notify_all()
