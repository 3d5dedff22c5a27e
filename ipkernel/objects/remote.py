"""The store of another host: objects come and go over TLS, directly or through the controller."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar

from ipkernel.errors import KernelError, TransferError
from ipkernel.objects.compress import available
from ipkernel.objects.datawire import LIST_LIMIT, Abandon, Free, Ok, Reply, Request, WaitFreed
from ipkernel.objects.dialing import Unreachable
from ipkernel.objects.gets import GetMove
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.lines import Guard, Lines
from ipkernel.objects.moves import PAUSES
from ipkernel.objects.pace import Pace
from ipkernel.objects.puts import PutMove
from ipkernel.objects.ranges import Pieces
from ipkernel.objects.tlsstream import FROZEN_AFTER, StreamBroken
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.addresses import machine_id
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import HostAccess
from ipkernel.wire.security import TubTLS

__all__ = ["RemoteStore", "default_streams", "private_memory"]

#: Seconds in which a host is told that an object will not come after all.
_GOODBYE: Final = 2.0
#: Connections are made over again so often for a question.
_TRIES: Final = 3

R = TypeVar("R", bound=Reply)

_unreachable = Unreachable()


def default_streams() -> int:
    """Return how many connections a large object is moved over: one for two cores, four at most."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(4, cores // 2))


def private_memory(size: int) -> memoryview:
    """Return memory of this process for an object, writable, zeroed.

    It goes back to the system when the last view of it does.

    Raises:
        MemoryError: There is not so much.
    """
    if not size:
        return memoryview(bytearray())
    try:
        if os.name == "nt":
            return memoryview(mmap.mmap(-1, size))
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise MemoryError(f"there is no memory for an object of {size} bytes") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            # Filling memory page by page for the first time takes longer than deciphering what fills it.
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class RemoteStore:
    """Access to the store of a host that is not on this machine. Blocking; for any thread.

    Args:
        access: How to reach the host, and this process's ticket.
        identity: This process's certificate, for whose TubID the ticket is.
        relay: Returns a socket to the host by way of the controller, for when it cannot be dialled;
            may raise ConnectError. None if there is no such way.
        streams: Over how many connections a large object goes at most.
        compression: ``"auto"`` compresses what goes over slow networks, if both sides can and it pays;
            ``"off"`` nothing.
        timeout: Seconds without progress after which a connection is given up.
        pauses: Seconds before each attempt to go on after a connection was lost.
        unreachable: Remembers hosts that cannot be dialled; by default all stores share one.
    """

    def __init__(
        self,
        access: HostAccess,
        identity: Identity,
        *,
        relay: Callable[[], socket.socket] | None = None,
        streams: int | None = None,
        compression: Literal["auto", "off"] = "auto",
        timeout: float = FROZEN_AFTER,
        pauses: tuple[float, ...] = PAUSES,
        unreachable: Unreachable | None = None,
    ) -> None:
        self._streams = streams or default_streams()
        self._pauses = pauses
        self._codecs = available() if compression == "auto" else ()
        self._sending = Pace() if self._codecs else None
        self._receiving = Pace() if self._codecs else None
        self._lines = Lines(
            access,
            identity.tub_id,
            TubTLS(identity),
            same_machine=access.machine == machine_id(),
            relay=relay,
            unreachable=_unreachable if unreachable is None else unreachable,
            keep=self._streams + 1,
            timeout=timeout,
        )

    def put(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        *,
        owner: int,
        transfer: Transfer | None = None,
    ) -> None:
        """Put an object there; see :meth:`~ipkernel.objects.interfaces.StoreClient.put`."""
        whole = Pieces(pieces)
        if whole.size != size:
            raise ValueError(f"an object of {size} bytes with {whole.size} bytes in its pieces")
        move = PutMove(
            self._lines,
            object_id,
            transfer or Transfer(size=size),
            whole,
            owner=owner,
            streams=self._streams,
            pace=self._sending,
            pauses=self._pauses,
        )
        try:
            move.run()
        except BaseException as error:
            lost = isinstance(error, TransferError) and not isinstance(error, TransferCancelled)
            if move.was_begun and not lost:
                self._abandon(object_id)
            raise

    def get(
        self,
        object_id: bytes,
        *,
        bringer: int | None = None,
        timeout: float | None = None,
        transfer: Transfer | None = None,
    ) -> memoryview:
        """Return an object's bytes; see :meth:`~ipkernel.objects.interfaces.StoreClient.get`."""
        made: list[memoryview] = []

        def make(size: int) -> memoryview:
            made.append(private_memory(size))
            return made[0]

        self._fetch(object_id, make, transfer, bringer, timeout)
        return made[0]

    def fetch_into(
        self,
        object_id: bytes,
        size: int,
        target: memoryview,
        transfer: Transfer | None = None,
    ) -> bytes:
        """Fetch an object into memory that is there already.

        Args:
            object_id: Its id.
            size: Its length in bytes.
            target: Takes the bytes; as long as that.
            transfer: Is told of progress, and may be cancelled.

        Returns:
            The object's digest.

        Raises:
            UnknownObject: The store does not have it.
            TransferError: It has another size there, or as for :meth:`get`.
            TransferCancelled, ConnectError: As for :meth:`get`.
        """

        def make(there: int) -> memoryview:
            if there != size or len(target) != size:
                raise TransferError(
                    f"object {object_id[:4].hex()} has {there} bytes in the store of host "
                    f"{self._lines.access.name}, not {size}"
                )
            return target

        return self._fetch(object_id, make, transfer)

    def free(self, object_ids: Sequence[bytes]) -> None:
        """Have the store forget objects as soon as nobody reads them any more.

        Raises:
            ConnectError: The host cannot be reached.
            TransferError: The connection was lost again and again.
        """
        for start in range(0, len(object_ids), LIST_LIMIT):
            self._ask(Free(list(object_ids[start : start + LIST_LIMIT])), Ok)

    def wait_freed(self, object_id: bytes, timeout: float) -> bool:
        """Wait until the store does not have an object any more; tell whether that is so.

        Raises:
            ConnectError, TransferError: As for :meth:`free`.
        """
        return self._ask(WaitFreed(object_id, timeout), Ok).yes

    def close(self) -> None:
        """Close the connections; what goes on fails. Memory that came from here stays valid."""
        self._lines.close()

    # ---------------------------------------------------------------- how

    def _fetch(
        self,
        object_id: bytes,
        make: Callable[[int], memoryview],
        transfer: Transfer | None,
        bringer: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        move = GetMove(
            self._lines,
            object_id,
            transfer or Transfer(),
            make,
            streams=self._streams,
            bringer=bringer,
            timeout=timeout,
            pace=self._receiving,
            codecs=self._codecs,
            pauses=self._pauses,
        )
        move.run()
        return move.digest

    def _ask(self, request: Request, kind: type[R]) -> R:
        """Ask a question that may be asked twice."""
        for tries in range(1, _TRIES + 1):
            try:
                return self._ask_once(request, kind)
            except StreamBroken as error:
                self._lines.drop_idle()
                if tries == _TRIES:
                    raise TransferError(
                        f"the connection to host {self._lines.access.name} was lost {tries} times: "
                        f"{error}"
                    ) from None
        raise AssertionError("the last try either returns or raises")

    def _ask_once(self, request: Request, kind: type[R], patience: float | None = None) -> R:
        guard = Guard()
        if patience is None:
            line = self._lines.open(guard)
        else:
            line = self._lines.open(guard, patience)
            line.stream.set_timeout(patience)
        try:
            answer = line.ask(request, kind)
        except BaseException:
            self._lines.drop(line, guard)
            raise
        self._lines.give_back(line, guard)
        return answer

    def _abandon(self, object_id: bytes) -> None:
        """Tell the host that an object will not come; if that fails, it finds out by itself."""
        with contextlib.suppress(StreamBroken, KernelError):
            self._ask_once(Abandon(object_id), Ok, _GOODBYE)
