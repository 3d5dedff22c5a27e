"""Names, framing, records and the window of flows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.errors import TransferError
from ipkernel.objects import chunks
from ipkernel.objects.chunks import Chunk, Flag, Note, Window

KEY = bytes(range(16))


def joined(pieces) -> memoryview:
    return memoryview(bytearray(b"".join(pieces)))


class TestNames:
    def test_ids_are_16_bytes_and_all_different(self):
        ids = [chunks.chunk_id(KEY, index) for index in range(1000)] + [chunks.stop_id(KEY)]
        assert {len(one) for one in ids} == {16}
        assert len(set(ids)) == len(ids)
        assert KEY not in ids

    def test_ids_follow_from_the_key(self):
        other = bytes(16)
        assert chunks.chunk_id(KEY, 7) == chunks.chunk_id(bytes(KEY), 7)
        assert chunks.chunk_id(KEY, 7) != chunks.chunk_id(other, 7)
        assert chunks.stop_id(KEY) != chunks.stop_id(other)

    def test_keys_are_random(self):
        assert len({chunks.new_key() for _ in range(100)}) == 100

    def test_each_attempt_of_each_task_has_a_key_of_its_own(self):
        keys = {
            chunks.flow_key(KEY, task, attempt)
            for task in (1, 2, (1 << 62) - 1)
            for attempt in (bytes(16), bytes(15) + b"\1")
        }
        assert len(keys) == 6
        assert {len(key) for key in keys} == {16}

    def test_a_chunk_number_may_be_as_large_as_a_stream_may_be_long(self):
        assert len(chunks.chunk_id(KEY, (1 << 64) - 1)) == 16


class TestFraming:
    @given(
        st.integers(0, (1 << 64) - 1),
        st.sampled_from([Flag.NONE, Flag.LAST, Flag.LAST | Flag.ERROR]),
        st.lists(st.binary(max_size=200)),
    )
    def test_there_and_back(self, index, flags, pieces):
        framed, size = chunks.frame(index, flags, pieces)
        data = joined(framed)
        assert data.nbytes == size
        chunk = chunks.unframe(data, index)
        assert chunk == Chunk(flags, b"".join(pieces))

    def test_the_payload_is_not_copied_and_aligned(self):
        data = joined(chunks.frame(0, Flag.NONE, [b"abc"])[0])
        chunk = chunks.unframe(data, 0)
        chunk.payload[0] = ord("x")
        assert bytes(data[chunks.HEADER_SIZE :]) == b"xbc"
        assert chunks.HEADER_SIZE % 64 == 0

    def test_memoryviews_count_by_bytes(self):
        wide = memoryview(bytes(16)).cast("Q")
        framed, size = chunks.frame(0, Flag.NONE, [wide])
        assert size == chunks.HEADER_SIZE + 16
        assert chunks.unframe(joined(framed), 0).payload.nbytes == 16

    def test_another_chunk_is_refused(self):
        data = joined(chunks.frame(3, Flag.NONE, [b"abc"])[0])
        with pytest.raises(TransferError, match="chunk 4 .*says that it is chunk 3"):
            chunks.unframe(data, 4)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"", "it has 0 bytes"),
            (bytes(63), "it has 63 bytes"),
            (bytes(64), "begins with is not known"),
            (struct.pack("<4sBxxxQQ40x", b"ipkf", 8, 0, 0), "begins with is not known"),
            (struct.pack("<4sBxxxQQ40x", b"ipkf", 0, 0, 1), "announces 1 bytes and has 0"),
            (struct.pack("<4sBxxxQQ41x", b"ipkf", 0, 0, 0), "announces 0 bytes and has 1"),
        ],
    )
    def test_damage_is_named(self, data, why):
        with pytest.raises(TransferError, match=why):
            chunks.unframe(memoryview(data), 0)

    @given(st.binary(max_size=200), st.integers(0, 3))
    def test_any_bytes_are_taken_or_refused_clearly(self, data, index):
        try:
            chunk = chunks.unframe(memoryview(data), index)
        except TransferError:
            return
        assert bytes(chunk.payload) == data[chunks.HEADER_SIZE :]


class TestRecords:
    @given(st.lists(st.one_of(st.binary(max_size=50), st.integers(4090, 5000).map(bytes))))
    def test_there_and_back(self, records):
        payload = joined(chunks.pack([[record] for record in records]))
        assert [bytes(one) for one in chunks.unpack(payload)] == records

    def test_large_records_are_aligned(self):
        payload = joined(
            chunks.pack([[b"x"], [bytes(4000), bytes(96)], [b"y"], [memoryview(bytes(5000))]])
        )
        small, first, _, second = chunks.unpack(payload)
        offsets = []
        for record in (small, first, second):
            record[0] = 0xAB
            offsets.append(bytes(payload).index(0xAB))
            record[0] = 0
        assert offsets[1] % 64 == offsets[2] % 64 == 0
        assert offsets[0] % 64

    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            (b"", "cut off after 0 bytes"),
            (struct.pack("<Ixxxx", 1), "announces 1 records"),
            (struct.pack("<Ixxxx", 0xFFFFFFFF), "announces 4294967295 records"),
            (struct.pack("<IxxxxQ", 1, 5), "announce 21 bytes, and there are 16"),
            (struct.pack("<IxxxxQ", 1, (1 << 64) - 1), "announce .* bytes"),
            (struct.pack("<Ixxxx", 0) + b"x", "announce 8 bytes, and there are 9"),
        ],
    )
    def test_damage_is_named(self, payload, why):
        with pytest.raises(TransferError, match=why):
            chunks.unpack(memoryview(payload))

    @given(st.binary(max_size=100))
    def test_any_bytes_are_taken_or_refused_clearly(self, payload):
        try:
            records = chunks.unpack(memoryview(payload))
        except TransferError:
            return
        assert sum(map(len, records)) <= len(payload)


class TestNotes:
    @given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.booleans())
    def test_there_and_back(self, master, attempt, stop):
        note = Note(master, attempt, stop)
        assert chunks.decode_note(chunks.encode_note(note)) == note

    @given(st.binary(max_size=60))
    def test_any_bytes_are_taken_or_refused_clearly(self, data):
        try:
            note = chunks.decode_note(data)
        except TransferError as error:
            assert "damaged" in str(error)
        else:
            assert len(note.master) == len(note.attempt) == 16


class TestWindow:
    def test_it_takes_so_many_chunks(self):
        window = Window(2, 1000)
        assert window.awaited(10) is None
        window.wrote(10)
        assert window.awaited(10) is None
        window.wrote(10)
        assert window.awaited(10) == 0
        window.note_freed(0)
        assert window.awaited(10) is None
        assert window.outstanding == range(1, 2)

    def test_it_takes_so_many_bytes_but_two_chunks_in_any_case(self):
        window = Window(4, 100)
        for _ in range(2):
            assert window.awaited(1000) is None
            window.wrote(1000)
        assert window.awaited(1) == 0

    def test_a_window_of_one_lets_one_through(self):
        window = Window(1, 10)
        assert window.awaited(100) is None
        window.wrote(100)
        assert window.awaited(1) == 0

    def test_a_later_chunk_that_was_freed_says_so_of_all_before_it(self):
        window = Window(4, 100)
        for _ in range(4):
            window.wrote(1)
        window.note_freed(2)
        assert window.outstanding == range(3, 4)

    def test_there_must_be_room_for_one(self):
        with pytest.raises(ValueError, match="lets nothing through"):
            Window(0, 100)


class WindowMachine(RuleBasedStateMachine):
    """The window against a plain list of what is in the store."""

    COUNT, SIZE = 3, 100

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(self.COUNT, self.SIZE)
        self.there: dict[int, int] = {}
        self.next = 0

    @rule(size=st.integers(0, 150))
    def write(self, size):
        total = sum(self.there.values()) + size
        room = len(self.there) < self.COUNT and (len(self.there) < 2 or total <= self.SIZE)
        awaited = self.window.awaited(size)
        assert (awaited is None) == room
        if room:
            self.window.wrote(size)
            self.there[self.next] = size
            self.next += 1
        else:
            assert awaited == min(self.there)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def free(self, data):
        index = data.draw(st.sampled_from(sorted(self.there)))
        self.window.note_freed(index)
        self.there = {i: size for i, size in self.there.items() if i > index}

    @rule(index=st.integers(0, 5))
    def free_again(self, index):
        if index < min(self.there, default=self.next):
            self.window.note_freed(index)

    @invariant()
    def agrees(self):
        assert list(self.window.outstanding) == sorted(self.there)
        assert self.window.written == self.next


TestWindowMachine = WindowMachine.TestCase
