"""Connections to the stores of hosts: through shared memory here, through TLS elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipkernel.errors import ConnectError
from ipkernel.objects.interfaces import StoreClient
from ipkernel.wire.messages import HostAccess

if TYPE_CHECKING:
    from ipkernel.wire.identity import Identity


class Stores:
    """Connects one client to stores; what that needs is imported when it is needed.

    Args:
        identity: The client's, for which the controller has made the tickets.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def is_near(self, access: HostAccess) -> bool:
        """Tell, without connecting, whether a host is on this machine."""
        from ipkernel.objects.local import reachable

        return reachable(access)

    def near(self, access: HostAccess) -> StoreClient:
        """Return access to the store of a host on this machine."""
        from ipkernel.objects.local import LocalStore

        return LocalStore(access.local, self._identity.tub_id, access.ticket)

    def far(self, access: HostAccess) -> StoreClient:
        """Return access to the store of another machine's host."""
        raise ConnectError(f"host {access.name} is on another machine")
