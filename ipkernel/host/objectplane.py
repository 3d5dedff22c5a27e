"""Everything that a host has for large objects, put together: see :mod:`ipkernel.host.storage`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThreadPool
from twisted.python.failure import Failure

from ipkernel.errors import ConnectError
from ipkernel.host.fetches import HostFetches
from ipkernel.host.needs import Uplink
from ipkernel.host.objects import HostObjects
from ipkernel.host.relays import Relays
from ipkernel.host.storeoptions import StoreOptions
from ipkernel.objects.dataport import DataPort
from ipkernel.objects.dialing import dial_relay
from ipkernel.objects.localserver import LocalServer
from ipkernel.objects.memory import make_memory
from ipkernel.objects.spill import Spill, default_spill_limit
from ipkernel.objects.store import HostStore, default_limit
from ipkernel.sizes import parse_size
from ipkernel.wire.addresses import LocalAddress
from ipkernel.wire.messages import Message, Relay, SessionGone

if TYPE_CHECKING:
    from ipkernel.wire.identity import Identity

__all__ = ["ObjectPlane", "store_limits"]

logger = logging.getLogger(__name__)


class ObjectPlane:
    """The store of this host, its servers, and what brings objects to it.

    Args:
        reactor: Twisted's reactor.
        identity: Of this process.
        uplink: The way to the controller.
        options: How large the store is.
        key: The secret that tickets are made with.
        local: The socket for processes of this machine, and its address.

    Attributes:
        store: The store.
        objects: Brings objects to it.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        uplink: Uplink,
        options: StoreOptions,
        key: bytes,
        local: tuple[socket.socket, LocalAddress],
    ) -> None:
        self._reactor = reactor
        self._controller = ""
        self.store = _make_store(reactor, options)
        self._server = LocalServer(reactor, self.store, key, listening=local, left=self._left)
        self._port = DataPort(reactor, identity, self.store, key)
        self._relays = Relays(reactor, uplink, self._serve_relay)
        self._fetches = HostFetches(reactor, identity, self._dial_relay)
        self.objects = HostObjects(reactor, self.store, uplink, self._fetches)

    def _left(self, subject: str) -> None:
        """A process has closed its last connection.

        Of an engine that means nothing: user code may close any descriptor, and the memory stays
        mapped. The end of its process does, and is reported by :meth:`HostObjects.drop`.
        """
        if not subject.startswith("engine:") or "/" in subject:
            self.store.drop(subject)

    def serve(self, sock: socket.socket) -> None:
        """Serve a connection that has come in at the data port."""
        self._port.accept_socket(sock)

    # ---------------------------------------------------------------- relayed connections

    def _dial_relay(self, host: int) -> socket.socket:
        """Return a socket to another host by way of the controller; in a thread.

        Raises:
            ConnectError: There is none.
        """
        ask: Callable[[], Any] = partial(self._relays.ask, host)
        return dial_relay([self._controller], blockingCallFromThread(self._reactor, ask))

    def _serve_relay(self, token: bytes) -> None:
        """Somebody waits at the controller to be connected with this host."""
        pool = self._reactor.getThreadPool()
        dialled: Deferred[Any] = deferToThreadPool(
            self._reactor, pool, dial_relay, [self._controller], token
        )
        dialled.addCallbacks(self._port.accept_socket, self._not_relayed)
        dialled.addErrback(lambda failure: logger.error("%s", failure.getTraceback()))

    def _not_relayed(self, failure: Failure) -> None:
        failure.trap(ConnectError)
        logger.warning("somebody who wants to be relayed here waits in vain: %s", failure.value)

    # ---------------------------------------------------------------- the controller

    def handle(self, message: Message) -> None:
        """Deal with a message of the controller."""
        if isinstance(message, Relay):
            self._relays.handle(message)
            return
        if isinstance(message, SessionGone):
            self._port.session_gone(message.session)
        self.objects.handle(message)

    def joined(self, number: int, controller: str) -> None:
        """A controller was joined; see :meth:`Storage.joined`."""
        self._controller = controller
        self._relays.connected = True
        self.objects.joined(number)

    def restarted(self, controller: str) -> list[tuple[bytes, int]]:
        """The controller was started again; see :meth:`Storage.restarted`."""
        self._controller = controller
        self._relays.disconnected()
        self._relays.connected = True
        return self.objects.restarted()

    def disconnected(self) -> None:
        """The controller is gone, and nobody can tell which objects are of use."""
        self._relays.disconnected()
        self.objects.disconnected()

    async def close(self) -> None:
        """Give everything back; no thread is at work any more when this returns."""
        self.disconnected()
        self._server.close()
        await self._fetches.close()
        await self._port.stop()
        self.store.close()


def store_limits(options: StoreOptions) -> tuple[int, int]:
    """Return how many bytes a store may have in memory, and how many on disk."""
    if options.memory is None:
        memory = default_limit()
    else:
        memory = parse_size(options.memory, psutil.virtual_memory().total)
    if options.spill_limit is None:
        return memory, default_spill_limit(memory, options.spill_dir or None)
    return memory, parse_size(options.spill_limit)


def _make_store(reactor: Any, options: StoreOptions) -> HostStore:
    memory, disk = store_limits(options)
    spill = Spill(disk, options.spill_dir or None) if disk else None
    return HostStore(reactor, make_memory(), limit=memory, spill=spill)
