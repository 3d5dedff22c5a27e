"""How records become rows of the journal and records again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.controller import rows
from ipkernel.controller.journal import Ended, Forgotten, Printed, Record, Submitted
from ipkernel.controller.rows import PIECE, decode, payload_bytes
from ipkernel.wire.messages import Cancel, Release
from tests.support.journals import (
    RECORDS,
    finished,
    flat,
    function,
    output,
    plain,
    restored,
    stored,
    submit,
    task,
)


@given(st.lists(RECORDS, max_size=6))
def test_records_come_back_as_they_were(records: list[Record]) -> None:
    [row] = stored(records)
    assert [plain(r) for r in decode(bytes(row.blob))] == [plain(r) for r in records]


@given(st.lists(RECORDS, max_size=6), st.integers(1, 60))
def test_records_come_back_from_any_number_of_rows(records: list[Record], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "ROW_BYTES", limit)
        found = stored(records)
    assert flat(restored(found)) == flat(records)
    for row in found:
        longest = max([len(p) for r in row.records for _, p in getattr(r, "items", [])], default=0)
        assert longest <= limit
        assert payload_bytes(row.records) <= 2 * limit
        if not row.pieces:
            assert [plain(r) for r in row.records] == [
                plain(r) for r in (decode(bytes(row.blob)) if row.records else [])
            ]


def test_payloads_of_any_kind_are_kept() -> None:
    data = b"0123456789"
    items: list[Any] = [
        (submit(task(1, i), data)[0], payload)
        for i, payload in enumerate([data, bytearray(data), memoryview(data)])
    ]
    [row] = stored([Submitted(1, 0.0, items)])
    [record] = decode(bytes(row.blob))
    assert isinstance(record, Submitted)
    assert [bytes(payload) for _, payload in record.items] == [data] * 3


def test_of_what_a_client_sends_only_tasks_and_functions_are_kept() -> None:
    items: list[Any] = [
        (Cancel([1]), b""),
        submit(task(1, 1)),
        (Release([b"o" * 16]), b""),
        function(b"d" * 16),
    ]
    [row] = stored([Submitted(1, 0.0, items, 4)])
    [record] = decode(bytes(row.blob))
    assert isinstance(record, Submitted)
    assert [m for m, _ in record.items] == [items[1][0], items[3][0]]
    assert record.taken == 4


def test_a_payload_longer_than_a_row_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROW_BYTES", 100)
    long = bytes(range(256)) * 2
    records: list[Record] = [
        Forgotten(1.0, [7]),
        Ended(2.0, [finished(task(1, 1)), finished(task(1, 2), long), finished(task(1, 3))]),
        Printed([output(task(1, 4), long)]),
    ]
    found = stored(records)
    assert [row.pieces for row in found] == [0, 6, *[PIECE] * 6, 0, 6, *[PIECE] * 6]
    assert max(len(row.blob) for row in found) <= 200
    assert flat(restored(found)) == flat(records)


@given(st.binary(max_size=60))
def test_what_is_no_row_is_refused(junk: bytes) -> None:
    try:
        assert isinstance(decode(junk), list)
    except (msgspec.MsgspecError, ValueError):
        pass


def test_pieces_belong_to_one_payload() -> None:
    [row] = stored([Forgotten(1.0, [7])])
    with pytest.raises(ValueError, match="pieces"):
        decode(bytes(row.blob), [b"piece"])
    with pytest.raises(msgspec.MsgspecError):
        decode(b"\x91\x92\x63\x00")


def test_a_field_that_a_later_release_adds_is_passed_over() -> None:
    blob = msgspec.msgpack.encode([[9, 1.0, [5], False, "of a later release"]])
    [record] = decode(blob)
    assert isinstance(record, Forgotten)
    assert record.tasks == [5]
