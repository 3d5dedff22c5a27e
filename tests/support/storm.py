"""Tasks that end their own engine, in all ways that people have found, and what must come of it.

``python -m tests.support.storm --rounds 10000`` runs a long storm and reports the times from the
kill to the error; tests run shorter ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

import ipkernel
from ipkernel import errors

#: Seconds after which something hangs.
PATIENCE: Final = 60.0
#: Bytes that an engine may use.
MEMORY: Final = 500_000_000


class Way(NamedTuple):
    """One way to lose an engine.

    Attributes:
        function: What does it.
        error: What it ends with.
        text: What the error says, among other things.
        timeout: How long it may run, or 0.0.
        abort: Whether it is aborted once it runs.
    """

    function: Callable[[], None]
    error: type[BaseException]
    text: str
    timeout: float = 0.0
    abort: bool = False


def _ways() -> tuple[tuple[Way, ...], tuple[Way, ...]]:
    """Return the ways that take no time, and those that take a while.

    The functions are sent to engines as they are: those need not import this module.
    """
    killed = "its engine was killed and is started again"

    def kills() -> None:
        """As the system does that is out of memory."""
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    def crashes() -> None:
        """Read where nothing is."""
        import ctypes

        ctypes.string_at(0)

    def aborts() -> None:
        """As a failed assertion of a C library does."""
        import os

        os.abort()

    def leaves() -> None:
        """End the process without a word."""
        import os

        os._exit(3)

    def forks() -> None:
        """Start children that live for long, and die."""
        import os
        import signal
        import subprocess
        import sys
        import time

        if os.fork() == 0:
            time.sleep(3600)
        subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(3600)"], start_new_session=True
        )
        os.kill(os.getpid(), signal.SIGKILL)

    def grows() -> None:
        """Use all memory that there is."""
        held = []
        while True:
            held.append(bytearray(b"x" * 20_000_000))

    def ignores() -> None:
        """Hear neither interrupts nor requests to end."""
        import signal
        import time

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("from here on", flush=True)
        while True:
            time.sleep(3600)

    def holds() -> None:
        """Hold the interpreter's lock, in one call that looks at no signal, for a minute or more."""
        while True:
            try:
                print("from here on", flush=True)
                sum(range(1 << 60))
            except KeyboardInterrupt:  # it came ahead of that
                pass

    quick = (
        Way(kills, errors.EngineLost, "killed by SIGKILL (9)"),
        Way(crashes, errors.EngineLost, "killed by SIGSEGV (11)"),
        Way(kills, errors.EngineLost, "killed by SIGKILL (9)"),
        Way(leaves, errors.EngineLost, "exited with code 3"),
        Way(kills, errors.EngineLost, "killed by SIGKILL (9)"),
        Way(aborts, errors.EngineLost, "killed by SIGABRT (6)"),
        Way(kills, errors.EngineLost, "killed by SIGKILL (9)"),
        Way(forks, errors.EngineLost, "killed by SIGKILL (9)"),
    )
    slow = (
        Way(grows, errors.EngineLost, "more than its limit of 500.0 MB"),
        Way(ignores, errors.TaskAborted, killed, abort=True),
        Way(holds, errors.TaskAborted, killed, abort=True),
        Way(ignores, errors.TaskTimeout, "longer than its timeout of 0.5 s", timeout=0.5),
        Way(holds, errors.TaskTimeout, "longer than its timeout of 0.5 s", timeout=0.5),
    )
    return quick, slow


QUICK, SLOW = _ways()

# --------------------------------------------------------------- the storm


class Storm:
    """A cluster whose engines die again and again.

    Args:
        rc: Its client.
        n: How many engines it has.

    Attributes:
        times: Seconds from the submission of a task that dies at once to its error.
        ends: How often each way was survived.
    """

    def __init__(self, rc: Any, n: int) -> None:
        self.rc = rc
        self.n = n
        self.times: list[float] = []
        self.ends: Counter[str] = Counter()
        for way in QUICK[:2]:  # engines that were started again have a few more open files
            rc.wait_for_engines(n, timeout=PATIENCE)
            dying = rc[:].apply_async(way.function)
            assert dying.wait(PATIENCE)
        self._before = self._settled(rc)

    def rage(self, rounds: int) -> None:
        """Lose an engine again and again, one at a time: no wait may last, no slot stay empty."""
        view = self.rc.load_balanced_view()
        for number in range(rounds):
            way = QUICK[number % len(QUICK)]
            began = time.perf_counter()
            self._check(way, view.apply_async(way.function))
            self.times.append(time.perf_counter() - began)

    def linger(self) -> None:
        """Lose engines in the ways that take a while, one after the other."""
        for way in SLOW:
            view = self.rc.load_balanced_view(timeout=way.timeout or None)
            result = view.apply_async(way.function)
            if way.abort:
                self._wait_until_it_is_deaf(result)
                self.rc.abort(result, grace=0.2)
            self._check(way, result)

    def _wait_until_it_is_deaf(self, result: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not result.stdout:
            assert time.monotonic() < deadline, self.rc.explain(result)
            time.sleep(0.005)

    def _check(self, way: Way, result: Any) -> None:
        assert result.wait(PATIENCE), f"{way.function.__name__}: {self.rc.explain(result)}"
        error = result.exception(0)
        assert isinstance(error, way.error), error
        assert way.text in str(error), error
        self.ends[f"{way.function.__name__}: {type(error).__name__}"] += 1

    def check(self) -> None:
        """See that all engines are back, and that nothing else is."""
        deadline = time.monotonic() + PATIENCE
        while (now := self._settled(self.rc)) != self._before:
            assert time.monotonic() < deadline, (self._before, now)
            time.sleep(0.05)

    def _settled(self, rc: Any) -> tuple[list[str], int]:
        """Wait until all engines are back; return what the host's daemon has then."""
        rc.wait_for_engines(self.n, timeout=PATIENCE)
        assert rc[:].apply_async(abs, -1).get(PATIENCE) == [1] * self.n
        time.sleep(0.2)
        return self._inventory()

    def _inventory(self) -> tuple[list[str], int]:
        """What the host's daemon has: the processes below it, and its open files."""
        [host] = self.rc.status().hosts
        daemon = psutil.Process(host.pid)
        names = []
        for process in daemon.children(recursive=True):
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    names.append(process.name())
            except psutil.NoSuchProcess:
                continue
        return sorted(names), daemon.num_fds()

    def report(self) -> str:
        """Return how it went, for people."""
        lines = [f"{count:6} {what}" for what, count in sorted(self.ends.items())]
        if self.times:
            median, worst = statistics.median(self.times), max(self.times)
            lines.append(
                f"from the submission of a task that dies at once to its error: median "
                f"{median * 1000:.1f} ms, longest {worst * 1000:.0f} ms"
            )
        return "\n".join(lines)


@contextmanager
def storm(directory: Path, n: int = 2) -> Iterator[Storm]:
    """Run a cluster for a storm."""
    cluster = ipkernel.Cluster(n, cluster_dir=directory / "cluster_storm", slots={"memory": MEMORY})
    with cluster as rc:
        yield Storm(rc, n)


def main() -> int:
    """Run a storm of any length, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--engines", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, storm(Path(folder), chosen.engines) as raging:
        left = chosen.rounds
        while left > 0:
            raging.rage(min(left, 500))
            raging.linger()
            raging.check()
            left -= 500
            print(f"{max(left, 0)} rounds to go", flush=True)
        print(raging.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
