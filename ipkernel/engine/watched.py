"""The copy of a result, and how an interrupt ends it."""

from __future__ import annotations

from ipkernel.objects.transfer import Transfer

__all__ = ["Watched"]


class Watched(Transfer):
    """A transfer that an interrupt cancels.

    A signal handler cannot do that itself: it may come while this thread holds the lock.

    Args:
        opened: The flags of :class:`~ipkernel.engine.interrupts.Interrupts`.
        size: Bytes in all.
    """

    def __init__(self, opened: list[bool], size: int) -> None:
        super().__init__("put the result", size)
        self._opened = opened

    def advance(self, count: int) -> None:
        """Count bytes; see :meth:`Transfer.advance`."""
        if self._opened[1]:
            self.cancel()
        super().advance(count)
