"""What tasks need of a host's store: objects brought here, and leased to engines. See :mod:`.searches`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ipkernel.errors import ObjectLost, UnknownObject
from ipkernel.host.needs import Uplink
from ipkernel.host.searches import Fetches, Searches, short
from ipkernel.wire.messages import (
    Free,
    HostAccess,
    HostGone,
    Message,
    Placed,
    SessionGone,
    Source,
)

if TYPE_CHECKING:
    from ipkernel.objects.store import HostStore

__all__ = ["HostObjects"]

#: How often an object may be freed or given up between its arrival and its lease.
MAX_LEASES: Final = 4


class HostObjects:
    """Has objects brought to this host's store for the tasks that need them.

    Args:
        clock: Twisted's reactor, or a Clock.
        store: This host's store.
        uplink: The way to the controller.
        fetches: Moves bytes from the stores of other hosts.

    Attributes:
        searches: The objects that are looked for.
    """

    def __init__(self, clock: Any, store: HostStore, uplink: Uplink, fetches: Fetches) -> None:
        self.searches = Searches(clock, store, uplink, fetches)
        self._store = store
        self._fetches = fetches

    # ----------------------------------------------------------- what tasks need

    def lease_now(self, ids: Sequence[bytes], holder: str) -> list[Placed] | None:
        """Lease objects if all of them are in the store.

        Args:
            ids: As given to :meth:`require`.
            holder: As given to it.

        Returns:
            Where they are, in the same order; None, and then none of them is leased, if one is not there.
        """
        placed: list[Placed] = []
        for object_id in ids:
            one = self._lease_now(object_id, holder)
            if one is None:
                self.give_back([there.object for there in placed], holder)
                return None
            placed.append(one)
        return placed

    def require(self, ids: Sequence[bytes], holder: str, owner: int) -> Deferred[list[Placed]]:
        """Have objects in the store, leased.

        Args:
            ids: The objects; one that is there twice is leased twice.
            holder: For whom they are leased.
            owner: The session whose task needs them.

        Returns:
            Fires with where they are, in the same order, at once if all are there. Fails with a
            :class:`~ipkernel.errors.KernelError` when one of them cannot be had; then, and when
            it is cancelled, none of them stays leased.
        """
        placed = [self._lease_now(one, holder) for one in ids]
        if None not in placed:
            return succeed(cast("list[Placed]", placed))

        def give_up(_: object = None) -> None:
            self.give_back([one.object for one in placed if one is not None], holder)

        def leased(one: Placed, index: int) -> None:
            if done.called:
                self.give_back([one.object], holder)
                return
            placed[index] = one
            if None not in placed:
                done.callback(cast("list[Placed]", placed))

        def failed(failure: Failure) -> None:
            if not done.called:
                give_up()
                done.errback(failure)

        done: Deferred[list[Placed]] = Deferred(give_up)
        for index, one in enumerate(ids):
            if placed[index] is not None:
                continue
            lease = Deferred.fromCoroutine(self._lease(one, holder, owner))
            lease.addCallbacks(leased, failed, callbackArgs=(index,))
        return done

    def _lease_now(self, object_id: bytes, holder: str) -> Placed | None:
        place = self._store.lease_now(object_id, holder)
        if place is None:
            return None
        return Placed(object_id, place.segment, place.offset, place.size)

    async def _lease(self, object_id: bytes, holder: str, owner: int) -> Placed:
        for _ in range(MAX_LEASES):
            info = self._store.info(object_id)
            if info is None or not info.sealed:
                await self.searches.find(object_id, owner)
            try:
                place = await self._store.lease(object_id, holder)
            except UnknownObject:
                continue
            return Placed(object_id, place.segment, place.offset, place.size)
        raise ObjectLost(f"object {short(object_id)} was freed while it was needed")

    def give_back(self, objects: Iterable[bytes], holder: str) -> None:
        """End leases that :meth:`lease_now` or :meth:`require` has taken.

        Args:
            objects: Of each of them one lease ends.
            holder: As given to it.
        """
        for object_id in objects:
            self._store.release(object_id, holder)

    def drop(self, holder: str, unreported: Iterable[bytes]) -> None:
        """End all leases of an engine that is gone.

        Args:
            holder: As given to :meth:`require`.
            unreported: Objects that it may have made, and that nobody else knows of.
        """
        self._store.drop(holder)
        self._store.free(unreported)

    # ------------------------------------------------- what the controller says

    def handle(self, message: Message) -> None:
        """Deal with a message of the controller; others than those about objects are ignored."""
        if isinstance(message, Source):
            self.searches.answered(message)
        elif isinstance(message, HostAccess):
            self.searches.access[message.host] = message
        elif isinstance(message, Free):
            self._free(message.objects)
        elif isinstance(message, HostGone):
            self.searches.access.pop(message.host, None)
            self._fetches.forget(message.host)
        elif isinstance(message, SessionGone):
            self._store.session_gone(message.session)

    def _free(self, objects: Iterable[bytes]) -> None:
        for object_id in objects:
            self.searches.forget(object_id, ObjectLost("the object was freed while it was needed"))
        self._store.free(objects)

    # ---------------------------------------------------------- the connection

    def joined(self, number: int) -> None:
        """A controller was joined, which knows of no object here.

        Args:
            number: This host's number there.
        """
        self.searches.number = number
        self._store.free_all()

    def restarted(self) -> list[tuple[bytes, int]]:
        """Return the objects that are here, and their lengths, for a controller that has forgotten."""
        return self._store.sealed()

    def disconnected(self) -> None:
        """The controller is gone: it knows of no object here any more, and nobody can be asked."""
        self.searches.end(ObjectLost("the connection to the controller was lost"))
        for host in self.searches.access:
            self._fetches.forget(host)
        self.searches.access.clear()
