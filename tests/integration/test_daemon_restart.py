"""Host daemons of a cluster that outlives who has started it come back when they are killed."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from ipkernel.cli import ipcluster
from ipkernel.cluster import daemonnotes
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import HostLost
from tests.integration.clusters_support import home
from tests.integration.faults_support import PATIENCE, wait_for

__all__ = ["home"]


@pytest.fixture
def directory():
    """A cluster that nobody's process belongs to, with two engines that have a variable."""
    found = ClusterDirectory.named("alone")
    slots = ["--set", "slots.environment.PLACE=slot{slot}"]
    assert ipcluster.main(["start", "-n", "2", "--cluster", "alone", "--daemonize", *slots]) == 0
    yield found
    assert ipcluster.main(["stop", "--cluster", "alone", "-q"]) in (0, 3)
    assert found.processes() == []
    assert list(found.state.glob("again-*")) == []


def daemon(directory):
    (found,) = (p for p in directory.processes() if p.role.startswith("ipdaemon"))
    return found


def kill(directory):
    process = daemon(directory)
    assert process.signal(signal.SIGKILL)
    return process


def place():
    return os.environ["PLACE"], os.getpid()


def attempt(path):
    """Begin something that takes for ever the first time."""
    first = not path.exists()
    path.write_text("begun")
    while first:
        time.sleep(1)
    return os.getpid()


def test_it_comes_again_with_its_engines(directory, capsys, tmp_path):
    with Cluster.from_directory(directory.path).connect_client_sync() as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        assert [where for where, _ in rc[:].apply_async(place).get(PATIENCE)] == ["slot0", "slot1"]
        one, other = tmp_path / "lost", tmp_path / "again"
        lost = rc[0].apply_async(attempt, one)
        wait_for(one.exists)
        view = rc.load_balanced_view()
        with view.temp_flags(retries=1):
            again = view.apply_async(attempt, other)
        waiting = view.map_async(abs, range(8), chunksize=1)
        wait_for(other.exists)
        before = {one.pid for one in rc.status().engines}
        old = kill(directory)
        with pytest.raises(HostLost, match=rf"engine 0 .*host daemon \(pid {old.pid}\) has died"):
            lost.get(PATIENCE)
        assert waiting.get(PATIENCE) == list(range(8))
        assert again.get(PATIENCE) not in before
        rc.wait_for_engines(2, timeout=PATIENCE)
        assert rc.ids == [0, 1]
        found = rc[:].apply_async(place).get(PATIENCE)
        assert [where for where, _ in found] == ["slot0", "slot1"]
        assert before.isdisjoint(pid for _, pid in found)
        wait_for(lambda: not any(map(psutil.pid_exists, before)))
        (host,) = rc.status().hosts
        assert (host.restarts, host.pid) == (1, daemon(directory).pid)
    capsys.readouterr()
    assert ipcluster.main(["status", "--cluster", "alone"]) == 0
    said = capsys.readouterr().out
    assert "connected (1 restart)" in said
    assert "NOT JOINED" not in said


def test_it_has_the_engines_that_it_had_in_the_end(directory):
    cluster = Cluster.from_directory(directory.path)
    cluster.scale_sync(3)
    with cluster.connect_client_sync() as rc:
        cluster.stop_engines_sync(engines=[1])
        for restarts in (1, 2):
            kill(directory)
            wait_for(lambda: [h.restarts for h in rc.status().hosts] == [restarts])  # noqa: B023
            wait_for(lambda: [e.state for e in rc.status().engines] == ["ready", "ready"])
            assert [one.engine for one in rc.status().engines] == [0, 2]
        cluster.scale_sync(0)
        kill(directory)
        wait_for(lambda: [h.restarts for h in rc.status().hosts] == [3])
        assert rc.status().engines == []
        cluster.scale_sync(1)
        assert rc[:].apply_async(abs, -1).get(PATIENCE) == [1]


def test_scaling_meanwhile_starts_no_other(directory):
    cluster = Cluster.from_directory(directory.path)
    with cluster.connect_client_sync() as rc:
        kill(directory)
        wait_for(lambda: not rc.status().hosts)
        cluster.scale_sync(3)
        wait_for(lambda: [e.state for e in rc.status().engines] == ["ready"] * 3)
        assert [(h.restarts, h.engines) for h in rc.status().hosts] == [(1, [0, 1, 2])]


def test_it_and_the_controller_keep_each_other_alive(directory):
    cluster = Cluster.from_directory(directory.path)
    for count in (1, 2):
        kill(directory)
        with cluster.connect_client_sync() as rc:
            wait_for(lambda: [h.restarts for h in rc.status().hosts] == [count])  # noqa: B023
            rc.wait_for_engines(2, timeout=PATIENCE)
        cluster.signal_controller_sync("KILL")
        wait_for(lambda: cluster.status_sync().restarts == count)  # noqa: B023
        wait_for(lambda: [h.connected for h in cluster.status_sync().hosts] == [True])
    with cluster.connect_client_sync() as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        found = rc[:].apply_async(place).get(PATIENCE)
        assert [where for where, _ in found] == ["slot0", "slot1"]


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.6, 0.9])
def test_a_stop_while_it_is_started_again(directory, capfd, pause):
    kill(directory)
    time.sleep(pause)
    capfd.readouterr()
    assert ipcluster.main(["stop", "--cluster", "alone", "-q"]) == 0
    assert capfd.readouterr().err == ""


def test_one_that_is_stopped_is_not_started_again(directory):
    with Cluster.from_directory(directory.path).connect_client_sync() as rc:
        process = daemon(directory)
        assert process.terminate()
        wait_for(lambda: not rc.status().hosts)
        wait_for(lambda: not process.alive)
        assert daemonnotes.noted(directory) == []


def test_a_start_after_the_controller_was_lost_takes_the_new_one(directory):
    old = kill(directory)
    wait_for(lambda: [h.restarts for h in status(directory).hosts] == [1])
    wait_for(lambda: [e.state for e in status(directory).engines] == ["ready"] * 2)
    pids = [one.pid for one in status(directory).engines]
    noted = daemonnotes.noted_of(directory, old.pid)
    assert noted is not None
    again = directory.state / "restart.json"
    again.write_text(again.read_text().replace('"again": true', '"again": false'))
    assert directory.controller().signal(signal.SIGKILL)
    wait_for(lambda: not directory.alive())
    assert ipcluster.main(["start", "-n", "2", "--cluster", "alone", "--daemonize"]) == 0
    assert daemon(directory).pid == noted.process.pid
    assert [one.pid for one in status(directory).engines] == pids


def status(directory):
    return Cluster.from_directory(directory.path).status_sync()


def test_the_process_that_has_started_it_sees_it_again():
    events = []
    cluster = Cluster(1, cluster="mine", daemonize=True, on_event=lambda *one: events.append(one))
    cluster.start_cluster_sync()
    try:
        with cluster.connect_client_sync() as rc:
            old = kill(cluster.directory)
            wait_for(lambda: [h.restarts for h in rc.status().hosts] == [1])
            rc.wait_for_engines(1, timeout=PATIENCE)
            assert rc[0].apply_async(abs, -1).get(PATIENCE) == 1
            assert cluster.engine_set.running
            assert not cluster.wait_stopped(0)
            assert cluster.problem() == ""
            cluster.start_cluster_sync()  # nothing is missing
            assert len(rc.status().hosts) == 1
            new = daemon(cluster.directory)
            assert new.pid != old.pid
            cluster.stop_engines_sync()
            wait_for(lambda: not rc.status().hosts)
            wait_for(lambda: not new.alive)
            assert daemonnotes.noted(cluster.directory) == []
            cluster.start_engines_sync(1)
            rc.wait_for_engines(1, timeout=PATIENCE)
            assert rc[:].apply_async(abs, -2).get(PATIENCE) == [2]
    finally:
        cluster.stop_cluster_sync()
    assert cluster.directory.processes() == []
