"""Cluster with small programs in place of controller and host daemon: order, arguments, records."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from ipkernel.cluster import ending
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.errors import ClusterError, ConfigurationError, SecurityError
from tests.integration.standins import HOST, Controller, Host, standin
from tests.integration.standins_support import home, make

__all__ = ["home", "make"]


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


def test_wait_stopped(make):
    cluster = make()
    cluster.start_cluster()
    assert not cluster.wait_stopped(0.05)


def test_second_cluster_in_the_same_directory(make):
    first, second = make(cluster="x"), make(cluster="x")
    first.start_cluster()
    with pytest.raises(ClusterError, match=r"is already running \(controller pid \d+\)"):
        second.start_cluster()
    assert first.running
    second.stop_cluster()
    assert first.running


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
    assert ("ipcontroller", "ready") in seen  # before or after those of the daemon
    told = [event for program, event in seen if program == "ipdaemon"]
    assert told[-2:] == ["registered", "ready"]


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


WATCHING = """
record = os.path.join(argument("--cluster-dir"), "cluster.json")
while not os.path.exists(record):
    time.sleep(0.01)
with open(record) as file, open(record + ".seen", "w") as seen:
    seen.write(file.read())
"""


def test_what_is_started_is_noted_before_it_is_there(make):
    cluster = make(cluster="x", daemonize=True, engines=standin("ipdaemon", WATCHING + HOST))
    cluster.start_cluster()
    seen = json.loads((cluster.directory.path / "cluster.json.seen").read_text())
    (programs,) = [one["programs"] for one in seen["engines"].values()]
    assert [one["record"]["pid"] for one in programs] == [cluster.engine_set.launcher.pid]
    assert seen["owner"]["pid"] == os.getpid(), "until it is there, it is nobody else's"


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
