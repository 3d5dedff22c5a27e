"""Runs the measurements: systems take turns within a round, so that drift hits all alike."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks import metrics, proc
from benchmarks.envs import ROOT
from benchmarks.systems import Entry

GRACE = 10.0
"""Seconds that a run's processes have to end by themselves after their script has."""
LIMITS = {"transfer": 10, "broadcast": 16, "hosts": 16}
"""How many times the bound a measurement may take, beside a minute, where it has many figures."""
COLD_LIMIT = 90.0
"""Seconds after which a cold run is ended."""

Report = dict[str, Any]


class Plan(NamedTuple):
    """What to measure.

    Attributes:
        systems: each with its interpreter.
        measures: names of `metrics.MEASURES`.
        rounds: how often each measurement of each system runs.
        bound: seconds that one figure may take.
        quick: one round, small sizes.
        cold_runs: how many cold starts a round has.
    """

    systems: Sequence[tuple[Entry, Path]]
    measures: Sequence[str]
    rounds: int
    bound: float
    quick: bool
    cold_runs: int


def environment(directory: Path, paths: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a run.

    Args:
        directory: what systems leave on disk goes below it.
        paths: directories to import from, ahead of the checkout.
    """
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]),
        "IPYTHONDIR": str(directory / "ipython"),
        "RAY_TMPDIR": str(directory),
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing is to be reported to the internet
        "DASK_TEMPORARY_DIRECTORY": str(directory),
    }


class Nest:
    """A command running in a nest of its own (see `nest`), its JSON lines as they come."""

    def __init__(
        self,
        command: Sequence[str],
        limit: float,
        directory: Path,
        extra: Mapping[str, str] | None = None,
        paths: Sequence[str] = (),
    ) -> None:
        self._errors = open(directory / "stderr.txt", "w+b")  # noqa: SIM115
        self._deadline = time.monotonic() + limit + GRACE + 30
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        program = str(ROOT / "benchmarks" / "nest.py")
        self.process = subprocess.Popen(
            [sys.executable, program, str(limit), str(GRACE), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=directory,
            env={**environment(directory, paths), **(extra or {})},
            start_new_session=True,
            text=True,
        )
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def say(self, line: str) -> None:
        """Write a line to the command's standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; the nest's report says how

    def messages(self) -> Iterator[Report]:
        """Yield the JSON objects that the command prints, the nest's report last."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                return
            message = _object(line)
            if message is not None:
                yield message
                if "nest" in message:
                    return

    def close(self) -> None:
        """End the nest and, through it, all that runs in it."""
        if self.process.poll() is None:
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self._force()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass  # a last line for a command that has ended
        self._errors.close()

    def _force(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in [*proc.living(self.process.pid), self.process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.wait()

    def last_error(self) -> str:
        """Return the last line that the command wrote to standard error, '' if none."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return text.splitlines()[-1].strip() if text else ""


def _object(line: str) -> Report | None:
    """Return a line's JSON object, None for whatever else a system prints."""
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def failure(report: Mapping[str, Any], last_error: str) -> str | None:
    """Return why a run failed, None if it did not.

    Args:
        report: what the nest said at the end, empty if it said nothing.
        last_error: the last line of standard error.
    """
    if report.get("exit") == 0:
        return None
    if "ended" in report:
        return f"ended by the driver ({report['ended']})"
    what = f"exit code {report['exit']}" if "exit" in report else "no report"
    return f"failed: {what}{': ' + last_error if last_error else ''}"


def run_measure(
    entry: Entry, python: Path, measure: str, bound: float, quick: bool
) -> list[Report]:
    """Run one measurement of one system in a new cluster; return its figures.

    Every figure of the measurement is in the answer, those that are missing as skipped.
    """
    command = [str(python), "-m", entry.module, measure, "--bound", str(bound)]
    figures, why = _in_nest(
        command + ["--quick"] * quick,
        limit=LIMITS.get(measure, 6) * bound + 60,
        collect=lambda nest, message: [message] if "metric" in message else [],
    )
    return figures + missing(measure, figures, why or "not measured in this run", quick)


def missing(
    measure: str, figures: Sequence[Mapping[str, Any]], why: str, quick: bool
) -> list[Report]:
    """Return the figures of a measurement that are not among ``figures``, as skipped."""
    have = {figure["metric"] for figure in figures}
    left_out = quick_omits() if quick else set()
    return [
        {"metric": metric.key, "skipped": why}
        for metric in metrics.of_measure(measure)
        if metric.key not in have | left_out
    ]


def quick_omits() -> set[str]:
    """Return the figures that a quick run does not have."""
    sizes = set(metrics.TASK_SIZES) - set(metrics.QUICK_TASK_SIZES)
    arrays = set(metrics.TRANSFER_MB) - set(metrics.QUICK_TRANSFER_MB)
    ways = {f"{way}_{megabytes}" for way in ("push", "pull") for megabytes in arrays}
    return {f"tasks_{size}" for size in sizes} | ways


def _in_nest(
    command: list[str], limit: float, collect: Callable[[Nest, Report], list[Report]]
) -> tuple[list[Report], str | None]:
    """Run a command in a nest; return what ``collect`` made of its messages and why it failed."""
    with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as directory:
        nest = Nest(command, limit, Path(directory))
        report: Report = {}
        collected: list[Report] = []
        try:
            for message in nest.messages():
                if "nest" in message:
                    report = message["nest"]
                collected += collect(nest, message)
        finally:
            why = None if report.get("exit") == 0 else failure(report, nest.last_error())
            nest.close()
        return collected, why


def sizes(root: int) -> Report:
    """Return number and memory of the processes below a nest; its first child is the script."""
    stats = proc.snapshot()
    everyone = [pid for pid in proc.descendants(root, stats) if stats[pid].state != "Z"]
    script = min((pid for pid in everyone if stats[pid].ppid == root), default=0)
    memory = {pid: proc.pss_mb(pid) for pid in everyone}
    total = sum(memory.values())
    return {
        "processes": len(everyone) - 1,
        "pss_total_mb": total,
        "pss_cluster_mb": total - memory.get(script, 0.0),
    }


def run_cold(entry: Entry, python: Path) -> list[Report]:
    """Run the cold script of a system once; return its figures."""
    with tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as directory:
        script = Path(directory) / "script.py"
        script.write_text(_ask(entry, python, "cold-script"))
        moments: Report = {}

        def collect(nest: Nest, message: Report) -> list[Report]:
            moments.update(message.get("nest", message))
            if "ready" in message:
                time.sleep(0.2)  # let start-up work that goes on behind the script settle
                moments.update(sizes(nest.process.pid))
                nest.say("stop")
            return []

        _, why = _in_nest([str(python), str(script)], COLD_LIMIT, collect)
    figures = cold_figures(moments)
    return figures + missing("start", figures, why or "not measured in this run", quick=False)


def cold_figures(moments: Mapping[str, Any]) -> list[Report]:
    """Return the figures that the moments of a cold run give; fewer if it did not get to its end.

    Args:
        moments: ``t0``, ``ready``, ``stopping``, ``stopped``, ``gone`` in seconds of the
            monotonic clock, ``alone`` (everything ended by itself), and the sizes.
    """
    spans = {
        "start_s": ("t0", "ready"),
        "stop_s": ("stopping", "stopped"),
        "gone_s": ("stopping", "gone"),
    }
    found = {
        key: moments[end] - moments[start]
        for key, (start, end) in spans.items()
        if start in moments and end in moments
    }
    if not moments.get("alone"):
        found.pop("gone_s", None)  # something had to be killed: there is no such time
    for key in ("processes", "pss_cluster_mb", "pss_total_mb"):
        if key in moments:
            found[key] = moments[key]
    return [{"metric": key, "value": number} for key, number in found.items()]


def _ask(entry: Entry, python: Path, what: str) -> str:
    """Return what an adapter module prints for ``notes`` or ``cold-script``."""
    done = subprocess.run(
        [str(python), "-m", entry.module, what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def notes(entry: Entry, python: Path) -> dict[str, str]:
    """Return what an adapter says about how it measures."""
    found: dict[str, str] = json.loads(_ask(entry, python, "notes"))
    return found


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, dict[str, list[Report]]]:
    """Run the whole plan.

    Args:
        plan: what to measure.
        say: is told what runs now.

    Returns:
        By figure and system, the values (or reasons why not) of all rounds.
    """
    found: dict[str, dict[str, list[Report]]] = {}
    for measure in plan.measures:
        if measure == "start":
            for entry, python in plan.systems:
                say(f"start: {entry.name}, once to warm the page cache")
                run_cold(entry, python)
        for turn in range(plan.rounds):
            for _ in range(plan.cold_runs if measure == "start" else 1):
                for entry, python in plan.systems:
                    say(f"{measure}: round {turn + 1} of {plan.rounds}: {entry.name}")
                    figures = (
                        run_cold(entry, python)
                        if measure == "start"
                        else run_measure(entry, python, measure, plan.bound, plan.quick)
                    )
                    for figure in figures:
                        cells = found.setdefault(figure["metric"], {})
                        cells.setdefault(entry.name, []).append(figure)
    return found
