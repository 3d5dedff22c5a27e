"""Where the time of one task goes: CPU per task for each process of an ipkernel cluster.

``python -m benchmarks.profile_task [--count N] [--direct | --map] [--sample] [--cprofile FILE]``

Prints, for a burst of tasks submitted one by one, the rate and the CPU microseconds per task of
the client, the controller, the host daemon, the zygote and the engines. ``--sample`` samples all
these processes (see `sampling/sitecustomize.py`; it costs some speed) and prints where each
role's time goes; ``--cprofile`` writes a cProfile of the submitting thread.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import driver, proc

ROLES = ("client", "controller", "daemon", "zygote", "engine", "other")
LIMIT = 300.0
"""Seconds after which a run is ended."""
SAMPLING = Path(__file__).resolve().parent / "sampling"


class Usage(NamedTuple):
    """The CPU seconds of one process until now, and the role that it plays."""

    role: str
    seconds: float


def role_of(command: str) -> str:
    """Return the role of a process from its title or command line."""
    words = command.split()
    if not words:
        return "other"
    first = os.path.basename(words[0])
    if "zygote" in command:
        return "zygote"
    for name, role in (("ipcontroller", "controller"), ("ipdaemon", "daemon")):
        if first == name or any(word.endswith(name) for word in words[:4]):
            return role
    if first == "ipengine" or any(word.endswith("ipengine") for word in words[:4]):
        return "engine"
    return "other"


def usages(root: int, client: int) -> dict[int, Usage]:
    """Return the usage of every process below ``root``; ``client`` is the script's process id."""
    stats = proc.snapshot()
    return {
        pid: Usage("client" if pid == client else role_of(proc.command_line(pid)), stats[pid].own_s)
        for pid in proc.descendants(root, stats)
    }


def difference(before: Mapping[int, Usage], after: Mapping[int, Usage]) -> dict[str, float]:
    """Return the CPU seconds that each role used between two looks, in the order of `ROLES`."""
    spent = dict.fromkeys(ROLES, 0.0)
    for pid, usage in after.items():
        spent[usage.role] += usage.seconds - (before[pid].seconds if pid in before else 0.0)
    return spent


def table(spent: Mapping[str, float], count: int, seconds: float) -> str:
    """Return the report of a burst of ``count`` tasks that took ``seconds``."""
    total = sum(spent.values())
    lines = [f"{count} tasks in {seconds:.3f} s: {count / seconds:,.0f} tasks/s"]
    for role, used in spent.items():
        if used:
            share = 100 * used / total
            lines.append(f"  {role:<11}{used / count * 1e6:8.1f} us per task  {share:5.1f} %")
    lines.append(f"  {'all':<11}{total / count * 1e6:8.1f} us per task")
    lines.append(f"  cores busy {total / seconds:8.2f}")
    return "\n".join(lines)


def hot(counts: Mapping[str, int], most: int = 15) -> list[str]:
    """Return the functions in which most samples ended, and the callers that led there most."""
    total = sum(counts.values())
    leaves: Counter[str] = Counter()
    callers: dict[str, Counter[str]] = {}
    for stack, number in counts.items():
        file, _, function = stack.split(";")[-1].split(":")
        leaf = f"{function} ({file})"
        leaves[leaf] += number
        above = [frame.rsplit(":", 1)[-1] for frame in stack.split(";")[-4:-1]]
        callers.setdefault(leaf, Counter())[" > ".join(above)] += number
    return [
        f"  {100 * number / total:5.1f} %  {leaf}  from {callers[leaf].most_common(1)[0][0]}"
        for leaf, number in leaves.most_common(most)
    ]


def _sampled(directory: str, roles: Mapping[int, str]) -> dict[str, Counter[str]]:
    """Return the samples of all processes put together by role."""
    found: dict[str, Counter[str]] = {}
    for path in Path(directory).glob("*.json"):
        role = roles.get(int(path.stem), "other")
        found.setdefault(role, Counter()).update(json.loads(path.read_text()))
    return found


def _work(options: argparse.Namespace) -> Callable[[int], Sequence[int]]:
    """Start a cluster and return what does the work that the options ask for."""
    from benchmarks.systems.ipkernel_ import Ipkernel

    system = Ipkernel()
    system.start()
    options.stop = system.stop
    if options.map:
        return lambda count: system.map(list(range(count)))
    return system.burst_direct if options.direct else system.burst_balanced


def _inside(options: argparse.Namespace) -> None:
    """Do the work and report it: this runs in the nest, as the client."""
    root, client = os.getppid(), os.getpid()
    burst = _work(options)
    try:
        burst(min(1000, options.count))
        before = usages(root, client)
        profile = cProfile.Profile() if options.cprofile else None
        if profile is not None:
            profile.enable()
        start = time.perf_counter()
        burst(options.count)
        seconds = time.perf_counter() - start
        if profile is not None:
            profile.disable()
            profile.dump_stats(options.cprofile)
        after = usages(root, client)
        report = {
            "text": table(difference(before, after), options.count, seconds),
            "roles": {str(pid): usage.role for pid, usage in after.items()},
        }
    finally:
        options.stop()
    print(json.dumps(report), flush=True)


def _outside(arguments: Sequence[str], sample: bool) -> int:
    """Run this module in a nest and print what it reports."""
    command = [sys.executable, "-m", "benchmarks.profile_task", "--inside", *arguments]
    with (
        tempfile.TemporaryDirectory(prefix="p-") as samples,
        tempfile.TemporaryDirectory(prefix="p-", ignore_cleanup_errors=True) as directory,
    ):
        extra = {"BENCH_SAMPLE_DIR": samples} if sample else {}
        paths = [str(SAMPLING)] if sample else []
        nest = driver.Nest(command, LIMIT, Path(directory), extra, paths)
        report: driver.Report = {}
        try:
            for message in nest.messages():
                report.update(message)
        finally:
            why = driver.failure(report.get("nest", {}), nest.last_error())
            nest.close()
        if why is not None or "text" not in report:
            print(f"profile_task: {why or 'no report'}", file=sys.stderr)
            return 1
        print(report["text"])
        roles = {int(pid): role for pid, role in report["roles"].items()}
        for role, counts in _sampled(samples, roles).items():
            print(f"\n{role}: {sum(counts.values())} samples (whole run, start included)")
            print("\n".join(hot(counts)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_task", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="tasks (or items of the map)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--direct", action="store_true", help="tasks to one engine")
    kind.add_argument("--map", action="store_true", help="one map with automatic chunks")
    parser.add_argument("--sample", action="store_true", help="sample all processes")
    parser.add_argument("--cprofile", type=os.path.abspath, help="write a cProfile of the client")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    if options.inside:
        _inside(options)
        return 0
    passed = ["--count", str(options.count)]
    passed += [f"--{name}" for name in ("direct", "map", "sample") if getattr(options, name)]
    passed += ["--cprofile", options.cprofile] if options.cprofile else []
    return _outside(passed, options.sample)


if __name__ == "__main__":
    sys.exit(main())
