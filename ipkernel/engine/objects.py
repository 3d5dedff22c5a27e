"""What an engine has to do with the store of its host: arguments out of it, results into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipkernel.errors import ConnectError, ObjectError, StoreFull
from ipkernel.wire.messages import EngineSetup, Placed

if TYPE_CHECKING:
    from ipkernel.objects.interfaces import Buffer
    from ipkernel.objects.local import LocalStore

__all__ = ["EngineObjects", "open_store"]

# What is imported in functions below is what engines do without that move nothing large.


def open_store(address: str, subject: str, ticket: bytes) -> LocalStore:
    """Connect to a store on this machine.

    Args:
        address: As the daemon has told it.
        subject: Who this engine is for the store.
        ticket: Its right to use it.

    Raises:
        ConnectError: It is not there.
    """
    from ipkernel.objects.local import LocalStore

    return LocalStore(address, subject, ticket)


class EngineObjects:
    """An engine's connection to its host's store, opened when it is first needed.

    Args:
        opened: The flags of :class:`~ipkernel.engine.interrupts.Interrupts`.
        connect: Opens the connection.
    """

    def __init__(
        self,
        opened: list[bool],
        connect: Callable[[str, str, bytes], LocalStore] = open_store,
    ) -> None:
        self._opened = opened
        self._connect = connect
        self._where = ("", "", b"")
        self._host = ""
        self._store: LocalStore | None = None

    def set_up(self, setup: EngineSetup) -> None:
        """Take note of where the store is and what gives the right to use it."""
        where = (setup.store, setup.subject, setup.ticket)
        if where != self._where:
            self._where = where
            self._store = None
        self._host = setup.host

    @property
    def available(self) -> bool:
        """Whether the host has a store."""
        return bool(self._where[0])

    @property
    def store(self) -> LocalStore:
        """The connection to the store.

        Raises:
            ObjectError: The host has none.
            ConnectError: It cannot be reached.
        """
        if self._store is None:
            if not self.available:
                raise ObjectError(f"host {self._host or 'of this engine'} has no store for objects")
            self._store = self._connect(*self._where)
        return self._store

    def bring(self, placed: Sequence[Placed]) -> list[memoryview]:
        """Map objects that the host daemon has leased for this engine.

        Each lease ends when nothing refers to its memory any more.

        Args:
            placed: Where they are.

        Returns:
            Their bytes, writable; writing changes nobody else's.

        Raises:
            KernelError: The store cannot be reached.
        """
        store = self.store
        return [store.map_placed(one) for one in placed]

    def ended(self) -> list[bytes]:
        """Return objects whose leases have ended since; the daemon is to be told."""
        return self._store.ended() if self._store is not None else []

    def tidy(self) -> None:
        """Tidy up after what :meth:`ended` has returned, when there is time."""
        if self._store is not None:
            self._store.tidy()

    def put(self, pieces: Sequence[Buffer], size: int, task: int) -> bytes:
        """Put the result of a task into the store.

        To be called while the task is closed for interrupts: one that arrives is then noticed
        between two pieces of the copy, and leaves nothing in the store.

        Args:
            pieces: Its bytes, in order.
            size: Their number.
            task: The task's id.

        Returns:
            The object's id.

        Raises:
            StoreFull: There is no room; the text says what to do.
            KeyboardInterrupt: An interrupt has arrived meanwhile.
            KernelError: The store cannot be reached.
        """
        from ipkernel.objects.tickets import result_id
        from ipkernel.objects.transfer import TransferCancelled

        object_id = result_id(self._where[2], task)
        try:
            try:
                self._put(object_id, pieces, size, task >> 40)
            except ConnectError:  # user code may close any descriptor, those of connections too
                self._put(object_id, pieces, size, task >> 40)
        except TransferCancelled:
            self._opened[1] = False
            raise KeyboardInterrupt from None
        except StoreFull as error:
            raise StoreFull(f"the result cannot stay on host {self._host}: {error}") from None
        return object_id

    def _put(self, object_id: bytes, pieces: Sequence[Buffer], size: int, owner: int) -> None:
        from ipkernel.engine.watched import Watched

        transfer = Watched(self._opened, size)
        self.store.put(object_id, pieces, size, owner=owner, transfer=transfer)
