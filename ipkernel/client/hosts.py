"""The hosts whose stores a client may use: which are on this machine, and how to reach the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final, Protocol

from ipkernel.client.waiting import reactor_threads, wait_until
from ipkernel.errors import ConnectError, ObjectLost
from ipkernel.objects.interfaces import StoreClient
from ipkernel.wire.messages import HostAccess, HostGone

logger = logging.getLogger(__name__)

#: Seconds that a new client waits for the controller to tell of a host that has engines.
PATIENCE: Final = 2.0


class Connector(Protocol):
    """Connects to stores. Blocking; callable from any thread."""

    def is_near(self, access: HostAccess) -> bool:
        """Tell, without connecting, whether a host is on this machine."""

    def near(self, access: HostAccess) -> StoreClient:
        """Return access to the store of a host on this machine; it may connect later.

        Raises:
            ConnectError: It is not there, or not for us.
        """

    def far(self, access: HostAccess) -> StoreClient:
        """Return access to the store of another machine's host; it connects when it is used."""


class Hosts:
    """The hosts that the controller has told of, and connections to their stores.

    Args:
        connector: Makes the connections; without one no store can be reached.
    """

    def __init__(self, connector: Connector | None) -> None:
        self._connector = connector
        self._known: dict[int, HostAccess] = {}
        self._gone: dict[int, HostGone] = {}
        self._names: dict[int, str] = {}
        self._stores: dict[int, StoreClient] = {}
        #: Hosts of this machine whose stores this process cannot reach as a neighbour.
        self._not_near: set[int] = set()
        #: Hosts that were waited for in vain.
        self._missed: set[int] = set()
        #: Why no store can be used any more, or empty.
        self._over = ""
        self._renew()

    def _renew(self) -> None:
        #: Held while a store is being opened, never by the thread that receives messages.
        self._opening = threading.Lock()
        self._changed = threading.Condition()

    def forked(self) -> None:
        """Use no store any more: this is the child of a fork, and connections are the parent's."""
        self._renew()
        self._stores = {}
        self._over = "this client belongs to the parent process"

    # ------------------------------------------------- what the controller tells

    def learn(self, access: HostAccess) -> StoreClient | None:
        """Take note of how a host's store is reached; return what is to be closed, if that is new."""
        with self._changed:
            before = self._known.get(access.host)
            self._known[access.host] = access
            self._names[access.host] = access.name
            self._changed.notify_all()
            if before is None or before == access:
                return None
            self._not_near.discard(access.host)
            return self._stores.pop(access.host, None)

    def lose(self, message: HostGone) -> StoreClient | None:
        """Take note that a host is gone; return what is to be closed."""
        with self._changed:
            self._known.pop(message.host, None)
            self._gone[message.host] = message
            return self._stores.pop(message.host, None)

    # ------------------------------------------------- questions

    @property
    def known(self) -> list[int]:
        """The hosts whose stores can be used."""
        return list(self._known)

    def name(self, host: int) -> str:
        """Return what people call a host."""
        return self._names.get(host) or f"number {host}"

    def named(self, hosts: Iterable[int]) -> list[int]:
        """Return those of these hosts whose stores can be used, waiting a little for new ones."""
        wanted = [host for host in hosts if host not in self._gone]
        missing = [h for h in wanted if h not in self._known and h not in self._missed]
        if missing and threading.get_ident() not in reactor_threads:
            with self._changed:
                wait_until(
                    self._changed,
                    lambda: (
                        bool(self._over)
                        or all(h in self._known or h in self._gone for h in missing)
                    ),
                    PATIENCE,
                )
            self._missed.update(missing)
        return [host for host in wanted if host in self._known]

    def is_near(self, host: int) -> bool:
        """Tell, without connecting, whether a host is on this machine."""
        access = self._known.get(host)
        return (
            access is not None
            and self._connector is not None
            and host not in self._not_near
            and self._connector.is_near(access)
        )

    # ------------------------------------------------- stores

    def near(self, hosts: Iterable[int]) -> tuple[int, StoreClient] | None:
        """Return the first of these hosts that is on this machine and can be reached, and its store."""
        for host in hosts:
            if self.is_near(host):
                try:
                    return host, self._open(host, near=True)
                except (ConnectError, ObjectLost) as problem:
                    self.distrust(host, problem)
        return None

    def distrust(self, host: int, problem: BaseException) -> None:
        """Do not treat a host as a neighbour any more, for that did not work."""
        logger.info("the store of host %s cannot be used directly: %s", self.name(host), problem)
        self._not_near.add(host)
        with self._changed:
            store = self._stores.pop(host, None)
        if store is not None:
            store.close()

    def store(self, host: int) -> StoreClient:
        """Return access to the store of a host, near or far.

        Raises:
            ObjectLost: The host is gone, or was never known.
        """
        found = self.near((host,))
        return self._open(host, near=False) if found is None else found[1]

    def _open(self, host: int, near: bool) -> StoreClient:
        store = self._stores.get(host)
        if store is not None:
            return store
        with self._opening:
            store = self._stores.get(host)
            if store is not None:
                return store
            access = self._known.get(host)
            if access is None or self._connector is None or self._over:
                raise ObjectLost(self._why_gone(host))
            store = self._connector.near(access) if near else self._connector.far(access)
            with self._changed:
                if host in self._known and not self._over:
                    self._stores[host] = store
                    return store
        store.close()
        raise ObjectLost(self._why_gone(host))

    def _why_gone(self, host: int) -> str:
        if self._over:
            return self._over
        gone = self._gone.get(host)
        why = f": {gone.reason}" if gone is not None and gone.reason else ""
        return f"host {self.name(host)} is gone{why}"

    def close(self) -> None:
        """Close all connections; memory that came from them stays valid."""
        with self._changed:
            self._over = self._over or "this client is closed"
            stores, self._stores = list(self._stores.values()), {}
            self._changed.notify_all()
        for store in stores:
            store.close()
