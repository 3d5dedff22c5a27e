"""Pieces of objects: who takes which, what is there, and memory that is scattered."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.errors import TransferError
from ipkernel.objects import digests, ranges
from ipkernel.objects.digests import PieceDigests, combined_digest, digest_of
from ipkernel.objects.ranges import (
    BLOCK,
    PIECE,
    Piece,
    Pieces,
    Share,
    check_piece,
)


def everything(share: Share) -> list[Piece]:
    taken = []
    while (piece := share.take()) is not None:
        taken.append(piece)
    return taken


# ---------------------------------------------------------------- sharing


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE])
def test_the_pieces_are_the_object(size: int) -> None:
    pieces = everything(Share(size))
    assert [piece.offset for piece in pieces] == list(range(0, size, PIECE))
    assert sum(piece.length for piece in pieces) == size
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    for piece in pieces:
        check_piece(size, piece.offset, piece.length)


def test_what_was_taken_is_not_given_to_another() -> None:
    share = Share(3 * PIECE)
    first = share.take()
    assert first is not None
    assert [piece.offset for piece in everything(share)] == [PIECE, 2 * PIECE]
    share.give_back(first)
    assert everything(share) == [first]


def test_an_empty_object_is_complete() -> None:
    assert Share(0).complete


def test_what_others_have_brought_is_not_handed_out() -> None:
    share = Share(4 * PIECE)
    assert share.note([(PIECE, 2 * PIECE)]) == 2 * PIECE
    assert share.note([(0, 2 * PIECE)]) == PIECE
    assert [piece.offset for piece in everything(share)] == [3 * PIECE]


def test_half_a_piece_does_not_count() -> None:
    share = Share(2 * PIECE)
    share.note([(0, PIECE // 2), (PIECE + 1, PIECE)])
    assert [piece.offset for piece in everything(share)] == [0, PIECE]
    assert not share.complete


def test_what_was_noted_after_it_was_taken_was_counted_already() -> None:
    share = Share(2 * PIECE)
    piece = share.take()
    assert piece is not None
    assert share.note([(0, 2 * PIECE)]) == PIECE
    assert share.complete
    share.give_back(piece)
    assert share.take() is None


def test_nonsense_from_the_other_side_does_no_harm() -> None:
    share = Share(100)
    assert share.note([(0, 0), (100, 50), (1 << 40, 1), (90, 1 << 40)]) == 10
    assert share.there == 10


class Sharing(RuleBasedStateMachine):
    """Several connections that take pieces, bring them, break, and hear what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 7 * PIECE + 1
        self.share = Share(self.size)
        self.taken: list[Piece] = []
        self.there: set[int] = set()

    @rule()
    def take(self) -> None:
        piece = self.share.take()
        out = {piece.offset for piece in self.taken}
        if piece is None:
            assert out | self.there >= set(range(0, self.size, PIECE))
        else:
            assert piece.offset not in out
            assert piece.offset not in self.there
            self.taken.append(piece)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def bring(self, data: st.DataObject) -> None:
        piece = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.share.done(piece)
        self.there.add(piece.offset)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.share.give_back(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @rule(first=st.integers(0, 7), count=st.integers(0, 3))
    def note(self, first: int, count: int) -> None:
        starts = {n * PIECE for n in range(first, min(8, first + count))}
        new = starts - self.there - {piece.offset for piece in self.taken}
        noted = self.share.note([(first * PIECE, count * PIECE)])
        assert noted == sum(min(PIECE, self.size - start) for start in new)
        self.there |= starts

    @invariant()
    def counts(self) -> None:
        length = sum(min(PIECE, self.size - start) for start in self.there)
        assert self.share.there == length
        assert self.share.complete == (length == self.size)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------- pieces from outside


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [
        (PIECE, 1, PIECE - 1),
        (PIECE, 0, PIECE + 1),
        (PIECE, 0, 0),
        (PIECE, PIECE, 0),
        (PIECE, 5 * PIECE, PIECE),
        (2 * PIECE, PIECE, 1),
        (0, 0, 0),
    ],
)
def test_what_is_not_a_piece_is_refused(size: int, offset: int, length: int) -> None:
    with pytest.raises(TransferError, match="are not a piece"):
        check_piece(size, offset, length)


# ---------------------------------------------------------------- digests


def test_the_digest_is_that_of_the_digests_of_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "PIECE", 10)
    parts = [xxhash.xxh3_128_digest(part) for part in (b"0123456789", b"abc")]
    assert digest_of(b"0123456789abc") == combined_digest(parts)
    assert digest_of(bytearray(b"0123456789")) == combined_digest(parts[:1])
    assert digest_of(b"") == combined_digest(())


def test_digests_differ() -> None:
    data = bytearray(PIECE + 3)
    plain = digest_of(data)
    assert len(plain) == 16
    data[-1] = 1
    assert digest_of(data) != plain
    assert digest_of(data[:-1]) != plain


def test_digests_of_pieces_are_put_together_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "PIECE", 10)
    known = PieceDigests()
    assert known.note(b"a", 25, 20, b"3") == b""
    assert known.note(b"b", 5, 0, b"1") == combined_digest([b"1"])
    assert known.note(b"a", 25, 0, b"1") == b""
    assert known.note(b"a", 25, 0, b"1") == b""
    assert known.note(b"a", 25, 10, b"2") == combined_digest([b"1", b"2", b"3"])
    assert known.note(b"a", 25, 10, b"2") == b""  # it begins again


def test_only_so_many_objects_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "PIECE", 10)
    known = PieceDigests()
    for number in range(1000):
        known.note(str(number).encode(), 20, 0, b"1")
    assert known.note(b"0", 20, 10, b"2") == b""
    assert known.note(b"999", 20, 10, b"2") == combined_digest([b"1", b"2"])


# ---------------------------------------------------------------- scattered memory


@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    block=st.integers(1, 25),
    data=st.data(),
)
def test_blocks_are_the_range(lengths: list[int], block: int, data: st.DataObject) -> None:
    whole = bytes(n % 251 for n in range(sum(lengths)))
    buffers, at = [], 0
    for length in lengths:
        buffers.append(bytearray(whole[at : at + length]))
        at += length
    pieces = Pieces(buffers)
    assert pieces.size == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "BLOCK", block)
        found = [bytes(part) for part in pieces.blocks(start, count)]
    assert b"".join(found) == whole[start : start + count]
    assert all(len(part) == block for part in found[:-1])


def test_blocks_within_one_buffer_are_not_copied() -> None:
    buffer = bytearray(3 * BLOCK)
    first, second, third = Pieces([b"head", buffer]).blocks(4, 3 * BLOCK)
    buffer[0] = buffer[BLOCK] = buffer[2 * BLOCK] = 7
    assert first[0] == second[0] == third[0] == 7


def test_buffers_of_other_types_than_bytes() -> None:
    from array import array

    numbers = array("d", [1.0, 2.0])
    pieces = Pieces([memoryview(numbers), b"x"])
    assert pieces.size == 17
    assert b"".join(pieces.blocks(0, 17)) == numbers.tobytes() + b"x"
