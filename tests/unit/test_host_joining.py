"""How long a host waits between its attempts to find the controller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.host.joining import FIRST_PAUSE, GROWTH, JITTER, LONGEST_PAUSE, Pauses


def test_pauses_grow_to_a_second() -> None:
    pauses = Pauses(chance=lambda: 0.5)
    found = [pauses.next(float(n)) for n in range(20)]
    assert found[:3] == [FIRST_PAUSE, FIRST_PAUSE * GROWTH, FIRST_PAUSE * GROWTH**2]
    assert found == sorted(found)
    assert found[-1] == LONGEST_PAUSE


def test_they_stay_short_for_a_controller_that_is_being_started() -> None:
    pauses = Pauses(3.0, chance=lambda: 0.5)
    assert [pauses.next(passed) for passed in (0.0, 1.0, 2.9)] == [FIRST_PAUSE] * 3
    assert [pauses.next(passed) for passed in (3.0, 3.1)] == [FIRST_PAUSE, FIRST_PAUSE * GROWTH]


@given(chance=st.floats(0.0, 1.0))
def test_hosts_do_not_all_come_at_once(chance: float) -> None:
    pauses = Pauses(chance=lambda: chance)
    for _ in range(20):
        last = pauses.next(0.0)
    assert last == pytest.approx(LONGEST_PAUSE * (1 - JITTER + 2 * JITTER * chance))
