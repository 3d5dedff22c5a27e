"""Connections to the stores of hosts: through shared memory here, through TLS elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipkernel.objects.interfaces import StoreClient
from ipkernel.wire.messages import HostAccess

if TYPE_CHECKING:
    import socket

    from ipkernel.wire.identity import Identity


class Stores:
    """Connects one client to stores; what that needs is imported when it is needed.

    Args:
        identity: The client's, for which the controller has made the tickets.
        hints: The controller's addresses, for connections that it relays.
        ask: Asks the controller for the token of a connection to a host that it relays.

    Attributes:
        hints: As given; another controller may have others.
    """

    def __init__(
        self, identity: Identity, hints: Sequence[str], ask: Callable[[int], bytes]
    ) -> None:
        self._identity = identity
        self.hints = hints
        self._ask = ask

    def is_near(self, access: HostAccess) -> bool:
        """Tell, without connecting, whether a host is on this machine."""
        from ipkernel.objects.local import reachable

        return reachable(access)

    def near(self, access: HostAccess) -> StoreClient:
        """Return access to the store of a host on this machine; it connects when it is used."""
        from ipkernel.objects.local import LocalStore

        return LocalStore(access.local, self._identity.tub_id, access.ticket)

    def far(self, access: HostAccess) -> StoreClient:
        """Return access to the store of another machine's host; it connects when it is used."""
        from ipkernel.objects.remote import RemoteStore

        return RemoteStore(access, self._identity, relay=lambda: self._relayed(access.host))

    def _relayed(self, host: int) -> socket.socket:
        from ipkernel.objects.dialing import dial_relay

        return dial_relay(self.hints, self._ask(host))
