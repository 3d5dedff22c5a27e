"""Messages and ranges on a data connection, in memory: plain, compressed, damaged."""

from __future__ import annotations

import os

import pytest
import xxhash

from ipkernel.objects.compress import compressor, decompressor
from ipkernel.objects.datawire import (
    HELLO_LIMIT,
    Done,
    Exists,
    Free,
    Hello,
    Problem,
    Put,
    Waiting,
    decode_reply,
    decode_request,
    encode,
)
from ipkernel.objects.line import Line
from ipkernel.objects.lines import Guard, HostLine
from ipkernel.objects.ranges import BLOCK, PIECE
from ipkernel.objects.tlsstream import StreamBroken

ONE = bytes(16)


class Pipe:
    """A stream to oneself."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.sent = 0
        self.cuts = 0

    def send(self, data) -> None:
        self.data += data
        self.sent += len(data)

    def receive_into(self, target) -> None:
        count = len(target)
        if len(self.data) < count:
            raise StreamBroken("the end")
        target[:] = self.data[:count]
        del self.data[:count]

    def receive(self, size: int) -> bytearray:
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return data

    def cut(self) -> None:
        self.cuts += 1


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def blocks(data: bytes):
    view = memoryview(data)
    return (view[start : start + BLOCK] for start in range(0, len(view), BLOCK))


# ---------------------------------------------------------------- messages


def test_messages_come_one_by_one(pipe: Pipe) -> None:
    line = Line(pipe, decode_request)
    line.tell(Put(ONE, 1, 2), Done(b"x"))
    line.tell(Free([ONE]))
    assert [line.hear() for _ in range(3)] == [Put(ONE, 1, 2), Done(b"x"), Free([ONE])]
    with pytest.raises(StreamBroken, match="the end"):
        line.hear()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x02\0\0\0\x91\xff", b"\0\0\0\0"])
def test_a_peer_that_speaks_another_language(pipe: Pipe, data: bytes) -> None:
    pipe.send(data)
    with pytest.raises(StreamBroken, match="the other side speaks another protocol"):
        Line(pipe, decode_request).hear()


def test_strangers_must_be_brief(pipe: Pipe) -> None:
    line = Line(pipe, decode_request, HELLO_LIMIT)
    line.tell(Hello("a", bytes(64)))
    assert isinstance(line.hear(), Hello)
    line.tell(Free([ONE] * 100))
    with pytest.raises(StreamBroken, match="1024 are the most"):
        line.hear()


def test_signs_of_life_are_no_answers(pipe: Pipe) -> None:
    line = HostLine(pipe, "direct")
    pipe.send(encode(Waiting()) * 3 + encode(Exists()))
    assert line.answer(Exists) == Exists()
    pipe.send(encode(Waiting()) + encode(Problem("timeout", "late")))
    with pytest.raises(TimeoutError, match="late"):
        line.answer(Exists)
    pipe.send(encode(Done()))
    with pytest.raises(StreamBroken, match="the other side answers with Done"):
        line.answer(Exists)


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, PIECE, PIECE + 7])
@pytest.mark.parametrize("codec", ["", "lz4", "zstd"])
def test_ranges_arrive(pipe: Pipe, size: int, codec: str) -> None:
    line = Line(pipe, decode_reply)
    data = (b"not so much of a surprise " * (size // 26 + 1))[:size]
    sent: list[int] = []
    digest = line.send_range(blocks(data), sent.append, compressor(codec) if codec else None)
    target = bytearray(size)
    received: list[int] = []
    unpack = decompressor(codec) if codec else None
    assert line.receive_range(memoryview(target), received.append, unpack) == digest
    assert digest == xxhash.xxh3_128_digest(data)
    assert target == data
    assert not pipe.data
    assert sum(sent) == sum(received) == size
    assert max(sent, default=0) <= BLOCK
    if codec and size > 1000:
        assert pipe.sent < size / 5


def test_what_does_not_become_smaller_is_sent_as_it_is(pipe: Pipe) -> None:
    line = Line(pipe, decode_reply)
    noise, zeros = os.urandom(BLOCK), bytes(BLOCK)
    data = noise + zeros + noise[:100]
    digest = line.send_range(blocks(data), lambda n: None, compressor("lz4"))
    assert BLOCK < pipe.sent < BLOCK * 1.1
    target = bytearray(len(data))
    assert line.receive_range(memoryview(target), lambda n: None, decompressor("lz4")) == digest
    assert target == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x05\0\0\0hello", "a block of 5 bytes where 10 were to come"),
        (b"\x0b\0\0\0hello world", "a block of 11 bytes where 10 were to come"),
        (b"\0\0\0\x80", "a compressed block of 0 bytes"),
        (b"\x0a\0\0\x80", "a compressed block of 10 bytes"),
        (b"\xff\xff\xff\xff", "a compressed block of"),
        (b"\x05\0\0\x80hello", "is damaged"),
        (b"\x05\0\0\x80he", "the end"),
    ],
)
def test_damaged_blocks_end_the_connection(pipe: Pipe, data: bytes, why: str) -> None:
    pipe.send(data)
    with pytest.raises(StreamBroken, match=why):
        Line(pipe, decode_reply).receive_range(
            memoryview(bytearray(10)), lambda n: None, decompressor("lz4")
        )


def test_who_counts_may_end_it(pipe: Pipe) -> None:
    def enough(count: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Line(pipe, decode_reply).send_range(blocks(bytes(PIECE)), enough)
    assert pipe.sent == BLOCK


# ---------------------------------------------------------------- guards


def test_a_guard_cuts_what_it_watches() -> None:
    guard, one, two, three = Guard(), Pipe(), Pipe(), Pipe()
    guard.add(one)
    guard.add(two)
    guard.remove(two)
    guard.cut()
    guard.add(three)
    assert (one.cuts, two.cuts, three.cuts) == (1, 0, 1)
    assert guard.ended
