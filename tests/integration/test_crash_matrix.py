"""The controller is killed at every point of its work: every task runs once, every result comes once.

``IPKERNEL_SOAK`` in the environment multiplies the rounds.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from ipkernel.cluster.cluster import Cluster
from tests.integration.faults_support import PATIENCE
from tests.support.dyingcontroller import DyingControllerLauncher, begin, lives, plan_for

ROUNDS = int(os.environ.get("IPKERNEL_SOAK", "1"))
#: Each plan is the controller's lives within one cluster.
PLANS = {
    "before the commit": ["decided:5", "decided:20", "decided:2"],
    "after the commit": ["committed:5", "committed:20", "committed:2"],
    "while it is released": ["half:4", "half:15", "half:30"],
    "after the release": ["released:6", "released:25", "released:3"],
    "while it comes back": ["decided:30", "loading:1", "loading:10", "loading:25"],
    "at any time": ["later:{}"] * 4,
}


def note(path, number, seconds):
    """Write down that a task runs: each line is one time that one task has begun."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    time.sleep(seconds)
    return number * number


def noted(path):
    return Counter(map(int, path.read_text().split()))


def some_work(view, path, first, chance):
    """Submit quick and slow tasks, and some that wait for others."""
    results = {}
    for number in range(first, first + 60):
        seconds = chance.choice([0.0, 0.0, 0.0, 0.002, 0.02])
        results[number] = view.apply_async(note, str(path), number, seconds)
    slow = first + 60
    results[slow] = view.apply_async(note, str(path), slow, 0.4)
    with view.temp_flags(after=[results[slow], results[first]]):
        results[slow + 1] = view.apply_async(note, str(path), slow + 1, 0.0)
    return results


def settle(rc, results, over=lambda: False):
    """Wait until all tasks have ended, or it is over; if neither happens, say why not."""
    left = list(results.values())
    deadline = time.monotonic() + PATIENCE
    while (left := [result for result in left if not result.ready()]) and not over():
        if time.monotonic() > deadline:
            log = (rc.cluster.cluster_dir / "log" / "ipcontroller.log").read_text()
            pytest.fail(f"{len(left)} tasks hang: {rc.explain(left[0])}\n{log[-4000:]}")
        time.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("turn", range(ROUNDS))
@pytest.mark.parametrize("plan", PLANS)
def test_the_controller_dies(tmp_path, plan, turn):
    chance = random.Random(f"{plan} {turn}")
    deaths = [one.format(f"{chance.uniform(0.05, 1.0):.3f}") for one in PLANS[plan]]
    path = tmp_path / "begun"
    path.touch()
    cluster = Cluster(
        2,
        cluster_dir=tmp_path / "cluster_dying",
        controller=DyingControllerLauncher,
        environment=plan_for(tmp_path, deaths),
    )
    results = {}
    came = Counter()
    with cluster as rc:
        begin(tmp_path)
        view = rc.load_balanced_view()
        first = 0
        while lives(tmp_path) <= len(deaths):
            fresh = some_work(view, path, first, chance)
            for number, result in fresh.items():
                result.add_done_callback(lambda _, number=number: came.update([number]))
            results |= fresh
            first += len(fresh)
            settle(rc, results, lambda: lives(tmp_path) > len(deaths))
        settle(rc, results)
        values = {number: result.get() for number, result in results.items()}
        assert rc[:].apply_async(os.getpid).get(PATIENCE)
    assert values == {number: number * number for number in results}
    assert set(came.values()) == {1}
    assert noted(path) == Counter(results.keys())
