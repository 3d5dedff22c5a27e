"""How often a program is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipkernel.tries import BACK_OFF, MAX_IN_A_ROW, SETTLED, Tries


def test_a_few_times_in_a_row_and_each_a_little_later() -> None:
    tries = Tries(0.0)
    assert [tries.ended(1.0) for _ in range(MAX_IN_A_ROW + 1)] == [
        *(BACK_OFF * 2**n for n in range(MAX_IN_A_ROW)),
        None,
    ]
    assert tries.in_a_row == MAX_IN_A_ROW


def test_what_has_worked_for_a_while_begins_anew() -> None:
    tries = Tries(0.0)
    for _ in range(MAX_IN_A_ROW):
        assert tries.ended(1.0) is not None
        tries.began(1.0)
    assert tries.ended(1.0 + SETTLED) is None
    assert tries.ended(1.1 + SETTLED) == BACK_OFF
    assert tries.in_a_row == 1


@given(st.lists(st.floats(0.0, 200.0), max_size=40))
def test_it_is_never_started_more_often_than_it_may(gaps: list[float]) -> None:
    now, starts = 0.0, []
    tries = Tries(now)
    for gap in gaps:
        now += gap
        if tries.ended(now) is None:
            break
        tries.began(now)
        starts.append(now)
    for first in starts:
        assert sum(first <= one <= first + SETTLED / 2 for one in starts) <= MAX_IN_A_ROW
