"""Moving one object to or from a host: over several connections, and over new ones when they break.

Each connection has a thread, of which the first is the caller's own. They take pieces of the object from
one share; those that a broken connection had taken go back and are moved again, and nothing else is.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ipkernel.errors import ConnectError, TransferError
from ipkernel.objects.lines import Guard, HostLine, Lines, LinesClosed
from ipkernel.objects.ranges import PIECE, Piece, Share
from ipkernel.objects.tlsstream import StreamBroken
from ipkernel.objects.transfer import Transfer, TransferCancelled

__all__ = ["PAUSES", "Move"]

#: Seconds before each attempt to go on after a connection was lost.
PAUSES: Final = (0.1, 0.3, 1.0, 2.0, 4.0)
#: Bytes of an object for each connection.
_WORTH: Final = 8 * PIECE


class Move(ABC):
    """One object on its way.

    Args:
        lines: Connections to the host.
        object_id: The object.
        transfer: Is told of progress, and may be cancelled.
        streams: How many connections to use at most.
        pauses: Seconds before each attempt to go on after a connection was lost; the count
            begins again whenever a piece has arrived.
    """

    def __init__(
        self,
        lines: Lines,
        object_id: bytes,
        transfer: Transfer,
        *,
        streams: int,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._lines = lines
        self._object_id = object_id
        self._transfer = transfer
        self._streams = streams
        self._pauses = pauses
        self._host = lines.access.name
        self._what = transfer.what or f"object {object_id[:4].hex()}"
        self._share: Share | None = None
        self._guard = Guard()
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._helpers: list[threading.Thread] = []
        self._reached = False
        self._breaks = 0  # in all: two connections that break together are one
        self._in_a_row = 0
        self._counted = 0

    @property
    def was_begun(self) -> bool:
        """Whether the host was reached, so that it knows of this move."""
        return self._reached

    def run(self) -> None:
        """Move the object; returns when all of it is there."""
        self._heed_cancellation()
        try:
            while not self._ended.is_set():
                self._work(helping=False)
                self._join()
                if self._complete:
                    break
                if self._share is not None and self._share.complete:
                    self._may_go_on("it has all bytes, but does not say so", self._breaks)
        except BaseException as error:  # a KeyboardInterrupt, or a fault of ours
            self._fail(TransferError(f"{self._what}: {type(error).__name__}"))
            self._join()
            raise
        finally:
            self._ended.set()
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or it and the stack keep each other, and the object's memory
        if self._share is not None:
            self._count(self._share.size - self._counted)

    def _heed_cancellation(self) -> None:
        # The transfer may live much longer than the move, and what that has in memory.
        myself = weakref.ref(self)

        def cancelled() -> None:
            move = myself()
            if move is not None:
                move._cancelled()

        self._transfer.on_cancel(cancelled)

    def _join(self) -> None:
        for helper in self._helpers:
            helper.join()
        self._helpers.clear()

    # ---------------------------------------------------------------- to be defined

    @property
    @abstractmethod
    def _complete(self) -> bool:
        """Whether nothing is left to be done."""

    @abstractmethod
    def _use(self, line: HostLine) -> None:
        """Move pieces over a connection until there are no more."""

    # ---------------------------------------------------------------- connections

    def _work(self, *, helping: bool) -> None:
        """Use one connection after the other until there is nothing left for this thread."""
        while not self._ended.is_set():
            seen = self._breaks
            try:
                line = self._lines.open(self._guard)
            except LinesClosed as error:
                self._fail(TransferError(f"{self._what}: {error}") if self._reached else error)
                return
            except ConnectError as error:
                if helping:
                    return  # those that are connected do it alone
                if not self._reached:
                    self._fail(error)
                elif not self._may_go_on(str(error), seen):
                    return
                continue
            self._reached = True
            self._transfer.route = line.route
            if self._is_over(line, seen):
                return

    def _is_over(self, line: HostLine, seen: int) -> bool:
        """Use a connection; tell whether this thread has nothing more to do."""
        before = self._share.there if self._share else 0
        try:
            self._use(line)
        except StreamBroken as error:
            self._lines.drop(line, self._guard)
            if line.used and before == (self._share.there if self._share else 0):
                self._lines.drop_idle()  # the host has closed it while nobody used it
                line.used = False
                return self._ended.is_set()
            return not self._may_go_on(str(error), seen)
        except BaseException as error:
            self._lines.drop(line, self._guard)
            if not isinstance(error, Exception):
                raise
            self._fail(error)
            return True
        self._lines.give_back(line, self._guard)
        return True

    def _may_go_on(self, why: str, seen: int) -> bool:
        """Wait a little after a connection was lost; return whether to try another.

        Args:
            why: What happened.
            seen: How many were lost before this one was opened.
        """
        with self._lock:
            if self._breaks == seen:
                self._breaks += 1
                self._in_a_row += 1
            tries = self._in_a_row
        if tries > len(self._pauses):
            self._fail(TransferError(self._story(why)))
            return False
        self._ended.wait(self._pauses[tries - 1] if tries else 0.0)
        return not self._ended.is_set()

    def _story(self, why: str) -> str:
        there = self._share.there if self._share else 0
        size = f" of {self._share.size}" if self._share else ""
        return (
            f"{self._what}: {there}{size} bytes have arrived; the connection to host {self._host} "
            f"was lost, and could not be kept up in {len(self._pauses)} further attempts: {why}"
        )

    def _staff(self) -> None:
        """Have other threads help if the object is large."""
        share = self._share
        if share is None or self._helpers:
            return
        wanted = min(self._streams, (share.size - share.there) // _WORTH)
        for number in range(1, wanted):
            helper = threading.Thread(
                target=self._help, name=f"ipkernel-stream-{number}", daemon=True
            )
            self._helpers.append(helper)
            helper.start()

    def _help(self) -> None:
        try:
            self._work(helping=True)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._fail(TransferError(f"{self._what}: internal error: {error!r}"))

    # ---------------------------------------------------------------- what happens

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if self._failure is None and not self._ended.is_set():
                self._failure = error
            self._ended.set()
        self._guard.cut()

    def _cancelled(self) -> None:
        if not self._ended.is_set():
            self._fail(TransferCancelled(f"{self._what} was cancelled"))

    def _counter(self, piece: Piece) -> Callable[[int], None]:
        def count(moved: int) -> None:
            piece.moved += moved
            self._count(moved)

        return count

    def _uncount(self, piece: Piece) -> None:
        moved, piece.moved = piece.moved, 0
        with contextlib.suppress(TransferCancelled):
            self._count(-moved)

    def _count(self, moved: int) -> None:
        if moved:
            with self._lock:
                self._counted += moved
            self._transfer.advance(moved)

    def _arrived(self, share: Share, piece: Piece) -> None:
        share.done(piece)
        self._got_on()

    def _got_on(self) -> None:
        """Something has arrived: it is worth trying again and again."""
        with self._lock:
            self._in_a_row = 0

    def _again(self, share: Share, piece: Piece) -> None:
        """A piece has arrived with a wrong digest."""
        self._uncount(piece)
        piece.faults += 1
        if piece.faults > 1:
            raise TransferError(
                f"{self._what}: bytes {piece.offset} to {piece.end} do not arrive at the other side "
                f"of the connection with host {self._host} as they were sent: the digest differs, "
                "twice; look for faulty memory"
            )
        share.give_back(piece)
