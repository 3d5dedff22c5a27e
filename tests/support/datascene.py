"""A store with its data port in this process, and stores on the other side of it: for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ipkernel.objects.dataport import DataPort
from ipkernel.objects.dialing import Unreachable
from ipkernel.objects.interfaces import ObjectInfo
from ipkernel.objects.memory import make_memory
from ipkernel.objects.remote import RemoteStore
from ipkernel.objects.store import HostStore
from ipkernel.objects.tickets import make_key, make_ticket
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import HostAccess
from tests.support.reactor import reactor, run_in_reactor

QUICK = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Pauses between attempts to connect, in seconds, for those who have no time."""


class DataScene:
    """A host with a store and a data port, and clients of it.

    Attributes:
        store: The store.
        port: Its data port.
        identity: That of the host.
        key: The store's key.
    """

    def __init__(self, limit: int = 256 << 20, **options: Any) -> None:
        self.identity = Identity.create()
        self.key = make_key()
        self._clients: list[RemoteStore] = []

        def start() -> None:
            self.store = HostStore(reactor(), make_memory(), limit=limit)
            self.port = DataPort(reactor(), self.identity, self.store, self.key, **options)
            self.port.start()

        run_in_reactor(start)

    def access(self, client: Identity, port: int | None = None, **changes: Any) -> HostAccess:
        """Return what a client is told of this host, at another port if one is given."""
        from ipkernel.wire.addresses import machine_id

        hints = self.port.hints if port is None else [f"tcp:127.0.0.1:{port}"]
        fields = {
            "host": 1,
            "name": "n1",
            "tub_id": self.identity.tub_id,
            "pin": self.identity.pin,
            "hints": hints,
            "machine": machine_id(),
            "ticket": make_ticket(self.key, client.tub_id),
        }
        return HostAccess(**{**fields, **changes})

    def client(
        self,
        *,
        port: int | None = None,
        identity: Identity | None = None,
        changes: dict[str, Any] | None = None,
        **options: Any,
    ) -> RemoteStore:
        """Return access to the store."""
        identity = identity or Identity.create()
        defaults = {"pauses": QUICK, "unreachable": Unreachable(), "streams": 1}
        options = {**defaults, "compression": "off", **options}
        access = self.access(identity, port, **(changes or {}))
        client = RemoteStore(access, identity, **options)
        self._clients.append(client)
        return client

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something in the reactor's thread."""
        return run_in_reactor(lambda: function(*args))

    def keep(self, object_id: bytes, data: bytes, digest: bytes = b"") -> None:
        """Put an object into the store as its neighbours do."""

        async def write() -> None:
            place = await self.store.create(object_id, len(data), owner=1, writer="test")
            self.store.view(place)[:] = data
            self.store.seal(object_id, digest)

        run_in_reactor(write)

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """Return what the store knows of an object."""
        found: ObjectInfo | None = self.call(self.store.info, object_id)
        return found

    def bytes_of(self, object_id: bytes) -> bytes:
        """Return an object's bytes, without a connection."""

        async def read() -> bytes:
            place = await self.store.lease(object_id, "test")
            data = bytes(self.store.view(place))
            self.store.release(object_id, "test")
            return data

        data: bytes = run_in_reactor(read)
        return data

    def close(self) -> None:
        """End everything."""
        for client in self._clients:
            client.close()
        self.call(self.port.stop)
        self.call(self.store.close)


@contextmanager
def data_scene(**options: Any) -> Iterator[DataScene]:
    """Have a :class:`DataScene` for a while."""
    scene = DataScene(**options)
    try:
        yield scene
    finally:
        scene.close()
