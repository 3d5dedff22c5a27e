"""Records for the journal, as hypothesis makes them, and what of them still matters."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

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
from ipkernel.controller.rows import PIECE, Row, decode, encode, payload_bytes
from ipkernel.wire.messages import Finished, Function, Kind, Outcome, Output, Stream, Submit

WITH_ITEMS = (Submitted, Printed, Ended)


def task(session: int, count: int) -> int:
    """Return the id of a task."""
    return (session << 40) + count


def submit(tid: int, payload: bytes = b"p", targets: tuple[int, ...] = ()) -> tuple[Submit, bytes]:
    """Return a submission: one load-balanced task, or one for each of ``targets``."""
    return Submit(tid, Kind.APPLY, len(payload), targets=list(targets), spread=not targets), payload


def function(digest: bytes, payload: bytes = b"f") -> tuple[Function, bytes]:
    """Return a function."""
    return Function(digest, len(payload)), payload


def finished(tid: int, payload: bytes = b"r") -> tuple[Finished, bytes]:
    """Return a result."""
    return Finished(tid, Outcome.OK, 0, 1.0, 2.0, len(payload)), payload


def output(tid: int, payload: bytes = b"o", serial: int = 0) -> tuple[Output, bytes]:
    """Return output of a task."""
    return Output(tid, 0, Stream.STDOUT, len(payload), serial), payload


_ids = st.integers(0, (1 << 62) - 1)
_numbers = st.integers(0, (1 << 40) - 1)
_times = st.floats(0, 1e11)
_payloads = st.binary(max_size=40)
_texts = st.text(max_size=20)
_engines = st.integers(-1, (1 << 20) - 1)
_submits = st.builds(
    lambda tid, payload, targets, label: (
        Submit(tid, Kind.MAP, len(payload), targets=targets, spread=False, label=label),
        payload,
    ),
    _ids, _payloads, st.lists(_engines, max_size=3), _texts,
)  # fmt: skip
_items = st.one_of(_submits, st.builds(function, st.binary(max_size=16), _payloads))

#: Any records, not fitting each other.
RECORDS = st.one_of(
    st.builds(LifeBegan, _ids, _times),
    st.builds(SessionBegan, _numbers, _times, _texts, _texts),
    st.builds(SessionClosed, _numbers, _times),
    st.builds(Submitted, _numbers, _times, st.lists(_items, max_size=4), _ids),
    st.builds(Assigned, _numbers, st.lists(_ids, max_size=3), st.lists(_engines, max_size=3)),
    st.builds(Again, _ids, _times, st.integers(0, 1 << 20), _texts,
              refused=st.dictionaries(_engines, _texts, max_size=2)),
    st.builds(Printed, st.lists(st.builds(output, _ids, _payloads, _ids), max_size=3)),
    st.lists(st.tuples(st.builds(finished, _ids, _payloads), _times), max_size=3).map(
        lambda ends: Ended(2.0, [end for end, _ in ends], [came for _, came in ends])
    ),
    st.lists(st.tuples(st.builds(finished, _ids), _times), max_size=3).map(
        lambda ends: Over(2.0, [end for (end, _), _ in ends], [came for _, came in ends])
    ),
    st.builds(Forgotten, _times, st.lists(_ids, max_size=3), st.booleans()),
    st.builds(HostCame, _numbers, _times, _texts, st.integers(0, 1 << 22), _texts,
              st.lists(_engines, max_size=3)),
    st.builds(HostWent, _numbers, _times),
    st.builds(Unwanted, _times, st.lists(_ids, max_size=3), st.integers(0, 1 << 30)),
)  # fmt: skip


def plain(record: Record) -> Any:
    """Return a record as something that can be compared, whatever its payloads are."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    if isinstance(record, WITH_ITEMS):
        fields["items"] = [(message, bytes(payload)) for message, payload in record.items]
    return type(record).__name__, fields


def flat(records: list[Record]) -> list[Any]:
    """Return records with one item each, to be compared however turns were divided into rows."""
    found: list[Any] = []
    for record in records:
        name, fields = plain(record)
        if isinstance(record, Ended) and record.items:
            ends = zip(fields["items"], record.came, strict=True)
            found += [(name, {**fields, "items": [i], "submitted": [c]}) for i, c in ends]
        elif "items" in fields and fields["items"]:
            found += [(name, {**fields, "items": [item]}) for item in fields["items"]]
        else:
            found.append((name, fields))
    return found


def stored(records: list[Record]) -> list[Row]:
    """Return the rows in which records stand in the journal."""
    return encode(records, payload_bytes(records))


def restored(found: list[Row]) -> list[Record]:
    """Return what rows say, from nothing but their bytes."""
    records: list[Record] = []
    at = 0
    while at < len(found):
        blob, _, pieces = found[at]
        parts = [bytes(row.blob) for row in found[at + 1 : at + 1 + pieces]]
        assert all(row.pieces == PIECE for row in found[at + 1 : at + 1 + pieces])
        records += decode(bytes(blob), parts)
        at += 1 + pieces
    return records
