"""What lives on of a cluster whose controller was killed, and what is missing beside it."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.processes import host_name
from ipkernel.cluster.recorded import Recorded
from ipkernel.cluster.survivors import missing, survivors
from ipkernel.launchers import find_launcher


@pytest.fixture
def directory(tmp_path):
    made = ClusterDirectory(tmp_path / "c").create()
    restarting.note(made, restarting.Restart())
    return made


def program(pid, n=2, launcher="local"):
    return Recorded(launcher, n=n, record={"pid": pid}).to_dict()


def record(directory, **sets):
    directory.write_record({"engines": sets})


def alive(directory):
    """Have this process be a host daemon."""
    me = psutil.Process()
    content = {"pid": me.pid, "started": me.create_time(), "host": host_name()}
    (directory.pid / "ipdaemon-h-1.json").write_text(json.dumps(content))
    return me.pid


def test_sets_whose_programs_live(directory):
    pid = alive(directory)
    record(
        directory,
        one={"n": 2, "engines": [0, 1], "programs": [program(pid)]},
        two={"n": 2, "engines": [2, 3], "programs": [program(1 << 22)]},
        three={"n": 4, "engines": [4, 5, 6, 7], "programs": [program(1 << 22), program(pid)]},
        four={"n": 1, "engines": [8]},
    )
    one, three = survivors(directory)
    assert (one.engine_set_id, one.n, one.engines) == ("one", 2, (0, 1))
    assert (three.engine_set_id, three.n, three.engines) == ("three", 2, ())
    assert [r.record["pid"] for r in three.recorded] == [pid]


def test_none_of_a_cluster_that_was_stopped(directory):
    record(directory, one={"n": 2, "engines": [0, 1], "programs": [program(alive(directory))]})
    restarting.forbid(directory)
    assert survivors(directory) == []


@pytest.mark.parametrize("content", [{}, {"engines": []}, {"engines": {"one": 5}}])
def test_a_record_that_says_nothing(directory, content):
    directory.write_record(content)
    assert survivors(directory) == []


def test_a_program_that_cannot_be_looked_at_is_gone(directory):
    record(directory, one={"n": 2, "programs": [program(os.getpid(), launcher="no.such:Kind")]})
    assert survivors(directory) == []


def entry(name, n):
    return Entry(name, find_launcher("engines", "local"), n)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ([("local", 4)], [], [("local", 4)]),
        ([("local", 4)], [("local", 4)], []),
        ([("local", 4)], [("local", 1), ("local", 2)], [("local", 1)]),
        ([("local", 2)], [("local", 8)], []),
        ([("a", 2), ("b", 3)], [("b", 3)], [("a", 2)]),
        ([("a", 2), ("a", 3)], [("a", 4)], [("a", 1)]),
    ],
)
def test_what_is_missing(wanted, there, expected):
    sets = [EngineSet("x", 0, recorded=[Recorded(name, n=n) for name, n in there])]
    found = missing([entry(*one) for one in wanted], sets)
    assert [(one.name, one.n) for one in found] == expected
