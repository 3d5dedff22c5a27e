"""The pure parts of the driver, the runner, the options and the profile."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import (
    driver,
    envs,
    losses,
    machine,
    metrics,
    proc,
    profile_task,
    runner,
    schema,
    workload,
)
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.systems.adapter import Unsupported


class Dying:
    """A client of two engines, of which one is lost by each task."""

    def __init__(self, survives: bool = False) -> None:
        self.survives = survives
        self.waits = 0

    def __len__(self) -> int:
        return 2

    def wait_for_engines(self, n: int, timeout: float) -> None:
        assert n == 2
        self.waits += 1

    def load_balanced_view(self, retries: int = 0) -> Dying:
        return self

    def apply_async(self, function: object, mark: str) -> Dying:
        assert function is workload.die_at_first
        Path(mark).write_text(repr(time.monotonic() - 0.2))
        return self

    def apply_sync(self, function: object, mark: str) -> None:
        self.apply_async(function, mark)

    def exception(self) -> Exception | None:
        return None if self.survives else RuntimeError("engine lost")


def test_losses_are_timed_from_the_kill() -> None:
    client = Dying()
    figures = {str(f["metric"]): f for f in losses.measure(client, bound=60.0, quick=True)}
    assert list(figures) == [metric.key for metric in metrics.of_measure("losses")]
    assert client.waits == 2 * metrics.QUICK_LOSSES_ROUNDS
    for figure in figures.values():
        assert float(str(figure["value"])) >= 200.0 and figure["note"] == "rounds: 3"
    with pytest.raises(AssertionError, match="survived"):
        list(losses.measure(Dying(survives=True), bound=60.0, quick=True))


def test_losses_end_in_time() -> None:
    figures = list(losses.measure(Dying(), bound=0.0, quick=False))
    assert {figure["note"] for figure in figures} <= {"rounds: 1"}


class InProcess:
    """A system that does the work where it stands; it can name no single worker."""

    def __init__(self, wrong: bool = False) -> None:
        self.wrong = wrong
        self.events: list[str] = []
        self.array: Any = None

    def start(self, workers: int = 2) -> None:
        self.events.append(f"start {workers}")

    def stop(self) -> None:
        self.events.append("stop")

    def direct(self) -> object:
        raise Unsupported("there is only one place")

    def balanced(self) -> object:
        return None

    def burst_direct(self, count: int) -> Sequence[int]:
        raise Unsupported("there is only one place")

    def burst_balanced(self, count: int) -> Sequence[int]:
        return [0] * count if self.wrong else list(range(count))

    def map(self, items: list[int]) -> Sequence[int]:
        return items if self.wrong else [3 * item for item in items]

    def execute(self) -> None:
        exec("x = 1", {})

    def push(self, array: Any) -> None:
        self.array = array

    def make(self, nbytes: int, seed: int) -> None:
        from benchmarks.workload import make_array

        self.array = make_array(nbytes, seed)

    def pull(self) -> Any:
        return self.array

    def store(self, array: Any) -> None:
        self.array = array

    def stored(self) -> float:
        return -1.0 if self.wrong else float(self.array[-1])

    def broadcast(self, array: Any, workers: int, ends: bool = False) -> None:
        self.events.append(f"broadcast to {workers}{', ends' if ends else ''}")

    def hosts(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        yield runner.value("hosts_raw_tls", 1.0)
        raise Unsupported("there is only one place")

    def journal(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        raise Unsupported("there is only one place")

    def queued(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        yield runner.value("queued_rate", 1e4)
        raise Unsupported("there is only one place")

    def losses(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        yield from losses.measure(Dying(), bound, quick)

    def lifecycle(self, bound: float, quick: bool) -> Iterator[dict[str, object]]:
        yield runner.value("lifecycle_status", 0.2)
        raise Unsupported("there is only one place")


@pytest.mark.parametrize("measure", list(runner.MEASUREMENTS))
def test_every_measurement_yields_exactly_its_figures(
    measure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    system = InProcess()
    runner.run(system, measure, bound=1.0, quick=True)
    workers = runner.WORKERS.get(measure, 2)
    assert system.events[:1] == ([f"start {workers}"] if workers else [])
    assert system.events[-1:] == (["stop"] if workers else [])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = {metric.key for metric in metrics.of_measure(measure)} - driver.quick_omits()
    assert {figure["metric"] for figure in printed} == expected
    assert len(printed) == len(expected)
    for figure in printed:
        assert figure.get("skipped") == "there is only one place" or figure["value"] >= 0


@pytest.mark.parametrize("measure", ["tasks", "map", "stored"])
def test_wrong_results_are_no_measurement_and_the_system_is_stopped(
    measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "STORED_MB", 1)
    system = InProcess(wrong=True)
    with pytest.raises(AssertionError, match="wrong"):
        runner.run(system, measure, bound=1.0, quick=True)
    assert system.events == ["start 2", "stop"]


def test_a_transfer_that_would_take_too_long_is_named_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "TRANSFER_MB", (1, 1_000_000))
    small, large, *_ = runner.measure_transfer(InProcess(), bound=1e-6, quick=False)
    assert float(str(small["value"])) > 0
    assert "more than the bound" in str(large["skipped"])


@pytest.mark.parametrize(
    ("transfers", "seconds", "warm"),
    [(0, 0.0, False), (3, 9.0, False), (4, 9.0, True), (0, 99.0, False), (1, 15.1, True)],
)
def test_a_slow_system_warms_up_with_fewer_transfers(
    transfers: int, seconds: float, warm: bool
) -> None:
    assert runner._is_warm(transfers, seconds, bound=30.0) is warm


def test_nothing_is_moved_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "available_mb", lambda: float(runner.SPARE_MB + 5))
    system = InProcess()
    figures = [
        *runner.measure_transfer(system, bound=1.0, quick=True),
        *runner.measure_broadcast(system, bound=1.0, quick=True),
    ]
    missing = [f["metric"] for f in figures if f["skipped"] == "one of the two is missing"]
    assert missing == ["broadcast_ratio", "here_ratio"]
    assert all("are available" in str(f["skipped"]) for f in figures if f["metric"] not in missing)
    assert system.array is None and system.events == []


def test_a_broadcast_is_to_one_and_to_all_and_gives_their_ratio() -> None:
    system = InProcess()
    figures = list(runner.measure_broadcast(system, bound=60.0, quick=True))
    whole = ["broadcast to 1"] * 8 + ["broadcast to 8"] * 8
    assert system.events == whole + [f"{event}, ends" for event in whole]
    for one, many, ratio in (figures[:3], figures[3:]):
        assert one["note"] == many["note"] == "20 MB"
        times = float(str(many["value"])) / float(str(one["value"]))
        assert ratio["value"] == pytest.approx(times)


def test_a_run_ends_before_the_memory_of_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([9000.0, runner.SPARE_MB - 1.0])
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(proc, "available_mb", lambda: next(left))
    monkeypatch.setattr(proc, "command_line", lambda pid: "python /x/nest.py 60 10 command")
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner.os, "kill", lambda *what: killed.append(what))
    runner._watch_memory()
    assert killed == [(os.getppid(), signal.SIGUSR1)]


def test_memory_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2000000 kB\n")
    assert proc.available_mb(tmp_path / "meminfo") == 2048.0
    assert proc.status_mb("self", "VmHWM") >= proc.status_mb("self", "VmRSS") > 1
    assert proc.status_mb(2**30, "VmRSS") == 0.0


def test_a_size_that_would_take_too_long_is_named_not_run() -> None:
    figures = {
        figure["metric"]: figure
        for figure in runner.measure_tasks(InProcess(), bound=0.0, quick=False)
    }
    assert figures["tasks_1000"]["value"] > 0
    assert "more than the bound" in str(figures["tasks_100000"]["skipped"])


def test_a_map_that_would_take_too_long_is_of_fewer_items_and_says_so() -> None:
    (short,) = runner.measure_map(InProcess(), bound=0.0, quick=False)
    (whole,) = runner.measure_map(InProcess(), bound=1e9, quick=False)
    assert short["note"] == "over 100,000 items, by the bound"
    assert "note" not in whole


def test_time_calls_stops_at_the_bound_but_calls_once() -> None:
    calls: list[int] = []
    assert len(runner.time_calls(lambda: calls.append(1), bound=0.0)) == len(calls) == 1
    assert len(runner.time_calls(lambda: None, bound=60.0, most=7)) == 7


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_adapter_is_complete(name: str) -> None:
    module = importlib.import_module(SYSTEMS[name].module)  # needs none of the peers
    assert set(module.NOTES) == set(metrics.MEASURES)
    script = runner.cold_script(module.COLD_SCRIPT)
    compile(script, "script.py", "exec")
    assert module.COLD_SCRIPT.count("ready()") == 1


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != OURS])
def test_peers_have_what_the_protocol_asks_for(name: str) -> None:
    module = importlib.import_module(SYSTEMS[name].module)
    wanted = {key for key in vars(InProcess) if not key.startswith("_")}
    adapters = [value for value in vars(module).values() if isinstance(value, type)]
    assert any(wanted <= set(dir(adapter)) for adapter in adapters)


def test_cold_figures_of_a_whole_run() -> None:
    moments = {"t0": 10.0, "ready": 10.75, "stopping": 12.0, "stopped": 12.25, "gone": 12.5}
    moments |= {"alone": True, "processes": 5, "pss_total_mb": 90.0, "pss_cluster_mb": 60.0}
    found = {figure["metric"]: figure["value"] for figure in driver.cold_figures(moments)}
    assert found == {
        "start_s": 0.75,
        "stop_s": 0.25,
        "gone_s": 0.5,
        "processes": 5,
        "pss_total_mb": 90.0,
        "pss_cluster_mb": 60.0,
    }


def test_there_is_no_time_of_being_gone_when_something_had_to_be_killed() -> None:
    moments = {"stopping": 12.0, "stopped": 12.25, "gone": 22.5, "alone": False}
    assert driver.cold_figures(moments) == [{"metric": "stop_s", "value": 0.25}]


def test_what_a_failed_run_lacks_is_named() -> None:
    have = [{"metric": "map_items", "value": 1}]
    assert driver.missing("map", have, "broke", quick=False) == []
    assert driver.missing("map", [], "broke", quick=False) == [
        {"metric": "map_items", "skipped": "broke"}
    ]
    keys = {figure["metric"] for figure in driver.missing("transfer", [], "broke", quick=True)}
    assert keys == {"push_1", "push_10", "pull_1", "pull_10"}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"exit": 0}, None),
        ({"exit": 3}, "failed: exit code 3: oops"),
        ({"exit": None, "ended": "time limit"}, "ended by the driver (time limit)"),
        ({}, "failed: no report: oops"),
    ],
)
def test_failure_says_why(report: dict[str, Any], expected: str | None) -> None:
    assert driver.failure(report, "oops") == expected


def test_systems_take_turns_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run_measure(entry: Any, python: Path, measure: str, *rest: Any) -> list[Any]:
        order.append(f"{measure} {entry.name}")
        return [{"metric": "map_items", "value": len(order)}]

    def run_cold(entry: Any, python: Path) -> list[Any]:
        order.append(f"start {entry.name}")
        return [{"metric": "start_s", "value": len(order)}]

    monkeypatch.setattr(driver, "run_measure", run_measure)
    monkeypatch.setattr(driver, "run_cold", run_cold)
    systems = [(SYSTEMS[name], Path("python")) for name in ("ray", "dask")]
    plan = driver.Plan(systems, ["start", "map"], 2, 1.0, True, 1)
    found = driver.run(plan, lambda text: None)
    turns = ["ray", "dask"]
    warm_up_and_rounds = 3
    assert order == [f"start {name}" for _ in range(warm_up_and_rounds) for name in turns] + [
        f"map {name}" for _ in range(2) for name in turns
    ]
    assert [run["value"] for run in found["start_s"]["ray"]] == [3, 5]  # the first is not counted
    document = command.document(plan, found, {"machine": {}, "systems": {"ray": {}, "dask": {}}})
    assert schema.problems(document) == []
    assert list(document["results"]) == ["start_s", "map_items"]


def test_options() -> None:
    options = command.parse([])
    assert (options.rounds, options.bound, options.quick) == (3, 30.0, False)
    assert options.systems == list(SYSTEMS)
    options = command.parse(["--quick", "--systems", "dask,ipkernel", "--only", "tasks,map"])
    assert (options.rounds, options.bound) == (1, 5.0)
    assert options.systems == ["ipkernel", "dask"]
    assert options.only == ["tasks", "map"]


@pytest.mark.parametrize(
    "arguments",
    [["--systems", "parsl"], ["--only", ""], ["--rounds", "0"], ["--bound", "-1"]],
)
def test_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_peers_have_environments_of_their_own(tmp_path: Path) -> None:
    pythons = {name: envs.python_of(entry, tmp_path) for name, entry in SYSTEMS.items()}
    assert pythons["ray"] == tmp_path / "ray" / "bin" / "python"
    assert pythons["ipkernel"] == pythons["futures"]
    assert len(set(pythons.values())) == len(SYSTEMS) - 1


def test_a_process_with_an_odd_name_is_parsed() -> None:
    fields = "S 42 7 7 0 -1 4194304 1 2 3 4 250 50 30 20 20 0 1 0 99 1000 10"
    stat = proc.parse_stat(f"99 (a) b (c)) {fields}", ticks=100)
    assert stat == proc.Stat(ppid=42, state="S", own_s=3.0, children_s=0.5)


def test_pss() -> None:
    text = "00400000-7fff rollup\nRss:  900 kB\nPss:      512 kB\nPss_Dirty:  7 kB\n"
    assert proc.parse_pss_kb(text) == 512
    assert proc.parse_pss_kb("") == 0


def test_descendants_are_whole_and_parents_come_first() -> None:
    def child_of(ppid: int) -> proc.Stat:
        return proc.Stat(ppid, "S", 0.0, 0.0)

    stats = {pid: child_of(ppid) for pid, ppid in ((2, 1), (5, 2), (4, 2), (9, 5), (7, 1), (8, 7))}
    assert proc.descendants(2, stats) == [4, 5, 9]
    assert sorted(proc.descendants(1, stats)) == [2, 4, 5, 7, 8, 9]
    assert proc.descendants(9, stats) == []


def test_machine() -> None:
    assert machine.cpu_model("processor : 0\nmodel name\t: Some CPU 3000\n") == "Some CPU 3000"
    assert machine.memory_gb("MemTotal:       24000000 kB\n") == 24.6
    assert machine.memory_gb("") == 0.0
    assert set(machine.describe()) == {"cpu", "cores", "memory_gb", "kernel", "load"}


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ipcontroller [default]", "controller"),
        ("python -m ipkernel.cli.ipcontroller --x", "controller"),
        ("ipdaemon [default]", "daemon"),
        ("ipdaemon zygote [default]", "zygote"),
        ("python -m ipkernel.engine.zygote", "zygote"),
        ("ipengine 1 [default]", "engine"),
        ("/usr/bin/python script.py", "other"),
        ("", "other"),
    ],
)
def test_roles(title: str, role: str) -> None:
    assert profile_task.role_of(title) == role


def test_the_cpu_of_a_burst_is_divided_among_roles() -> None:
    usage = profile_task.Usage
    before = {1: usage("client", 1.0), 2: usage("controller", 5.0)}
    after = {1: usage("client", 1.5), 2: usage("controller", 5.25), 3: usage("engine", 0.25)}
    spent = profile_task.difference(before, after)
    assert {role: seconds for role, seconds in spent.items() if seconds} == {
        "client": 0.5,
        "controller": 0.25,
        "engine": 0.25,
    }
    text = profile_task.table(spent, count=10_000, seconds=0.5)
    assert "20,000 tasks/s" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["client", "50.0", "us", "per", "task", "50.0", "%"] in lines
    assert ["all", "100.0", "us", "per", "task"] in lines
    assert ["cores", "busy", "2.00"] in lines


def test_hot_functions_name_their_callers() -> None:
    counts = {"a.py:1:main;a.py:2:load": 3, "a.py:1:main;a.py:9:load": 5, "b.py:1:idle": 2}
    first, second = profile_task.hot(counts)
    assert first.split() == ["80.0", "%", "load", "(a.py)", "from", "main"]
    assert "idle" in second
