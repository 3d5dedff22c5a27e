"""Mixed work for a while, with random kills: in the end every task is accounted for, nothing has leaked.

It takes some seconds; ``IPKERNEL_SOAK_SECONDS`` in the environment makes it as long as one likes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import EngineLost, IPythonError
from tests.integration.faults_support import wait_for

PATIENCE = 120.0
SECONDS = float(os.environ.get("IPKERNEL_SOAK_SECONDS", "12"))
#: Files and sockets that a process may have open more than at the beginning.
SPARE_FILES = 16
#: Bytes that a process may have more than after the warm-up.
SPARE_MEMORY = 64 << 20

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signals"),
    pytest.mark.timeout(SECONDS + 4 * PATIENCE),
]


def echo(value):
    return value


def nap(seconds):
    time.sleep(seconds)
    return seconds


def shout(text):
    print(text)
    return len(text)


def total(array):
    return int(array.sum())


class Load(threading.Thread):
    """One client that submits whatever people submit, and keeps the account of it."""

    def __init__(self, directory, seed):
        super().__init__(name=f"load {seed}", daemon=True)
        self.outcomes = Counter()
        self.wrong = []
        self.error = None
        self.over = threading.Event()
        self._directory = directory
        self._chance = random.Random(seed)

    def run(self):
        try:
            with ipkernel.Client(cluster_dir=self._directory, timeout=PATIENCE) as rc:
                while not self.over.is_set():
                    self._round(rc)
        except BaseException as error:
            self.error = error

    def _round(self, rc):
        import numpy as np

        view = rc.load_balanced_view()
        sure = rc.load_balanced_view(retries=50)
        array = np.arange(self._chance.randrange(100_000, 400_000))
        expected = []
        for number in range(self._chance.randrange(1, 200)):
            expected.append((sure.apply_async(echo, number), number, False))
        for _ in range(3):
            seconds = self._chance.uniform(0.0, 0.2)
            expected.append((view.apply_async(nap, seconds), seconds, True))
        expected.append((sure.apply_async(total, array), int(array.sum()), False))
        expected.append((sure.apply_async(shout, "x" * 50), 50, False))
        expected.append((sure.map_async(echo, range(50)), list(range(50)), False))
        waiting = expected[0][0]
        with sure.temp_flags(after=[waiting]):
            expected.append((sure.apply_async(echo, "late"), "late", False))
        for result, value, may_fail in expected:
            self._account(result, value, may_fail)

    def _account(self, result, value, may_fail):
        try:
            found = result.get(PATIENCE)
        except EngineLost:
            self.outcomes["lost"] += 1
            if not may_fail:
                self.wrong.append("lost in spite of retries")
            return
        self.outcomes["right"] += 1
        if found != value:
            self.wrong.append(f"{found!r} instead of {value!r}")


class Trouble(threading.Thread):
    """Kills, and stops for a moment, what it finds of a cluster."""

    def __init__(self, rc, seed):
        super().__init__(name="trouble", daemon=True)
        self.over = threading.Event()
        self.done = Counter()
        self._rc = rc
        self._chance = random.Random(seed)

    def run(self):
        while not self.over.wait(self._chance.uniform(0.2, 1.5)):
            kind = self._chance.choice(["engine", "engine", "engine", "controller", "pause"])
            try:
                if kind == "engine":
                    engine = self._chance.choice(self._rc.ids)
                    self._rc.send_signal(signal.SIGKILL, targets=engine)
                else:
                    self._controller(kind)
            except (IPythonError, TimeoutError, IndexError, psutil.Error):
                continue
            self.done[kind] += 1

    def _controller(self, kind):
        process = controller_of(self._rc.cluster)
        if kind == "controller":
            process.kill()
            return
        process.suspend()
        self.over.wait(self._chance.uniform(0.1, 1.0))
        process.resume()


def controller_of(cluster):
    """Return the process of the controller that runs now.

    Raises:
        psutil.NoSuchProcess: There is none at the moment.
    """
    found = cluster.directory.controller()
    if found is None:
        raise psutil.NoSuchProcess(0)
    return psutil.Process(found.pid)


def footprint(process):
    """Return how many files a process has open, and its memory."""
    return process.num_fds(), process.memory_info().rss


def check_footprint(process, before):
    """Fail if a process has leaked files or memory since."""

    def calm():
        files, memory = footprint(process)
        return files <= before[0] + SPARE_FILES and memory <= before[1] + SPARE_MEMORY

    wait_for(calm, PATIENCE, f"{process}: {before} before, {footprint(process)} now")


def test_mixed_load_with_random_kills(tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    with Cluster(3, cluster_dir=tmp_path / "cluster_soak") as rc:
        loads = [Load(rc.cluster.cluster_dir, f"{seed} {number}") for number in range(2)]
        for load in loads:
            load.start()
        wait_for(lambda: all(load.outcomes["right"] > 300 for load in loads), PATIENCE)
        daemon = psutil.Process(rc.cluster.engine_set.launcher.pid)
        before = footprint(daemon), footprint(psutil.Process())
        trouble = Trouble(rc, seed)
        trouble.start()
        time.sleep(SECONDS)
        trouble.over.set()
        trouble.join(PATIENCE)
        for load in loads:
            load.over.set()
        for load in loads:
            load.join(PATIENCE)
            assert not load.is_alive()
            if load.error is not None:
                raise load.error
        assert [load.wrong for load in loads] == [[], []]
        assert trouble.done.total() > 0
        rc.wait_for_engines(3, timeout=PATIENCE)
        assert rc[:].apply_async(echo, 1).get(PATIENCE) == [1, 1, 1]
        check_footprint(daemon, before[0])
        check_footprint(psutil.Process(), before[1])
        print(dict(trouble.done), [dict(load.outcomes) for load in loads])
