"""ipcluster in this process, with small programs in place of controller and host daemon."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import psutil
import pytest

from ipkernel.cli import common
from ipkernel.cli.ipcluster import main
from ipkernel.cluster.directory import ClusterDirectory
from tests.integration.standins import Controller, Host, Stubborn, standin


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    use(monkeypatch)
    yield tmp_path / "ipython"
    main(["stop", "--all", "--quiet"])


def use(monkeypatch, controller=Controller, engines=Host):
    classes = {"controller": controller, "engines": engines}
    monkeypatch.setattr("ipkernel.cluster.entries.find_launcher", lambda kind, name: classes[kind])


def test_daemonize_list_stop(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["start", "-n", "3", "--cluster", "x", "--daemonize"]) == common.OK
    assert signal.getsignal(signal.SIGTERM) is before
    out = capsys.readouterr().out
    assert "cluster x is ready: 3 engines in" in out
    assert out.endswith("stop it with: ipcluster stop --cluster x\n")
    assert main(["list", "--json"]) == common.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["cluster"], row["running"], row["engines"], row["hosts"]) == ("x", True, 3, 1)
    assert psutil.Process(row["pid"]).is_running()
    assert main(["start", "--cluster", "x", "--daemonize"]) == common.FAILURE
    assert "is already running" in capsys.readouterr().err
    assert main(["stop", "--cluster", "x"]) == common.OK
    out = capsys.readouterr().out
    assert out.startswith("stopped cluster x in ")
    assert f"ipcontroller (pid {row['pid']})" in out
    assert not psutil.pid_exists(row["pid"]) or main(["list"]) == common.OK
    assert main(["stop", "--cluster", "x"]) == common.NOT_RUNNING


def test_stop_all(capsys):
    for name in ("x", "y"):
        assert main(["start", "-n", "1", "--cluster", name, "--daemonize", "-q"]) == common.OK
    assert capsys.readouterr().out == ""
    assert main(["stop", "--all"]) == common.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["x", "y"]


def test_default_cluster_needs_no_name(capsys):
    assert main(["start", "-n", "1", "--daemonize"]) == common.OK
    assert capsys.readouterr().out.endswith("stop it with: ipcluster stop\n")
    assert ClusterDirectory.named("default").alive()


def test_cluster_in_a_directory_of_its_own(capsys, tmp_path):
    where = tmp_path / "elsewhere"
    assert main(["start", "-n", "1", "--daemonize", "--cluster-dir", str(where)]) == common.OK
    assert f"ipcluster stop --cluster-dir {where}" in capsys.readouterr().out
    assert main(["stop", "--cluster-dir", str(where)]) == common.OK


def test_start_that_fails(capsys, monkeypatch):
    use(monkeypatch, controller=standin("ipcontroller", "emit('error', message='port 9 is busy')"))
    assert main(["start", "--daemonize"]) == common.FAILURE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "ipcluster: ipcontroller failed: port 9 is busy\n"


def test_start_too_slow(capsys, monkeypatch):
    use(monkeypatch, engines=standin("ipdaemon", "until_told()"))
    assert main(["start", "--timeout", "0.2"]) == common.FAILURE
    assert "was not ready in time" in capsys.readouterr().err
    assert main(["list", "--json"]) == common.OK
    assert not json.loads(capsys.readouterr().out)[0]["running"]


def soon(action, ready=lambda: ClusterDirectory.named("default").alive()):
    """Do something in a thread as soon as the cluster runs."""

    def wait():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not ready():
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def both_ready():
    """Whether the start is over: then the record names the engines that there are."""
    sets = ClusterDirectory.named("default").read_record().get("engines", {})
    return any(one["engines"] for one in sets.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground_until_a_signal(capsys, number):
    thread = soon(lambda: (time.sleep(0.2), os.kill(os.getpid(), number)), both_ready)
    assert main(["start", "-n", "2"]) == common.OK
    thread.join()
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("cluster default is ready: 2 engines")
    assert out.splitlines()[1:] == ["Ctrl-C stops it", "stopping cluster default"]
    assert err == ""
    assert ClusterDirectory.named().processes() == []


def test_interrupted_while_starting(capsys, monkeypatch):
    use(monkeypatch, engines=standin("ipdaemon", "pid_file('ipdaemon-h'); until_told()"))
    thread = soon(
        lambda: os.kill(os.getpid(), signal.SIGINT),
        lambda: len(ClusterDirectory.named().processes()) == 2,
    )
    assert main(["start"]) == common.INTERRUPTED
    thread.join()
    assert ClusterDirectory.named().controller() is None


def test_second_ctrl_c_kills(capsys, monkeypatch):
    use(monkeypatch, engines=Stubborn)

    def press_twice():
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    thread = soon(press_twice, both_ready)
    assert main(["start", "-n", "1"]) == common.INTERRUPTED
    thread.join()
    assert ClusterDirectory.named().processes() == []


def test_foreground_notices_a_stop(capsys):
    thread = soon(lambda: main(["stop"]), both_ready)
    assert main(["start", "-n", "1"]) == common.OK
    thread.join()
    assert ClusterDirectory.named().processes() == []


def test_foreground_outlives_a_crash(capsys):
    def crash():
        directory = ClusterDirectory.named()
        first = directory.controller()
        first.signal(signal.SIGKILL)
        while (
            directory.controller() is None or directory.read_record()["controller"]["restarts"] < 1
        ):
            time.sleep(0.01)
        assert directory.controller().pid != first.pid
        os.kill(os.getpid(), signal.SIGINT)

    thread = soon(crash, both_ready)
    assert main(["start", "-n", "1"]) == common.OK
    thread.join()
    err = capsys.readouterr().err
    assert "was killed by SIGKILL; it is started again" in err
    assert ClusterDirectory.named().processes() == []


def test_foreground_notices_a_crash(capsys):
    def crash():
        ClusterDirectory.named().controller().signal(signal.SIGKILL)

    thread = soon(crash, both_ready)
    assert main(["start", "-n", "1", "--set", "controller.restart=no"]) == common.FAILURE
    thread.join()
    assert "ipcontroller was killed by SIGKILL" in capsys.readouterr().err
    assert ClusterDirectory.named().processes() == []


def test_foreground_goes_on_when_a_host_daemon_dies(capsys):
    def daemons():
        return [p for p in ClusterDirectory.named().processes() if p.role != "ipcontroller"]

    def kill_and_interrupt():
        (first,) = daemons()
        first.kill()
        deadline = time.monotonic() + 60
        while not [one for one in daemons() if one != first]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = soon(kill_and_interrupt, both_ready)
    assert main(["start", "-n", "1"]) == common.OK
    thread.join()
    out, err = capsys.readouterr()
    assert "was killed by SIGKILL; it is started again in 0.25 s" in err
    assert out.endswith("stopping cluster default\n")
    assert ClusterDirectory.named().processes() == []


def test_dry_run_starts_nothing(capsys, home):
    assert main(["start", "-n", "3", "--dry-run"]) == common.OK
    out = capsys.readouterr().out
    assert "# controller: local" in out
    assert "# 3 engines: local" in out
    assert "-n 3" in out
    assert not home.exists()


def test_follow_a_log(capsys):
    directory = ClusterDirectory.named().create()
    path = directory.log / "ipcontroller.log"
    path.write_text("old\n")

    def write():
        time.sleep(0.4)
        with path.open("a") as file:
            file.write("new\n")
        time.sleep(0.4)
        path.rename(path.with_suffix(".log.1"))
        path.write_text("rotated\n")
        time.sleep(0.8)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=write)
    thread.start()
    assert main(["logs", "ipcontroller", "-f"]) == common.OK
    thread.join()
    assert capsys.readouterr().out == "old\nnew\nrotated\n"
