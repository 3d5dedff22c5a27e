"""Clusters that grow and shrink while they work, and whose jobs come when a queue lets them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from ipkernel.cli import common
from ipkernel.cli.ipcluster import main
from ipkernel.cluster import processes
from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import ClusterError, ConfigurationError, EngineError, LauncherError
from ipkernel.objects.ref import ObjectRef
from tests.integration.clusters_support import clusters
from tests.integration.faults_support import wait_for
from tests.integration.queuelauncher import QueuedHost
from tests.integration.standins import standin


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(QueuedHost, "submitted", [])
    return tmp_path / "ipython"


@pytest.fixture
def make():
    with clusters(None) as make:
        yield make


def slowly(number):
    time.sleep(0.03)
    return number


def test_no_task_is_lost_when_it_is_scaled(make):
    cluster = make(1)
    with cluster.start_and_connect() as rc:
        result = rc.load_balanced_view().map_async(slowly, range(150), chunksize=1)
        cluster.scale(4)
        rc.wait_for_engines(4, timeout=60)
        wait_for(lambda: sum(e.running > 0 for e in cluster.status().engines) == 4)
        cluster.scale(1)
        wait_for(lambda: len(rc.ids) == 1)
        assert not result.ready()
        assert result.get(60) == list(range(150))
        assert set(result.engine_id) == {0, 1, 2, 3}
        cluster.scale(2, drain=False)
        rc.wait_for_engines(2, timeout=60)
        cluster.scale(0)
        wait_for(lambda: rc.ids == [])


def until(path):
    """Work until there is a file."""
    while not path.exists():
        time.sleep(0.01)
    return 1


def test_none_while_the_last_one_works(make, tmp_path):
    cluster = make(1)
    with cluster.start_and_connect() as rc:
        begun = rc[0].apply_async(until, tmp_path / "end")
        wait_for(lambda: cluster.status().engines[0].running)
        result = rc.load_balanced_view().map_async(slowly, range(5), chunksize=1)
        bound = rc[0].apply_async(slowly, 60)
        scaling = threading.Thread(target=cluster.scale_sync, args=(0,))
        scaling.start()
        wait_for(lambda: cluster.status().engines[0].state == "draining")
        (tmp_path / "end").touch()
        scaling.join(60)
        assert cluster.status().engines == []
        assert (begun.get(60), bound.get(60)) == (1, 60)
        assert not result.ready()
        cluster.scale(1)
        assert result.get(60) == list(range(5))


def test_some_engines_of_several(make):
    """By ids, from the object that started them and from another one."""
    cluster = make(3, cluster="x")
    with cluster.start_and_connect() as rc:
        pids = rc[:].apply_sync(os.getpid)
        other = Cluster.from_file(cluster="x")
        for one, number in ((cluster, 0), (other, 2)):
            one.restart_engines(engines=[number])
            wait_for(lambda: len(rc.ids) == 3 and rc[number].apply_sync(os.getpid) not in pids)
        assert rc[1].apply_sync(os.getpid) == pids[1]
        result = rc[:].apply_async(time.sleep, 60)
        wait_for(lambda: sum(e.running for e in cluster.status().engines) == 3)
        other.signal_engines("INT", engines=[0, 1])
        wait_for(lambda: sum(e.running for e in cluster.status().engines) == 1)
        assert not result.ready()
        other.stop_engines(engines=[2], drain=True, limit=0.2)  # which is too short
        wait_for(lambda: rc.ids == [0, 1])
        interrupted, too, stopped = result.get(60, return_exceptions=True)
        assert interrupted.ename == too.ename == "KeyboardInterrupt"
        assert isinstance(stopped, EngineError)
        with pytest.raises(ConfigurationError, match="no engine id"):
            cluster.stop_engines(engines=[])
        with pytest.raises(ConfigurationError, match="limit must be"):
            cluster.scale(0, limit=-1)
        with pytest.raises(ConfigurationError, match="not both"):
            cluster.signal_engines(2, "engines-0", engines=[1])
        with pytest.raises(ClusterError, match="there is no engine 9"):
            cluster.stop_engines(engines=[9], drain=True)
        other.signal_controller("TERM")
        wait_for(lambda: not cluster.running)
        with pytest.raises(ClusterError, match="lost its controller"):
            cluster.signal_controller("TERM")


def test_it_adapts_to_its_tasks(make):
    said = []
    cluster = make(1)
    with cluster.start_and_connect() as rc:
        adapting = cluster.adapt(1, 3, 0.1, grow_after=0.1, idle_after=0.3, told=said.append)
        result = rc.load_balanced_view().map_async(slowly, range(100), chunksize=1)
        wait_for(lambda: len(rc.ids) == 3)
        assert result.get(60) == list(range(100))
        wait_for(lambda: len(rc.ids) == 1)
        assert said[0].startswith("3 engines: 2 more, for ")
        assert adapting.running
        cluster.scale(2)  # which ends that
        assert not adapting.running
        again = cluster.adapt(1, 2)
    cluster.stop_cluster()
    assert not again.running
    with pytest.raises(ClusterError, match="not running"):
        cluster.adapt(1, 2)


def test_a_client_waits_for_the_jobs(make):
    """And those without engines left are ended."""
    cluster = make(engines=["local:1", (QueuedHost, 2)])
    timer = threading.Timer(0.5, lambda: [job.let_go() for job in QueuedHost.submitted])
    timer.start()
    with cluster as rc:
        timer.join()
        assert rc.ids == [0, 1, 2]
        assert [s.engines for s in cluster.engines.values()] == [(0,), (1, 2)]
        (job,) = QueuedHost.submitted
        rc[:].apply_sync(abs, 1)
        cluster.stop_engine(1)
        assert job.running
        cluster.scale(1)
        assert not job.running
        assert rc.ids == [0]
        assert cluster.running


def ones():
    return bytearray(b"1") * 1_000_000


def test_a_job_stays_as_long_as_others_want_what_it_has(make, capsys):
    cluster = make(cluster="x", engines=["local:1", (QueuedHost, 1)])
    cluster.start_cluster()
    (job,) = QueuedHost.submitted
    job.let_go()
    with cluster.connect_client_sync() as rc:
        rc.wait_for_engines(2, timeout=60)
        view = rc[1]
        with view.temp_flags(keep=True):
            kept = view.apply_async(ones).get(60)
        assert isinstance(kept, ObjectRef)
        cluster.stop_engine(1)
        assert job.running
        cluster.scale(1)
        assert job.running
        assert main(["status", "--cluster", "x"]) == common.OK
        assert "has no engines, but 1 object that nobody else has" in capsys.readouterr().out
        assert rc[0].apply_async(len, kept).get(60) == 1_000_000
        del kept
        wait_for(lambda: cluster.scale(1) or not job.running)


def test_a_queue_that_is_full(make, capsys):
    cluster = make(cluster="x", engines=["local:1", (QueuedHost, 2)], engine_timeout=60)
    cluster.start_cluster()
    (job,) = QueuedHost.submitted
    assert job.pending
    assert main(["status", "--cluster", "x"]) == common.OK
    out = capsys.readouterr().out
    assert "QueuedHost, fake job" in out
    assert "pending (Priority)" in out
    cluster.scale(1)  # what is not there yet goes first
    assert not job.pending
    cluster.scale(3)
    _, second = QueuedHost.submitted
    assert second.pending
    assert main(["stop", "--cluster", "x"]) == common.OK  # as from another process
    assert not second.pending
    assert "QueuedHost, fake job" in capsys.readouterr().out
    assert cluster.directory.read_record()["engines"] == {}
    cluster = make(engines=[(QueuedHost, 2)])
    cluster.start_cluster()
    cluster.engine_timeout = 0.3
    with pytest.raises(TimeoutError, match=r"0 of 2 engines.*\n  .*fake job.*pending \(Priority"):
        cluster.start_and_connect(timeout=60)
    cluster.stop_cluster()
    assert not any(job.pending for job in QueuedHost.submitted)


def test_hosts_of_which_some_fail(make):
    failing = standin("ipdaemon", "emit('error', message='no Python there')")
    engines = ["local:1", (failing, 2)]
    with pytest.raises(LauncherError, match=r"1 of 2 .*\n  StandIn: .* no Python there"):
        make(engines=engines).start_cluster()
    cluster = make(engines=engines, minimum=1)
    with cluster as rc:
        assert rc.ids == [0]
        assert cluster.failures[0].startswith("StandIn: ipdaemon failed: no Python there")
        assert cluster.running


def test_commands_that_change_a_cluster(home, capsys):
    ipcluster = [sys.executable, "-m", "ipkernel.cli.ipcluster"]
    assert main(["start", "-n", "1", "--daemonize", "--quiet"]) == common.OK
    try:
        assert main(["scale", "3"]) == common.OK
        assert main(["signal", "USR1", "--engine", "9"]) == common.FAILURE
        assert main(["restart", "--engine", "1-2"]) == common.OK
        assert main(["scale", "2", "--limit", "5"]) == common.OK
        out, err = capsys.readouterr()
        assert out == (
            "scaled cluster default to 3 engines\nrestarted engines 1-2 of cluster default\n"
            "scaled cluster default to 2 engines\n"
        )
        assert err == "ipcluster: there is no engine 9\n"
        adapting = subprocess.Popen(
            [*ipcluster, "adapt", "1", "4", "--interval", "0.1", "--idle-after", "0.1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with adapting:
            assert "has 1 to 4 engines now" in adapting.stdout.readline()
            assert adapting.stdout.readline() == "1 engine: 1 fewer, for 0 tasks\n"
            adapting.send_signal(2)
            assert adapting.wait(30) == common.OK
        assert main(["signal", "TERM", "--controller"]) == common.OK
        wait_for(lambda: main(["scale", "1"]) == common.NOT_RUNNING)
    finally:
        main(["stop", "--quiet"])


def test_many_starts_and_stops_leave_nothing(home):
    """Of commands, each a process of its own."""
    ipcluster = [sys.executable, "-m", "ipkernel.cli.ipcluster"]
    directory = home / "cluster_default"
    for _ in range(4):
        subprocess.run([*ipcluster, "start", "-n", "2", "--daemonize", "-q"], check=True)
        subprocess.run([*ipcluster, "stop", "-q"], check=True)
        assert processes.marked(directory) == []
    assert os.listdir(directory / "pid") == []
    assert sorted(os.listdir(directory)) == ["cluster.json", "log", "pid", "security", "state"]
    assert sorted(os.listdir(directory / "state")) == ["journal.lock", "journal.sqlite"]
