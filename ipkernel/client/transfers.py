"""The transfers that are going on, for those who want to know or to end them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ipkernel.objects.transfer import Transfer


class Transfers:
    """The transfers of one client; any thread may look."""

    def __init__(self) -> None:
        self._going: dict[int, Transfer] = {}
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork."""
        self._lock = threading.Lock()
        self._going = {}

    @contextmanager
    def moving(self, transfer: Transfer) -> Iterator[Transfer]:
        """List a transfer for the time of a context."""
        with self._lock:
            self._going[id(transfer)] = transfer
        try:
            yield transfer
        finally:
            with self._lock:
                del self._going[id(transfer)]

    def now(self) -> list[Transfer]:
        """Return those that are going on, oldest first."""
        with self._lock:
            return list(self._going.values())

    def cancel(self) -> None:
        """End all of them."""
        for transfer in self.now():
            transfer.cancel()
