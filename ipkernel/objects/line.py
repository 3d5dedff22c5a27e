"""One data connection with its messages and ranges, for both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

import xxhash

from ipkernel.errors import TransferError
from ipkernel.objects.compress import Compressor, Decompressor
from ipkernel.objects.datawire import (
    HEADER,
    LIMIT,
    DataError,
    Reply,
    Request,
    body_length,
    encode,
)
from ipkernel.objects.ranges import BLOCK
from ipkernel.objects.tlsstream import StreamBroken, TlsStream

__all__ = ["Count", "Line"]

M = TypeVar("M")

#: Is told of bytes that were moved; may raise to end the move.
Count = Callable[[int], None]


#: In front of a block stands its length, a little-endian ``u32`` with this bit set if it is compressed.
_FLAG: Final = 1 << 31


class Line(Generic[M]):
    """A connection on which messages of type ``M`` come in. For one thread at a time.

    Args:
        stream: The connection, which becomes this object's.
        decode: Makes a message of its bytes.
        limit: Bytes of a message at most; may be changed.

    Attributes:
        stream: As given.
        limit: As given.
    """

    def __init__(
        self,
        stream: TlsStream,
        decode: Callable[[bytearray], M],
        limit: int = LIMIT,
    ) -> None:
        self.stream = stream
        self.limit = limit
        self._decode = decode

    # ---------------------------------------------------------------- messages

    def tell(self, *messages: Request | Reply) -> None:
        """Send messages.

        Raises:
            StreamBroken: The connection is lost.
        """
        self.stream.send(b"".join(map(encode, messages)))

    def hear(self) -> M:
        """Return the next message.

        Raises:
            StreamBroken: The connection is lost, or the peer does not keep to the protocol.
        """
        try:
            length = body_length(self.stream.receive(HEADER), self.limit)
            return self._decode(self.stream.receive(length))
        except DataError as error:
            raise StreamBroken(f"the other side speaks another protocol: {error}") from None

    # ---------------------------------------------------------------- ranges

    def send_range(
        self, blocks: Iterable[memoryview], count: Count, pack: Compressor | None = None
    ) -> bytes:
        """Send the bytes of a range.

        Args:
            blocks: All of them, in blocks of :data:`~ipkernel.objects.ranges.BLOCK` bytes.
            count: Is called for each block.
            pack: Compresses them.

        Returns:
            Their digest.

        Raises:
            StreamBroken: The connection is lost.
        """
        digest = xxhash.xxh3_128()
        for block in blocks:
            if pack is None:
                self.stream.send(block)
            else:
                self._send_packed(block, pack(block))
            digest.update(block)
            count(len(block))
        return digest.digest()

    def _send_packed(self, block: memoryview, packed: bytes) -> None:
        if len(packed) < len(block):
            self.stream.send((len(packed) | _FLAG).to_bytes(4, "little"))
            self.stream.send(packed)
        else:
            self.stream.send(len(block).to_bytes(4, "little"))
            self.stream.send(block)

    def receive_range(
        self, target: memoryview, count: Count, unpack: Decompressor | None = None
    ) -> bytes:
        """Receive the bytes of a range.

        Args:
            target: Takes all of them.
            count: Is called for each block.
            unpack: Undoes the compression.

        Returns:
            Their digest.

        Raises:
            StreamBroken: The connection is lost.
        """
        digest = xxhash.xxh3_128()
        for start in range(0, len(target), BLOCK):
            block = target[start : start + BLOCK]
            if unpack is None:
                self.stream.receive_into(block)
            else:
                self._receive_packed(block, unpack)
            digest.update(block)
            count(len(block))
        return digest.digest()

    def _receive_packed(self, block: memoryview, unpack: Decompressor) -> None:
        header = int.from_bytes(self.stream.receive(4), "little")
        length = header & ~_FLAG
        if not header & _FLAG:
            if length != len(block):
                raise StreamBroken(f"a block of {length} bytes where {len(block)} were to come")
            self.stream.receive_into(block)
            return
        if not 0 < length < len(block):
            raise StreamBroken(f"a compressed block of {length} bytes")
        try:
            block[:] = unpack(self.stream.receive(length), len(block))
        except TransferError as error:
            raise StreamBroken(str(error)) from None

    # ---------------------------------------------------------------- the end

    def cut(self) -> None:
        """End the connection at once; from any thread."""
        self.stream.cut()

    def close(self) -> None:
        """Give the connection up."""
        self.stream.close()
