"""Whole clusters: controller, host daemon, engines and client as users run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.errors import ClusterError, KernelError, LauncherError
from tests.integration.clusters_support import home, make
from tests.integration.faults_support import wait_for
from tests.support import leaks

__all__ = ["home", "make"]


def test_the_first_example(home, capfd):
    before = leaks.marked()
    with ipkernel.Cluster(n=2) as rc:
        pids = rc[:].apply_sync(os.getpid)
        assert rc.ids == [0, 1]
        assert len(set(pids)) == 2
        assert os.getpid() not in pids
        assert rc[:].map_sync(lambda x: x * x, range(8)) == [x * x for x in range(8)]
        # controller, host daemon, zygote and engines: nothing more
        assert len(leaks.marked() - before) == 2 + 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list(home.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_an_exception_inside_stops_it(home):
    with pytest.raises(ZeroDivisionError), Cluster(n=1):
        1 / 0  # noqa: B018
    assert list(home.iterdir()) == []


def test_one_object_can_be_used_again(home):
    cluster = Cluster(n=1)
    first = second = 0
    with cluster as rc:
        first = rc[0].apply_sync(os.getpid)
    with cluster as rc:
        second = rc[0].apply_sync(os.getpid)
        assert rc.cluster is cluster
    assert first != second
    assert list(home.iterdir()) == []


def test_async_with(home):
    async def script():
        async with Cluster(n=2) as rc:
            result = rc[:].apply_async(os.getpid)
            return await result

    assert len(set(asyncio.run(script()))) == 2
    assert list(home.iterdir()) == []


def test_awaited_steps(make):
    cluster = make(1)

    async def script():
        rc = await cluster.start_and_connect()
        try:
            status = await cluster.status()
            assert [e.state for e in status.engines] == ["ready"]
            name = await cluster.start_engines(1)
            assert cluster.engines[name].engines == (1,)
            await cluster.stop_engines(name)
        finally:
            rc.close()
            await cluster.stop_cluster()

    asyncio.run(script())


def test_named_cluster_is_found_by_clients(make):
    cluster = make(2, cluster="mine")
    cluster.start_cluster()
    with ipkernel.Client(cluster="mine") as rc:
        rc.wait_for_engines(2, timeout=20)
        assert rc.ids == [0, 1]
    with cluster.connect_client() as rc:
        assert rc.ids == [0, 1]


def test_furls_and_port_survive(make):
    cluster = make(1, cluster="mine")
    texts = []
    for _ in range(2):
        with cluster as rc:
            assert rc[0].apply_sync(lambda: 1) == 1
            texts.append(cluster.directory.furl_file("client").read_text())
    assert texts[0] == texts[1]


def test_status(make):
    cluster = make(2)
    cluster.start_cluster()
    # That engines are ready is told to their launcher and to the controller, in this order.
    wait_for(lambda: {e.state for e in cluster.status().engines} == {"ready"})
    status = cluster.status()
    assert status.pid == cluster.controller.pid
    assert [e.engine for e in status.engines] == [0, 1]
    assert [h.pid for h in status.hosts] == [cluster.engine_set.launcher.pid]


def test_more_and_fewer_engines(make):
    cluster = make(1)
    with cluster as rc:
        name = cluster.start_engines(2, "more")
        assert name == "more"
        assert cluster.engines["more"].engines == (1, 2)
        rc.wait_for_engines(3, timeout=20)
        assert len(set(rc[:].apply_sync(os.getpid))) == 3
        cluster.stop_engine(1)
        wait_for(lambda: rc.ids == [0, 2])
        cluster.stop_engines("more")
        wait_for(lambda: rc.ids == [0])
        assert rc[0].apply_sync(lambda: 5) == 5


def test_all_engines_stopped_and_new_ones(make):
    cluster = make(2)
    with cluster as rc:
        cluster.stop_engines()
        wait_for(lambda: rc.ids == [])
        assert cluster.engines == {}
        cluster.start_engines(1)
        rc.wait_for_engines(1, timeout=20)
        assert rc[:].apply_sync(lambda: 7) == [7]


def test_restart_engines(make):
    cluster = make(2)
    with cluster as rc:
        before = rc[:].apply_sync(os.getpid)
        cluster.restart_engine(1)
        wait_for(lambda: rc.ids == [0, 1] and rc[1].apply_sync(os.getpid) != before[1])
        assert rc[0].apply_sync(os.getpid) == before[0]
        cluster.restart_engines()
        wait_for(lambda: rc.ids == [0, 1])
        wait_for(lambda: not set(rc[:].apply_sync(os.getpid)) & set(before))


def test_signal_engines(make):
    cluster = make(2)
    with cluster as rc:

        def sleep():
            import time

            time.sleep(60)

        results = [rc[i].apply_async(sleep) for i in (0, 1)]
        wait_for(lambda: all(e.running for e in cluster.status().engines))
        cluster.signal_engine("INT", 0)
        with pytest.raises(KernelError, match="KeyboardInterrupt"):
            results[0].get(20)
        cluster.signal_engines(signal.SIGINT)
        with pytest.raises(KernelError, match="KeyboardInterrupt"):
            results[1].get(20)
        assert rc[:].apply_sync(lambda: 1) == [1, 1]


def test_orders_about_unknown_engines(make):
    cluster = make(1)
    cluster.start_cluster()
    for order in (cluster.stop_engine, cluster.restart_engine):
        with pytest.raises(ClusterError, match="77"):
            order(77)
    with pytest.raises(ClusterError, match="77"):
        cluster.signal_engine("INT", 77)
    with pytest.raises(ValueError, match="there is no signal"):
        cluster.signal_engine("HUH", 0)
    with pytest.raises(ClusterError, match=r"no engine 77 \(it was done for 0\)"):
        cluster.signal_engines("CONT", engines=[0, 77])


def test_an_order_to_a_set_that_has_no_engines_any_more_is_not_for_all(make):
    cluster = make(1)
    with cluster as rc:
        name = cluster.start_engines(1)
        cluster.stop_engine(1)
        pid = rc[0].apply_sync(os.getpid)
        for order in (
            lambda: cluster.signal_engines("KILL", name),
            lambda: cluster.restart_engines(name),
        ):
            with pytest.raises(ClusterError, match=f"engine set '{name}' has no engines"):
                order()
        assert rc[0].apply_sync(os.getpid) == pid
        assert cluster.status().engines[0].restarts == 0


def test_engine_killed(make):
    cluster = make(2)
    with cluster as rc:
        pid = rc[1].apply_sync(os.getpid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: [e.restarts for e in cluster.status().engines] == [0, 1])
        rc.wait_for_engines(2, timeout=60)
        assert rc[1].apply_async(os.getpid).get(60) != pid
    assert not psutil.pid_exists(pid)


def test_host_daemon_killed(make, capfd):
    """It is started again, with engines of the same ids; what it ran is lost, and nothing else."""
    seen = []
    cluster = make(2, on_event=lambda program, event: seen.append(event))
    rc = cluster.start_and_connect()
    with rc:
        pids = rc[:].apply_sync(os.getpid)
        result = rc[0].apply_async(time.sleep, 60)
        wait_for(lambda: any(e.running for e in cluster.status().engines))
        os.kill(cluster.engine_set.launcher.pid, signal.SIGKILL)
        with pytest.raises(KernelError):
            result.get(20)
        rc.wait_for_engines(2, timeout=60)
        assert rc.ids == [0, 1]
        assert not set(rc[:].apply_sync(os.getpid)) & set(pids)
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert cluster.running
        assert not cluster.wait_stopped(0)
        assert cluster.engine_set.engines == (0, 1)
        (ended,) = (one for one in seen if one["event"] == "ended")
        assert "was killed by SIGKILL; it is started again" in ended["message"]
        assert {"event": "restarted", "restarts": 1} in seen
        wait_for(lambda: _noted_restarts(cluster) == [1])
    cluster.stop_cluster()
    assert "the logs are kept for a day, in" in capfd.readouterr().err


def test_a_host_daemon_comes_again_with_the_engines_that_others_have_left_it(make):
    cluster = make(3)
    with cluster as rc:
        attached = Cluster.from_directory(cluster.directory.path)
        attached.stop_engines(engines=[0])
        attached.scale(1)
        (left,) = rc.status().engines
        wait_for(lambda: cluster.engine_set.engines == (left.engine,))
        os.kill(cluster.engine_set.launcher.pid, signal.SIGKILL)
        wait_for(lambda: [host.restarts for host in rc.status().hosts] == [1])
        wait_for(lambda: [e.state for e in rc.status().engines] == ["ready"])
        assert [e.engine for e in rc.status().engines] == [left.engine]
        os.kill(cluster.engine_set.launcher.pid, signal.SIGKILL)
        wait_for(lambda: not rc.status().hosts)
        cluster.scale(2)  # which waits for it, and starts no other
        assert [host.restarts for host in rc.status().hosts] == [2]
        assert len(rc.status().engines) == 2


def _noted_restarts(cluster):
    sets = cluster.directory.read_record()["engines"].values()
    return [program["restarts"] for s in sets for program in s["programs"]]


def test_controller_killed(make, capfd):
    cluster = make(2, controller_options={"restart": False})
    rc = cluster.start_and_connect()
    with rc:
        pids = rc[:].apply_sync(os.getpid)
        result = rc[0].apply_async(time.sleep, 60)
        os.kill(cluster.controller.pid, signal.SIGKILL)
        with pytest.raises(KernelError):
            result.get(30)
        with pytest.raises(ClusterError, match="has lost its controller: .*SIGKILL"):
            cluster.status()
    cluster.stop_cluster()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert "ipcontroller was killed by SIGKILL" in capfd.readouterr().err


def test_controller_killed_and_started_again(make):
    cluster = make(2, cluster="mine", controller_options={"restart": False})
    with cluster as rc:
        pids = rc[:].apply_sync(os.getpid)
    cluster.start_cluster()
    furl = cluster.directory.furl_file("client").read_text()
    with cluster.connect_client() as rc:
        pids = rc[:].apply_sync(os.getpid)
    os.kill(cluster.controller.pid, signal.SIGKILL)
    assert cluster.wait_stopped(20)
    cluster.start_cluster()
    assert cluster.directory.furl_file("client").read_text() == furl
    with cluster.connect_client() as rc:
        rc.wait_for_engines(2, timeout=20)
        assert rc[:].apply_sync(os.getpid) == pids  # the engines have lived on


def test_engines_import_what_the_script_can(make, tmp_path, monkeypatch):
    (tmp_path / "my_own_module.py").write_text("value = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with make(1) as rc:

        def value():
            import my_own_module

            return my_own_module.value

        assert rc[0].apply_sync(value) == 42


def test_busy_port(make):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        cluster = make(1, cluster="mine", controller_port=port)
        with pytest.raises(LauncherError, match=str(port)) as caught:
            cluster.start_cluster()
    assert "Traceback" not in str(caught.value)
    assert cluster.directory.processes() == []
    with cluster as rc:  # the port is free now
        assert rc.ids == [0]


@contextlib.contextmanager
def unwritable(path):
    """Make a directory one that not even root can write to."""
    if os.geteuid() == 0:
        options = ["-t", "tmpfs", "-o", "ro,mode=0700", "ipkernel-test"]
        subprocess.run(["mount", *options, str(path)], check=True)
    else:
        path.chmod(0o500)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(path)], check=True)
        else:
            path.chmod(0o700)


def test_unwritable_log_directory(make):
    cluster = make(1, cluster="mine")
    log = cluster.directory.create().log
    with unwritable(log), pytest.raises(ClusterError, match="cannot write"):
        cluster.start_cluster()


def test_another_process_stops_it(make):
    cluster = make(1, cluster="mine")
    cluster.start_cluster()
    other = Cluster.from_file(cluster="mine")
    assert other.status().pid == cluster.controller.pid
    name = other.start_engines(1)
    assert other.engines[name].engines == (1,)
    other.stop_cluster()
    assert cluster.wait_stopped(20)
    assert cluster.directory.processes() == []


SCRIPT = """
import os, sys, time
import ipkernel
cluster = ipkernel.Cluster(2)
rc = cluster.start_and_connect()
print(*rc[:].apply_sync(os.getpid), cluster.controller.pid, cluster.engine_set.launcher.pid,
      flush=True)
{more}
"""


def run_script(more):
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(more=more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = script.stdout.readline()
    if not line:
        pytest.fail(script.communicate()[1])
    return script, [psutil.Process(int(word)) for word in line.split()]


def test_script_that_forgets_to_stop(home):
    script, programs = run_script("")
    assert script.communicate(timeout=30) == ("", "")
    assert script.returncode == 0
    assert not psutil.wait_procs(programs, 1)[1]
    assert list(home.iterdir()) == []


def test_script_that_is_killed_with_tasks_running():
    script, programs = run_script("rc[:].apply_async(time.sleep, 60)\ntime.sleep(60)")
    script.kill()
    script.communicate()
    assert not psutil.wait_procs(programs, 10)[1]


def test_script_that_gets_ctrl_c():
    script, programs = run_script("rc[:].apply_sync(time.sleep, 60)")
    time.sleep(0.3)
    script.send_signal(signal.SIGINT)
    _, err = script.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert not psutil.wait_procs(programs, 5)[1]


def test_cycles_leave_nothing(home):
    with Cluster(n=1):
        pass
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Cluster(n=1) as rc:
            assert rc[0].apply_sync(abs, -1) == 1
    wait_for(lambda: set(os.listdir("/proc/self/fd")) == before)
    assert list(home.iterdir()) == []


def test_portable_engines(make, monkeypatch):
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    with make(2) as rc:
        assert len(set(rc[:].apply_sync(os.getpid))) == 2


def test_default_place():
    assert ClusterDirectory.named().path == ipython_dir() / "cluster_default"
