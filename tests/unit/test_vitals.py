"""What processes use: real ones, measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ipkernel.vitals import Gauge, private_memory

#: No system gives a process such an id.
NOBODY = 2**22 + 5


def test_this_process() -> None:
    now = 1000.0
    gauge = Gauge(os.getpid(), 900.0, lambda: now)
    first = gauge.read()
    assert first is not None
    assert first.memory > 1_000_000
    assert 0.0 < first.cpu < 1e5
    with open(os.devnull) as one, open(os.devnull) as two:
        now = 1001.0
        second = gauge.read()
    assert second is not None
    assert second.files - first.files == 2, (one, two)


def test_cpu_is_that_since_the_last_reading() -> None:
    now = 0.0
    gauge = Gauge(os.getpid(), -1e9, lambda: now)
    gauge.read()
    spent = time.process_time()
    while time.process_time() < spent + 0.05:
        pass
    now = 1.0
    reading = gauge.read()
    assert reading is not None
    # In one second by this clock; the system counts in hundredths.
    assert 3.0 <= reading.cpu <= 100.0 * (time.process_time() - spent) + 3.0
    again = gauge.read()
    assert again is not None and again.cpu == 0.0  # no time has passed


def test_a_process_that_has_ended() -> None:
    assert Gauge(NOBODY, 0.0).read() is None
    assert private_memory(NOBODY) == 0


#: Runs in a process of its own, in which nobody else frees memory meanwhile.
_SHARES = """
import mmap, os
from ipkernel.vitals import private_memory

before = private_memory(os.getpid())
size = 64 << 20
with mmap.mmap(-1, size) as shared:  # an anonymous mapping that children would share
    for offset in range(0, size, mmap.PAGESIZE):
        shared[offset] = 1
    assert private_memory(os.getpid()) - before < size // 2
own = bytearray(size)
own[:: mmap.PAGESIZE] = b"x" * len(own[:: mmap.PAGESIZE])
assert private_memory(os.getpid()) - before > size // 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shared memory counts as well")
def test_shared_memory_does_not_count() -> None:
    done = subprocess.run([sys.executable, "-c", _SHARES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
