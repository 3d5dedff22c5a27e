"""Cluster with small programs in place of controller and host daemon: order, errors, ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ipkernel.cluster import ending, restarting
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.errors import ClusterError, ConfigurationError, LauncherError, SecurityError
from tests.integration.faults_support import wait_for
from tests.integration.standins import Controller, Host, Stubborn, standin


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    made = []

    def go(n=2, **arguments):
        arguments.setdefault("controller", Controller)
        arguments.setdefault("engines", Host)
        made.append(Cluster(n, **arguments))
        return made[-1]

    yield go
    for cluster in made:
        cluster.stop_cluster_sync()


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def broken(code):
    return standin("ipcontroller", code)


def test_round_trip_of_a_private_cluster(make, capfd):
    cluster = make(3)
    assert not cluster.running
    assert cluster.start_cluster() is cluster
    assert cluster.running
    assert cluster.engine_set.engines == (0, 1, 2)
    assert cluster.engine_set.n == 3
    assert cluster.engine_set.running
    assert cluster.directory.is_private
    assert cluster.problem() == ""
    record = json.loads(cluster.cluster_file.read_text())
    assert record["n"] == 3
    assert record["private"]
    assert record["owner"]["pid"] == os.getpid()
    assert "running" in repr(cluster)
    path = cluster.cluster_dir
    cluster.stop_cluster()
    assert not cluster.running
    assert not path.exists()
    cluster.stop_cluster()  # again, for nothing
    assert cluster.engines == {}
    assert capfd.readouterr() == ("", "")


def test_named_cluster_keeps_its_directory(make):
    cluster = make(cluster="x")
    for _ in range(2):
        cluster.start_cluster()
        cluster.stop_cluster()
        assert cluster.directory == ClusterDirectory.named("x")
        assert cluster.directory.exists
        assert cluster.directory.processes() == []


def test_default_number_of_engines(make):
    cluster = make(None)
    assert cluster.n == len(os.sched_getaffinity(0))


def test_cluster_without_engines(make):
    cluster = make(0)
    cluster.start_cluster()
    assert cluster.engines == {}
    assert cluster.engine_set is None
    assert cluster.running


def test_start_is_idempotent(make):
    cluster = make()
    cluster.start_cluster()
    pid = cluster.controller.pid
    cluster.start_cluster()
    assert cluster.controller.pid == pid
    assert len(cluster.engines) == 1


def test_one_after_the_other(make):
    cluster = make()
    cluster.start_controller()
    assert cluster.running
    cluster.start_controller()
    assert cluster.engines == {}


def test_needs_a_controller(make):
    cluster = make()
    for method in (
        cluster.start_engines,
        cluster.status,
        cluster.restart_engines,
        cluster.connect_client,
        lambda: cluster.stop_engine(0),
        lambda: cluster.signal_engines("INT"),
    ):
        with pytest.raises(ClusterError, match="is not running: start it first"):
            method()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": -1}, "n must be a whole number from 0 to 4096"),
        ({"n": 1.5}, "n must be a whole number from 0 to 4096"),
        ({"n": True}, "n must be a whole number from 0 to 4096"),
        ({"n": 5000}, "from 0 to 4096"),
        ({"cluster": "a b"}, "cannot name a cluster"),
        ({"engine_timeout": 0}, "engine_timeout"),
        ({"engine_timeout": "x"}, "engine_timeout"),
        ({"stop_timeout": float("nan")}, "stop_timeout"),
        ({"log_level": "loud"}, "log_level must be debug, info"),
        ({"log_level": 17}, "log_level must be debug, info"),
        ({"engines": "slrm"}, "there is no launcher 'slrm'"),
        ({"engines": "local:2, slrm:3"}, "there is no launcher 'slrm'"),
        ({"engines": "local:two"}, "engines must be names of launchers"),
        ({"engines": 7}, "7 is no launcher"),
        ({"engines": ["local", "local"], "n": 4}, "write 'local:<number>', or leave out n"),
        ({"engines": "local:2, local:3", "n": 4}, "n=4, but the launchers are to start 5"),
        ({"engines": "local:2", "n": 4}, "n=4, but the launchers are to start 2"),
        ({"engines": [("local", 1, 2)]}, "is no launcher with a number"),
        ({"engines": []}, "no launcher for engines was named"),
        ({"local": {"x": 1}}, "unknown option 'x'"),
        ({"local": 3}, "local must be a mapping with options of launcher 'local', not 3"),
        ({"cluster": "a", "cluster_dir": "b"}, "not both"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        Cluster(**arguments)


def test_unknown_argument():
    with pytest.raises(TypeError, match="did you mean 'engine_timeout'"):
        Cluster(engine_timout=3)
    with pytest.warns(UserWarning, match="delay.* is ignored"):
        Cluster(delay=1)


def test_controller_that_fails(make, capfd):
    cluster = make(controller=broken("emit('error', message='port 9 is busy'); sys.exit(1)"))
    with pytest.raises(LauncherError, match="ipcontroller failed: port 9 is busy"):
        cluster.start_cluster()
    assert not cluster.running
    assert cluster.directory.exists
    err = capfd.readouterr().err
    assert f"the logs are kept for a day, in {cluster.directory.log}" in err


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
    cluster = make(engines=standin("ipdaemon", "until_told()"), engine_timeout=0.2)
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
    wait_until(lambda: ("ipcontroller", {"event": "restarted", "restarts": 1}) in seen)
    assert cluster.running
    cluster.start_cluster()  # nothing is missing
    assert cluster.controller.pid != first
    assert cluster.directory.controller().pid == cluster.controller.pid
    assert cluster.engine_set.launcher.pid == host
    wait_until(lambda: _noted_controller(cluster) == cluster.controller.pid)
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
    wait_until(lambda: hosted.launcher is not first and hosted.running)
    assert hosted.restarts == 1
    assert not cluster.wait_stopped(0)
    cluster.start_cluster()  # nothing is missing
    assert cluster.engine_set.programs == (hosted,)


def test_wait_stopped(make):
    cluster = make()
    cluster.start_cluster()
    assert not cluster.wait_stopped(0.05)


def test_stubborn_host_is_killed(make, capfd):
    cluster = make(engines=Stubborn, stop_timeout=0.5)
    cluster.start_cluster()
    pid = cluster.engine_set.launcher.pid
    cluster.stop_cluster()
    assert not psutil.pid_exists(pid)
    assert f"ipdaemon (pid {pid}) did not stop; it is killed" in capfd.readouterr().err
    assert cluster.directory.pid_files() == []


def test_second_cluster_in_the_same_directory(make):
    first, second = make(cluster="x"), make(cluster="x")
    first.start_cluster()
    with pytest.raises(ClusterError, match=r"is already running \(controller pid \d+\)"):
        second.start_cluster()
    assert first.running
    second.stop_cluster()
    assert first.running


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


def test_directory_that_is_not_private_enough(make):
    cluster = make(cluster="x")
    cluster.directory.create().security.chmod(0o755)
    with pytest.raises(SecurityError, match="chmod 700"):
        cluster.start_cluster()
    assert cluster.controller is None


def test_directory_that_cannot_be_made(make, tmp_path):
    (tmp_path / "file").write_text("")
    cluster = make(cluster_dir=tmp_path / "file" / "x")
    with pytest.raises(ClusterError, match="cannot make the cluster directory"):
        cluster.start_cluster()


def test_engine_sets(make):
    cluster = make(cluster="x")
    cluster.start_controller()
    assert cluster._new_id(None) == "engines-0"
    cluster._spawn_hosts([Entry("mine", Host, 2)], "mine")
    assert list(cluster.engines) == ["mine"]
    with pytest.raises(ClusterError, match="'mine' already"):
        cluster._new_id("mine")
    with pytest.raises(ClusterError, match="there are: mine"):
        cluster.stop_engines("other")
    cluster.stop_engines("mine")
    assert cluster.engines == {}
    assert cluster.running


def test_events_are_passed_on(make):
    seen = []
    cluster = make(on_event=lambda program, event: seen.append((program, event["event"])))
    cluster.start_cluster()
    assert ("ipcontroller", "ready") in seen
    assert seen[-2:] == [("ipdaemon", "registered"), ("ipdaemon", "ready")] or seen[-1] == (
        "ipcontroller",
        "ready",
    )


def test_options_reach_the_programs(make):
    cluster = make(
        1,
        cluster="x",
        controller_ip="127.0.0.1",
        controller_port=4711,
        controller_location="here",
        controller_args=["--more"],
        engine_args=["--grace", "3"],
        environment={"A": "b"},
        log_level=10,
    )
    cluster.start_cluster()
    arguments = cluster.controller.arguments
    text = " ".join(arguments)
    assert "--interface 127.0.0.1 --port 4711 --location here --more" in text
    assert "--log-level debug" in text
    assert f"--cluster-dir {cluster.cluster_dir} --cluster x" in text
    text = " ".join(cluster.engine_set.launcher.arguments)
    assert f"--furl-file {cluster.directory.furl_file('engine')} -n 1" in text
    assert "--grace 3" in text
    assert psutil.Process(cluster.controller.pid).environ()["A"] == "b"


def test_await_in_a_running_loop(make):
    cluster = make()

    async def script():
        future = cluster.start_cluster()
        assert isinstance(future, asyncio.Future)
        assert await future is cluster
        assert cluster.running
        assert cluster.stop_cluster_sync() is None
        assert not cluster.running
        with pytest.raises(ClusterError):
            await cluster.start_engines()
        await cluster.start_controller()
        assert cluster.running
        await cluster.stop_cluster()

    asyncio.run(script())
    assert not cluster.running


def test_both_forms_are_documented():
    for name in dir(Cluster):
        if name.endswith("_sync"):
            plain = getattr(Cluster, name.removesuffix("_sync"))
            assert plain.__name__ == name.removesuffix("_sync")
            assert "asyncio" in plain.__doc__
            assert getattr(Cluster, name).__doc__.splitlines()[0] in plain.__doc__


def test_attached_to_a_running_cluster(make):
    cluster = make(2, cluster="x")
    cluster.start_cluster()
    other = Cluster.from_file(cluster="x")
    assert other.running
    assert other.controller is None
    assert other.engine_set.engines == (0, 1)
    assert other.n == 2
    assert other.to_dict()["engines"] == cluster.to_dict()["engines"]
    with pytest.raises(ClusterError, match="no engine set"):
        other.stop_engines("nothing")
    other.stop_cluster()
    assert not other.running
    assert cluster.wait_stopped(10)
    assert cluster.problem() == ""
    with pytest.raises(ClusterError, match="lost its controller"):
        cluster.status()


def test_what_others_have_added_stays_noted(make):
    cluster = make(1, cluster="x")
    cluster.start_cluster()
    other = Cluster.from_file(cluster="x")
    other.engines["theirs"] = EngineSet("theirs", 3, (1, 2, 3))
    other._note()
    cluster._note()
    sets = cluster.directory.read_record()["engines"]
    assert sets["theirs"] == {"n": 3, "engines": [1, 2, 3]}
    assert sets["engines-0"]["engines"] == [0]
    assert other._new_id(None) == "engines-2"
    del other.engines["theirs"]
    other._note()
    assert list(cluster.directory.read_record()["engines"]) == ["engines-0"]


def test_from_a_directory_where_nothing_runs(make):
    cluster = make(3, cluster="x")
    cluster.start_cluster()
    cluster.stop_cluster()
    again = Cluster.from_directory(cluster.cluster_dir, controller=Controller, engines=Host)
    assert not again.running
    assert again.engines == {}
    assert again.n == 3
    again.start_cluster()
    assert again.engine_set.engines == (0, 1, 2)
    again.stop_cluster()
    with pytest.raises(ClusterError, match="there is no cluster directory"):
        Cluster.from_file(cluster="nope")
    with pytest.raises(ConfigurationError, match="cluster_dir"):
        Cluster.from_dict({})


def test_daemonized(make):
    cluster = make(cluster="x", daemonize=True)
    cluster.start_cluster()
    assert not cluster.shutdown_atexit
    assert cluster not in ending._running
    assert "--lifeline" not in cluster.controller.command()
    assert "owner" not in cluster.directory.read_record()


SCRIPT = """
import os, sys, time
from ipkernel.cluster.cluster import Cluster
from tests.integration.standins import Controller, Host
cluster = Cluster(1, controller=Controller, engines=Host, {options})
cluster.start_cluster()
print(cluster.controller.pid, cluster.engine_set.launcher.pid, flush=True)
{more}
"""


def run_script(tmp_path, more, options=""):
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(more=more, options=options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    pids = [int(word) for word in script.stdout.readline().split()]
    return script, [psutil.Process(pid) for pid in pids]


def gone(programs, seconds=10):
    return not psutil.wait_procs(programs, seconds)[1]


def test_end_of_the_script_stops_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "")
    out, err = script.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert script.returncode == 0
    assert gone(programs, 0.5)
    assert list((tmp_path / "ipython").iterdir()) == []


def test_exception_in_the_script_stops_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "1 / 0")
    _, err = script.communicate(timeout=30)
    assert "ZeroDivisionError" in err
    assert gone(programs, 0.5)
    assert list((tmp_path / "ipython").iterdir()) == []


def test_forked_child_does_not_stop_it(tmp_path):
    more = (
        "child = os.fork()\nif child == 0: sys.exit(0)\nos.waitpid(child, 0)\n"
        "time.sleep(0.3)\nprint(cluster.running)"
    )
    script, programs = run_script(tmp_path, more)
    out, err = script.communicate(timeout=30)
    assert (out, err) == ("True\n", "")
    assert gone(programs)


def test_killed_script_ends_the_cluster(tmp_path):
    script, programs = run_script(tmp_path, "time.sleep(60)")
    script.kill()
    script.communicate()
    assert gone(programs)


def test_not_at_exit(tmp_path):
    script, programs = run_script(tmp_path, "", "cluster='x', daemonize=True")
    assert script.communicate(timeout=30)[1] == ""
    time.sleep(0.2)
    assert all(program.is_running() for program in programs)
    attached = Cluster.from_directory(tmp_path / "ipython" / "cluster_x")
    assert attached.running
    attached.stop_cluster()
    assert gone(programs)


def test_many_cycles_leave_nothing(make):
    cluster = make()
    cluster.start_cluster()
    cluster.stop_cluster()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        cluster.start_cluster()
        cluster.stop_cluster()
    assert set(os.listdir("/proc/self/fd")) == before
    assert list(ipython_dir().iterdir()) == []


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


@pytest.mark.parametrize("late", [False, True])
def test_a_cluster_whose_awaited_start_is_cancelled_is_stopped(make, late):
    cluster = make(1)
    launched, go_on = threading.Event(), threading.Event()
    launch = cluster._wait_engines

    def wait(deadline):
        launch(deadline)
        launched.set()
        assert go_on.wait(20)

    def held():
        if not cluster._lock.acquire(blocking=False):
            return True
        cluster._lock.release()
        return False

    cluster._wait_engines = wait

    async def script():
        task = asyncio.ensure_future(cluster.start_cluster())
        await asyncio.to_thread(launched.wait, 20)
        assert cluster.running
        if late:  # it returns ahead of the loop's learning of the cancellation
            task.cancel()
            go_on.set()
            while held():
                pass
        else:
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(script())  # waits for the threads of its executor
    assert not cluster.running
    assert not cluster.cluster_dir.exists()


def test_a_cluster_that_ran_before_survives_a_cancelled_start(make):
    cluster = make(1)
    cluster.start_cluster_sync()

    async def script():
        cluster.start_cluster().cancel()

    asyncio.run(script())
    assert cluster.running


def test_async_with_that_is_cancelled_stops_the_cluster(make, monkeypatch):
    cluster = make(1)
    launched, go_on = threading.Event(), threading.Event()

    def enter():
        cluster.start_cluster_sync()
        launched.set()
        assert go_on.wait(20)

    monkeypatch.setattr(Cluster, "__enter__", lambda self: enter())

    async def script():
        async with cluster:
            raise AssertionError("must not come here")

    async def main():
        task = asyncio.create_task(script())
        await asyncio.to_thread(launched.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cluster.running
        go_on.set()

    asyncio.run(main())
    assert not cluster.running


def test_async_with_that_is_cancelled_when_just_started_stops_the_cluster(make, monkeypatch):
    cluster = make(1)
    cluster.start_cluster_sync()

    async def main():
        future = asyncio.get_running_loop().create_future()
        monkeypatch.setattr("ipkernel.cluster.awaited.awaited_start", lambda *args: future)
        task = asyncio.create_task(cluster.__aenter__())
        await asyncio.sleep(0)
        future.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not cluster.running
