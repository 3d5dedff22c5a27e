"""The store of this machine, for engines and clients: one copy in, and mapped out."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from ipkernel.errors import ConnectError, KernelError, ObjectError
from ipkernel.objects import localfork
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.localconnection import CONNECT_TIMEOUT, Connection
from ipkernel.objects.localleases import Leases
from ipkernel.objects.localwire import (
    LIST_LIMIT,
    LONGEST,
    Abandon,
    AlreadyThere,
    Create,
    Free,
    Get,
    Hold,
    Ok,
    Region,
    Seal,
    WaitFreed,
)
from ipkernel.objects.mapping import SegmentMemory, Segments, most_mappings
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.addresses import machine_id, parse_address
from ipkernel.wire.messages import HostAccess, Placed

if TYPE_CHECKING:
    from ipkernel.objects.window import Part

__all__ = ["LocalStore", "reachable"]

#: Connections that are kept while nobody uses them.
IDLE: Final = 4

_Memory: TypeAlias = tuple["mmap.mmap | bytearray | Part", "bool | Callable[[], None]"]
"""An object's bytes, and whether they are the store's, so that the lease is needed on, or even what is to
be called when it ends."""


def reachable(access: HostAccess) -> bool:
    """Tell whether the store of a host is on this machine, so that LocalStore can be used.

    Args:
        access: What the controller has told of the host.
    """
    if not access.local or access.machine != machine_id():
        return False
    try:
        return parse_address(access.local).usable
    except ValueError:
        return False


class _Cut:
    """Cuts a connection when a transfer is cancelled, but not after somebody else has got it."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._lock = threading.RLock()  # for a signal handler that cancels, too

    def __call__(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.cut()

    def disarm(self) -> None:
        """Do nothing any more: the connection is free for others."""
        with self._lock:
            self._connection = None


class LocalStore:
    """The :class:`~ipkernel.objects.interfaces.StoreClient` for the store of this machine.

    It connects when it is first used, and has one connection for each thread that waits, and one
    that lasts as long as anything is mapped. A child made by ``os.fork`` may go on to use what
    is mapped, and nothing else.

    Args:
        address: Where the store is, such as ``unix:@name`` or ``tcp:127.0.0.1:4711``.
        subject: Who this process is.
        ticket: The subject's right to use the store.

    Raises:
        ValueError: ``address`` is none of a store on the same machine.
    """

    def __init__(self, address: str, subject: str, ticket: bytes) -> None:
        self._address = parse_address(address)
        self._subject = subject
        self._ticket = ticket
        self._segments = Segments()
        self._leases = Leases()
        self._lock = threading.Lock()
        self._anchor: Connection | None = None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._over = ""
        self._lifelines: dict[int, Connection] = {}
        localfork.register(self)

    # ---------------------------------------------------------- connections

    def _connect(self, leases: Leases | None = None) -> Connection:
        return Connection(self._address, self._subject, self._ticket, leases)

    def _take_connection(self) -> Connection:
        with self._lock:
            if self._over:
                raise ConnectError(self._over)
            if self._anchor is None:
                # The store ends all leases with the last connection: this one outlives the others.
                self._anchor = self._connect(self._leases)
                self._leases.hold_on(self._anchor)
            if self._idle:
                connection = self._idle.pop()
                self._busy.add(connection)
                return connection
        connection = self._connect(self._leases)
        with self._lock:
            self._busy.add(connection)
            if not self._over:
                return connection
        self._give_connection(connection)
        raise ConnectError(self._over)

    def _give_connection(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            if not (connection.broken or self._over) and len(self._idle) < IDLE:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _connection(self, transfer: Transfer | None = None) -> Iterator[Connection]:
        """A connection for the length of a ``with``, which ends early if it is cancelled."""
        if transfer is not None and transfer.cancelled:
            raise _cancelled(transfer)
        connection = self._take_connection()
        cut = _Cut(connection)
        try:
            if transfer is not None:
                transfer.route = "shared memory"
                transfer.on_cancel(cut)
            yield connection
        except ConnectError as error:
            if transfer is not None and transfer.cancelled:
                raise _cancelled(transfer) from None
            if self._over:
                raise ConnectError(self._over) from error
            raise
        finally:
            cut.disarm()
            self._give_connection(connection)

    # -------------------------------------------------------------- writing

    def put(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        *,
        owner: int,
        transfer: Transfer | None = None,
    ) -> None:
        """Put an object there; see :meth:`StoreClient.put`.

        Raises:
            ValueError: The pieces have not ``size`` bytes together.
        """
        views = [_flat(piece) for piece in pieces]
        if sum(map(len, views)) != size:
            raise ValueError(f"pieces of {sum(map(len, views))} bytes make no object of {size}")
        with self._connection(transfer) as connection:
            try:
                region = connection.ask(Create(object_id, size, owner), Region)
            except AlreadyThere:
                return
            try:
                self._write(region, views, transfer, connection)
                connection.ask(Seal(object_id), Ok)
            except Exception:
                if not connection.broken:
                    _abandon(connection, object_id)
                raise
            except BaseException:
                connection.close()  # and the store abandons it
                raise

    def _write(
        self,
        region: Region,
        views: Sequence[memoryview],
        transfer: Transfer | None,
        connection: Connection,
    ) -> None:
        if not region.size:
            return
        segment = self._segment(region.segment, connection)
        offset = region.offset
        for view in views:
            while view:
                piece = view[: segment.step(offset, view)]
                try:
                    segment.write(offset, piece)
                except (OSError, ValueError) as error:
                    raise _unmapped(error) from error
                view = view[len(piece) :]
                offset += len(piece)
                if transfer is not None:
                    transfer.advance(len(piece))

    # -------------------------------------------------------------- reading

    def get(
        self,
        object_id: bytes,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
        transfer: Transfer | None = None,
    ) -> memoryview:
        """Return an object's bytes; see :meth:`StoreClient.get`."""
        seconds = None if timeout is None else _bounded(timeout)
        with self._connection(transfer) as connection:
            region = connection.ask(Get(object_id, bringer, seconds), Region, seconds)
            try:
                memory = self._map(region, connection)
            except BaseException:
                connection.close()  # and the store takes the lease back
                raise
            connection.kept = object_id
            view = self._own(object_id, memory)
        if transfer is not None:
            transfer.advance(region.size)
        return view

    def map_placed(self, placed: Placed) -> memoryview:
        """Return an object's bytes that the host daemon has leased for this subject already.

        The lease ends when the last view of them is gone, or right away if this fails. The caller asks
        :meth:`ended` soon whether it has; if he does not, the store is told a little later.

        Args:
            placed: Where it is.

        Raises:
            ConnectError: The store is gone.
            ObjectError: It cannot be mapped.
        """
        try:
            memory = self._map(Region(placed.segment, placed.offset, placed.size))
        except BaseException:
            self._leases.give_back(placed.object)
            raise
        return self._own(placed.object, memory, young=True)

    def ended(self) -> list[bytes]:
        """Return objects whose leases have ended; the caller has the store told, and calls :meth:`tidy`."""
        return self._leases.ended()

    def tidy(self) -> None:
        """Make ready for others the memory of leases that have ended; if not, that is done when it is needed."""
        self._leases.undo()

    def _map(self, region: Region, connection: Connection | None = None) -> _Memory:
        if not region.size:
            return bytearray(), False
        segment = self._segment(region.segment, connection)
        lent = segment.lend(region.offset, region.size)
        if lent is None:
            self._leases.undo()  # perhaps it was lent until a moment ago
            lent = segment.lend(region.offset, region.size)
        if lent is not None:
            return lent
        try:
            if self._leases.mappings < most_mappings():
                try:
                    return segment.private(region.offset, region.size), True
                except OSError:
                    pass  # too many descriptors or mappings; a copy needs fewer of them
            return segment.copy(region.offset, region.size), False
        except (OSError, ValueError) as error:
            raise _unmapped(error) from error

    def _own(self, object_id: bytes, memory: _Memory, *, young: bool = False) -> memoryview:
        """Have the lease end when it should: with the mapping, or at once."""
        held, leased = memory
        if isinstance(held, bytearray) or not leased:
            self._leases.give_back(object_id)
        else:
            undo = leased if callable(leased) else None
            self._leases.keep(held, object_id, undo, young=young)
        return memoryview(held).cast("B")

    def _segment(self, number: int, connection: Connection | None) -> SegmentMemory:
        segment = self._segments.find(number)
        if segment is not None:
            return segment
        if connection is not None:
            return self._segments.add(number, connection.attach(number))
        with self._connection() as connection:
            return self._segments.add(number, connection.attach(number))

    # --------------------------------------------------------------- ending

    def free(self, object_ids: Sequence[bytes]) -> None:
        """Have the store forget objects; see :meth:`StoreClient.free`."""
        for start in range(0, len(object_ids), LIST_LIMIT):
            with self._connection() as connection:
                connection.ask(Free(list(object_ids[start : start + LIST_LIMIT])), Ok)

    def wait_freed(self, object_id: bytes, timeout: float) -> bool:
        """Wait until the object is gone; see :meth:`StoreClient.wait_freed`."""
        seconds = _bounded(timeout)
        with self._connection() as connection:
            return connection.ask(WaitFreed(object_id, seconds), Ok, seconds).yes

    def close(self) -> None:
        """Close the connections; those who wait get a ConnectError. What is mapped stays valid.

        For that, one connection lasts until the last view is gone.
        """
        with self._lock:
            if self._over:
                return
            self._over = f"the store at {self._address} was closed in this process"
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:
            connection.cut()
        self._segments.clear()
        self._leases.close()

    # -------------------------------------------------------------- forking

    def before_fork(self) -> None:
        """Have the store hold for the child, until it ends, what it is about to have mapped."""
        mapped = self._leases.mapped()
        if not mapped:
            return
        lifeline = None
        try:
            lifeline = self._connect()
            for start in range(0, len(mapped), LIST_LIMIT):
                lifeline.ask(Hold(mapped[start : start + LIST_LIMIT]), Ok, CONNECT_TIMEOUT)
        except (KernelError, TimeoutError):  # no store, so nobody will use that memory again
            if lifeline is not None:
                lifeline.close()
        else:
            self._lifelines[threading.get_ident()] = lifeline

    def after_fork_in_parent(self) -> None:
        """Leave the child its lifeline."""
        lifeline = self._lifelines.pop(threading.get_ident(), None)
        if lifeline is not None:
            lifeline.leave()

    def after_fork_in_child(self) -> Connection | None:
        """Leave the connections, which are the parent's; return the lifeline, to be kept open."""
        self._lock = threading.Lock()
        self._segments = Segments()
        self._over = "a process that was forked cannot use the store; start it in another way"
        own = self._lifelines.pop(threading.get_ident(), None)
        for connection in (*self._idle, *self._busy, *self._lifelines.values()):
            connection.leave()
        self._idle.clear()
        self._busy.clear()
        self._lifelines.clear()
        self._leases.leave()
        return own


def _cancelled(transfer: Transfer) -> TransferCancelled:
    return TransferCancelled(f"{transfer.what or 'the transfer'} was cancelled")


def _unmapped(error: Exception) -> ObjectError:
    return ObjectError(f"the memory of the store cannot be used: {error}")


def _bounded(timeout: float) -> float:
    return min(max(0.0, timeout), LONGEST)


def _flat(piece: Buffer) -> memoryview:
    view = memoryview(piece)
    if not view.nbytes:
        return memoryview(b"")
    return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def _abandon(connection: Connection, object_id: bytes) -> None:
    """Say that the object will not be written; the reason is what the caller is told."""
    try:
        connection.ask(Abandon(object_id), Ok)
    except KernelError:
        pass  # then the connection is over, which says the same
