"""Checks of a Cluster's arguments, and methods in two forms."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ipkernel.cluster import options
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.either import either, running_loop
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.hosted import Hosted
from ipkernel.cluster.recorded import recorded_programs
from ipkernel.errors import ConfigurationError, LauncherError
from ipkernel.launchers.interfaces import Share


@pytest.mark.parametrize(
    ("level", "name"), [(10, "DEBUG"), (20, "INFO"), ("warning", "WARNING"), ("ERROR", "ERROR")]
)
def test_levels(level, name):
    assert options.check_level(level) == name


def test_counts():
    assert options.check_count(0) == 0
    assert options.check_count(4096) == 4096
    for bad in (0, -1, None, "2", 2.0, False):
        with pytest.raises(ConfigurationError, match="from 1 to 4096"):
            options.check_count(bad, least=1)


def test_seconds():
    assert options.check_seconds("x", 3) == 3.0
    for bad in (0, -1, None, "3", True, float("nan")):
        with pytest.raises(ConfigurationError, match="x must be a positive number"):
            options.check_seconds("x", bad)


def test_limits():
    assert options.check_limit(0) == 0.0
    assert options.check_limit(2.5) == 2.5
    for bad in (-1, None, "3", True, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="limit must be a number of seconds from 0"):
            options.check_limit(bad)


class Whole:
    """A whole number of another library."""

    def __index__(self):
        return 7


def test_ids_of_engines():
    assert options.check_ids(iter((3, 0, Whole()))) == [3, 0, 7]
    for bad in ("01", b"01", 5, None):
        with pytest.raises(ConfigurationError, match="give ids of engines as a list"):
            options.check_ids(bad)
    for bad in (-1, 1.0, "a", True, None, 1 << 70):
        with pytest.raises(ConfigurationError, match="are whole numbers from 0, not"):
            options.check_ids([0, bad])


class Thing:
    """Has one method in two forms."""

    def __init__(self):
        self.threads = []

    def work_sync(self, a, b=1):
        """Add two numbers."""
        self.threads.append(threading.current_thread())
        if a is None:
            raise ValueError("nothing")
        return a + b

    work = either(work_sync)


def test_blocks_without_a_loop():
    thing = Thing()
    assert thing.work(1, b=2) == 3
    assert thing.threads == [threading.current_thread()]
    assert running_loop() is None
    with pytest.raises(ValueError, match="nothing"):
        thing.work(None)


def test_can_be_awaited_in_a_loop():
    thing = Thing()

    async def main():
        assert running_loop() is asyncio.get_running_loop()
        future = thing.work(1)
        assert not isinstance(future, int)
        assert await future == 2
        with pytest.raises(ValueError, match="nothing"):
            await thing.work(None)
        assert thing.work_sync(5) == 6

    asyncio.run(main())
    assert thing.threads[0] is not threading.current_thread()
    assert thing.threads[2] is threading.current_thread()


def test_blocks_in_a_thread_beside_a_loop():
    thing = Thing()

    async def main():
        return await asyncio.to_thread(thing.work, 20)

    assert asyncio.run(main()) == 21


def test_names_and_documents():
    assert Thing.work.__name__ == "work"
    assert Thing.work.__qualname__.endswith("Thing.work")
    assert Thing.work.__doc__.startswith("Add two numbers.")
    assert "``work_sync`` always blocks" in Thing.work.__doc__


class Launcher:
    """Stands for a launcher."""

    label = "host h"
    running = False

    def start(self):
        """Cannot."""
        raise LauncherError("no such host")

    def output(self, lines):
        return ["a", "b", "c"][-lines:]

    def record(self):
        return {"x": 1}


def test_engine_set():
    alone = EngineSet("x", 2, [3, 4])
    assert alone.running
    assert alone.output() == []
    assert alone.to_dict() == {"n": 2, "engines": [3, 4]}
    assert repr(alone) == "<EngineSet x n=2 engines=[3, 4]>"
    hosted = Hosted(Entry("ssh", Launcher), Share(1), lambda hosted: Launcher())
    hosted.start()
    launched = EngineSet("y", 1, programs=[hosted])
    assert not launched.running
    (program,) = launched.to_dict()["programs"]
    assert program["failure"] == "no such host"
    assert program["record"] == {"x": 1}
    (recorded,) = recorded_programs(launched.to_dict())
    assert recorded.title == hosted.title == "ssh, host h"
    assert launched.output(2) == ["b", "c"]
    assert launched.get_output(1) == ["c"]


def test_arguments_that_mean_nothing_here_are_named_with_the_users_line():
    with pytest.warns(UserWarning, match="delay=...") as warned:
        Cluster(n=1, delay=3)
    assert [warning.filename for warning in warned] == [__file__]
