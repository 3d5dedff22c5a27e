"""What names launchers: arguments, records, and what is ended by them from elsewhere."""

from __future__ import annotations

import itertools
import json
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cluster import joining, stopping
from ipkernel.cluster.arguments import Arguments, recorded_keywords
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.entries import (
    Entry,
    launcher_name,
    read_entries,
    recorded_launcher,
    starts_elsewhere,
)
from ipkernel.cluster.joining import not_joined, standings
from ipkernel.cluster.recorded import Recorded, controller_elsewhere, programs_of, recorded_programs
from ipkernel.cluster.stopping import end_leftovers, stop_directory
from ipkernel.errors import ClusterError, ConfigurationError, LauncherError
from ipkernel.launchers.local import LocalControllerLauncher, LocalHostLauncher
from ipkernel.wire.records import HostInfo
from tests.support.fakelaunchers import Queued, shape


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return ClusterDirectory(tmp_path / "cluster_x").create()


def entries(given, n=None):
    return read_entries("engines", given, n, lambda name, launcher: {})


def counts(given, n=None):
    return [(one.name, one.n) for one in entries(given, n)]


# -------------------------------------------------------------------------------------- arguments


def test_ways_to_name_launchers():
    assert counts("local") == [("local", None)]
    assert counts(" Local : 2 ,local") == [("local", 2), ("local", None)]
    assert counts(["local:0", ("local", 3), (LocalHostLauncher, None)]) == [
        ("local", 0),
        ("local", 3),
        ("ipkernel.launchers.local:LocalHostLauncher", None),
    ]
    assert counts(LocalHostLauncher, 4)[0][1] == 4
    assert entries("local")[0].launcher is LocalHostLauncher


def test_the_rest_is_for_the_one_without_a_number():
    assert counts("local:2, local", 7) == [("local", 2), ("local", 5)]
    assert counts("local:2, local:3", 5) == [("local", 2), ("local", 3)]
    assert counts("local", 0) == [("local", 0)]
    assert entries("local", 0)[0].plan() == []


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 400), st.data())
def test_numbers_add_up_or_are_refused(fixed, n, data):
    given = [f"local:{count}" for count in fixed]
    unnamed = data.draw(st.integers(0, 2))
    given += ["local"] * unnamed
    fits = (unnamed == 0 and sum(fixed) == n) or (unnamed == 1 and sum(fixed) <= n)
    if fits:
        found = entries(", ".join(given), n)
        assert sum(one.n for one in found) == n
        assert [one.n for one in found][: len(fixed)] == fixed
    else:
        with pytest.raises(ConfigurationError, match=f"n={n}"):
            entries(given, n)


@given(st.text(max_size=20))
def test_any_text_names_launchers_or_is_refused(text):
    try:
        found = entries(text)
    except ConfigurationError as error:
        assert str(error)
    else:
        assert {one.name for one in found} == {"local"}


def test_the_name_of_a_class_finds_it_again():
    name = launcher_name(LocalHostLauncher)
    assert recorded_launcher("engines", name) is LocalHostLauncher
    assert recorded_launcher("controller", "local") is LocalControllerLauncher
    for gone in ("ipkernel.nowhere:X", "ipkernel.launchers.local:Nothing"):
        with pytest.raises(ConfigurationError, match="there is no launcher .* any more"):
            recorded_launcher("engines", gone)


def test_a_controller_for_other_hosts_listens_everywhere(directory):
    arguments = Arguments(directory, {})
    local = arguments.entries(None)
    assert arguments.settings(local).interface == ""
    far = Entry("slurm", shape(Queued))
    assert arguments.settings([*local, far]).interface == "0.0.0.0"  # noqa: S104
    chosen = Arguments(directory, {"controller_ip": "10.0.0.1"})
    assert chosen.settings([far]).interface == "10.0.0.1"
    assert starts_elsewhere(object)


def test_settings_come_from_all_places(directory, monkeypatch):
    monkeypatch.setenv("IPKERNEL_ENGINE_ARGS", "--grace,3")
    (directory.path / "ipcluster.ini").write_text(
        "[cluster]\nstop_timeout = 7\n[environment]\nA = b\n"
        "[slots]\nmemory = 2KiB\n[[environment]]\nGPU = {slot}\n"
    )
    arguments = Arguments(directory, {"data_port": 4711, "store_memory": "1GB", "n": None})
    settings = arguments.settings(arguments.entries(3))
    assert settings.stop_timeout == 7.0
    assert settings.engine_args == ("--store-memory=1GB", "--data-port=4711", "--grace", "3")
    assert settings.environment["A"] == "b"
    slots = json.loads(settings.environment["IPKERNEL_SLOTS"])
    assert slots == {"memory": 2048, "environment": {"GPU": "{slot}"}}
    assert "IPKERNEL_SLOTS" not in Arguments(ClusterDirectory("/x"), {}).settings([]).environment


def test_hosts_are_launched_by_ssh(directory):
    cluster = Cluster(hosts=["a:4", "b"], cluster_dir=directory.path)
    assert cluster.n == 5
    assert [entry.name for entry in cluster._entries] == ["ssh"]
    text = cluster.preview()
    assert "# 4 engines: ssh, host a" in text
    assert "# 1 engine: ssh, host b" in text
    assert "--interface 0.0.0.0" in text


# ---------------------------------------------------------------------------------------- records


def test_a_cluster_is_described_with_its_launchers(directory):
    first = Cluster(cluster_dir=directory.path, engines="local:2, ssh", ssh={"hosts": ["a:3"]})
    description = first.to_dict()
    again = Cluster.from_dict(json.loads(json.dumps(description)))
    assert again.n == 5
    assert [share.n for one in again._entries for share in one.plan()] == [2, 3]
    assert again._entries[1].options == first._entries[1].options
    other = Cluster.from_dict(description, engines="local", n=3)
    assert [entry.name for entry in other._entries] == ["local"]


@pytest.mark.parametrize(
    "launchers",
    [None, 3, [3], [{}], [{"launcher": 3}], [{"launcher": "gone"}], [{"launcher": "no.such:X"}]],
)
def test_launchers_that_cannot_be_found_again(launchers):
    assert recorded_keywords(launchers, {}) == {}


def test_recorded_programs_round_trip():
    one = Recorded("slurm", "slurm job 1", 4, 2, "why", {"a": 1}, {"job": "1"})
    assert recorded_programs({"programs": [json.loads(json.dumps(one.to_dict()))]}) == (one,)
    assert one.title == "slurm job 1"
    assert Recorded("ssh", "host a").title == "ssh, host a"
    assert Recorded("pkg.mod:Kind").title == "Kind"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["launcher", "n", "label", "programs", "restarts", "record", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_record_is_read_or_ignored(content):
    for one in recorded_programs(content):
        assert isinstance(one.launcher, str)
        assert isinstance(one.n, int)


# --------------------------------------------------------------------------------- from elsewhere

KIND = shape(Queued)  # where recorded_launcher finds it
PLACE = f"{__name__}:KIND"


@pytest.fixture
def jobs(directory):
    """Two jobs that another process has submitted, and a local host daemon."""
    KIND.made.clear()
    KIND.jobs.clear()
    KIND.numbers = itertools.count(1)
    found = [KIND(directory), KIND(directory)]
    for job in found:
        job.start()
    programs = [Recorded(PLACE, job.label, 4, record=job.record()).to_dict() for job in found]
    local = Recorded("local", n=2).to_dict()
    engines = {"engines-0": {"n": 8, "programs": programs}, "engines-1": {"programs": [local]}}
    directory.write_record({"cluster": "x", "engines": engines})
    return found


def test_a_stop_ends_the_jobs_of_others(directory, jobs):
    result = stop_directory(directory, thorough=False)
    assert [one.label for one in result.jobs] == [job.label for job in jobs]
    assert [job.asked for job in jobs] == [["stop"], ["stop"]]
    assert directory.read_record() == {"cluster": "x", "engines": {}}
    assert stop_directory(directory, thorough=False).jobs == ()


def test_a_stop_insists(directory, jobs, monkeypatch):
    monkeypatch.setattr(stopping, "_ELSEWHERE", 0.0)
    jobs[0].request_stop = lambda: None
    stop_directory(directory, thorough=False)
    assert jobs[0].asked == ["terminate"]


def test_a_stop_that_does_not_succeed(directory, jobs, monkeypatch):
    monkeypatch.setattr(stopping, "_ELSEWHERE", 0.0)
    for name in ("request_stop", "terminate", "kill"):
        setattr(jobs[1], name, lambda: None)
    with pytest.raises(ClusterError, match=r"KIND, fake job 2 \(.*\) of cluster x; .* remove "):
        stop_directory(directory, thorough=False)
    assert programs_of(directory)


def test_launchers_that_cannot_say_anything(directory, jobs, monkeypatch):
    monkeypatch.setattr(KIND, "from_record", lambda *arguments: {}["job"])
    said = []
    assert stop_directory(directory, thorough=False, say=said.append).jobs == ()
    assert sorted(said)[0].startswith("KIND, fake job")
    assert all("does not say where" in text for text in said)


def test_jobs_of_a_dead_cluster_end_before_a_new_start(directory, jobs):
    end_leftovers(directory)
    assert [job.asked for job in jobs] == [["stop"], ["stop"]]


@pytest.fixture
def controller(directory):
    """A controller that another process has launched somewhere."""
    KIND.made.clear()
    KIND.jobs.clear()
    KIND.numbers = itertools.count(1)
    found = KIND(directory)
    found.start()
    content = Recorded(PLACE, found.label, record=found.record(), kind="controller").to_dict()
    directory.write_record({"cluster": "x", "controller": content, "engines": {}})
    return found


def test_a_controller_elsewhere_is_found_and_nothing_is_started_beside_it(directory, controller):
    found, state = controller_elsewhere(directory)
    assert (found.label, state) == (controller.label, controller.state())
    with pytest.raises(ClusterError, match=r"already running \(controller: KIND, fake job 1, "):
        end_leftovers(directory)
    assert controller.asked == []


def test_a_controller_elsewhere_that_was_stopped_is_forgotten(directory, controller):
    assert [one.label for one in stop_directory(directory, thorough=False).jobs] == [
        controller.label
    ]
    assert controller_elsewhere(directory) is None
    end_leftovers(directory)
    assert directory.read_record()["controller"] == {"pid": 0}


def test_a_controller_that_cannot_be_looked_at(directory, controller, monkeypatch):
    monkeypatch.setattr(KIND, "from_record", lambda *arguments: {}["job"])
    with pytest.raises(ClusterError, match=r"\(KIND, fake job 1\) cannot be looked at: "):
        controller_elsewhere(directory)
    end_leftovers(directory)  # its host may be gone for good


def host(label, connected=True):
    return HostInfo(host_id=1, host="h", pid=1, label=label, connected=connected)


def test_who_has_not_joined(directory, jobs):
    programs = programs_of(directory)
    labels = [job.label for job in jobs]
    assert [one.label for one in not_joined(programs, [])] == labels
    assert [one.label for one in not_joined(programs, [host(labels[0])])] == labels[1:]
    assert len(not_joined(programs, [host(labels[0], connected=False)])) == 2
    failed = Recorded("local", failure="why")
    assert not_joined([failed], []) == [failed]


def test_those_that_do_not_answer_are_not_waited_for(directory, jobs, monkeypatch):
    asked, go_on, closed = threading.Event(), threading.Event(), []
    state, close = KIND.state, KIND.close

    class Impatient(threading.Thread):
        def join(self, timeout=None):
            if timeout is None:
                super().join()
            else:  # the time is over as soon as one of both is asked
                assert asked.wait(30)

    def ask(self):
        if self.label == jobs[0].label:
            asked.set()
            assert go_on.wait(30)
        return state(self)

    def note(self):
        closed.append(self.label)
        close(self)

    monkeypatch.setattr(KIND, "state", ask)
    monkeypatch.setattr(KIND, "close", note)
    monkeypatch.setattr(joining, "threading", SimpleNamespace(Thread=Impatient))
    try:
        first, _ = standings(directory, [], patience=7.0)
        assert first.program.label == jobs[0].label
        assert first.state == "unknown (no answer within 7 s)"
        assert jobs[0].label in closed, "what was begun for it does not go on"
    finally:
        go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ipkernel-"):
            threading.Thread.join(thread, 30)


def test_where_they_stand(directory, jobs, monkeypatch):
    first, second = standings(directory, [])
    assert (first.state, first.program.n) == ("pending (Priority)", 4)
    jobs[1].end(0)
    assert standings(directory, [host(jobs[0].label)])[0].state == "ended"

    def fail(self):
        raise LauncherError("no answer")

    monkeypatch.setattr(KIND, "state", fail)
    assert standings(directory, [])[0].state == "unknown (no answer)"
    assert standings(directory, [host(job.label) for job in jobs]) == []
    content = directory.read_record()
    content["engines"] = {
        "a": {"programs": [Recorded("local", failure="ended\nwhy").to_dict()]},
        "b": {"programs": [Recorded("no.such:Thing", "there").to_dict()]},
    }
    directory.write_record(content)
    states = [one.state for one in standings(directory, [])]
    assert states[0] == "failed: ended"
    assert states[1].startswith("unknown (there is no launcher 'no.such:Thing' any more")
