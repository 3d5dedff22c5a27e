"""The layout of frames: how messages and payloads become bytes on a channel or link.

Every frame is ``u32le length | u8 kind | body``, where ``length`` counts the kind and the
body. There are four kinds:

========  ===============================================================================
DATA      ``u64 seq | u64 ack | u32 n | n bytes of headers | payloads in order``:
          one or more whole messages. ``seq`` numbers the first of them, from 0.
ACK       ``u64 ack`` alone, when there is nothing to send that could carry it.
BULK      As DATA, with the header of one message and none of its payload: that follows
          in MORE frames.
MORE      The next bytes of the payload that a BULK frame announced.
========  ===============================================================================

``ack`` counts the messages that the sender of the frame has processed since the start.
All numbers are little-endian. No frame is longer than :data:`MAX_FRAME`, so that a peer's
word alone never makes the other side set memory aside.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ipkernel.wire.messages import MAX_LIST, Message, encode

DATA: Final = 1
ACK: Final = 2
BULK: Final = 3
MORE: Final = 4

#: A frame of several messages is closed when it would have more payload than this, and a
#: message with a longer payload travels as BULK and MORE frames of this size (bytes).
FRAME_PAYLOAD: Final = 1 << 18

#: The longest list of headers in one frame, in bytes.
MAX_HEADERS: Final = 1 << 21

#: The longest frame, in bytes, counted as ``length`` counts.
MAX_FRAME: Final = FRAME_PAYLOAD + MAX_HEADERS + 64

#: The most messages in one frame.
MAX_MESSAGES: Final = min(MAX_LIST, 1 << 13)

#: ``length``, ``kind``: the start of every frame.
HEAD: Final = Struct("<IB")
#: ``length``, ``kind``, ``seq``, ``ack``, ``n``: the start of DATA and BULK frames.
DATA_HEAD: Final = Struct("<IBQQI")
#: A whole ACK frame.
ACK_FRAME: Final = Struct("<IBQ")

_DATA_FIXED: Final = DATA_HEAD.size - 4


class ProtocolViolation(Exception):
    """The peer sent bytes that the protocol does not allow; the connection is of no more use."""


def data_frame(seq: int, ack: int, messages: list[Message], payload: int) -> bytes | None:
    """Return the first piece of a DATA frame; the payloads are to be written behind it.

    Args:
        seq: Number of the first message.
        ack: How many messages of the peer have been processed.
        messages: The headers.
        payload: Bytes of payload that follow.

    Returns:
        The piece, or None when the headers take more than :data:`MAX_HEADERS` bytes.
    """
    headers = encode(messages)
    n = len(headers)
    if n > MAX_HEADERS:
        return None
    return DATA_HEAD.pack(_DATA_FIXED + n + payload, DATA, seq, ack, n) + headers


def bulk_frame(seq: int, ack: int, message: Message) -> bytes:
    """Return a BULK frame: the header of one message whose payload follows in MORE frames.

    Args:
        seq: Number of the message.
        ack: How many messages of the peer have been processed.
        message: The header.
    """
    headers = encode([message])
    n = len(headers)
    return DATA_HEAD.pack(_DATA_FIXED + n, BULK, seq, ack, n) + headers


def more_head(size: int) -> bytes:
    """Return the start of a MORE frame with ``size`` bytes of payload."""
    return HEAD.pack(size + 1, MORE)


def ack_frame(ack: int) -> bytes:
    """Return an ACK frame that says that ``ack`` messages have been processed."""
    return ACK_FRAME.pack(9, ACK, ack)
