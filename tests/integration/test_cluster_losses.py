"""Clusters whose programs fail, crash, or are left over, with small programs in their place."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.entries import Entry
from ipkernel.errors import ClusterError, LauncherError
from tests.integration.faults_support import wait_for
from tests.integration.standins import Stubborn, standin
from tests.integration.standins_support import home, make

__all__ = ["home", "make"]


def broken(code):
    return standin("ipcontroller", code)


def test_controller_that_fails(make, capfd):
    cluster = make(controller=broken("emit('error', message='port 9 is busy'); sys.exit(1)"))
    with pytest.raises(LauncherError, match="ipcontroller failed: port 9 is busy"):
        cluster.start_cluster()
    assert not cluster.running
    assert cluster.directory.exists
    err = capfd.readouterr().err
    assert f"the logs are kept for a day, in {cluster.directory.log}" in err
    record = cluster.directory.read_record()
    assert (record["controller"], record["engines"]) == ({"pid": 0}, {}), "nobody asks after them"


def test_controller_that_crashes(make):
    cluster = make(controller=broken("sys.exit('no such luck')"), cluster="x")
    with pytest.raises(LauncherError, match="no such luck"):
        cluster.start_cluster()


def test_host_that_fails_ends_the_start_at_once(make):
    cluster = make(
        engines=standin("ipdaemon", "emit('error', message='no room')"), engine_timeout=1000
    )
    with pytest.raises(LauncherError, match="ipdaemon failed: no room"):
        cluster.start_cluster()
    assert cluster.controller is None


def test_controller_that_dies_while_the_host_starts(make):
    cluster = make(
        controller=broken("emit('ready'); time.sleep(0.3); sys.exit('too bad')"),
        engines=standin("ipdaemon", "until_told()"),
        engine_timeout=1000,
    )
    with pytest.raises(LauncherError, match="too bad"):
        cluster.start_cluster()


def test_engines_that_are_never_ready(make):
    # Long enough for the stand-in of the controller, which has to be ready before.
    cluster = make(engines=standin("ipdaemon", "until_told()"), engine_timeout=4)
    with pytest.raises(TimeoutError, match="ipdaemon of cluster .* was not ready in time"):
        cluster.start_cluster()
    assert not cluster.running


def test_client_that_cannot_connect_stops_everything(make):
    """The stand-in controller writes no FURL file."""
    from ipkernel.errors import KernelError

    cluster = make(cluster="x")
    with pytest.raises(KernelError):
        cluster.start_and_connect(timeout=0.5)
    assert cluster.directory.processes() == []


def test_hosts_that_fail_before_the_controller_is_ready_are_the_cause(make):
    failing = standin("ipdaemon", "emit('error', message='no Python there')")
    waiting = standin("ipcontroller", "until_told()")
    cluster = make(controller=waiting, engines=failing)
    with pytest.raises(LauncherError, match="ipdaemon failed: no Python there"):
        cluster.start_and_connect()
    assert not cluster.running


def test_lost_controller_is_told_by_the_next_call(make, capfd):
    cluster = make(controller_options={"restart": False})
    cluster.start_cluster()
    os.kill(cluster.controller.pid, signal.SIGKILL)
    assert cluster.wait_stopped(10)
    with pytest.raises(ClusterError, match="has lost its controller: .*killed by SIGKILL"):
        cluster.status()
    with pytest.raises(ClusterError, match="has lost its controller"):
        cluster.start_engines(1)
    assert "SIGKILL" in cluster.problem()
    cluster.stop_cluster()
    assert cluster.directory.processes() == []
    err = capfd.readouterr().err
    assert "ipcontroller was killed by SIGKILL; the logs are kept" in err


def test_lost_controller_is_replaced(make):
    cluster = make(cluster="x", controller_options={"restart": False})
    cluster.start_cluster()
    host, first = cluster.engine_set.launcher.pid, cluster.controller.pid
    os.kill(first, signal.SIGKILL)
    assert cluster.wait_stopped(10)
    cluster.start_cluster()
    assert cluster.controller.pid != first
    assert cluster.engine_set.launcher.pid == host


def test_lost_controller_is_started_again(make):
    seen = []
    cluster = make(cluster="x", on_event=lambda program, event: seen.append((program, event)))
    cluster.start_cluster()
    host, first = cluster.engine_set.launcher.pid, cluster.controller.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: ("ipcontroller", {"event": "restarted", "restarts": 1}) in seen)
    assert cluster.running
    cluster.start_cluster()  # nothing is missing
    assert cluster.controller.pid != first
    assert cluster.directory.controller().pid == cluster.controller.pid
    assert cluster.engine_set.launcher.pid == host
    wait_for(lambda: _noted_controller(cluster) == cluster.controller.pid)
    cluster.stop_cluster()
    assert cluster.directory.processes() == []


def _noted_controller(cluster):
    return cluster.directory.read_record()["controller"]["pid"]


def test_stop_while_the_controller_is_started_again(make):
    cluster = make(cluster="x")
    cluster.start_cluster()
    os.kill(cluster.controller.pid, signal.SIGKILL)
    cluster.stop_cluster()
    assert not cluster.running
    assert cluster.directory.processes() == []


def test_lost_host_is_started_again(make):
    cluster = make(cluster="x")
    cluster.start_cluster()
    hosted = cluster.engine_set.programs[0]
    first = hosted.launcher
    first.kill()
    wait_for(lambda: hosted.launcher is not first and hosted.running)
    assert hosted.restarts == 1
    assert not cluster.wait_stopped(0)
    cluster.start_cluster()  # nothing is missing
    assert cluster.engine_set.programs == (hosted,)


def test_stubborn_host_is_killed(make, capfd):
    cluster = make(engines=Stubborn, stop_timeout=0.5)
    cluster.start_cluster()
    pid = cluster.engine_set.launcher.pid
    cluster.stop_cluster()
    assert not psutil.pid_exists(pid)
    assert f"ipdaemon (pid {pid}) did not stop; it is killed" in capfd.readouterr().err
    assert cluster.directory.pid_files() == []


def left_over(make):
    """Return the host daemon that has outlived its controller."""
    old = make(cluster="x", daemonize=True, controller_options={"restart": False})
    old.start_cluster()
    host = psutil.Process(old.engine_set.launcher.pid)
    os.kill(old.controller.pid, signal.SIGKILL)
    assert old.wait_stopped(10)
    return host


def test_leftover_host_is_ended_before_the_start(make):
    host = left_over(make)
    restarting.forbid(ClusterDirectory.named("x"))  # as if the controller had ended in good order
    make(cluster="x").start_cluster()
    assert not host.is_running() or host.status() == psutil.STATUS_ZOMBIE


def test_a_host_that_looks_for_its_controller_gets_a_new_one(make):
    host = left_over(make)
    new = make(cluster="x")
    new.start_cluster()
    assert host.is_running()
    (only,) = new.engines.values()
    assert (only.programs, [one.record["pid"] for one in only.recorded]) == ((), [host.pid])
    assert only.engines == (0, 1)
    new.stop_cluster()
    assert not host.is_running() or host.status() == psutil.STATUS_ZOMBIE


def test_what_is_missing_beside_it_is_started(make):
    host = left_over(make)
    new = make(5, cluster="x")
    new.start_cluster()
    assert host.is_running()
    old, more = new.engines.values()
    assert (old.n, more.n) == (2, 3)
    assert not old.programs and len(more.programs) == 1


def test_engines_can_be_started_after_a_host_daemon_that_failed(make, monkeypatch):
    cluster = make()
    cluster.start_controller()
    monkeypatch.setattr(cluster, "_has_hosts", lambda: False)
    failing = Entry("failing", standin("ipdaemon", "import sys; sys.exit(3)"), 2)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_entries", [failing])
        with pytest.raises(LauncherError):
            cluster.start_engines(2)
    (failed,) = cluster.engines.values()
    wait_for(lambda: not failed.running)
    name = cluster.start_engines(2)
    assert list(cluster.engines) == [name]
    assert cluster.engines[name].engines == (0, 1)
