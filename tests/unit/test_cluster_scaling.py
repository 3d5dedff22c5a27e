"""Scaling a cluster that is none: what is looked at, and what is done."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from ipkernel.client.engines import Engines
from ipkernel.cluster import fleet, running
from ipkernel.cluster.adapting import Grow, Rules, Shrink
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.hosted import Hosted
from ipkernel.cluster.queued import wait_for_jobs
from ipkernel.cluster.recorded import Recorded
from ipkernel.cluster.running import RunningCluster
from ipkernel.cluster.scaling import Adapting, Scaler, check_interval
from ipkernel.errors import ClusterError, ConfigurationError, ConnectError, LauncherError
from ipkernel.launchers.interfaces import Share
from ipkernel.wire.messages import EngineJoined
from ipkernel.wire.records import EngineInfo, HostInfo, QueueCounts, Status
from tests.support.fakelaunchers import Queued, shape

KIND = shape(Queued)
PLACE = f"{__name__}:KIND"


def engine(number, state="ready", host_id=1, **more):
    return EngineInfo(engine=number, state=state, host_id=host_id, **more)


def status(*engines, hosts=(), **counts):
    return Status(
        cluster="c", pid=1, host="h", location="", uptime=1.0, version="",
        hosts=list(hosts), engines=list(engines), queue=QueueCounts(**counts),
    )  # fmt: skip


def host(label="", number=1, **more):
    return HostInfo(host_id=number, host="h", pid=1, label=label, **more)


class FakeCluster:
    """Stands for a running cluster: its engines come and go at once."""

    running = True
    directory: ClusterDirectory

    def __init__(self, *engines, **counts):
        self.now = status(*engines, **counts)
        self.engines = {}
        self.done = []
        self.problems = []
        self.coming = []
        self.changed = threading.Event()
        self.released = threading.Event()

    def _status(self):
        if self.problems:
            raise self.problems.pop(0)
        return self.now

    def _grow(self, count):
        self.done.append(("grow", count))
        self.changed.set()

    def _stop_some(self, engines, *, drain, limit):
        self.done.append(("stop", engines, drain, limit))
        self.changed.set()

    def _coming_back(self, status):
        return bool(self.coming) and self.coming.pop()

    def _release_unused(self):
        self.done.append("release")
        self.released.set()

    def _end_hosts(self, hosts):
        self.done.append(("end", [one.title for one in hosts]))

    def add_job(self, n, *, recorded=False):
        share = Share(n)
        hosted = Hosted(
            Entry("slurm", KIND),
            share,
            lambda hosted: KIND(None, ["-n", str(n)], share=share, on_event=hosted.heard),
        )
        hosted.start()
        name = f"engines-{len(self.engines)}"
        if recorded:
            one = Recorded(PLACE, hosted.launcher.label, n, record=hosted.launcher.record())
            self.engines[name] = EngineSet(name, n, recorded=[one])
        else:
            self.engines[name] = EngineSet(name, n, programs=[hosted])
        return hosted


@pytest.fixture(autouse=True)
def nothing_made(tmp_path, monkeypatch):
    directory = ClusterDirectory(tmp_path / "c")
    directory.create()
    monkeypatch.setattr(FakeCluster, "directory", directory, raising=False)
    KIND.made.clear()
    KIND.jobs.clear()
    KIND.numbers = itertools.count(1)


# ---------------------------------------------------------------------------------------- looking


def test_what_is_counted():
    cluster = FakeCluster(
        engine(0, queued=2, running=1, completed=5),
        engine(1, "starting"),
        engine(2, "dead"),
        engine(3, "draining"),
        engine(4, host_id=2),
        ready=7, assigned=3, running=1, waiting=100, hosts=[host(), host(number=2, draining="x")],
    )  # fmt: skip
    load = Scaler(cluster).look().load
    assert [(one.engine, one.load, one.completed, one.ready) for one in load.engines] == [
        (0, 3, 5, True),
        (1, 0, 0, False),
    ]
    assert load.tasks == 11
    assert load.coming == 0


def test_jobs_that_have_not_joined():
    cluster = FakeCluster()
    own, other = cluster.add_job(4), cluster.add_job(2, recorded=True)
    assert Scaler(cluster).look().load.coming == 6
    cluster.now = status(hosts=[host(own.launcher.label)])
    assert Scaler(cluster).look().load.coming == 2
    cluster.now = status(hosts=[host(other.launcher.label)])
    assert Scaler(cluster).look().load.coming == 4
    own.launcher.end(0)
    other.launcher.end(0)
    cluster.now = status()
    assert Scaler(cluster).look().load.coming == 0


def test_records_that_lead_nowhere_are_no_jobs():
    cluster = FakeCluster()
    programs = [
        Recorded("local", n=2),
        Recorded("no.such:Thing", "there", 3),
        Recorded(PLACE, "", 3),
    ]
    cluster.engines["x"] = EngineSet("x", 8, recorded=programs)
    assert Scaler(cluster).look().jobs == []


# ---------------------------------------------------------------------------------------- scaling


def test_a_daemon_that_is_started_again_is_waited_for(monkeypatch):
    monkeypatch.setattr(fleet, "_POLL", 0.0)
    cluster = FakeCluster()
    cluster.coming = [True, True]
    asked = []
    monkeypatch.setattr(cluster, "_status", lambda: asked.append(1) or cluster.now)
    assert Scaler(cluster).to(0) == (0, 0)
    assert len(asked) == 3
    monkeypatch.setattr(fleet, "_BACK", 0.0)  # but not for ever
    cluster.coming = [True]
    assert Scaler(cluster).to(1) == (0, 1)


def test_more():
    cluster = FakeCluster(engine(0), engine(1))
    assert Scaler(cluster).to(5) == (2, 3)
    assert cluster.done == [("grow", 3)]


def test_as_many_as_there_are():
    cluster = FakeCluster(engine(0), engine(1))
    assert Scaler(cluster).to(2) == (2, 0)
    assert cluster.done == []


def test_fewer():
    cluster = FakeCluster(engine(0), engine(1, running=1), engine(2), running=1)
    assert Scaler(cluster, drain=True, limit=3.0).to(1) == (3, -2)
    assert cluster.done == [("stop", (0, 2), True, 3.0)]


def test_none():
    cluster = FakeCluster(engine(0), engine(1, running=1))
    cluster.add_job(4)
    assert Scaler(cluster, drain=False).to(0) == (6, -6)
    assert cluster.done == [("end", ["slurm, fake job 1"]), ("stop", (0, 1), False, 0.0)]
    assert Scaler(FakeCluster()).to(0) == (0, 0)
    assert Scaler(FakeCluster(ready=3)).to(0) == (0, 0)
    for busy in (engine(0, running=1), engine(0, "starting")):
        cluster = FakeCluster(busy, running=1)
        assert Scaler(cluster).to(0) == (1, -1)
        assert cluster.done == [("stop", (0,), True, 0.0)]


def test_engines_that_are_away_for_a_moment_are_not_replaced():
    cluster = FakeCluster(engine(0, "away"), engine(1, "away"), engine(2))
    assert Scaler(cluster).to(3) == (3, 0)
    assert Scaler(cluster).to(2) == (3, -1)
    assert cluster.done == [("stop", (2,), True, 0.0)]


def test_hosts_that_had_to_stay_for_their_objects_go_when_these_are_released():
    cluster = FakeCluster(engine(0))
    cluster.now.hosts.append(host("fake job 1", sole=1))
    assert Scaler(cluster).to(1) == (1, 0)
    assert cluster.done == []
    cluster.now.hosts[0] = host("fake job 1")
    assert Scaler(cluster).to(1) == (1, 0)
    assert cluster.done == ["release"]
    with Adapting(cluster, Rules(1, 1), 0.01, Scaler(cluster)):
        assert cluster.released.wait(60)


def test_jobs_are_cancelled_first_the_last_one_before_the_others():
    cluster = FakeCluster(engine(0))
    cluster.add_job(4)
    other = cluster.add_job(3, recorded=True)
    assert Scaler(cluster).to(5) == (8, -3)
    assert other.launcher.asked == ["stop"]
    assert cluster.done == []


def test_a_job_is_cancelled_only_as_a_whole():
    cluster = FakeCluster(engine(0))
    cluster.add_job(4)
    assert Scaler(cluster).to(3) == (5, 0)
    assert cluster.done == []


# --------------------------------------------------------------------------------------- adapting


def adapting(cluster, told=None, interval=3600.0, **rules):
    rules = Rules(**{"minimum": 0, "maximum": 8, "grow_after": 0.0, "idle_after": 0.0, **rules})
    return Adapting(cluster, rules, interval, Scaler(cluster), told)


def test_it_grows_with_the_tasks():
    said = []
    cluster = FakeCluster(engine(0, running=1), ready=4, running=1)
    with adapting(cluster, said.append) as found:
        assert found.running
        assert cluster.changed.wait(30)
        assert "0 to 8 engines, running" in repr(found)
    assert cluster.done == [("grow", 4)]
    assert said == ["5 engines: 4 more, for 5 tasks"]
    assert not found.running
    assert found.wait(0)
    assert found.problem == ""


def test_it_shrinks_without_tasks():
    said = []
    cluster = FakeCluster(engine(0), engine(1))
    with adapting(cluster, said.append):
        assert cluster.changed.wait(30)
    assert cluster.done == [("stop", (0, 1), True, 0.0)]
    assert said == ["0 engines: 2 fewer, for 0 tasks"]


def test_a_controller_that_does_not_answer_is_asked_again():
    said = []
    cluster = FakeCluster(engine(0), engine(1))
    cluster.problems = [ConnectError("nobody there"), TimeoutError("slow"), ClusterError("no")]
    with adapting(cluster, said.append, interval=0.001):
        assert cluster.changed.wait(30)
    assert said[:3] == [
        "cannot adapt the cluster: nobody there",
        "cannot adapt the cluster: slow",
        "cannot adapt the cluster: no",
    ]


def test_it_ends_with_the_cluster():
    cluster = FakeCluster()
    cluster.running = False
    cluster.problems = [ClusterError("it is over")]
    found = adapting(cluster)
    assert found.wait(30)
    assert not found.running
    assert found.problem == "it is over"


def test_rules_know_what_they_are():
    assert check_interval(2) == 2.0
    with pytest.raises(ConfigurationError, match="interval must be a positive number"):
        check_interval(0)
    assert Grow(3) == Grow(3)
    assert Shrink(1, (2,)) != Shrink(1)


# ---------------------------------------------------------------------------------- batch starts


class FakeClient:
    """A client as far as waiting for jobs needs one."""

    def __init__(self):
        self._session = self
        self.engines = Engines()
        self.hosts = []

    def _check_open(self):
        pass

    def status(self):
        return self

    def join(self, *ids):
        for number in ids:
            self.engines.joined(EngineJoined(number, "h", 1))


def test_waiting_for_jobs():
    client, cluster = FakeClient(), FakeCluster()
    job, silent = cluster.add_job(2), cluster.add_job(1)
    client.hosts = [host(silent.launcher.label, engines=[2]), host("other", engines=[9])]

    def arrive():
        job.launcher.ready()
        client.join(0, 1, 2)

    threading.Timer(0.0, arrive).start()
    wait_for_jobs(client, [job, silent], 3, time.monotonic() + 30)
    assert job.engines == (0, 1)
    assert silent.engines == (2,)  # its output could not be read


def test_jobs_that_wait_for_too_long():
    client, cluster = FakeClient(), FakeCluster()
    job, other = cluster.add_job(2), cluster.add_job(4)
    job.launcher.ready()
    client.join(0, 1)
    with pytest.raises(TimeoutError) as caught:
        wait_for_jobs(client, [job, other], 6, time.monotonic())
    assert str(caught.value) == (
        "2 of 6 engines were there in time; the batch jobs:\n"
        "  slurm, fake job 2 (4 engines): pending (Priority)"
    )


def test_jobs_that_end_before():
    client, cluster = FakeClient(), FakeCluster()
    job = cluster.add_job(2)
    job.launcher.end(2)
    with pytest.raises(LauncherError, match="slurm, fake job 1: ipdaemon"):
        wait_for_jobs(client, [job], 2, time.monotonic() + 30)


@pytest.mark.parametrize("ends", [True, False])
def test_programs_of_others_that_end_without_engines_are_forgotten(tmp_path, monkeypatch, ends):
    class Attached(FakeCluster):
        directory = ClusterDirectory(tmp_path)
        _end_recorded = RunningCluster._end_recorded

    monkeypatch.setattr(running, "_ENDING", 0.0)
    cluster = Attached()
    empty, used, kept = (cluster.add_job(2, recorded=True).launcher for _ in range(3))
    if not ends:
        empty.request_stop = lambda: None
    cluster.now = status(hosts=[host(empty.label), host(used.label, 2, engines=[3])])
    cluster.now.hosts.append(host(kept.label, 3, sole=1))  # others want what it has
    RunningCluster._release_empty(cluster)
    left = [one.label for s in cluster.engines.values() for one in s.recorded]
    assert left == ([used.label, kept.label] if ends else [empty.label, used.label, kept.label])
    assert used.running
