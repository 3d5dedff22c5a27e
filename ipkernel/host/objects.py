"""Objects on their way to this host: looked for, fetched from where they are, leased to engines.

All of this happens in the reactor's thread, without input or output of its own: the store, the
way to the controller and what moves the bytes are handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ipkernel.errors import (
    KernelError,
    ObjectError,
    ObjectLost,
    StoreFull,
    TransferError,
    UnknownObject,
)
from ipkernel.host.needs import Uplink
from ipkernel.objects.entries import ObjectExists
from ipkernel.objects.interfaces import ObjectInfo, Placement
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import (
    Copied,
    Free,
    HostAccess,
    HostGone,
    Message,
    Placed,
    Seek,
    SessionGone,
    Source,
)

__all__ = ["Fetches", "HostObjects", "Store"]

logger = logging.getLogger(__name__)

#: Under this name the daemon itself writes what it fetches.
FETCHER: Final = "fetch"
#: Places at which an object is looked for before the search is given up.
MAX_TRIES: Final = 16
#: How often an object may be freed or given up between its arrival and its lease.
MAX_LEASES: Final = 4


class Store(Protocol):
    """What of :class:`~ipkernel.objects.store.HostStore` is used here."""

    def create(
        self, object_id: bytes, size: int, *, owner: int, writer: str
    ) -> Deferred[Placement]:
        """Make room for an object."""

    def seal(self, object_id: bytes, digest: bytes = b"") -> None:
        """All of it has been written."""

    def abandon(self, object_id: bytes) -> None:
        """It will not be written after all."""

    def lease(self, object_id: bytes, holder: str) -> Deferred[Placement]:
        """Keep an object in memory for a holder."""

    def release(self, object_id: bytes, holder: str) -> None:
        """End one lease."""

    def drop(self, holder: str) -> None:
        """End all leases of a holder."""

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Forget objects as soon as nobody reads them."""

    def free_all(self) -> None:
        """Forget all objects."""

    def session_gone(self, session: int) -> None:
        """This session brings no more objects."""

    def when_sealed(self, object_id: bytes) -> Deferred[ObjectInfo]:
        """Fires when an object is complete, whoever writes it."""

    def view(self, placement: Placement) -> memoryview:
        """The memory of an object."""

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """What is known of an object."""


class Fetches(Protocol):
    """Moves bytes from the stores of other hosts."""

    def fetch(
        self, access: HostAccess, object_id: bytes, target: memoryview, transfer: Transfer
    ) -> Deferred[bytes]:
        """Fill ``target``, and return the object's digest; see :class:`HostFetches`."""

    def forget(self, host: int) -> None:
        """Close the connections with a host; what is being fetched from it fails."""


@define(eq=False)
class _Search:
    """An object that is looked for.

    Attributes:
        object_id: Its id.
        owner: The session for which it was first needed.
        waiting: Whom to tell.
        coming: While somebody is to put it here: fires when he has done so.
        transfer: While it is fetched from another host: the move.
        tries: How many places were tried.
    """

    object_id: bytes
    owner: int
    waiting: list[Deferred[None]] = field(factory=list)
    coming: Deferred[ObjectInfo] | None = None
    transfer: Transfer | None = None
    tries: int = 0


class HostObjects:
    """Brings objects to this host's store for the tasks that need them.

    Once begun, a search goes on though nobody may wait for its object any more: the controller
    counts on the copy, and says when it is of no use. A fetch that fails is reported to it, and it
    names another source or the reason why there is none.

    Args:
        store: This host's store.
        uplink: The way to the controller.
        fetches: Moves the bytes.

    Attributes:
        number: This host's number in the cluster, 0 while it has none.
    """

    def __init__(self, store: Store, uplink: Uplink, fetches: Fetches) -> None:
        self.number = 0
        self._store = store
        self._uplink = uplink
        self._fetches = fetches
        self._access: dict[int, HostAccess] = {}
        self._searches: dict[bytes, _Search] = {}

    # ----------------------------------------------------------- what tasks need

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
        placed: list[Placed | None] = [None] * len(ids)

        def give_up(_: object = None) -> None:
            self.give_back([one for one in placed if one is not None], holder)

        def leased(one: Placed, index: int) -> None:
            if done.called:
                self.give_back([one], holder)
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
            lease = Deferred.fromCoroutine(self._lease(one, holder, owner))
            lease.addCallbacks(leased, failed, callbackArgs=(index,))
        return done

    async def _lease(self, object_id: bytes, holder: str, owner: int) -> Placed:
        for _ in range(MAX_LEASES):
            info = self._store.info(object_id)
            if info is None or not info.sealed:
                await self._sought(object_id, owner)
            try:
                place = await self._store.lease(object_id, holder)
            except UnknownObject:
                continue
            return Placed(object_id, place.segment, place.offset, place.size)
        raise ObjectLost(f"object {_short(object_id)} was freed while it was needed")

    def give_back(self, placed: Iterable[Placed], holder: str) -> None:
        """End leases that :meth:`require` has taken.

        Args:
            placed: What it has returned.
            holder: As given to it.
        """
        for one in placed:
            self._store.release(one.object, holder)

    def drop(self, holder: str, unreported: Iterable[bytes]) -> None:
        """End all leases of an engine that is gone.

        Args:
            holder: As given to :meth:`require`.
            unreported: Objects that it may have made, and that nobody else knows of.
        """
        self._store.drop(holder)
        self._store.free(unreported)

    # ----------------------------------------------------------------- searching

    def _sought(self, object_id: bytes, owner: int) -> Deferred[None]:
        """Return what fires when an object is here; begin to look for it if nobody does."""
        search = self._searches.get(object_id)
        if search is None:
            search = self._searches[object_id] = _Search(object_id, owner)
            self._uplink.send(Seek(object_id))
        waiting: Deferred[None] = Deferred()
        search.waiting.append(waiting)
        return waiting

    def _found(self, search: _Search) -> None:
        """The object is here."""
        if self._searches.get(search.object_id) is not search:
            return
        del self._searches[search.object_id]
        self._uplink.send(Copied([search.object_id]))
        for waiting in search.waiting:
            waiting.callback(None)

    def _give_up(self, search: _Search, error: KernelError) -> None:
        """End a search without the object."""
        if self._searches.get(search.object_id) is not search:
            return
        del self._searches[search.object_id]
        if search.coming is not None:
            search.coming.cancel()
        if search.transfer is not None:
            search.transfer.cancel()
        for waiting in search.waiting:
            waiting.errback(error)

    # ------------------------------------------------- what the controller says

    def handle(self, message: Message) -> None:
        """Deal with a message of the controller; others than those about objects are ignored."""
        if isinstance(message, Source):
            self._source(message)
        elif isinstance(message, HostAccess):
            self._access[message.host] = message
        elif isinstance(message, Free):
            self._free(message.objects)
        elif isinstance(message, HostGone):
            self._access.pop(message.host, None)
            self._fetches.forget(message.host)
        elif isinstance(message, SessionGone):
            self._store.session_gone(message.session)

    def _source(self, message: Source) -> None:
        search = self._searches.get(message.object)
        if search is None:
            self._unwanted(message)
        elif search.transfer is not None:
            return
        elif message.problem:
            self._give_up(search, ObjectLost(message.problem))
        elif not message.host:
            self._expect(search)
        else:
            search.tries += 1
            access = self._access.get(message.host)
            if access is None or message.host == self.number:
                self._try_elsewhere(search, message.host, "its address is not known here")
            else:
                fetched = Deferred.fromCoroutine(self._fetch(search, access, message.length))
                fetched.addErrback(self._crashed, search, access.host)

    def _unwanted(self, message: Source) -> None:
        """Nobody looks for it any more; but the controller must not wait for our copy."""
        if message.problem or not message.host:
            return
        info = self._store.info(message.object)
        if info is not None and info.sealed:
            self._uplink.send(Copied([message.object]))
        else:
            problem = "it is not looked for any more"
            self._uplink.send(Seek(message.object, message.host, problem))

    def _expect(self, search: _Search) -> None:
        """Wait for an object that its owner puts here; if he cannot, the controller says more."""
        if search.coming is not None:
            return
        search.coming = coming = self._store.when_sealed(search.object_id)

        def ended(result: ObjectInfo | Failure) -> None:
            search.coming = None
            if not isinstance(result, Failure):
                self._found(search)
            elif result.check(StoreFull):
                self._give_up(search, cast(StoreFull, result.value))
            elif result.check(TransferError, UnknownObject):
                self._expect(search)  # the connection was cut, and he may try again

        coming.addBoth(ended)

    def _try_elsewhere(self, search: _Search, host: int, problem: str) -> None:
        if search.tries >= MAX_TRIES:
            text = f"object {_short(search.object_id)} could not be fetched: {problem}"
            self._give_up(search, ObjectLost(text))
            return
        self._uplink.send(Seek(search.object_id, host, problem[:4000]))

    async def _fetch(self, search: _Search, access: HostAccess, size: int) -> None:
        """Copy an object from another host, or have it sought elsewhere."""
        object_id = search.object_id
        what = f"object {_short(object_id)} from host {access.name}"
        search.transfer = transfer = Transfer(what, size)
        try:
            try:
                await self._copy(search, access, transfer)
            except ObjectExists:  # another one writes it
                await self._store.lease(object_id, FETCHER)
                self._store.release(object_id, FETCHER)
        except KernelError as error:
            search.transfer = None
            if self._searches.get(object_id) is search:
                logger.info("%s could not be fetched: %s", what, error)
                self._try_elsewhere(search, access.host, str(error))
                if isinstance(error, StoreFull):
                    self._give_up(search, error)
        else:
            self._found(search)

    async def _copy(self, search: _Search, access: HostAccess, transfer: Transfer) -> None:
        store, object_id = self._store, search.object_id
        place = await store.create(object_id, transfer.size, owner=search.owner, writer=FETCHER)
        try:
            digest = await self._fetches.fetch(access, object_id, store.view(place), transfer)
            if transfer.cancelled:
                raise TransferCancelled(f"{transfer.what} is not wanted any more")
        except BaseException:
            store.abandon(object_id)
            raise
        store.seal(object_id, digest)

    def _crashed(self, failure: Failure, search: _Search, host: int) -> None:
        logger.error("a fetch has failed: %s", failure.getTraceback())
        error = ObjectError(f"internal error: {failure.getErrorMessage()}")
        self._try_elsewhere(search, host, str(error))
        self._give_up(search, error)

    def _free(self, objects: Iterable[bytes]) -> None:
        for object_id in objects:
            search = self._searches.get(object_id)
            if search is not None:
                self._give_up(search, ObjectLost("the object was freed while it was needed"))
        self._store.free(objects)

    # ---------------------------------------------------------- the connection

    def joined(self, number: int) -> None:
        """A controller was joined, which knows of no object here.

        Args:
            number: This host's number there.
        """
        self.number = number
        self._store.free_all()

    def disconnected(self) -> None:
        """The controller is gone: it knows of no object here any more, and nobody can be asked."""
        for search in list(self._searches.values()):
            self._give_up(search, ObjectLost("the connection to the controller was lost"))
        for host in list(self._access):
            self._fetches.forget(host)
        self._access.clear()


def _short(object_id: bytes) -> str:
    """Return enough of an id for people; who knows all of it may use the object."""
    return object_id[:4].hex()
