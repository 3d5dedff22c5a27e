"""One object on its way to a host."""

from __future__ import annotations

import time
from collections import deque

from ipkernel.objects.compress import Compressor, choose, compressor
from ipkernel.objects.datawire import AHEAD, Done, Exists, Go, Put, PutRange
from ipkernel.objects.lines import HostLine, Lines
from ipkernel.objects.moves import PAUSES, Move
from ipkernel.objects.pace import Pace
from ipkernel.objects.ranges import Piece, Pieces, Share
from ipkernel.objects.transfer import Transfer

__all__ = ["PutMove"]


class PutMove(Move):
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
        before = share.there
        self._count(share.note(answer.have))
        if share.there > before:
            self._got_on()
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
