"""Which objects a session refers to, and which references are to be given back."""

from __future__ import annotations

import threading
from collections import deque


class References:
    """Counts who uses an object here; the controller knows of one reference per session.

    What is dropped is given back in batches: :meth:`drop` is for the garbage collector, which may come
    at any moment and in any thread, so it only writes the id down.
    """

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._dropped: deque[bytes] = deque()
        self.drop = self._dropped.append
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork: somebody in the parent may hold the lock."""
        self._lock = threading.Lock()

    def hold(self, object_id: bytes) -> None:
        """Note one more user of an object."""
        with self._lock:
            self._counts[object_id] = self._counts.get(object_id, 0) + 1

    @property
    def waiting(self) -> int:
        """How many drops there are to be settled."""
        return len(self._dropped)

    def settle(self, count: int) -> list[bytes]:
        """Take note of the ``count`` oldest drops; return the objects that nobody uses any more."""
        unused = []
        with self._lock:
            for _ in range(count):
                object_id = self._dropped.popleft()
                left = self._counts.get(object_id, 0) - 1
                if left > 0:
                    self._counts[object_id] = left
                elif self._counts.pop(object_id, 0):
                    unused.append(object_id)
        return unused

    @property
    def ids(self) -> list[bytes]:
        """The objects that are referred to."""
        with self._lock:
            return list(self._counts)

    def __len__(self) -> int:
        """How many objects are referred to."""
        return len(self._counts)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._counts
