"""A controller that ends by itself is started again by whoever has started it; no process is real."""

from __future__ import annotations

import threading
import time

import pytest

from ipkernel import tries
from ipkernel.cluster.entries import Entry
from ipkernel.errors import ClusterError, LauncherError
from tests.support.fakelaunchers import (
    Controller,
    Fake,
    Queued,
    Ready,
    Refusing,
    many_programs,
    shape,
)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def make(tmp_path, seen, monkeypatch):
    monkeypatch.setattr(tries, "BACK_OFF", 0.0)
    with many_programs(tmp_path / "c", seen) as go:
        yield go


def soon():
    return time.monotonic() + 60


def until(condition):
    end = soon()
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def told(seen, kind):
    return [event for _, event in seen if event["event"] == kind]


def test_it_is_started_again(make, seen):
    changes = []
    found = make(on_change=lambda: changes.append(1))
    first = found.controller
    assert found.wait_controller(soon())
    first.end(-9)
    assert found.alive()
    until(lambda: found.restarts == 1)
    assert found.wait_controller(soon())
    assert found.controller is not first and first.closed
    assert found.controller.argument("--restarts") == "1"
    assert "--restarts" not in first.arguments
    assert told(seen, "ended")[0]["message"] == (
        f"ipcontroller (pid {first.pid}) was killed by SIGKILL; it is started again at once"
    )
    until(lambda: told(seen, "restarted"))
    assert (
        found.spoiled
        == f"ipcontroller (pid {first.pid}) was killed by SIGKILL, and was started again"
    )
    assert found.recorded_controller()["restarts"] == 1
    assert found.problem() == ""
    assert not found.wait_ended(0)
    found.check_controller()
    until(lambda: changes)


def test_hosts_that_die_with_it_are_started_again_too(make):
    kind = shape(Ready)
    found = make()
    [(one,)] = found.start_hosts([Entry("local", kind, 2)], 9.0)
    found.controller.end(-9)
    one.launcher.end(-9)
    until(lambda: one.restarts == 1 and one.running)
    assert not one.over


def test_who_gives_up_as_it_ends_has_none_started(tmp_path):
    class Hearing(list):
        def append(self, item):
            super().append(item)
            if item[1]["event"] == "ended":
                found._kept.give_up()

    seen = Hearing()
    with many_programs(tmp_path / "c", seen) as go:
        found = go()
        found.controller.end(-9)
        assert told(seen, "ended") and found.restarts == 0 and not found.alive()
        assert found.spoiled == ""
        assert "ipkernel-controller-again" not in [one.name for one in threading.enumerate()]


def test_not_for_ever(make, seen):
    found = make()
    for count in range(tries.MAX_WORKED):
        found.controller.end(1)
        until(lambda count=count: found.restarts == count + 1 and found.controller.running)
    assert told(seen, "failed") == []
    found.controller.events.clear()
    found.controller.end(1)
    until(lambda: told(seen, "failed"))
    times = tries.MAX_WORKED + 1
    why = f"ended {times} times in a row: ipcontroller ended with code 1"
    assert told(seen, "failed")[0]["message"] == why
    assert not found.alive()
    assert found.wait_ended(0)
    with pytest.raises(ClusterError, match="has lost its controller: ipcontroller ended"):
        found.check_controller()
    with pytest.raises(LauncherError):
        found.wait_controller(soon())


def test_one_that_cannot_be_started_again(make, seen):
    kind = shape(Controller)
    found = make(kind)
    kind.start = Refusing.start
    kind.made[0].end(1)
    until(lambda: told(seen, "failed"))
    assert told(seen, "failed")[0]["message"] == "there is no way to this host"
    assert len(kind.made) == 2 + tries.MAX_IN_A_ROW  # the first of them had worked
    assert not found.alive()


class Silent(Fake):
    """A controller that is never ready."""

    name = "ipcontroller"


class Late(Queued):
    """A controller that a batch system runs at once."""

    name = "ipcontroller"

    def begun(self):
        super().begun()
        self.tell("ready")


@pytest.mark.parametrize("how", ["orderly", "never ready", "not wanted", "detached", "a job"])
def test_when_it_is_not(make, seen, how):
    kind = shape({"never ready": Silent, "a job": Late}.get(how, Controller))
    found = make(kind, restart=how != "not wanted", lifeline=how != "detached")
    found.controller.end(0 if how == "orderly" else -9)
    assert not found.alive()
    assert found.wait_ended(0)
    assert len(kind.made) == 1
    assert told(seen, "ended") == []


def test_a_stop_before_it_is_started_again(make, monkeypatch):
    monkeypatch.setattr(tries, "BACK_OFF", 3600.0)
    kind = shape(Controller)
    found = make(kind)
    found.controller.end(-9)
    assert found.alive()
    found.end(controller=True)
    assert found.controller is None
    assert len(kind.made) == 1


def test_whoever_needs_it_meanwhile_waits(make):
    let = threading.Event()

    class Slow(Controller):
        def begun(self):
            if len(self.made) > 1:
                assert let.wait(60)
            super().begun()

    found = make(shape(Slow))
    found.controller.end(-9)
    asked = threading.Thread(target=found.check_controller)
    asked.start()
    let.set()
    asked.join(60)
    assert not asked.is_alive()
    assert found.restarts == 1


def test_one_whose_watcher_says_nothing(make, monkeypatch):
    monkeypatch.setattr("ipkernel.cluster.kept._NOTICE", 0.01)
    found = make()
    found.controller._on_stop = None
    found.controller.end(-9)
    assert not found.alive()
