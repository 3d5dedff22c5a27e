"""Fetching objects from the stores of other hosts: in threads, a few at a time."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from ipkernel.objects.remote import RemoteStore
from ipkernel.objects.transfer import Transfer
from ipkernel.wire.messages import HostAccess

if TYPE_CHECKING:
    from ipkernel.wire.identity import Identity

__all__ = ["HostFetches"]

logger = logging.getLogger(__name__)

#: Objects that are fetched at a time.
AT_A_TIME: Final = 4


class HostFetches:
    """Connections to the stores of other hosts.

    Args:
        reactor: Twisted's reactor.
        identity: Of this process, for which the hosts' tickets are.
        relay: Returns a socket to a host, by its number, by way of the controller; is called in a
            thread, and may raise ConnectError.
        connect: Makes access to a store, given what :class:`RemoteStore` is given.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        relay: Callable[[int], socket.socket],
        connect: Callable[..., RemoteStore] = RemoteStore,
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._relay = relay
        self._connect = connect
        self._stores: dict[int, tuple[HostAccess, RemoteStore]] = {}
        self._turns = DeferredSemaphore(AT_A_TIME)
        self._going: set[Deferred[Any]] = set()

    def fetch(
        self, access: HostAccess, object_id: bytes, target: memoryview, transfer: Transfer
    ) -> Deferred[bytes]:
        """Fetch an object into memory.

        Args:
            access: How to reach the host that has it.
            object_id: Its id.
            target: Takes its bytes, all of them.
            transfer: Is told of progress, and may be cancelled.

        Returns:
            Fires with the object's digest; fails as :meth:`RemoteStore.fetch_into` does. Until
            then ``target`` may be written to.
        """
        store = self._store(access)
        pool = self._reactor.getThreadPool()
        fetched: Deferred[bytes] = self._turns.run(
            deferToThreadPool,
            self._reactor,
            pool,
            store.fetch_into,
            object_id,
            len(target),
            target,
            transfer,
        )
        self._going.add(fetched)

        def ended(result: Any) -> Any:
            self._going.discard(fetched)
            return result

        return fetched.addBoth(ended)

    def _store(self, access: HostAccess) -> RemoteStore:
        known = self._stores.get(access.host)
        if known is not None and known[0] == access:
            return known[1]
        self.forget(access.host)
        store = self._connect(access, self._identity, relay=partial(self._relay, access.host))
        self._stores[access.host] = (access, store)
        return store

    def forget(self, host: int) -> None:
        """Close the connections with a host; what is being fetched from it fails."""
        known = self._stores.pop(host, None)
        if known is not None:
            known[1].close()

    def close(self) -> Deferred[Any]:
        """Close all connections; fires when no thread is at work any more."""
        for host in list(self._stores):
            self.forget(host)
        ended: list[Deferred[None]] = []
        for fetched in self._going:
            over: Deferred[None] = Deferred()
            ended.append(over)
            fetched.addBoth(_passing(over))
        return DeferredList(ended)


def _passing(over: Deferred[None]) -> Callable[[Any], Any]:
    def passed(result: Any) -> Any:
        over.callback(None)
        return result

    return passed
