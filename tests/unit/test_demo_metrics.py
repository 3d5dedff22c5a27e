"""What the demo computes: McCabe's number by its definition, and the report's sums."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ZERO = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import stdlib_metrics

        yield stdlib_metrics
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def report(demo):
    return sys.modules["report"]


@pytest.fixture
def measure(demo, tmp_path):
    def of(source):
        path = tmp_path / "module.py"
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return demo.measure(str(path))

    return of


def function(*body):
    return "def f(a, b, c):\n" + "\n".join("    " + line for line in body) + "\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (["return 1"], 1),
        (["if a: pass"], 2),
        (["if a: pass", "elif b: pass", "else: pass"], 3),
        (["return a if b else c"], 2),
        (["for x in a: pass", "else: pass"], 2),
        (["while a: pass"], 2),
        (["try: pass", "except ValueError: pass", "except OSError: pass", "finally: pass"], 3),
        (["with a: pass"], 1),
        (["assert a"], 1),
        (["return a and b and c"], 3),
        (["return a and b or c"], 3),
        (["return [x for x in a]"], 2),
        (["return {x for x in a if x if b for y in x}"], 5),
        (["match a:", "    case 1: pass", "    case _: pass"], 3),
        (["def g(): pass", "if a: pass"], 2),
        (["return lambda: a if b else c"], 1),
        (["class C:", "    x = a if b else c"], 1),
    ],
)
def test_cyclomatic_complexity(measure, body, expected):
    assert measure(function(*body))["complex"] == (expected, "f")


def test_a_nested_function_counts_for_itself(measure):
    body = ["def g():", "    return b if a and b else c", "return g if a else None"]
    assert measure(function(*body))["complex"] == (3, "g")


def test_async_counts_as_sync(measure):
    row = measure("async def f(a):\n    async for x in a:\n        async with x: pass\n")
    assert row["complex"] == (2, "f")


def test_a_module_is_counted(measure):
    row = measure("class A:\n    def m(self):\n        pass\n\n\ndef n():\n    return A, A\n")
    assert {key: row[key] for key in ("lines", "functions", "classes", "longest")} == {
        "lines": 7,
        "functions": 2,
        "classes": 1,
        "longest": (2, "n"),
    }
    assert row["names"][0] == ("A", 2)


def test_an_empty_module(measure):
    assert measure("") == {
        "lines": 0,
        "functions": 0,
        "classes": 0,
        "longest": (0, ""),
        "complex": (0, ""),
        "names": [],
    }


@pytest.mark.parametrize("source", ["def", b"# coding: latin-42\n", b"x = '\xff'\n", b"a\0b"])
def test_what_is_no_python_is_none(measure, source):
    assert measure(source) is None


def test_a_file_that_is_gone_is_none(demo, tmp_path):
    assert demo.measure(str(tmp_path / "gone.py")) is None


def test_warnings_of_the_parser_are_not_the_user_s(measure, recwarn):
    assert measure("x = '\\d'\n")["lines"] == 1
    assert len(recwarn) == 0


def test_the_example_is_short():
    assert len((EXAMPLES / "stdlib_metrics.py").read_text().splitlines()) < 80


# ------------------------------------------------------------------ the report


def task(engine, submitted, started, completed, received):
    names = ("submitted", "started", "completed", "received")
    times = (submitted, started, completed, received)
    return {n: ZERO + timedelta(seconds=t) for n, t in zip(names, times, strict=True)} | {
        "engine_id": engine
    }


def test_overhead_of_a_perfect_run_is_nothing(report):
    cost = report.overhead([task(0, 0, 0, 1, 1), task(1, 0, 0, 1, 1), task(0, 0, 1, 2, 2)], 2)
    assert (cost.tasks, cost.engines, cost.wall, cost.work) == (3, 2, 2.0, 3.0)
    assert cost.per_task == pytest.approx(0.5 / 3)
    assert cost.on_the_way == 0.0


def test_waiting_for_a_busy_engine_is_not_latency_but_the_way_is(report):
    cost = report.overhead([task(0, 0, 0.01, 1, 1.02), task(0, 0, 1.01, 2, 2.02)], 1)
    assert cost.on_the_way == pytest.approx(0.03)
    assert cost.per_task == pytest.approx((2.02 - 1.98) / 2)


def row(**more):
    return {
        "lines": 10,
        "functions": 2,
        "classes": 1,
        "longest": (4, "lo"),
        "complex": (3, "co"),
        "names": [("self", 5)],
    } | more


def test_tables_add_up(report):
    table = report.totals([row(), row()], not_parsable=7).splitlines()
    assert ["not", "parsable", "7"] in [line.split() for line in table]
    assert ["lines", "20"] in [line.split() for line in table]
    assert report.names([row(), row()]).splitlines()[2].split() == ["self", "10"]


def test_the_leaders_lead(report):
    parsed = [("a.py", row()), ("b.py", row(complex=(99, "big"), lines=5000))]
    first = report.functions(parsed, "complex", "complexity").splitlines()[2]
    assert first.split() == ["big", "99", "b.py"]
    assert report.largest(parsed).splitlines()[2].split()[:2] == ["b.py", "5,000"]
