"""A sampling profiler for every process of a run: Python imports this module at start-up.

`benchmarks.profile_task` puts this directory on ``PYTHONPATH`` and names an output directory in
``BENCH_SAMPLE_DIR``; without that variable nothing happens. A timer of the CPU time of the
process (so waiting costs no samples) sends SIGPROF at each tick of work (1 to 10 ms); the stacks
of the main thread, or of whichever other thread is not waiting, are counted and written often,
because engines and daemons may end without running exit functions.
"""

from __future__ import annotations

import atexit
import collections
import json
import os
import signal
import sys
import threading
import time
from types import FrameType

INTERVAL = 0.001
"""Seconds of CPU time between samples that are asked for; the kernel rounds up to its tick."""
WRITE_EVERY = 0.5
"""Seconds between writes of the counts."""
DEPTH = 6
"""How many innermost frames of a stack are kept."""
WAITING = frozenset({"wait", "_wait_for_tstate_lock", "poll", "select", "accept", "acquire"})
"""Functions whose threads wait rather than work."""


class Sampler:
    """Counts stacks of this process and writes them to a file named after its id."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.start()

    def start(self) -> None:
        """Begin with no counts; called again in each child that is forked."""
        self._counts: collections.Counter[str] = collections.Counter()
        self._written = time.monotonic()
        self._writing = False
        signal.signal(signal.SIGPROF, self._tick)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def _tick(self, signum: int, frame: FrameType | None) -> None:
        del signum
        if self._writing:  # a tick in the midst of it: that is not the work to be seen
            return
        here = threading.get_ident()
        for thread, top in sys._current_frames().items():
            stack = describe(frame if thread == here else top)
            if stack and stack[-1].rsplit(":", 1)[-1] not in WAITING:
                self._counts[";".join(stack)] += 1
        if time.monotonic() - self._written > WRITE_EVERY:
            self.write()

    def stop(self) -> None:
        """Sample no more: at exit Python forgets the handler, and the signal would kill."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        self.write()

    def write(self) -> None:
        """Write the counts as JSON; called often, so the file is replaced at once."""
        self._writing = True
        self._written = time.monotonic()
        path = os.path.join(self._directory, f"{os.getpid()}.json")
        with open(path + ".new", "w") as file:
            json.dump(self._counts, file)
        os.replace(path + ".new", path)
        self._writing = False


def describe(frame: FrameType | None) -> list[str]:
    """Return the innermost frames of a stack as ``file:line:function``, outermost first."""
    found: list[str] = []
    while frame is not None and len(found) < DEPTH:
        code = frame.f_code
        file = "/".join(code.co_filename.split("/")[-2:])
        found.append(f"{file}:{frame.f_lineno}:{code.co_name}")
        frame = frame.f_back
    return found[::-1]


def begin() -> None:
    """Sample this process and what it forks, if the environment asks for it."""
    directory = os.environ.get("BENCH_SAMPLE_DIR")
    if directory and os.path.isdir(directory):
        sampler = Sampler(directory)
        os.register_at_fork(after_in_child=sampler.start)
        atexit.register(sampler.stop)


begin()
