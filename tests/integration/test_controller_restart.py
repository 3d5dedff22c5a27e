"""Controllers that are killed come back by themselves, or when somebody starts the cluster again."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from ipkernel.cluster import restarting
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ClusterError, ConnectError, KernelError
from tests.integration.faults_support import PATIENCE, wait_for


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.fixture
def make():
    made = []

    def go(n=2, **arguments):
        made.append(Cluster(n, **arguments))
        return made[-1]

    yield go
    for cluster in made:
        cluster.stop_cluster_sync()
    for directory in {cluster.directory for cluster in made}:
        attached = Cluster.from_directory(directory.path) if directory.exists else None
        if attached is not None:
            attached.stop_cluster_sync()
            assert directory.processes() == []


def pids(cluster):
    def connect():
        try:
            return cluster.connect_client_sync(timeout=PATIENCE)
        except ConnectError:  # it is being killed, or about to listen
            return None

    with wait_for(connect) as rc:
        rc.wait_for_engines(2, timeout=PATIENCE)
        return rc[:].apply_async(os.getpid).get(PATIENCE)


def crash(cluster):
    """Kill the controller, and return its process."""
    process = wait_for(cluster.directory.controller)
    assert process.signal(signal.SIGKILL)
    return process


def back(cluster, old):
    """Wait until there is another controller that answers; return its status."""

    def look():
        process = cluster.directory.controller()
        if process is None or process.pid == old.pid:
            return None
        try:
            return cluster.status_sync()
        except KernelError:
            return None

    return wait_for(look)


def test_it_is_started_again_by_whoever_started_it(make):
    cluster = make()
    cluster.start_cluster_sync()
    before = pids(cluster)
    for count in (1, 2):
        old = crash(cluster)
        assert back(cluster, old).restarts == count
        assert pids(cluster) == before
    assert cluster.running
    assert cluster.directory.controller().pid == cluster.controller.pid


def test_it_is_started_again_by_a_host_daemon(make):
    cluster = make(cluster="away", daemonize=True)
    cluster.start_cluster_sync()
    furl = cluster.directory.furl_file("client").read_text()
    before = pids(cluster)
    for count in (1, 2):
        old = crash(cluster)
        assert back(cluster, old).restarts == count
        assert pids(cluster) == before
    assert cluster.directory.furl_file("client").read_text() == furl
    assert (cluster.directory.log / "ipcontroller.err").read_text() == ""
    attached = Cluster.from_directory(cluster.directory.path)
    old = crash(attached)
    wait_for(lambda: not old.alive)
    assert pids(attached) == before  # whoever needs it waits
    attached.stop_cluster_sync()
    assert cluster.directory.processes() == []
    assert restarting.noted(cluster.directory) is None
    assert not any(map(psutil.pid_exists, before))


def test_a_stop_while_it_is_started_again(make):
    cluster = make(cluster="away", daemonize=True)
    cluster.start_cluster_sync()
    before = pids(cluster)
    crash(cluster)
    Cluster.from_directory(cluster.directory.path).stop_cluster_sync()
    cluster.stop_cluster_sync()
    assert cluster.directory.processes() == []
    assert not any(map(psutil.pid_exists, before))


def test_with_its_daemon_it_is_gone_until_somebody_starts_the_cluster(make):
    cluster = make(cluster="away", daemonize=True)
    cluster.start_cluster_sync()
    furl = cluster.directory.furl_file("client").read_text()
    before = pids(cluster)
    for process in reversed(cluster.directory.processes()):
        process.signal(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, before)))
    wait_for(lambda: not cluster.directory.alive())
    again = make(cluster="away", daemonize=True)
    again.start_cluster_sync()
    assert not set(pids(again)) & set(before)
    assert again.directory.furl_file("client").read_text() == furl


def test_hosts_that_look_for_it_are_not_started_twice(make):
    cluster = make(cluster="away", daemonize=True, controller_options={"restart": False})
    cluster.start_cluster_sync()
    before = pids(cluster)
    crash(cluster)
    with pytest.raises(ClusterError, match="has lost its controller"):
        cluster.status_sync()
    again = make(cluster="away", daemonize=True)
    again.start_cluster_sync()
    assert pids(again) == before
    assert len(again.status_sync().hosts) == 1
    assert len(again.directory.processes()) == 2


def test_a_cluster_that_was_stopped_is_not(make):
    cluster = make(1, cluster="here")
    cluster.start_cluster_sync()
    assert restarting.expected(cluster.directory)
    cluster.directory.controller().terminate()
    assert cluster.wait_stopped(PATIENCE)
    assert restarting.noted(cluster.directory) is None
    wait_for(lambda: not cluster.running)  # its daemon may have ended before it
    assert not ClusterDirectory.named("here").alive()
