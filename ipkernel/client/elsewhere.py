"""Transfers of objects from host to host, of which the controller tells a client while its tasks wait."""

from __future__ import annotations

import threading
from collections.abc import Collection

from ipkernel.objects.transfer import Transfer
from ipkernel.wire.messages import Moving

__all__ = ["Elsewhere"]


class Elsewhere:
    """What hosts fetch from each other; any thread may look."""

    def __init__(self) -> None:
        self._going: dict[tuple[bytes, int], Transfer] = {}
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork."""
        self._lock = threading.Lock()
        self._going = {}

    def heard(self, message: Moving, name: str) -> None:
        """Take note of how far a host is with an object.

        Args:
            message: What the controller says; that all is there is the last that it says.
            name: What people call the host.
        """
        key = message.object, message.host
        with self._lock:
            transfer = self._going.get(key)
            if message.done >= message.length:
                self._going.pop(key, None)
            elif transfer is None:
                transfer = self._going[key] = Transfer(f"object to host {name}", message.length)
            if transfer is not None:
                transfer.done = message.done

    def gone(self, host: int) -> None:
        """A host is lost: it fetches nothing more."""
        with self._lock:
            self._going = {key: one for key, one in self._going.items() if key[1] != host}

    def clear(self) -> None:
        """Nobody tells how far they are any more."""
        with self._lock:
            self._going = {}

    def now(self, hosts: Collection[int] = ()) -> list[Transfer]:
        """Return what is going on at these hosts, or at all of them."""
        with self._lock:
            return [one for (_, host), one in self._going.items() if not hosts or host in hosts]
