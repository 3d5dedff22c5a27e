"""How long whoever has lost a peer waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.wire.backoff import EAGER, EAGER_PAUSE, FIRST, LONGEST, Backoff


def pauses(backoff, count, since=0.0):
    found = []
    for _ in range(count):
        found.append(backoff.pause(since))
        since += found[-1]
    return found


def test_pauses_grow_and_are_short_at_first():
    found = pauses(Backoff(lambda: 0.0), 40)
    assert found[:5] == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, EAGER_PAUSE])
    assert found == sorted(found)
    assert found[-1] == LONGEST
    eager = [one for index, one in enumerate(found) if sum(found[:index]) < EAGER]
    assert max(eager) == EAGER_PAUSE
    assert len(eager) > 10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 100))
def test_chance_only_shortens_them(chances, since):
    sequence = iter(chances)
    backoff = Backoff(lambda: next(sequence))
    for pause in pauses(backoff, len(chances), since):
        assert FIRST / 2 <= pause <= LONGEST


def test_two_do_not_come_at_the_same_moments():
    assert pauses(Backoff(), 10) != pauses(Backoff(), 10)
