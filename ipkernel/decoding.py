"""Decoding MessagePack that somebody else has made, and that may be anything."""

from __future__ import annotations

from typing import TypeVar

from msgspec import DecodeError
from msgspec.msgpack import Decoder

__all__ = ["decode"]

T = TypeVar("T")


def decode(decoder: Decoder[T], data: bytes | bytearray | memoryview) -> T:
    """Return what is in the bytes; there is one kind of error, whatever is wrong with them.

    A decoder itself raises others for texts that are not UTF-8, and for what is nested too deep.

    Args:
        decoder: For what is expected.
        data: The bytes.

    Raises:
        msgspec.MsgspecError: They are something else.
    """
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None
