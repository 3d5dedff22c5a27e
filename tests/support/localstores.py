"""A host's store with its local server in the test reactor, and blocking clients of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ipkernel.objects import new_object_id
from ipkernel.objects.interfaces import ObjectInfo
from ipkernel.objects.local import LocalStore
from ipkernel.objects.localserver import LocalServer
from ipkernel.objects.memory import NamedMemory, NativeMemory
from ipkernel.objects.store import HostStore
from ipkernel.objects.tickets import make_key, make_ticket
from ipkernel.wire.addresses import native_sockets
from tests.support.reactor import reactor, run_in_reactor

__all__ = ["Served", "in_thread", "native_sockets"]


class Served:
    """A store that processes of this machine can use.

    Args:
        native: Descriptors through a UNIX socket, or names through the loopback interface.
        limit: Bytes of memory.
        spill: Room on disk.
    """

    def __init__(self, *, native: bool, limit: int = 64 << 20, spill: Any = None) -> None:
        self.native = native
        self.key = make_key()
        self.clients: list[LocalStore] = []

        def start() -> tuple[HostStore, LocalServer]:
            memory = NativeMemory() if native else NamedMemory()
            store = HostStore(reactor(), memory, limit=limit, spill=spill, segment_size=4 << 20)
            return store, LocalServer(reactor(), store, self.key, native=native)

        self.store, self.server = run_in_reactor(start)

    def client(self, subject: str = "client") -> LocalStore:
        """Return a new client, which is closed at the end."""
        client = LocalStore(self.server.address, subject, make_ticket(self.key, subject))
        self.clients.append(client)
        return client

    def close(self) -> None:
        """End everything."""
        for client in self.clients:
            client.close()
        self.clients.clear()

        def stop() -> None:
            self.server.close()
            self.store.close()

        run_in_reactor(stop)

    # what the store knows

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """Return what the store knows of an object."""
        info: ObjectInfo | None = run_in_reactor(lambda: self.store.info(object_id))
        return info

    def leases(self, object_id: bytes) -> int | None:
        """Return how many have leased an object; None if it is not known."""
        info = self.info(object_id)
        return None if info is None else info.leases

    def until(self, condition: Callable[[], Any], timeout: float = 10.0) -> None:
        """Wait, in the reactor, until something is so; it is looked at in each of its turns."""

        async def wait() -> None:
            from twisted.internet.task import deferLater

            end = reactor().seconds() + timeout
            while not condition():
                assert reactor().seconds() < end, "it did not happen"
                await deferLater(reactor(), 0.002)

        run_in_reactor(wait)

    def idle(self, object_id: bytes) -> None:
        """Wait until nobody has leased an object."""

        def unused() -> bool:
            info = self.store.info(object_id)
            return info is None or info.leases == 0

        self.until(unused)

    def waiting(self, count: int = 1) -> None:
        """Wait until so many requests wait in the store."""
        self.until(lambda: self.store.stats().waiting == count)

    def put(self, client: LocalStore, data: bytes) -> bytes:
        """Put an object into the store; return its id."""
        object_id = new_object_id()
        client.put(object_id, [data], len(data), owner=1)
        return object_id


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call something in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is the test's
            future.set_exception(error)

    threading.Thread(target=run, name="test-client", daemon=True).start()
    return future
