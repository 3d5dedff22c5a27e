"""Moving one object to or from a host: over several connections, and over new ones when they break.

Each connection has a thread, of which the first is the caller's own. They take pieces of the object from
one share; those that a broken connection had taken go back and are moved again, and nothing else is.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

from ipkernel.errors import ConnectError, KernelError, TransferError, UnknownObject
from ipkernel.objects.compress import Compressor, choose, compressor, decompressor
from ipkernel.objects.datawire import AHEAD, Done, Exists, Get, Go, Put, PutRange, Release, Sending
from ipkernel.objects.lines import Guard, HostLine, Lines, LinesClosed
from ipkernel.objects.pace import Pace
from ipkernel.objects.ranges import PIECE, Piece, Pieces, Share, combined_digest
from ipkernel.objects.tlsstream import StreamBroken
from ipkernel.objects.transfer import Transfer, TransferCancelled

__all__ = ["PAUSES", "Fetch", "Move", "Upload"]

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
            self._forget()
            try:
                raise _light(failure)
            finally:
                del failure
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

    @abstractmethod
    def _forget(self) -> None:
        """Let go of the object's memory: whoever keeps the error keeps this as well."""

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


def _light(error: Exception) -> Exception:
    """Return an error without the stack of whoever met it, which has views of the object's memory."""
    if isinstance(error, KernelError | TimeoutError):
        error.__traceback__ = error.__context__ = None
    return error


class Upload(Move):
    """An object on its way to a host.

    Args:
        pieces: Its bytes.
        owner: The session that it belongs to.
        pace: Tells whether compression pays; None never compresses.
    """

    def __init__(
        self,
        lines: Lines,
        object_id: bytes,
        transfer: Transfer,
        pieces: Pieces,
        *,
        owner: int,
        streams: int,
        pace: Pace | None = None,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        super().__init__(lines, object_id, transfer, streams=streams, pauses=pauses)
        transfer.size = pieces.size
        self._pieces = pieces
        self._owner = owner
        self._pace = pace
        self._codec: str | None = None
        self._share = self._whole = Share(pieces.size)
        self._sealed = False

    @property
    def _complete(self) -> bool:
        return self._sealed

    def _forget(self) -> None:
        self._pieces = Pieces(())

    def _use(self, line: HostLine) -> None:
        share = self._whole
        line.tell(Put(self._object_id, share.size, self._owner))
        answer = line.hear()
        if isinstance(answer, Exists):
            share.note([(0, share.size)])
            self._sealed = True
            return
        if not isinstance(answer, Go):
            raise line.refused(answer)
        self._count(share.note(answer.have))
        self._staff()
        sent: deque[Piece] = deque()
        try:
            while True:
                piece = share.take() if len(sent) < AHEAD else None
                if piece is not None:
                    sent.append(piece)
                    self._send(line, piece)
                elif sent:
                    self._settle(line, sent[0])
                    sent.popleft()
                else:
                    return
        except BaseException:
            for piece in sent:
                self._uncount(piece)
                share.give_back(piece)
            raise

    def _send(self, line: HostLine, piece: Piece) -> None:
        pack = self._packer(line)
        codec = (self._codec or "") if pack else ""
        began = time.monotonic()
        line.tell(PutRange(self._object_id, piece.offset, piece.length, codec))
        blocks = self._pieces.blocks(piece.offset, piece.length)
        piece.digest = line.send_range(blocks, self._counter(piece), pack)
        line.tell(Done(piece.digest))
        if self._pace is not None:
            self._pace.note(piece.length, time.monotonic() - began, packed=pack is not None)

    def _packer(self, line: HostLine) -> Compressor | None:
        if self._pace is None or not self._pace.is_slow or not line.codecs:
            return None
        if self._codec is None:
            self._codec = choose(self._pieces.buffers, self._pieces.size, line.codecs)
        return compressor(self._codec) if self._codec else None

    def _settle(self, line: HostLine, piece: Piece) -> None:
        """Hear how a piece has arrived."""
        done = line.answer(Done)
        if done.digest != piece.digest:
            self._again(self._whole, piece)
            return
        self._arrived(self._whole, piece)
        if done.complete:
            self._sealed = True


class Fetch(Move):
    """An object on its way from a host.

    Args:
        make: Is called with the object's size; returns the memory for it.
        bringer: See :meth:`~ipkernel.objects.interfaces.StoreClient.get`.
        timeout: The same.
        pace: Tells whether compression pays; None never asks for it.

    Attributes:
        digest: The object's digest, once it is here.
    """

    def __init__(
        self,
        lines: Lines,
        object_id: bytes,
        transfer: Transfer,
        make: Callable[[int], memoryview],
        *,
        streams: int,
        bringer: int | None = None,
        timeout: float | None = None,
        pace: Pace | None = None,
        codecs: tuple[str, ...] = (),
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        super().__init__(lines, object_id, transfer, streams=streams, pauses=pauses)
        self._make = make
        self._bringer = bringer
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._pace = pace
        self._codecs = list(codecs)
        self._target = memoryview(b"")
        self._digests: list[bytes] = []
        self._recorded = b""
        self.digest = b""

    def run(self) -> None:
        """Move the object; returns when all of it is here."""
        super().run()
        self.digest = combined_digest(self._digests)
        if self._recorded and self._recorded != self.digest:
            self._forget()
            raise TransferError(
                f"{self._what} is damaged in the store of host {self._host}: its digest is "
                f"{self.digest.hex()}, and was {self._recorded.hex()} when it was stored"
            )

    @property
    def _complete(self) -> bool:
        return self._share is not None and self._share.complete

    def _forget(self) -> None:
        self._target = memoryview(b"")

    def _use(self, line: HostLine) -> None:
        asked: deque[Piece] = deque()
        share = self._share or self._look(line, asked)
        try:
            while True:
                while len(asked) < AHEAD and (piece := share.take()) is not None:
                    asked.append(piece)
                    line.tell(self._request(piece))
                if not asked:
                    break
                self._receive(line, share, asked[0])
                asked.popleft()
        except BaseException:
            for piece in asked:
                self._uncount(piece)
                share.give_back(piece)
            raise
        line.tell(Release(self._object_id))

    def _look(self, line: HostLine, asked: deque[Piece]) -> Share:
        """Ask how large the object is, and for the first piece along with it."""
        timeout = None
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - time.monotonic())
        look = Get(self._object_id, bringer=self._bringer, timeout=timeout)
        line.tell(look, self._request(Piece(0, PIECE)))
        try:
            sending = line.answer(Sending)
        except TimeoutError:
            raise TimeoutError(
                f"{self._what} did not come to host {self._host} within {self._timeout} s"
            ) from None
        line.answer(Done)
        self._target = self._make(sending.size)
        self._digests = [b""] * -(-sending.size // PIECE)
        self._recorded = sending.digest
        share = self._share = Share(sending.size)
        self._transfer.size = sending.size
        first = share.take()
        if first is not None:
            asked.append(first)
        else:  # it is empty, and so is what was asked for
            line.answer(Sending)
            line.answer(Done)
        self._staff()
        return share

    def _request(self, piece: Piece) -> Get:
        slow = self._pace is not None and self._pace.is_slow
        codecs = self._codecs if slow else []
        return Get(self._object_id, piece.offset, piece.length, codecs=codecs)

    def _receive(self, line: HostLine, share: Share, piece: Piece) -> None:
        began = time.monotonic()
        sending = line.answer(Sending)
        if (sending.size, sending.length) != (share.size, piece.length):
            raise UnknownObject(f"{self._what} has changed in the store of host {self._host}")
        unpack = decompressor(sending.codec) if sending.codec else None
        target = self._target[piece.offset : piece.end]
        digest = line.receive_range(target, self._counter(piece), unpack)
        if line.answer(Done).digest != digest:
            self._again(share, piece)
            return
        self._digests[piece.index] = digest
        self._arrived(share, piece)
        if self._pace is not None:
            seconds = time.monotonic() - began
            self._pace.note(piece.length, seconds, packed=bool(sending.codec))
