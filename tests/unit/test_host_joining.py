"""How long a host waits between its attempts to find the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ipkernel.host import joining
from ipkernel.host.joining import FIRST_PAUSE, GROWTH, JITTER, LONGEST_PAUSE, JoinFailed, Pauses
from ipkernel.wire.furl import NoFurlError


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


def test_a_furl_that_is_written_just_after_it_was_missed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ipcontroller-engine.furl"
    real, read = joining.read_furl, []

    def written_too_late(path: Path) -> Any:
        read.append(path)
        try:
            return real(path)
        except NoFurlError:
            file.write_text("not a FURL")
            file.chmod(0o600)
            raise

    monkeypatch.setattr(joining, "read_furl", written_too_late)
    clock, nothing = Clock(), lambda *args: pytest.fail("nothing was reached")
    one = joining.Joining(
        clock,
        nothing,
        file,
        None,
        hello=nothing,
        granted=nothing,
        channel=nothing,
        waiting=nothing,
    )
    joined: Deferred[Any] = Deferred.fromCoroutine(one.join(10.0))
    assert not joined.called
    clock.advance(2 * LONGEST_PAUSE)
    assert read == [file, file]
    reason = pytest.raises(JoinFailed, joined.result.raiseException)
    joined.addErrback(lambda failure: None)
    assert "FURL" in str(reason.value)
