"""A result that is in the store of a host on this machine until somebody wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from ipkernel.errors import ObjectError


class _Keeper(Protocol):
    references: Any

    def map_stored(self, stored: Stored) -> memoryview: ...


class Stored:
    """Stands for the bytes of a result, which are mapped when they are first asked for.

    The reference that the session holds to the object is dropped then, or when this is garbage
    collected unread.

    Args:
        keeper: Maps it.
        object_id: The object.
        length: Its bytes.
        host: Where it is.
    """

    __slots__ = ("_drop", "_keeper", "_lock", "_view", "host", "id", "length")

    def __init__(self, keeper: _Keeper, object_id: bytes, length: int, host: int) -> None:
        self._keeper = keeper
        self._drop: Callable[[bytes], None] | None = keeper.references.drop
        self._lock = threading.Lock()
        self._view: memoryview | None = None
        self.id = object_id
        self.length = length
        self.host = host

    def view(self) -> memoryview:
        """Return the bytes, writable and the caller's own.

        Raises:
            ObjectLost: They cannot be had any more; the text says why.
            StoreFull: They are on disk, and their host has no room to bring them back.
        """
        with self._lock:
            if self._view is None:
                try:
                    self._view = self._keeper.map_stored(self)
                except ObjectError:
                    self._release()
                    raise
                self._release()
            return self._view

    @property
    def mapped(self) -> bool:
        """Whether the bytes are here."""
        return self._view is not None

    def _release(self) -> None:
        drop, self._drop = self._drop, None
        if drop is not None:
            drop(self.id)

    def __del__(self) -> None:
        self._release()

    def __repr__(self) -> str:
        return f"<Stored: {self.length} bytes on host number {self.host}>"
