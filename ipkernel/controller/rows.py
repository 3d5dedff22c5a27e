# mypy: disable-error-code="misc"
"""How records become rows of the journal: pure, no files.

A row is a MessagePack array of records, each an array whose first element is its number; messages
are in it as on the wire, and each payload stands beside its message. Rows are of bounded size: what
one turn has to say may take several. A payload that is longer than a row is followed by *pieces*:
further rows that hold nothing but its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, Union

import msgspec

from ipkernel import decoding
from ipkernel.controller.journal import (
    Again,
    Assigned,
    Ended,
    Forgotten,
    HostCame,
    HostWent,
    LifeBegan,
    Over,
    Printed,
    Record,
    SessionBegan,
    SessionClosed,
    Submitted,
    Unwanted,
)
from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Function, Message, Output, Submit

logger = logging.getLogger(__name__)

#: What a row should not exceed, in bytes; a piece of a payload never does.
ROW_BYTES: Final = 1 << 18

#: What is in place of the number of pieces in a row that is one.
PIECE: Final = -1

#: What the encoder raises: for text that is not Unicode, numbers that are too large, and the like.
_NO_ENCODING: Final = (msgspec.MsgspecError, ValueError, OverflowError, TypeError)

_WITH_ITEMS: Final = (Submitted, Printed, Ended)
_Item: TypeAlias = tuple[Message, Payload]


class Row(NamedTuple):
    """One row.

    Attributes:
        blob: What is in it.
        records: The same as records; empty in a piece.
        pieces: How many rows follow that hold the payload of its only item; :data:`PIECE` in those.
    """

    blob: Payload
    records: Sequence[Record]
    pieces: int = 0


# What the decoder makes of the three kinds of record that have items.
class _Submitted(msgspec.Struct, array_like=True, tag=4):
    session: int
    time: float
    items: list[tuple[Submit | Function, memoryview]]
    taken: int = 0


class _Printed(msgspec.Struct, array_like=True, tag=7):
    items: list[tuple[Output, memoryview]]


class _Ended(msgspec.Struct, array_like=True, tag=8):
    time: float
    items: list[tuple[Finished, memoryview]]
    submitted: list[float] = []


_Stored = Union[  # noqa: UP007 - msgspec wants a typing object here
    LifeBegan, SessionBegan, SessionClosed, _Submitted, Assigned, Again, _Printed, _Ended,
    Forgotten, HostCame, HostWent, Over, Unwanted,
]  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[list[_Stored]] = msgspec.msgpack.Decoder(list[_Stored])


def payload_bytes(records: Sequence[Record]) -> int:
    """Return how many bytes of payload are in ``records``."""
    size = 0
    for record in records:
        if type(record) in _WITH_ITEMS:
            size += sum([len(payload) for _, payload in record.items])  # type: ignore[union-attr]
    return size


def encode(records: Sequence[Record], payload: int) -> list[Row]:
    """Return the rows of ``records``, in order.

    Args:
        records: What is to be kept. Of :class:`Submitted`, only submissions and functions are.
        payload: Their bytes of payload.

    A record that has no encoding is left out, and the log says so: it has none later either, and
    nothing else is to wait for it for ever.
    """
    records = [_lasting(record) if type(record) is Submitted else record for record in records]
    try:
        return _rows(records, payload)
    except _NO_ENCODING:
        return _rows([record for record in records if _is_sound(record)], payload)


def _rows(records: Sequence[Record], payload: int) -> list[Row]:
    if payload <= ROW_BYTES:
        return [_row(records)]
    return list(_divided(records)) or [_row([])]


def _is_sound(record: Record) -> bool:
    try:
        _encode(record)
    except _NO_ENCODING as error:
        kind = type(record).__name__
        logger.error("a record of kind %s cannot be written to the journal: %s", kind, error)
        return False
    return True


def _lasting(record: Submitted) -> Submitted:
    items = record.items
    lasting = [item for item in items if type(item[0]) is Submit or type(item[0]) is Function]
    if len(lasting) == len(items):
        return record
    return Submitted(record.session, record.time, lasting, record.taken)


def _divided(records: Sequence[Record]) -> Iterator[Row]:
    """Return rows of which none is much longer than it should be."""
    gathered: list[Record] = []
    size = 0
    for record in records:
        if not isinstance(record, _WITH_ITEMS):
            gathered.append(record)
            continue
        part: list[_Item] = []
        first = 0  # where that begins
        for at, item in enumerate(record.items):
            length = len(item[1])
            if size and size + length > ROW_BYTES:
                if part:
                    gathered.append(_with(record, part, first))
                if gathered:
                    yield _row(gathered)
                gathered, part, size, first = [], [], 0, at
            if length > ROW_BYTES:
                if part:
                    gathered.append(_with(record, part, first))
                if gathered:
                    yield _row(gathered)
                gathered, part, size, first = [], [], 0, at + 1
                yield from _long(record, item, at)
                continue
            part.append(item)
            size += length
        if part or not record.items:
            gathered.append(_with(record, part, first))
    if gathered:
        yield _row(gathered)


def _row(records: Sequence[Record]) -> Row:
    return Row(_encode(records), records)


def _with(record: Submitted | Printed | Ended, items: list[_Item], first: int = 0) -> Record:
    """Return the record with these items only, of which the first was the one of that number."""
    if isinstance(record, Submitted):
        return Submitted(record.session, record.time, items, record.taken)
    if isinstance(record, Printed):
        return Printed(items)  # type: ignore[arg-type]
    submitted = record.submitted[first : first + len(items)]
    return Ended(record.time, items, submitted)  # type: ignore[arg-type]


def _long(record: Submitted | Printed | Ended, item: _Item, number: int) -> Iterator[Row]:
    message, payload = item
    view = memoryview(payload)
    pieces = [view[at : at + ROW_BYTES] for at in range(0, len(view), ROW_BYTES)]
    alone = [_with(record, [(message, b"")], number)]
    yield Row(_encode(alone), alone, len(pieces))
    for piece in pieces:
        yield Row(piece, (), PIECE)


def decode(blob: bytes, pieces: Sequence[bytes] = ()) -> list[Record]:
    """Return the records in a row.

    Args:
        blob: The row.
        pieces: The rows that follow with the payload of its only item.

    Returns:
        The records. Their payloads are views of ``blob``.

    Raises:
        msgspec.MsgspecError: It is not a row.
        ValueError: There are pieces, but several items.
    """
    records: list[Any] = decoding.decode(_decoder, blob)
    for at, record in enumerate(records):
        kind = type(record)
        if kind is _Submitted:
            records[at] = Submitted(record.session, record.time, record.items, record.taken)
        elif kind is _Ended:
            records[at] = Ended(record.time, record.items, record.submitted)
        elif kind is _Printed:
            records[at] = Printed(record.items)
    if pieces:
        only = records[0] if records else None
        if not isinstance(only, _WITH_ITEMS) or len(only.items) > 1:
            raise ValueError("pieces of a payload without its message")
        if only.items:  # else the row was shortened, and nobody needs the payload any more
            records[0] = _with(only, [(only.items[0][0], b"".join(pieces))])
    return records
