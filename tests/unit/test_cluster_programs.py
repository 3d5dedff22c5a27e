"""Host daemons of several launchers: starts, failures, restarts and ends, without any process."""

from __future__ import annotations

import threading
import time

import pytest

from ipkernel import tries
from ipkernel.cluster import gathering
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.settings import Settings
from ipkernel.cluster.telling import at_once
from ipkernel.errors import ClusterError, LauncherError
from ipkernel.launchers.interfaces import Share
from tests.support.fakelaunchers import (
    Failing,
    Fake,
    Queued,
    Ready,
    Refusing,
    Stubborn,
    many_programs,
    shape,
)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def make(tmp_path, seen, monkeypatch):
    monkeypatch.setattr(gathering, "_TOGETHER", 0.0)
    monkeypatch.setattr(tries, "BACK_OFF", 0.0)
    with many_programs(tmp_path / "c", seen) as go:
        yield go


def begun(found, *entries, patience=9.0):
    return [one for hosts in found.start_hosts(entries, patience) for one in hosts]


def soon():
    return time.monotonic() + 30


def passed():
    return time.monotonic()


def again(one):
    """Wait until a host daemon was started again."""
    one._thread.join(30)
    assert not one._thread.is_alive()


def told(seen, event):
    return [said for _, said in seen if said["event"] == event]


# --------------------------------------------------------------------------------------- starting


def test_what_the_programs_are_told(make):
    kind = shape(Ready, "host a", "host b")
    found = make(engine_args=("--more",), environment={"X": "y"})
    sets = found.start_hosts([Entry("ssh", kind, 3, {"o": 1}), Entry("pkg.mod:Kind", kind, 2)], 9.0)
    assert [len(hosts) for hosts in sets] == [2, 2]
    first, second = kind.made[:2]
    assert (first.argument("-n"), second.argument("-n")) == ("2", "1")
    assert first.argument("--label") == "host a"
    assert first.argument("--launcher") == "ssh"
    assert kind.made[2].argument("--launcher") == "Kind"
    assert first.argument("--wait") == "9"
    assert first.argument("--furl-file") == str(found.directory.furl_file("engine"))
    assert first.argument("--cluster-dir") == str(found.directory)
    assert first.arguments[-1] == "--more"
    assert first.environment == {"X": "y"}
    assert first.options == {"o": 1}
    assert first.share == Share(2, "host a")


def test_all_start_at_the_same_time(make):
    together = threading.Barrier(9)

    class Slow(Ready):
        def begun(self):
            together.wait(30)
            super().begun()

    kind = shape(Slow, *map(str, range(9)))
    found = make()
    hosts = begun(found, Entry("ssh", kind, 9))
    assert found.wait_hosts(hosts, soon()) == []
    assert all(one.ready for one in hosts)


def test_events_say_where(make, seen):
    found = make()
    begun(found, Entry("ssh", shape(Ready, "host a"), 1), Entry("local", shape(Ready), 1))
    assert [said.get("where") for said in told(seen, "ready")] == [None, "host a", None]


def test_a_class_without_options_gets_none(make):
    class Plain(Ready):
        def __init__(self, directory, arguments, **keywords):
            assert not {"options", "share"} & keywords.keys()
            super().__init__(directory, arguments, **keywords)

    kind = shape(Plain)
    del Fake.SPEC
    try:
        (one,) = begun(make(), Entry("plain", kind, 2))
        assert one.share == Share(2)
    finally:
        Fake.SPEC = ""


def test_share_without_a_plan():
    class Bare:
        pass

    assert Entry("x", Bare, 3).plan() == [Share(3)]
    assert Entry("x", Bare, 0).plan() == []
    assert Entry("x", Bare).plan()[0].n >= 1


# -------------------------------------------------------------------------------------- failures


def test_every_failure_is_told_with_its_place(make):
    found = make()
    hosts = begun(
        found,
        Entry("local", shape(Ready), 1),
        Entry("ssh", shape(Refusing, "host a"), 1),
        Entry("ssh", shape(Failing, "host b"), 1),
    )
    with pytest.raises(LauncherError) as caught:
        found.wait_hosts(hosts, soon())
    assert str(caught.value) == (
        "2 of 3 host daemons did not start:\n"
        "  ssh, host a: there is no way to host a\n"
        "  ssh, host b: ipdaemon failed: no Python on host b\n"
        "  really"
    )


def test_the_only_one_fails(make):
    found = make()
    with pytest.raises(LauncherError, match=r"\Aipdaemon failed: no Python on this host"):
        found.wait_hosts(begun(found, Entry("local", shape(Failing), 1)), soon())
    hosts = begun(found, Entry("ssh", shape(Refusing, "host a"), 1))
    with pytest.raises(LauncherError, match=r"\Assh, host a: there is no way to host a\Z"):
        found.wait_hosts(hosts, soon())


def test_what_is_not_ready_in_time(make):
    found = make()
    (alone,) = begun(found, Entry("local", shape(Fake), 1))
    with pytest.raises(TimeoutError, match=r"ipdaemon of cluster c was not ready in time \(run"):
        found.wait_hosts([alone], passed())
    others = begun(found, Entry("ssh", shape(Fake, "host a", "host b"), 2))
    with pytest.raises(TimeoutError, match=r"(?s)2 of 2 host.*host a: not ready in time.*see "):
        found.wait_hosts(others, passed())


def test_one_that_ends_without_a_word(make):
    found = make()
    (one,) = begun(found, Entry("local", shape(Fake), 1))
    one.launcher.end(7)
    with pytest.raises(LauncherError, match="ended with code 7"):
        found.wait_hosts([one], soon())


def test_hosts_that_fail_before_the_controller_is_ready(make):
    found = make(shape(Fake))
    begun(found, Entry("ssh", shape(Refusing, "host a"), 1))
    assert found.wait_controller(soon()) is False
    with pytest.raises(TimeoutError, match="was not ready in time"):
        found.wait_controller(passed(), alone=True)
    found.controller.tell("ready")
    assert found.wait_controller(soon(), alone=True) is True


def test_a_controller_in_a_queue_is_given_time(make):
    kind = shape(Fake, immediate=False)
    found = make(kind)
    (host,) = begun(found, Entry("local", shape(Fake), 1))
    assert host.launcher.argument("--wait") == "18"
    with pytest.raises(TimeoutError, match="in time .*, or give it longer by engine_timeout"):
        found.wait_controller(passed())


def test_others_get_a_moment_to_fail_as_well(make, monkeypatch):
    monkeypatch.setattr(gathering, "_TOGETHER", 30.0)
    found = make()
    kind = shape(Fake, "host b")
    hosts = begun(found, Entry("ssh", shape(Refusing, "host a"), 1), Entry("ssh", kind, 1))
    threading.Timer(0.0, kind.made[0].end, [3]).start()
    with pytest.raises(LauncherError, match=r"2 of 2 .*\n.*\n  ssh, host b: .*code 3"):
        found.wait_hosts(hosts, soon())


def test_enough_of_them(make):
    found = make()
    late = shape(Fake, "host c")
    hosts = begun(
        found,
        Entry("ssh", shape(Ready, "host a"), 2),
        Entry("ssh", shape(Failing, "host b"), 2),
        Entry("ssh", late, 2),
    )
    failures = found.wait_hosts(hosts, passed() + 0.01, minimum=2)
    assert [str(one).partition(":")[0] for one in failures] == ["ssh, host b", "ssh, host c"]
    assert found.hosts == [hosts[0], hosts[2]]  # the one that is late may still come
    assert late.made[0].running


def test_not_even_enough(make):
    found = make()
    hosts = begun(
        found,
        Entry("ssh", shape(Ready, "host a"), 1),
        Entry("ssh", shape(Failing, "host b"), 2),
    )
    with pytest.raises(LauncherError, match="1 of 2 host daemons did not start"):
        found.wait_hosts(hosts, soon(), minimum=2)


def test_a_controller_that_dies_is_the_cause(make):
    found = make(restart=False)
    hosts = begun(found, Entry("local", shape(Fake), 1))
    found.controller.events.clear()
    found.controller.end(5)
    with pytest.raises(LauncherError, match="ipcontroller ended with code 5"):
        found.wait_hosts(hosts, soon())
    with pytest.raises(LauncherError, match="ipcontroller ended with code 5"):
        found.wait_controller(soon())
    assert "code 5" in found.problem()
    assert found.wait_ended(0)


def test_a_controller_that_is_never_ready(make):
    found = make(shape(Fake, name="ipcontroller"))
    with pytest.raises(TimeoutError, match=r"ipcontroller of cluster c was not ready in time"):
        found.wait_controller(passed())
    begun(found, Entry("local", shape(Refusing), 1))
    found.wait_controller(soon())  # it makes no sense to wait any longer


def test_hosts_that_have_gone_do_not_keep_a_new_controller_from_being_waited_for(make):
    found = make()
    (one,) = begun(found, Entry("local", shape(Ready), 1))
    one.launcher.end(0)
    found.controller.events.clear()
    with pytest.raises(TimeoutError, match="was not ready in time"):
        found.wait_controller(passed())


# ------------------------------------------------------------------------------------------ queue


def test_a_job_is_there_when_it_is_accepted(make):
    found = make()
    kind = shape(Queued)
    (one,) = begun(found, Entry("slurm", kind, 8))
    assert found.wait_hosts([one], passed()) == []
    assert not one.ready
    assert one.title == "slurm, fake job 1"
    one.launcher.ready(5)
    assert one.ready
    assert one.engines == tuple(range(5, 13))


def test_a_job_that_ends_is_not_submitted_again(make):
    lost = []
    found = make(on_host_lost=lost.append)
    (one,) = begun(found, Entry("slurm", shape(Queued), 1))
    one.launcher.ready()
    one.launcher.end(1)
    assert one.over
    assert one.restarts == 0
    assert lost == ["ipdaemon (fake job 1) exited with code 1 by itself"]


# ---------------------------------------------------------------------------------------- restart


def test_one_that_dies_is_started_again(make, seen):
    changes, lost = [], []
    kind = shape(Ready, "host a")
    found = make(on_change=lambda: changes.append(1), on_host_lost=lost.append)
    (one,) = begun(found, Entry("ssh", kind, 3))
    kind.made[0].tell("engines", engines=[7])
    kind.made[0].end(-9)
    again(one)
    first, second = kind.made
    assert one.launcher is second
    assert one.running
    assert not one.over
    assert first.closed
    assert second.argument("-n") == "4"  # with the one that was added
    assert second.argument("--engine-ids") == "0,1,2,7"
    assert second.argument("--restarts") == "1"
    (ended,) = told(seen, "ended")
    assert ended["message"] == (
        "ipdaemon (host a) was killed by SIGKILL; it is started again at once"
    )
    assert ended["where"] == "host a"
    assert told(seen, "restarted")[0]["restarts"] == 1
    assert changes == [1]
    assert lost == []
    assert found.spoiled == "ipdaemon (host a) was killed by SIGKILL, and was started again"
    assert not found.wait_ended(0)
    assert found.problem() == ""
    assert one.to_record().restarts == 1


def test_not_for_ever(make, seen):
    lost = []
    kind = shape(Ready)
    found = make(on_host_lost=lost.append)
    (one,) = begun(found, Entry("local", kind, 1))
    for _ in range(tries.MAX_IN_A_ROW):
        one.launcher.end(1)
        again(one)
    assert not one.over
    one.launcher.events.clear()
    one.launcher.end(1)
    assert one.over
    assert len(kind.made) == 1 + tries.MAX_IN_A_ROW
    assert one.failure.startswith(f"ended {tries.MAX_IN_A_ROW + 1} times in a row: ipdaemon ended")
    assert told(seen, "failed")[0]["message"] == one.failure
    assert len(lost) == 1
    assert found.wait_ended(0)
    assert found.problem() == one.failure


def lose(one):
    """Have a host daemon end because there is no way to its host."""
    one.launcher.events.clear()
    one.launcher.unreachable = True
    one.launcher.end(255)


def test_a_host_that_cannot_be_reached_is_tried_for_longer(make, seen, monkeypatch):
    kind = shape(Ready, "host a")
    found = make()
    (one,) = begun(found, Entry("ssh", kind, 1))
    kind.begun = lambda self: None  # as long as there is no way to it, it says nothing
    kind.made[0].end(255)
    again(one)
    for _ in range(3 * tries.MAX_IN_A_ROW):
        lose(one)
        again(one)
        assert one.to_record().lost == "exited with code 255 by itself"
    one.launcher.ready()
    assert one.to_record().lost == ""
    assert not told(seen, "failed")
    monkeypatch.setattr(tries, "AWAY", -1.0)
    lose(one)
    assert one.over
    assert one.failure == "not reached for too long: ipdaemon ended with code 255"
    assert told(seen, "failed")[0]["message"] == one.failure


def test_one_that_worked_for_long_has_all_its_chances_again(make, monkeypatch):
    monkeypatch.setattr(tries, "SETTLED", -1.0)
    kind = shape(Ready)
    (one,) = begun(make(), Entry("local", kind, 1))
    for _ in range(2 * tries.MAX_IN_A_ROW):
        one.launcher.end(1)
        again(one)
    assert one.running


def test_one_that_cannot_be_started_again(make, seen):
    kind = shape(Ready)
    found = make()
    (one,) = begun(found, Entry("local", kind, 1))
    kind.start = Refusing.start
    kind.made[0].end(1)
    again(one)
    assert one.over
    assert one.failure == "there is no way to this host"
    assert len(kind.made) == 1 + tries.MAX_IN_A_ROW
    assert told(seen, "failed")


@pytest.mark.parametrize("how", ["orderly", "before it was ready", "without a controller"])
def test_when_it_is_not_started_again(make, how):
    lost = []
    kind = shape(Fake if how.startswith("before") else Ready)
    found = make(on_host_lost=lost.append)
    (one,) = begun(found, Entry("local", kind, 1))
    if how.startswith("without"):
        found.controller.end(0)
    kind.made[0].end(0 if how == "orderly" else 1)
    assert one.over
    assert len(kind.made) == 1
    assert len(lost) == (not how.startswith("before"))
    assert found.wait_ended(0)


def test_the_end_of_one_of_several_is_no_end(make):
    lost = []
    found = make(on_host_lost=lost.append)
    one, other = begun(found, Entry("ssh", shape(Ready, "host a", "host b"), 2))
    one.launcher.end(0)
    assert not lost
    assert not found.wait_ended(0)
    other.launcher.end(0)
    assert len(lost) == 1


def test_a_stop_in_the_back_off(make, monkeypatch):
    monkeypatch.setattr(tries, "BACK_OFF", 3600.0)
    kind = shape(Ready)
    found = make()
    (one,) = begun(found, Entry("local", kind, 1))
    kind.made[0].end(1)
    found.end()
    again(one)
    assert len(kind.made) == 1
    assert found.hosts == []


# -------------------------------------------------------------------------------------------- end


def test_what_does_not_stop_is_killed(make, capsys):
    kind = shape(Stubborn, "host a")
    found = make()
    begun(found, Entry("ssh", kind, 1))
    found.end()
    (one,) = kind.made
    assert one.asked == ["stop", "terminate", "kill"]
    assert one.closed
    assert capsys.readouterr().err == ("ipkernel: ipdaemon (host a) did not stop; it is killed\n")


def test_what_cannot_be_killed(make, monkeypatch):
    kind = shape(Stubborn)
    found = make()
    begun(found, Entry("local", kind, 1))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "kill", Stubborn.terminate)
        with pytest.raises(ClusterError, match=r"cannot end ipdaemon \(pid 1001\) of cluster c"):
            found.end()
    kind.made[0].kill()


def test_a_ctrl_c_while_it_stops_kills(make, monkeypatch):
    kind = shape(Stubborn)
    found = make()
    begun(found, Entry("local", kind, 1))

    def press(one):
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "terminate", press)
    with pytest.raises(KeyboardInterrupt):
        found.end()
    assert kind.made[0].asked == ["stop", "kill"]


def test_jobs_get_the_time_that_a_queue_takes(make, monkeypatch):
    waited = []
    kind = shape(Queued)
    monkeypatch.setattr(kind, "wait", lambda self, timeout: waited.append(timeout) or True)
    found = make()
    begun(found, Entry("slurm", kind, 1))
    found.end()
    assert waited[0] > Settings._field_defaults["stop_timeout"]


def test_preview_starts_nothing(make):
    kind = shape(Fake, "host a", "host b")
    found = make()
    text = found.preview([Entry("ssh", kind, 3)], 9.0)
    lines = text.splitlines()
    assert lines[0] == "# controller: local"
    assert lines[1].startswith("run ipcontroller --cluster-dir")
    assert lines[3] == "# 2 engines: ssh, host a"
    assert "-n 2" in lines[4]
    assert lines[6] == "# 1 engine: ssh, host b"
    assert not any(one.pid for one in kind.made)
    assert found.hosts == []
    kind.preview = None
    assert "does not tell" in found.preview([Entry("ssh", kind, 1)], 9.0)


# ---------------------------------------------------------------------------------------- at once


def test_all_of_it_is_done_though_some_of_it_fails():
    done = []

    def do(number):
        done.append(number)
        if number % 10 == 3:
            raise ValueError(number)

    with pytest.raises(ValueError, match="3"):
        at_once(range(100), do)
    assert sorted(done) == list(range(100))
    at_once([], do)
    at_once([5], do)
    assert done[-1] == 5
