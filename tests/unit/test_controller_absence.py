"""Hosts that are away: who is given up, when, and what is kept for those who are not."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ipkernel.controller.absence import Absences, Absent
from ipkernel.controller.events import HostLost
from ipkernel.wire.messages import Reclaim
from ipkernel.wire.replay import Replay

#: Why a host is lost whose process has ended.
DIED = "its host daemon (pid 10) has died: cut"


class Turn:
    """Takes note of events."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.events: list[HostLost] = []

    def now(self) -> float:
        return float(self._clock.seconds())

    def add(self, event: HostLost) -> None:
        self.events.append(event)


class World:
    """Absences with a clock, on a machine whose processes are a set of numbers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turn = Turn(self.clock)
        self.processes = {10, 11}
        self.given_up: list[int] = []
        self.absences = Absences(
            self.clock,
            self.turn,  # type: ignore[arg-type]
            self.given_up.append,
            lives=self.processes.__contains__,
            here="here",
        )

    def begin(self, host: int, seconds: float = 2.0, *, restored: bool = False) -> Absent:
        absent = Absent(host, f"tub{host}", Replay(), "cut", restored=restored)
        self.absences.begin(absent, seconds)
        return absent

    def pass_time(self, seconds: float, step: float = 0.01) -> None:
        self.clock.pump([step] * round(seconds / step))

    def lost(self) -> list[tuple[int, str, float]]:
        assert [event.host for event in self.turn.events] == self.given_up
        return [(event.host, event.reason, round(event.now, 1)) for event in self.turn.events]


@pytest.fixture
def w() -> World:
    return World()


def test_a_host_that_does_not_come_back_is_lost_when_its_grace_is_over(w: World) -> None:
    absent = w.begin(1)
    w.clock.advance(1.99)
    assert w.lost() == []
    assert w.absences.all() == [absent]
    w.clock.advance(0.01)
    assert w.lost() == [(1, "cut; it did not come back within 2 s", 2.0)]
    assert w.absences.all() == []
    assert w.clock.getDelayedCalls() == []


def test_without_a_grace_it_is_lost_at_once(w: World) -> None:
    w.begin(1, 0.0)
    assert w.lost() == [(1, "cut; it did not come back within 0 s", 0.0)]
    assert w.clock.getDelayedCalls() == []


def test_each_host_has_its_own_grace(w: World) -> None:
    w.begin(1, 3.0)
    w.begin(2, 1.0)
    w.clock.advance(1.0)
    assert w.given_up == [2]
    w.begin(3, 1.0)
    w.clock.advance(1.0)
    w.clock.advance(1.0)
    assert [(host, when) for host, _, when in w.lost()] == [(2, 1.0), (3, 2.0), (1, 3.0)]


def test_a_host_of_this_machine_whose_process_is_gone_is_not_waited_for(w: World) -> None:
    w.absences.seen(1, "here", 10)
    w.processes.remove(10)
    w.begin(1)
    assert w.lost() == [(1, DIED, 0.0)]
    assert w.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("name", "lost"), [("here", [(1, DIED, 0.0)]), ("elsewhere", [])])
def test_a_process_that_the_controller_before_has_seen(w: World, name: str, lost: list) -> None:
    """It ended while there was no controller; on another machine nothing is known of it."""
    w.absences.seen(1, name, 10, before=True)
    w.processes.remove(10)
    w.begin(1)
    assert w.lost() == lost


def test_a_process_of_this_machine_that_ends_while_its_host_is_away(w: World) -> None:
    w.absences.seen(1, "here", 10)
    w.begin(1)
    w.pass_time(1.0)
    assert w.lost() == []
    w.processes.remove(10)
    w.pass_time(0.1)
    [(host, reason, when)] = w.lost()
    assert (host, reason) == (1, DIED)
    assert 1.0 <= when <= 1.1


def test_a_process_of_this_machine_that_lives_has_its_grace(w: World) -> None:
    w.absences.seen(1, "here", 10)
    w.begin(1)
    w.pass_time(1.9)
    assert w.lost() == []
    w.pass_time(0.2)
    assert [reason for _, reason, _ in w.lost()] == ["cut; it did not come back within 2 s"]


@pytest.mark.parametrize(("name", "pid"), [("elsewhere", 10), ("here", 99)])
def test_what_is_said_of_a_process_counts_only_if_it_can_be_seen(
    w: World, name: str, pid: int
) -> None:
    """The process may be of another machine, or in a container of a machine with this name."""
    w.absences.seen(1, name, pid)
    w.processes.clear()
    w.begin(1)
    w.pass_time(1.9)
    assert w.lost() == []


def test_a_process_of_which_was_heard_long_ago_is_forgotten_with_its_host(w: World) -> None:
    w.absences.seen(1, "here", 10)
    w.absences.forget(1)
    w.absences.forget(2)
    w.processes.remove(10)
    w.begin(1)
    assert w.lost() == []


def test_a_host_that_is_back_is_not_lost(w: World) -> None:
    w.absences.seen(1, "here", 10)
    absent, other = w.begin(1), w.begin(2)
    w.clock.advance(1.0)
    w.absences.take(absent)
    assert w.absences.all() == [other]
    w.absences.take(other)
    assert w.clock.getDelayedCalls() == []
    w.clock.advance(10.0)
    assert w.lost() == []
    w.processes.remove(10)
    w.begin(1)
    assert w.lost() == [(1, DIED, 11.0)], "its process is known still"


def test_a_host_is_given_up_before_its_time(w: World) -> None:
    absent = w.begin(1)
    w.absences.give_up(absent, "it registered anew")
    assert w.lost() == [(1, "it registered anew", 0.0)]
    w.clock.advance(10.0)
    assert w.given_up == [1]


def test_closed_is_that_nobody_is_waited_for(w: World) -> None:
    w.absences.seen(1, "here", 10)
    for host in (1, 2, 3):
        w.begin(host)
    for absent in w.absences.all():
        w.absences.give_up(absent, "closed")
    assert [(host, reason) for host, reason, _ in w.lost()] == [
        (1, "closed"), (2, "closed"), (3, "closed"),
    ]  # fmt: skip
    assert w.clock.getDelayedCalls() == []


def test_hosts_are_known_by_their_certificates(w: World) -> None:
    absent = w.begin(1)
    w.begin(2)
    assert w.absences.of("tub1") == [absent]
    assert w.absences.of("tub3") == []
    w.clock.advance(2.0)
    assert w.absences.of("tub1") == []


def test_what_goes_to_a_host_waits_for_it(w: World) -> None:
    absent, restored = w.begin(1), w.begin(2, restored=True)
    items = [(Reclaim(0, [5]), b""), (Reclaim(1, [6]), b"")]
    w.absences.deliver(1, items)
    assert list(absent.replay) == items
    w.absences.deliver(2, items)
    assert not len(restored.replay), "it knows nothing of this life, and is told all anew"
    w.absences.deliver(3, items)
    w.absences.take(absent)
    w.absences.deliver(1, items)
    assert list(absent.replay) == items


def test_a_host_for_which_too_much_waits_is_not_waited_for(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipkernel.controller.absence.MAX_UNTAKEN", 10)
    w.begin(1)
    for _ in range(10):
        w.absences.deliver(1, [(Reclaim(0, [5]), b"")])
    assert not w.lost()
    w.absences.deliver(1, [(Reclaim(0, [5]), b"")])
    assert w.lost() == [(1, "cut; more and more waited for it", 0.0)]
