"""Bytes of others that are not what they should be: one kind of error, whatever is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.client.task import TaskRecord
from ipkernel.controller.doors import read_request
from ipkernel.decoding import decode
from ipkernel.errors import KernelError, SerializationError, TransferError
from ipkernel.objects import archive, chunks, datawire, localwire
from ipkernel.serialize import failure
from ipkernel.wire.messages import Kind, Outcome, decode_reason
from ipkernel.wire.records import HostHello, Status, unpack

_PLAIN: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()

#: A map with a text that is not UTF-8, and one with something that is nested very deep.
BROKEN = {
    "cut off": b"\x81\xa1x",
    "not UTF-8": b"\x81\xa1x\xa2\xff\xfe",
    "a name that is not UTF-8": b"\x81\xa2\xff\xfe\x01",
    "nested too deep": b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
    "announces too much": b"\x81\xa1x\xdd\xff\xff\xff\xff",
}
broken = pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)


@broken
def test_whatever_is_wrong_is_one_kind_of_error(data: bytes) -> None:
    for kind in (_PLAIN, msgspec.msgpack.Decoder(Status)):
        with pytest.raises(msgspec.MsgspecError):
            decode(kind, data)


@given(st.binary(max_size=64))
def test_any_bytes_are_something_or_that_error(data: bytes) -> None:
    try:
        decode(_PLAIN, data)
    except msgspec.MsgspecError:
        pass


@broken
def test_records_and_reasons(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        unpack(HostHello, data)
    with pytest.raises(msgspec.MsgspecError):
        decode_reason(data)
    with pytest.raises(KernelError, match="this is not a HostHello: "):
        read_request(HostHello, data)


@broken
def test_what_moves_with_objects(data: bytes) -> None:
    with pytest.raises(TransferError, match="a note about a stream is damaged"):
        chunks.decode_note(data)
    with pytest.raises(datawire.DataError, match="not a message"):
        datawire.decode_reply(data)
    stream = localwire.replies()
    stream.feed(len(data).to_bytes(4, "little") + data)
    with pytest.raises(localwire.WireError):
        stream.next()


def test_a_file_s_description_with_a_text_that_is_none() -> None:
    data = bytes([0x92, 1, 0x91, 0xA2, 0xFF, 0xFE])  # a text where bytes are expected
    part = archive._PART.pack(archive.Part.ENTRY, len(data)) + data
    with pytest.raises(TransferError, match="a file's description is damaged"):
        list(archive.Unpacker().feed(memoryview(part)))


@broken
def test_a_failure_is_a_failure_however_damaged_its_description_is(data: bytes) -> None:
    with pytest.raises(SerializationError):
        failure.decode(data)
    record = TaskRecord(1, Kind.APPLY, -1, "", 0.0)
    error = record.exception_of(Outcome.LOST, data)
    assert type(error) is KernelError
    assert "why the task ended is damaged" in str(error)
