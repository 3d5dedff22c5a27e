"""A link: ordered, counted messages over any byte stream, without doing any I/O.

A :class:`Link` is one end. What is sent is queued; :meth:`Link.data_to_send` hands out the
next frame as long as the window allows it, and :meth:`Link.receive` turns arriving bytes
into messages. The Twisted :class:`~ipkernel.wire.channel.Channel` and the engine's blocking
socket both drive this same class. The bytes are described in :mod:`ipkernel.wire.frames`.

Flow control: the sender stops when a *window* of messages or payload bytes is not yet
acknowledged; the receiver acknowledges what it has *processed*, not what has arrived, so a
slow consumer slows its producer down and nothing piles up in between. Both ends of a link
must use the same :class:`Window`: a peer that exceeds it violates the protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from msgspec import MsgspecError, Struct

from ipkernel.wire.frames import (
    ACK,
    ACK_FRAME,
    BULK,
    DATA,
    DATA_HEAD,
    FRAME_PAYLOAD,
    HEAD,
    MAX_FRAME,
    MAX_MESSAGES,
    MORE,
    ProtocolViolation,
    ack_frame,
    bulk_frame,
    data_frame,
    more_head,
)
from ipkernel.wire.messages import MAX_PAYLOAD, Message, decode

__all__ = ["LARGE", "Buffer", "Link", "Payload", "ProtocolViolation", "Received", "Window"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""One stretch of bytes."""
Payload: TypeAlias = Buffer | Sequence[Buffer]
"""What :meth:`Link.send` takes: a stretch of bytes, or several in a row."""
Received: TypeAlias = tuple[Message, bytes | memoryview]
"""A message and its payload, as they arrive."""

#: Payloads from this size on are delivered as a writable memoryview of their own buffer.
LARGE: Final = 1 << 16

_unpack_head = HEAD.unpack_from
_unpack_data = DATA_HEAD.unpack_from
_DATA_HEAD_SIZE: Final = DATA_HEAD.size


class Window(Struct, frozen=True):
    """How much may be under way in one direction without being acknowledged.

    A payload that is longer than ``size`` may still pass, while less than a quarter of
    ``size`` is under way ahead of it.

    Attributes:
        count: Messages.
        size: Bytes of payload.
    """

    count: int = 65536
    size: int = 64 << 20


class Link:
    """One end of an ordered stream of messages over a byte stream; does no I/O.

    Args:
        window: The same at both ends.
        max_payload: The longest payload accepted from the peer, in bytes.
    """

    def __init__(self, window: Window | None = None, *, max_payload: int = MAX_PAYLOAD) -> None:
        self.window = window = window or Window()
        self._max_payload = max_payload
        self._count_step = max(1, window.count // 4)
        self._size_step = max(1, window.size // 4)
        # sending
        self._queue: deque[tuple[Message, Payload, int]] = deque()
        self._queued_bytes = 0
        self._sent = 0
        self._acknowledged = 0
        self._flight: deque[int] = deque()
        self._flight_bytes = 0
        self._bulk_out: deque[memoryview] = deque()
        # receiving
        self._tail = bytearray()
        self._need = 0
        self._more_left = 0
        self._bulk_message: Message | None = None
        self._bulk_in = bytearray()
        self._bulk_left = 0
        self._broken = False
        self._received = 0
        self._unprocessed: deque[int] = deque()
        self._unprocessed_bytes = 0
        self._processed = 0
        self._owed_bytes = 0  # processed, but not yet told to the peer
        self._ack_sent = 0
        self._ack_wanted = False

    # ------------------------------------------------------------------ state

    @property
    def backlog(self) -> tuple[int, int]:
        """Messages and payload bytes queued and not yet handed out."""
        return len(self._queue), self._queued_bytes

    @property
    def ack_due(self) -> bool:
        """True when a quarter of the window waits for an acknowledgement from this end."""
        return (
            self._ack_wanted
            or self._processed - self._ack_sent >= self._count_step
            or self._owed_bytes >= self._size_step
        )

    @property
    def ack_pending(self) -> bool:
        """True when something has been processed that the peer has not been told of."""
        return self._processed != self._ack_sent

    @property
    def idle(self) -> bool:
        """True when nothing is queued and no acknowledgement is due."""
        return not self._queue and not self._bulk_out and not self.ack_due

    @property
    def sent(self) -> int:
        """How many messages have been handed out since the start."""
        return self._sent

    @property
    def acknowledged(self) -> int:
        """How many of this end's messages the peer is known to have processed."""
        return self._acknowledged

    @property
    def received(self) -> int:
        """How many messages have arrived since the start."""
        return self._received

    @property
    def partial(self) -> bool:
        """Whether a message has arrived in part."""
        return bool(self._tail or self._more_left or self._bulk_left)

    # ---------------------------------------------------------------- sending

    def send(self, message: Message, payload: Payload = b"") -> None:
        """Queue a message. The payload must not be changed until it has been written.

        Args:
            message: The header; its ``size`` must be the payload's length in bytes.
            payload: The payload, or several buffers that make it up in order.

        Raises:
            ValueError: ``message.size`` is not the payload's length.
        """
        if isinstance(payload, (bytes, bytearray)):
            size = len(payload)
        elif isinstance(payload, memoryview):
            payload = payload.cast("B") if payload.nbytes else b""
            size = len(payload)
        else:
            payload = [memoryview(part).cast("B") for part in payload if len(part)]
            size = sum(map(len, payload))
        if size != message.size:
            raise ValueError(
                f"{type(message).__name__} says {message.size} bytes of payload, got {size}"
            )
        self._queue.append((message, payload, size))
        self._queued_bytes += size

    def data_to_send(self, limit: int = FRAME_PAYLOAD) -> list[Buffer]:
        """Hand out the next frame.

        Args:
            limit: About how many bytes of payload to hand out; at most 256 KB are.

        Returns:
            Pieces to be written in order, or an empty list when nothing is queued or the
            window is closed.
        """
        if self._bulk_out:
            if self.ack_due:
                return [self._ack_alone()]
            return self._next_slice(min(limit, FRAME_PAYLOAD))
        queue = self._queue
        if queue:
            pieces = self._next_frame(queue, min(limit, FRAME_PAYLOAD))
            if pieces:
                return pieces
        if self.ack_due:
            return [self._ack_alone()]
        return []

    def _next_frame(self, queue: deque[tuple[Message, Payload, int]], limit: int) -> list[Buffer]:
        window = self.window
        flight = self._flight
        room = min(window.count - len(flight), MAX_MESSAGES)
        flight_bytes = self._flight_bytes
        total = 0
        messages: list[Message] = []
        pieces: list[Buffer] = [b""]
        taken: list[tuple[Message, Payload, int]] = []
        while queue and room > 0:
            item = queue[0]
            message, payload, size = item
            if size:
                if flight_bytes + size > window.size and flight_bytes >= self._size_step:
                    break
                if total + size > limit and messages:
                    break
                if size > FRAME_PAYLOAD:
                    return self._start_bulk(message, payload, size)
                total += size
                flight_bytes += size
                if type(payload) is list:
                    pieces += payload
                else:
                    pieces.append(payload)  # type: ignore[arg-type]
            queue.popleft()
            messages.append(message)
            taken.append(item)
            flight.append(size)
            room -= 1
        if not messages:
            return []
        head = data_frame(self._sent, self._processed, messages, total)
        if head is None:
            return self._fewer(queue, taken, total)
        pieces[0] = head
        self._flight_bytes = flight_bytes
        self._queued_bytes -= total
        self._sent += len(messages)
        self._told()
        return pieces

    def _fewer(
        self,
        queue: deque[tuple[Message, Payload, int]],
        taken: list[tuple[Message, Payload, int]],
        total: int,
    ) -> list[Buffer]:
        # The headers are too long together (lists of thousands of tasks): send half of them.
        if len(taken) == 1:
            raise ValueError(f"the header of a {type(taken[0][0]).__name__} is too long")
        for _ in taken:
            self._flight.pop()
        half = deque(taken[: len(taken) // 2])
        pieces = self._next_frame(half, FRAME_PAYLOAD)
        queue.extendleft(reversed([*half, *taken[len(taken) // 2 :]]))
        return pieces

    def _start_bulk(self, message: Message, payload: Payload, size: int) -> list[Buffer]:
        self._queue.popleft()
        self._queued_bytes -= size
        self._flight.append(size)
        self._flight_bytes += size
        parts: Sequence[Buffer] = payload if isinstance(payload, list) else [payload]  # type: ignore[list-item]
        self._bulk_out.extend(memoryview(part) for part in parts)
        head = bulk_frame(self._sent, self._processed, message)
        self._sent += 1
        self._told()
        return [head, *self._next_slice(FRAME_PAYLOAD)]

    def _next_slice(self, limit: int) -> list[Buffer]:
        parts = self._bulk_out
        pieces: list[Buffer] = [b""]
        total = 0
        while parts and total < limit:
            part = parts[0]
            if len(part) > limit - total:
                parts[0] = part[limit - total :]
                part = part[: limit - total]
            else:
                parts.popleft()
            pieces.append(part)
            total += len(part)
        pieces[0] = more_head(total)
        return pieces

    def _ack_alone(self) -> bytes:
        frame = ack_frame(self._processed)
        self._told()
        return frame

    def want_ack(self) -> None:
        """Make an acknowledgement due, if anything is to be acknowledged at all."""
        self._ack_wanted = self.ack_pending

    def beat(self) -> None:
        """Make an acknowledgement due also if it says nothing new: the other side hears of this one."""
        self._ack_wanted = True

    def _told(self) -> None:
        self._ack_wanted = False
        self._ack_sent = self._processed
        self._owed_bytes = 0

    # -------------------------------------------------------------- receiving

    def receive(self, data: Buffer) -> list[Received]:
        """Take in bytes from the peer.

        Args:
            data: The next bytes of the stream, cut anywhere.

        Returns:
            The messages that are complete now, in order. Payloads of less than
            :data:`LARGE` bytes are ``bytes``, others a memoryview of a buffer of their own.

        Raises:
            ProtocolViolation: The peer broke the protocol; so does every later call.
        """
        out: list[Received] = []
        if self._broken:
            raise ProtocolViolation("data behind a violation of the protocol")
        try:
            self._receive(data, out)
        except ProtocolViolation:
            self._broken = True
            self._tail.clear()
            raise
        return out

    def _receive(self, data: Buffer, out: list[Received]) -> None:
        offset = 0
        if self._more_left:
            offset = self._fill(data, 0, out)
            if offset == len(data):
                return
        tail = self._tail
        if tail:
            tail += data
            if len(tail) < self._need:
                return
            data = bytes(tail)
            tail.clear()
        elif type(data) is not bytes:
            data = bytes(data)
        end = len(data)
        while end - offset >= 5:
            length, kind = _unpack_head(data, offset)
            if not 1 < length <= MAX_FRAME:
                raise ProtocolViolation(f"a frame of {length} bytes")
            stop = offset + 4 + length
            if kind == MORE:
                if length - 1 > self._bulk_left:
                    raise ProtocolViolation("more payload than was announced")
                self._more_left = length - 1
                offset = self._fill(data, offset + 5, out)
                continue
            if stop > end:
                self._need = 4 + length
                tail += data[offset:]
                return
            if kind == DATA:
                self._take_data(data, offset, stop, out)
            elif kind == ACK:
                if length != 9:
                    raise ProtocolViolation(f"an ACK frame of {length} bytes")
                self._take_ack(ACK_FRAME.unpack_from(data, offset)[2])
            elif kind == BULK:
                self._take_bulk(data, offset, stop)
            else:
                raise ProtocolViolation(f"a frame of kind {kind}")
            offset = stop
        if offset < end:
            self._need = 5
            tail += data[offset:]

    def _headers(self, data: Buffer, offset: int, stop: int) -> tuple[list[Message], int]:
        if stop - offset < _DATA_HEAD_SIZE:
            raise ProtocolViolation("a frame that is too short")
        if self._bulk_message is not None:
            raise ProtocolViolation("a message in the middle of another")
        _, _, seq, ack, n = _unpack_data(data, offset)
        if seq != self._received:
            raise ProtocolViolation(f"message {seq} instead of {self._received}")
        offset += _DATA_HEAD_SIZE
        if n > stop - offset:
            raise ProtocolViolation("headers longer than their frame")
        if ack != self._acknowledged:
            self._take_ack(ack)
        try:
            messages: list[Message] = decode(data[offset : offset + n])
        except (MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolViolation(f"headers that do not fit the schema: {error}") from None
        return messages, offset + n

    def _take_data(self, data: Buffer, offset: int, stop: int, out: list[Received]) -> None:
        messages, offset = self._headers(data, offset, stop)
        unprocessed = self._unprocessed
        start = offset
        for message in messages:
            size = message.size
            if not size:
                out.append((message, b""))
            elif size < LARGE:
                out.append((message, data[offset : offset + size]))  # type: ignore[arg-type]
                offset += size
            else:
                if size > stop - offset:
                    raise ProtocolViolation("payloads longer than their frame")
                out.append((message, memoryview(bytearray(data[offset : offset + size]))))
                offset += size
            unprocessed.append(size)
        if offset != stop or not messages:
            raise ProtocolViolation("payloads that do not fill their frame")
        self._received += len(messages)
        self._check_window(offset - start, messages)

    def _take_bulk(self, data: Buffer, offset: int, stop: int) -> None:
        messages, offset = self._headers(data, offset, stop)
        if len(messages) != 1 or offset != stop:
            raise ProtocolViolation("a BULK frame with more than one header in it")
        message = messages[0]
        if not 0 < message.size <= self._max_payload:
            raise ProtocolViolation(f"a payload of {message.size} bytes")
        self._bulk_message = message
        self._bulk_left = message.size
        self._bulk_in = bytearray()
        self._received += 1
        self._unprocessed.append(message.size)
        self._check_window(message.size, messages)

    def _check_window(self, size: int, messages: list[Message]) -> None:
        if self._received - self._ack_sent > self.window.count:
            raise ProtocolViolation("more messages than the window allows")
        under_way = self._unprocessed_bytes + self._owed_bytes
        self._unprocessed_bytes += size
        if under_way + size <= self.window.size:
            return
        for message in messages:  # the sender's rule, message by message
            if message.size:
                if under_way + message.size > self.window.size and under_way >= self._size_step:
                    raise ProtocolViolation("more payload than the window allows")
                under_way += message.size

    def _fill(self, data: Buffer, offset: int, out: list[Received]) -> int:
        # Payload of a BULK message goes straight from `data` to its own buffer, which grows
        # as it arrives: memory is never set aside on the peer's word.
        taken = min(self._more_left, len(data) - offset)
        if taken:
            if offset or taken < len(data):
                with memoryview(data) as view:
                    self._bulk_in += view[offset : offset + taken]
            else:
                self._bulk_in += data
        self._more_left -= taken
        self._bulk_left -= taken
        message = self._bulk_message
        if not self._bulk_left and message is not None:
            out.append((message, memoryview(self._bulk_in)))
            self._bulk_message = None
            self._bulk_in = bytearray()
        return offset + taken

    def _take_ack(self, ack: int) -> None:
        count = ack - self._acknowledged
        if count < 0 or ack > self._sent:
            raise ProtocolViolation(f"an acknowledgement of {ack} of {self._sent} messages")
        if count == 0:
            return
        flight = self._flight
        if count == len(flight):
            flight.clear()
            self._flight_bytes = 0
        else:
            popleft = flight.popleft
            for _ in range(count):
                self._flight_bytes -= popleft()
        self._acknowledged = ack

    def acknowledge(self, count: int | None = None) -> None:
        """Say that received messages have been processed; the peer learns it in due course.

        Args:
            count: How many more have been processed, oldest first; None for all so far.

        Raises:
            ValueError: ``count`` is more than have arrived.
        """
        unprocessed = self._unprocessed
        pending = 1 if self._bulk_message is not None else 0  # announced, not complete
        available = len(unprocessed) - pending
        if count is None:
            count = available
        elif not 0 <= count <= available:
            raise ValueError(f"cannot acknowledge {count} of {available} messages")
        if count == len(unprocessed):
            self._owed_bytes += self._unprocessed_bytes
            self._unprocessed_bytes = 0
            unprocessed.clear()
        else:
            popleft = unprocessed.popleft
            for _ in range(count):
                size = popleft()
                self._owed_bytes += size
                self._unprocessed_bytes -= size
        self._processed += count
