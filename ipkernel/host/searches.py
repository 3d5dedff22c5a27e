"""Objects that are looked for: the controller says where they are, and from there they are fetched.

All of this happens in the reactor's thread, without input or output of its own: the store, the
way to the controller and what moves the bytes are handed in.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

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
from ipkernel.objects.interfaces import ObjectInfo
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import Copied, HostAccess, Moving, Seek, Source

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ipkernel.objects.store import HostStore

__all__ = ["Fetches", "Searches", "short"]

logger = logging.getLogger(__name__)

#: Under this name the daemon itself writes what it fetches.
FETCHER: Final = "fetch"
#: Places at which an object is looked for before the search is given up.
MAX_TRIES: Final = 16
#: Seconds between two reports of how far fetches are.
EVERY: Final = 1.0


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
        full: What a place said that has the object on disk, and no room to bring it back.
    """

    object_id: bytes
    owner: int
    waiting: list[Deferred[None]] = field(factory=list)
    coming: Deferred[ObjectInfo] | None = None
    transfer: Transfer | None = None
    tries: int = 0
    full: StoreFull | None = None


class Searches:
    """Looks for objects, each one once for all who wait for it.

    Once begun, a search goes on though nobody may wait for its object any more: the controller
    counts on the copy, and says when it is of no use. A fetch that fails is reported to it, and it
    names another source or the reason why there is none.

    Args:
        clock: Twisted's reactor, or a Clock.
        store: This host's store.
        uplink: The way to the controller.
        fetches: Moves the bytes.

    Attributes:
        number: This host's number in the cluster, 0 while it has none.
        access: How other hosts are reached, by their numbers.
    """

    def __init__(self, clock: Any, store: HostStore, uplink: Uplink, fetches: Fetches) -> None:
        self.number = 0
        self.access: dict[int, HostAccess] = {}
        self._clock = clock
        self._report: IDelayedCall | None = None
        self._store = store
        self._uplink = uplink
        self._fetches = fetches
        self._searches: dict[bytes, _Search] = {}

    def __len__(self) -> int:
        return len(self._searches)

    def find(self, object_id: bytes, owner: int) -> Deferred[None]:
        """Look for an object that is not here.

        Args:
            object_id: Its id.
            owner: The session whose task needs it.

        Returns:
            Fires when it is here; fails with a :class:`~ipkernel.errors.KernelError`.
        """
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
        self._remove(search)
        self._uplink.send(Copied([search.object_id]))
        for waiting in search.waiting:
            waiting.callback(None)

    def _give_up(self, search: _Search, error: KernelError) -> None:
        """End a search without the object."""
        if self._searches.get(search.object_id) is not search:
            return
        self._remove(search)
        if search.coming is not None:
            search.coming.cancel()
        if search.transfer is not None:
            search.transfer.cancel()
        for waiting in search.waiting:
            waiting.errback(error)

    def _remove(self, search: _Search) -> None:
        del self._searches[search.object_id]
        if not self._searches and self._report is not None:
            self._report.cancel()
            self._report = None

    def forget(self, object_id: bytes, error: KernelError) -> None:
        """End the search for an object, if there is one: nobody refers to it any more."""
        search = self._searches.get(object_id)
        if search is not None:
            self._give_up(search, error)

    def end(self, error: KernelError) -> None:
        """End all searches."""
        for search in list(self._searches.values()):
            self._give_up(search, error)

    def ask_again(self) -> None:
        """Ask a controller that was started again for what is looked for and not on its way."""
        for search in self._searches.values():
            if search.transfer is None:
                self._uplink.send(Seek(search.object_id))

    # ------------------------------------------------------------- the way here

    def answered(self, message: Source) -> None:
        """Deal with an answer of the controller."""
        search = self._searches.get(message.object)
        if search is None:
            self._unwanted(message)
        elif search.transfer is not None:
            return
        elif message.problem:
            self._give_up(search, search.full or ObjectLost(message.problem))
        elif not message.host:
            self._expect(search)
        else:
            search.tries += 1
            access = self.access.get(message.host)
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
            text = f"object {short(search.object_id)} could not be fetched: {problem}"
            self._give_up(search, search.full or ObjectLost(text))
            return
        self._uplink.send(Seek(search.object_id, host, problem[:4000]))

    async def _fetch(self, search: _Search, access: HostAccess, size: int) -> None:
        """Copy an object from another host, or have it sought elsewhere."""
        object_id = search.object_id
        what = f"object {short(object_id)} from host {access.name}"
        search.transfer = transfer = Transfer(what, size)
        if self._report is None:
            self._report = self._clock.callLater(EVERY, self._tell)
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
                if isinstance(error, StoreFull) and error is not search.full:
                    self._give_up(search, error)
        else:
            self._found(search)

    def _tell(self) -> None:
        """Tell the controller how far the fetches are that have not ended soon."""
        for search in self._searches.values():
            if search.transfer is not None and search.transfer.done:
                self._uplink.send(Moving(search.object_id, search.transfer.done))
        self._report = self._clock.callLater(EVERY, self._tell)

    async def _copy(self, search: _Search, access: HostAccess, transfer: Transfer) -> None:
        store, object_id = self._store, search.object_id
        place = await store.create(object_id, transfer.size, owner=search.owner, writer=FETCHER)
        target = store.view(place)
        try:
            digest = await self._fetches.fetch(access, object_id, target, transfer)
            if transfer.cancelled:
                raise TransferCancelled(f"{transfer.what} is not wanted any more")
        except BaseException as error:
            store.abandon(object_id)
            if isinstance(error, StoreFull):
                text = f"host {access.name} cannot send object {short(object_id)}: {error}"
                search.full = StoreFull(text)
                raise search.full from None
            raise
        finally:
            with suppress(BufferError):  # the threads of a pool remember what they did last
                target.release()
        store.seal(object_id, digest)

    def _crashed(self, failure: Failure, search: _Search, host: int) -> None:
        logger.error("a fetch has failed: %s", failure.getTraceback())
        error = ObjectError(f"internal error: {failure.getErrorMessage()}")
        self._try_elsewhere(search, host, str(error))
        self._give_up(search, error)


def short(object_id: bytes) -> str:
    """Return enough of an id for people; who knows all of it may use the object."""
    return object_id[:4].hex()
