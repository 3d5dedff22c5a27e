"""One object on its way from a host."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ipkernel.errors import TransferError, UnknownObject
from ipkernel.objects.compress import decompressor
from ipkernel.objects.datawire import AHEAD, Done, Get, Release, Sending
from ipkernel.objects.digests import combined_digest
from ipkernel.objects.lines import HostLine, Lines
from ipkernel.objects.moves import PAUSES, Move
from ipkernel.objects.pace import Pace
from ipkernel.objects.ranges import PIECE, Piece, Share
from ipkernel.objects.transfer import Transfer

__all__ = ["GetMove"]


class GetMove(Move):
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
            raise TransferError(
                f"{self._what} is damaged in the store of host {self._host}: its digest is "
                f"{self.digest.hex()}, and was {self._recorded.hex()} when it was stored"
            )

    @property
    def _complete(self) -> bool:
        return self._share is not None and self._share.complete

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
