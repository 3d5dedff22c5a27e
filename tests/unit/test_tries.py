"""How often a program is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipkernel.tries import (
    AWAY,
    BACK_OFF,
    LONGEST,
    MAX_IN_A_ROW,
    MAX_WORKED,
    SETTLED,
    WORKED,
    Tries,
)


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


def test_one_that_works_is_started_at_once_however_often_it_is_killed() -> None:
    now, tries = 0.0, Tries(0.0)
    for _ in range(10 * MAX_WORKED):
        tries.worked()
        now += WORKED + 1.0
        assert tries.ended(now) == BACK_OFF
        tries.began(now)
    assert tries.in_a_row == 1


def test_one_that_works_for_moments_only_is_not_started_for_ever() -> None:
    tries = Tries(0.0)
    pauses = []
    for _ in range(MAX_WORKED + 1):
        tries.worked()
        pauses.append(tries.ended(0.0))
        tries.began(0.0)
    assert pauses == [BACK_OFF] * MAX_WORKED + [None]


def test_starts_that_fail_count_after_one_that_worked() -> None:
    tries = Tries(0.0)
    tries.worked()
    assert tries.ended(0.0) == BACK_OFF
    tries.began(0.0)
    pauses = []
    for _ in range(MAX_IN_A_ROW + 1):
        pauses.append(tries.ended(0.0))
        tries.began(0.0)
    assert pauses == [*(BACK_OFF * 2**n for n in range(MAX_IN_A_ROW)), None]


def test_what_cannot_be_reached_is_tried_for_an_hour_and_that_does_not_count() -> None:
    now, pauses, tries = 0.0, [], Tries(0.0)
    assert tries.ended(now) == BACK_OFF
    while (pause := tries.away(now)) is not None:
        pauses.append(pause)
        now += pause
        tries.began(now)
    assert pauses[:3] == [BACK_OFF, 2 * BACK_OFF, 4 * BACK_OFF]
    assert max(pauses) == LONGEST
    assert AWAY < now <= AWAY + LONGEST
    assert tries.in_a_row == 1
    assert tries.ended(now) == 2 * BACK_OFF
    assert tries.away(now) == BACK_OFF  # another time
