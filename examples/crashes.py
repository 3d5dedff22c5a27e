"""Ten thousand tasks, while the processes that run and manage them are killed again and again.

The controller is killed five times and engines twenty times, all with SIGKILL, at moments that are
spread over the work. In the end every result has to be right, and each has to have come once.

    python examples/crashes.py [--tasks N] [--controllers N] [--engines N] [--picture FILE]
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import ipkernel as ipp
from ipkernel.client.timeline import timeline_svg

RETRIES = 20


def work(number):
    """Hash a number again and again, for about two milliseconds."""
    digest = str(number).encode()
    for _ in range(3000):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


class Killer(threading.Thread):
    """Kills the controller and engines while tasks run.

    Args:
        rc: A client of the cluster.
        moments: How many tasks are to be done, and what is killed then.
        arrived: Counts how often each task's result has come.
    """

    def __init__(self, rc, moments, arrived):
        super().__init__(name="killer", daemon=True)
        self.killed = []
        self.over = threading.Event()
        self._rc = rc
        self._moments = sorted(moments)
        self._arrived = arrived

    def run(self):
        for moment, what in self._moments:
            kill = self._kill_controller if what == "controller" else self._kill_engine
            while not self.over.is_set():
                if len(self._arrived) >= moment and kill():
                    self.killed.append(what)
                    break
                time.sleep(0.005)

    def _kill_controller(self):
        """Kill the process that the cluster's pid file names; tell whether it was there."""
        file = self._rc.cluster.cluster_dir / "pid" / "ipcontroller.json"
        try:
            os.kill(json.loads(file.read_bytes())["pid"], signal.SIGKILL)
        except (OSError, ValueError):  # it is being started again
            return False
        return True

    def _kill_engine(self):
        try:
            self._rc.send_signal(signal.SIGKILL, targets=random.choice(self._rc.ids))
        except (ipp.errors.IPythonError, TimeoutError, IndexError):  # that one is gone already
            return False
        return True


def moments(tasks, controllers, engines):
    """Spread so many deaths over the first nine tenths of the work, at random."""
    last = max(1, tasks * 9 // 10)
    return [
        (random.randrange(last), what)
        for what, count in (("controller", controllers), ("engine", engines))
        for _ in range(count)
    ]


def watch(rc, results, arrived, killer):
    """Show how it goes on, until every task has ended."""
    shown = sys.stdout.isatty()
    while not rc.wait(results, timeout=0.2):
        if shown:
            deaths = Counter(killer.killed)
            print(
                f"\r{len(arrived):6} of {len(results)} tasks; killed: controller "
                f"{deaths['controller']} times, engines {deaths['engine']} times ",
                end="",
                flush=True,
            )
    if shown:
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--controllers", type=int, default=5, help="how often to kill it")
    parser.add_argument("--engines", type=int, default=20, help="how many of them to kill")
    parser.add_argument("--picture", help="draw what ran where and when, as SVG")
    options = parser.parse_args()
    arrived = Counter()
    with ipp.Cluster(n=4) as rc:
        view = rc.load_balanced_view(retries=RETRIES)
        plan = moments(options.tasks, options.controllers, options.engines)
        killer = Killer(rc, plan, arrived)
        start = time.perf_counter()
        results = [view.apply_async(work, number) for number in range(options.tasks)]
        for number, result in enumerate(results):
            result.add_done_callback(lambda _, number=number: arrived.update([number]))
        killer.start()
        watch(rc, results, arrived, killer)
        killer.over.set()
        killer.join()
        seconds = time.perf_counter() - start
        wrong = sum(result.get() != work(number) for number, result in enumerate(results))
    deaths = Counter(killer.killed)
    again = sum(result.metadata.attempts > 1 for result in results)
    once = sum(arrived[number] == 1 for number in range(options.tasks))
    print(f"{options.tasks} tasks in {seconds:.1f} s")
    print(f"controller killed {deaths['controller']} times, engines {deaths['engine']} times")
    print(f"{again} tasks were begun more than once, because their engine was killed")
    print(f"{once} results came exactly once, {wrong} are wrong")
    if options.picture:
        timeline_svg([result.metadata for result in results], options.picture)
        print(f"what ran where and when: {options.picture}")
    return 0 if once == options.tasks and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
