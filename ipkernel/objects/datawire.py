# mypy: disable-error-code="misc"
"""What is said on a data connection: between a host's data port, and clients and other hosts.

Each message is a MessagePack array behind its length, a little-endian ``u32``; the bytes of a range
follow :class:`PutRange` or :class:`Sending`, and a :class:`Done` with their digest follows them. A
connection begins with :class:`Hello` and :class:`Welcome`. After that the client asks, and the host answers
in the same order; up to :data:`AHEAD` ranges may be asked for, or sent, ahead of the answers.

Nothing here does input or output.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from ipkernel import errors
from ipkernel.decoding import decode
from ipkernel.wire.messages import Bytes, ObjectId, discreet_repr

__all__ = [
    "AHEAD",
    "HEADER",
    "HELLO_LIMIT",
    "LIMIT",
    "LIST_LIMIT",
    "PROTOCOL",
    "Abandon",
    "DataError",
    "Done",
    "Exists",
    "Free",
    "Get",
    "Go",
    "Hello",
    "Ok",
    "Problem",
    "Put",
    "PutRange",
    "Release",
    "Reply",
    "Request",
    "Sending",
    "WaitFreed",
    "Waiting",
    "Welcome",
    "body_length",
    "decode_reply",
    "decode_request",
    "encode",
    "error_of",
    "problem_of",
]

#: Both sides must speak the same.
PROTOCOL: Final = 1
#: Objects, or ranges, in one message at most.
LIST_LIMIT: Final = 4096
#: Bytes of one message at most, without those of a range.
LIMIT: Final = 1 << 17
#: Bytes of the first message, from somebody who has not shown a ticket yet.
HELLO_LIMIT: Final = 1024
#: Ranges that are on their way on one connection at a time.
AHEAD: Final = 4
#: Bytes of the length in front of a message.
HEADER: Final = 4
#: Characters of a problem's text.
_TEXT_LIMIT: Final = 1000

_LENGTH = struct.Struct("<I")

_Digest = Annotated[bytes, Meta(max_length=16)]
_Name = Annotated[str, Meta(max_length=16)]
_Names = Annotated[list[_Name], Meta(max_length=16)]
_Objects = Annotated[list[ObjectId], Meta(max_length=LIST_LIMIT)]
_Ranges = Annotated[list[tuple[Bytes, Bytes]], Meta(max_length=LIST_LIMIT)]
_Seconds = Annotated[float, Meta(ge=0)]
_Session = Annotated[int, Meta(ge=0, lt=1 << 62)]


class _Message(Struct, array_like=True, frozen=True, gc=False):
    """The base of all."""

    __repr__ = discreet_repr


# ---------------------------------------------------------------- requests


class Hello(_Message, tag=1):
    """The first message: :class:`Welcome`.

    Attributes:
        subject: Who asks: the TubID of the certificate that was shown.
        ticket: The subject's.
        protocol: Its :data:`PROTOCOL`.
    """

    subject: Annotated[str, Meta(min_length=1, max_length=64)]
    ticket: Annotated[bytes, Meta(max_length=64)]
    protocol: int = PROTOCOL


class Put(_Message, tag=2):
    """Begin to write an object, or go on with it: :class:`Go`, or :class:`Exists`.

    Attributes:
        object: Its id.
        size: Its length in bytes.
        owner: The session that it belongs to.
    """

    object: ObjectId
    size: Bytes
    owner: _Session


class PutRange(_Message, tag=3):
    """A range of the object that this connection writes, followed by its bytes: :class:`Done`.

    Attributes:
        object: Its id.
        offset: Where the range begins; a multiple of :data:`~ipkernel.objects.ranges.PIECE`.
        length: Its bytes: as many as a piece has, except at the end of the object.
        codec: How they are compressed, or empty.
    """

    object: ObjectId
    offset: Bytes
    length: Bytes
    codec: _Name = ""


class Abandon(_Message, tag=4):
    """An object that the subject has begun will not be written: :class:`Ok`."""

    object: ObjectId


class Get(_Message, tag=5):
    """Send a range of an object: :class:`Sending`. The object stays leased to the connection.

    Attributes:
        object: Its id.
        offset: Where the range begins.
        length: Its bytes, less at the end of the object; 0 asks how large the object is.
        bringer: See :meth:`~ipkernel.objects.interfaces.StoreClient.get`.
        timeout: The same.
        codecs: Names of those that the asker understands.
    """

    object: ObjectId
    offset: Bytes = 0
    length: Bytes = 0
    bringer: _Session | None = None
    timeout: _Seconds | None = None
    codecs: _Names = []


class Release(_Message, tag=6):
    """The connection reads this object no more. There is no answer."""

    object: ObjectId


class Free(_Message, tag=7):
    """Forget these objects: :class:`Ok`."""

    objects: _Objects


class WaitFreed(_Message, tag=8):
    """Say :class:`Ok` when the object is not there any more, or after ``timeout`` seconds."""

    object: ObjectId
    timeout: _Seconds


# ----------------------------------------------------------------- replies


class Welcome(_Message, tag=20):
    """The answer to a :class:`Hello`.

    Attributes:
        codecs: Names of those that the host understands.
    """

    codecs: _Names = []


class Go(_Message, tag=21):
    """The object may be sent.

    Attributes:
        have: What of it is there: pairs of offset and length.
    """

    have: _Ranges = []


class Exists(_Message, tag=22):
    """The object is there, complete."""


class Sending(_Message, tag=23):
    """Bytes of an object follow.

    Attributes:
        size: The object's length in bytes.
        length: How many of them follow.
        codec: How they are compressed, or empty.
        digest: The object's digest, if it is known.
    """

    size: Bytes
    length: Bytes
    codec: _Name = ""
    digest: _Digest = b""


class Done(_Message, tag=24):
    """The end of a range, and the answer to one that was put.

    Attributes:
        digest: The digest of its bytes, as they were sent or have arrived.
        complete: Whether the object is complete with it.
    """

    digest: _Digest = b""
    complete: bool = False


class Ok(_Message, tag=25):
    """It is done.

    Attributes:
        yes: Whether the object is gone, in answer to :class:`WaitFreed`.
    """

    yes: bool = True


class Waiting(_Message, tag=26):
    """The host is alive; the answer takes longer."""


class Problem(_Message, tag=27):
    """It cannot be done.

    Attributes:
        kind: One of the keys of :data:`_KINDS`.
        text: A sentence for people.
    """

    kind: _Name
    text: Annotated[str, Meta(max_length=_TEXT_LIMIT)] = ""


Request: TypeAlias = Hello | Put | PutRange | Abandon | Get | Release | Free | WaitFreed | Done
Reply: TypeAlias = Welcome | Go | Exists | Sending | Done | Ok | Waiting | Problem

_encode = msgspec.msgpack.Encoder().encode
_request: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

M = TypeVar("M")


class DataError(Exception):
    """The other side does not keep to the protocol."""


def encode(message: Request | Reply) -> bytes:
    """Return a message as it goes over the connection."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes | bytearray | memoryview, limit: int = LIMIT) -> int:
    """Return how long the message behind a header is.

    Args:
        header: :data:`HEADER` bytes.
        limit: How long it may be.

    Raises:
        DataError: It is longer.
    """
    (length,) = _LENGTH.unpack(header)
    if length > limit:
        raise DataError(f"a message of {length} bytes; {limit} are the most")
    return int(length)


def decode_request(body: bytes | bytearray | memoryview) -> Request:
    """Return what a client has said.

    Raises:
        DataError: It is not a message.
    """
    return _decoded(_request, body)


def decode_reply(body: bytes | bytearray | memoryview) -> Reply:
    """Return what a host has answered.

    Raises:
        DataError: It is not a message.
    """
    return _decoded(_reply, body)


def _decoded(decoder: msgspec.msgpack.Decoder[M], body: bytes | bytearray | memoryview) -> M:
    try:
        return decode(decoder, body)
    except msgspec.MsgspecError as error:
        raise DataError(f"not a message: {error}") from None


_KINDS: Final[dict[str, type[Exception]]] = {
    "full": errors.StoreFull,
    "unknown": errors.UnknownObject,
    "lost": errors.ObjectLost,
    "transfer": errors.TransferError,
    "timeout": TimeoutError,
    "refused": errors.ConnectError,
    "error": errors.ObjectError,
}


def problem_of(error: BaseException) -> Problem:
    """Return what tells a client of an error."""
    kinds = (kind for kind, known in _KINDS.items() if isinstance(error, known))
    text = str(error).encode(errors="replace").decode()[:_TEXT_LIMIT]
    return Problem(next(kinds, "error"), text or type(error).__name__)


def error_of(problem: Problem) -> Exception:
    """Return the error that a client raises because of a problem."""
    return _KINDS.get(problem.kind, errors.ObjectError)(problem.text)
