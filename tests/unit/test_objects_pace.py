"""Whether to compress, learned from how fast pieces went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipkernel.objects.pace import FAST, Pace

MB = 1 << 20


def move(pace: Pace, rate: float, *, packed: bool = False, count: int = 1) -> None:
    for _ in range(count):
        pace.note(4 * MB, 4 * MB / rate, packed=packed)


def test_nothing_is_compressed_until_something_is_known() -> None:
    assert not Pace().is_slow


def test_fast_networks_are_left_alone() -> None:
    pace = Pace()
    move(pace, 2 * FAST)
    assert not pace.is_slow


def test_slow_networks_are_not() -> None:
    pace = Pace()
    move(pace, FAST / 10)
    assert pace.is_slow


def test_one_slow_piece_among_fast_ones_changes_nothing() -> None:
    pace = Pace()
    move(pace, 4 * FAST, count=4)
    move(pace, FAST / 2)
    assert not pace.is_slow
    move(pace, FAST / 2, count=3)
    assert pace.is_slow


def test_it_is_not_done_if_it_makes_things_slower() -> None:
    pace = Pace()
    move(pace, FAST / 2)
    move(pace, FAST / 4, packed=True)
    assert not pace.is_slow
    pace = Pace()
    move(pace, FAST / 2)
    move(pace, FAST * 2, packed=True)
    assert pace.is_slow


def test_the_other_way_is_tried_again_after_a_while() -> None:
    pace = Pace()
    move(pace, FAST / 2)
    move(pace, FAST, packed=True, count=63)
    assert pace.is_slow
    move(pace, FAST, packed=True)
    assert not pace.is_slow  # the network may have become better
    move(pace, FAST / 2)
    assert pace.is_slow


def test_small_objects_say_little() -> None:
    pace = Pace()
    pace.note(1000, 1.0, packed=False)
    assert not pace.is_slow


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 50), st.floats(0, 1e9), st.booleans()),
        max_size=100,
    )
)
def test_whatever_is_noted_there_is_an_answer(moves) -> None:
    pace = Pace()
    for length, seconds, packed in moves:
        pace.note(length, seconds, packed=packed)
        assert pace.is_slow in (True, False)
    move(pace, 100 * FAST, count=20)
    assert not pace.is_slow
