"""Who waits for which object."""

from __future__ import annotations

from collections.abc import Callable

from ipkernel.objects.entries import Wait, Waits

__all__ = ["Waiting"]


class Waiting:
    """Waits by number, and by the object that is waited for."""

    def __init__(self) -> None:
        self._waits: dict[int, Wait] = {}
        self._numbers: dict[bytes, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, number: int) -> bool:
        return number in self._waits

    def add(self, number: int, wait: Wait) -> None:
        """Begin to wait."""
        self._waits[number] = wait
        self._numbers.setdefault(wait.object_id, {})[number] = None

    def remove(self, number: int) -> None:
        """End a wait."""
        wait = self._waits.pop(number)
        numbers = self._numbers[wait.object_id]
        del numbers[number]
        if not numbers:
            del self._numbers[wait.object_id]

    def take(self, object_id: bytes, *kinds: Waits) -> dict[int, Wait]:
        """End all waits of these kinds for an object, and return them, the longest first."""
        numbers = self._numbers.get(object_id, ())
        found = {n: self._waits[n] for n in numbers if self._waits[n].kind in kinds}
        return self._end(found)

    def take_where(self, wanted: Callable[[Wait], bool]) -> dict[int, Wait]:
        """End all waits that are ``wanted``, and return them, the longest first."""
        return self._end({n: wait for n, wait in self._waits.items() if wanted(wait)})

    def _end(self, found: dict[int, Wait]) -> dict[int, Wait]:
        for number in found:
            self.remove(number)
        return found
