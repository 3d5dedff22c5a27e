"""Hosts' daemons and clients are killed at random moments: what they had is run again, or kept."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster

PATIENCE = 90.0
ROUNDS = int(os.environ.get("IPKERNEL_SOAK", "1"))

#: Submits tasks, says which, and waits for a death that comes from outside.
CLIENT = """
import os, sys, time
import ipkernel

def square(number, go):
    while not os.path.exists(go):
        time.sleep(0.01)
    return number * number

rc = ipkernel.Client(cluster_dir=sys.argv[1], timeout=60)
view = rc.load_balanced_view(label="orphan")
results = [view.apply_async(square, n, sys.argv[3]) for n in range(int(sys.argv[2]))]
rc.queue_status()
print(" ".join(str(result.msg_ids[0]) for result in results), flush=True)
time.sleep(600)
"""


def nap(number, seconds):
    time.sleep(seconds)
    return number


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("parts") / "cluster_parts"
    with Cluster(2, cluster_dir=directory) as rc:
        yield rc.cluster


@pytest.mark.parametrize("turn", range(4 * ROUNDS))
def test_a_client_dies(cluster, turn, tmp_path):
    count = 40
    go = tmp_path / "go"  # before that no task ends, so the client has fetched nothing
    directory = str(cluster.cluster_dir)
    program = [sys.executable, "-c", CLIENT, directory, str(count), str(go)]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        ids = [int(word) for word in child.stdout.readline().split()]
        time.sleep(random.uniform(0.0, 0.3))
        child.kill()
    finally:
        child.wait()
        child.stdout.close()
    assert len(ids) == count
    go.touch()
    with ipkernel.Client(cluster_dir=directory, timeout=PATIENCE) as rc:
        assert rc.get_result(ids).get(PATIENCE) == [n * n for n in range(count)]


@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize("turn", range(2 * ROUNDS))
def test_a_daemon_dies(tmp_path, turn):
    """Its engines end with it; what they had is run again by others, as retries allow."""
    cluster = Cluster(cluster_dir=tmp_path / "cluster_dying", engines="local:2, local:2")
    came = Counter()
    with cluster as rc:
        view = rc.load_balanced_view(retries=5)
        results = {n: view.apply_async(nap, n, random.choice([0.0, 0.01, 0.1])) for n in range(150)}
        for number, result in results.items():
            result.add_done_callback(lambda _, number=number: came.update([number]))
        time.sleep(random.uniform(0.0, 1.0))
        daemons = [psutil.Process(host.pid) for host in cluster._status().hosts]
        assert len(daemons) == 2
        random.choice(daemons).kill()
        assert [r.get(PATIENCE) for r in results.values()] == list(results)
        rc.wait_for_engines(4, timeout=PATIENCE)  # it was started again, with the same engines
    assert set(came.values()) == {1}
