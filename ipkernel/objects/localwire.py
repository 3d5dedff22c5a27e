# mypy: disable-error-code="misc"
"""What a host's store and the processes of its machine say to each other.

Each message is a MessagePack array behind its length, a little-endian ``u32``. A connection begins
with :class:`Hello`; after that the client asks and the store answers, one question at a time. What needs no answer travels
ahead of the next question.

The client must show the ticket of its subject, and the store must show that it knows it: on the
loopback interface anybody can listen where a store used to be. Neither tells the other the ticket
itself, but a code made with it and a number that the client has drawn.

An answer that grants a lease may never arrive, for its client may have given up. So the client says
:class:`Kept` with what it sends next; if the connection ends instead, the store takes the lease back.
"""

from __future__ import annotations

import hmac
import struct
from typing import Annotated, Final, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from ipkernel import errors
from ipkernel.decoding import decode
from ipkernel.wire.messages import Bytes, ObjectId

__all__ = [
    "HELLO_LIMIT",
    "LIMIT",
    "LIST_LIMIT",
    "LONGEST",
    "PROTOCOL",
    "Abandon",
    "AlreadyThere",
    "Attach",
    "Create",
    "Free",
    "Get",
    "Hello",
    "Hold",
    "Incoming",
    "Kept",
    "Ok",
    "Problem",
    "Region",
    "Release",
    "Seal",
    "Segment",
    "WaitFreed",
    "Welcome",
    "WireError",
    "encode",
    "problem_of",
    "proof",
    "raised_by",
    "replies",
    "requests",
]

#: Both sides must speak the same.
PROTOCOL: Final = 1
#: Objects in one message at most.
LIST_LIMIT: Final = 4096
#: Bytes of one message at most.
LIMIT: Final = 1 << 17
#: Bytes of the first message, from somebody who has not shown a ticket yet.
HELLO_LIMIT: Final = 1024
#: Seconds to wait at most: what fits into a socket's time-out everywhere, a week and more.
LONGEST: Final = 1e6
#: Characters of a problem's text.
_TEXT_LIMIT: Final = 1000

_LENGTH = struct.Struct("<I")

_Segment = Annotated[int, Meta(ge=0, lt=1 << 50)]
_Session = Annotated[int, Meta(ge=0, lt=1 << 62)]
_Seconds = Annotated[float, Meta(ge=0, le=LONGEST)]
_Objects = Annotated[list[ObjectId], Meta(max_length=LIST_LIMIT)]
_Code = Annotated[bytes, Meta(min_length=32, max_length=32)]


class _Message(Struct, array_like=True, frozen=True, gc=False):
    """The base of all."""


class Hello(_Message, tag=1):
    """The first message.

    Attributes:
        subject: Who asks: a TubID, or the name of an engine.
        nonce: Random bytes, good for this connection.
        proof: :func:`proof` of the client.
        protocol: Its :data:`PROTOCOL`.
    """

    subject: Annotated[str, Meta(min_length=1, max_length=128)]
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    proof: _Code
    protocol: int = PROTOCOL


class Create(_Message, tag=2):
    """Make room for an object: a :class:`Region` to be written.

    If the store has it, or somebody else has written it meanwhile, :class:`AlreadyThere` is the problem.
    """

    object: ObjectId
    size: Bytes
    owner: _Session


class Seal(_Message, tag=3):
    """The object that this connection has created is written."""

    object: ObjectId


class Abandon(_Message, tag=4):
    """The object that this connection has created will not be written."""

    object: ObjectId


class Get(_Message, tag=5):
    """Lease an object, when it is there: a :class:`Region`. See :meth:`StoreClient.get`."""

    object: ObjectId
    bringer: _Session | None = None
    timeout: _Seconds | None = None


class Kept(_Message, tag=6):
    """The lease of this object that a :class:`Get` was answered with has arrived. There is no answer."""

    object: ObjectId


class Attach(_Message, tag=7):
    """Hand out a segment of memory: a :class:`Segment`."""

    segment: _Segment


class Release(_Message, tag=8):
    """End one lease of each of these objects, as often as they occur. There is no answer."""

    objects: _Objects


class Free(_Message, tag=9):
    """Forget these objects: :class:`Ok`."""

    objects: _Objects


class WaitFreed(_Message, tag=10):
    """Say :class:`Ok` when the object is not there any more, or after ``timeout`` seconds."""

    object: ObjectId
    timeout: _Seconds


class Hold(_Message, tag=11):
    """Lease what the subject has leased of these to whoever has this connection open: :class:`Ok`.

    A process that forks does so, for its child has the same memory mapped. What the child may
    do besides is to end.
    """

    objects: _Objects


class Welcome(_Message, tag=20):
    """The answer to a :class:`Hello`.

    Attributes:
        proof: :func:`proof` of the store.
    """

    proof: _Code


class Region(_Message, tag=21):
    """Where an object is.

    Attributes:
        segment: Number of the segment of memory.
        offset: Where it begins there, in bytes.
        size: Its length in bytes.
    """

    segment: _Segment
    offset: Bytes
    size: Bytes


class Segment(_Message, tag=22):
    """A segment of memory. Without a name it comes as a descriptor along with this message."""

    name: Annotated[str, Meta(max_length=256)] = ""


class Ok(_Message, tag=23):
    """It is done.

    Attributes:
        yes: Whether the object is gone, in answer to :class:`WaitFreed`.
    """

    yes: bool = True


class Problem(_Message, tag=24):
    """It cannot be done.

    Attributes:
        kind: One of the keys of :data:`_KINDS`.
        text: A sentence for people.
    """

    kind: Annotated[str, Meta(max_length=16)]
    text: Annotated[str, Meta(max_length=_TEXT_LIMIT)]


Request: TypeAlias = (
    Hello | Create | Seal | Abandon | Get | Kept | Attach | Release | Free | WaitFreed | Hold
)
Reply: TypeAlias = Welcome | Region | Segment | Ok | Problem

_encode = msgspec.msgpack.Encoder().encode
_request: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class WireError(Exception):
    """The other side does not keep to the protocol."""


class AlreadyThere(errors.ObjectError):
    """The store has the object that was to be created."""


def encode(message: Request | Reply) -> bytes:
    """Return a message as it goes over the socket."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


M = TypeVar("M")


class Incoming(Generic[M]):
    """Makes messages of what comes in, wherever the stream is cut.

    Args:
        decoder: Makes a message of a body.
        limit: Bytes of a body at most.

    Attributes:
        limit: As given; may be raised later.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[M], limit: int) -> None:
        self.limit = limit
        self._decoder = decoder
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what has come."""
        self._data += data

    @property
    def full(self) -> bool:
        """Whether more is waiting than one message may have."""
        return len(self._data) > self.limit + _LENGTH.size

    def next(self) -> M | None:
        """Return the next message, or None as long as it is not complete.

        Raises:
            WireError: It is too long, or is not a message.
        """
        data = self._data
        if len(data) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        if end > _LENGTH.size + self.limit:
            raise WireError(f"a message of {end} bytes; {self.limit} are the most")
        if len(data) < end:
            return None
        body = bytes(memoryview(data)[_LENGTH.size : end])
        del data[:end]
        try:
            return decode(self._decoder, body)
        except msgspec.MsgspecError as error:
            raise WireError(f"not a message: {error}") from None


def requests() -> Incoming[Request]:
    """Return what the store reads a new connection with."""
    return Incoming(_request, HELLO_LIMIT)


def replies() -> Incoming[Reply]:
    """Return what a client reads its connection with."""
    return Incoming(_reply, LIMIT)


def proof(ticket: bytes, nonce: bytes, side: Literal["client", "store"]) -> bytes:
    """Return what shows that one side of a connection knows the ticket.

    Args:
        ticket: The ticket of the client's subject.
        nonce: That of the :class:`Hello`.
        side: Who shows it.
    """
    return hmac.digest(ticket, side.encode() + b"\0" + nonce, "sha256")


_KINDS: Final[dict[str, type[Exception]]] = {
    "full": errors.StoreFull,
    "unknown": errors.UnknownObject,
    "lost": errors.ObjectLost,
    "transfer": errors.TransferError,
    "there": AlreadyThere,
    "timeout": TimeoutError,
    "refused": errors.ConnectError,
    "error": errors.ObjectError,
}


def problem_of(error: BaseException) -> Problem:
    """Return what tells a client of an error."""
    kinds = (kind for kind, known in _KINDS.items() if isinstance(error, known))
    text = str(error).encode(errors="replace").decode()[:_TEXT_LIMIT]
    return Problem(next(kinds, "error"), text or type(error).__name__)


def raised_by(problem: Problem) -> Exception:
    """Return the error that a client raises because of a problem."""
    return _KINDS.get(problem.kind, errors.ObjectError)(problem.text)
