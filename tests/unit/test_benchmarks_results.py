"""The results document, its tables and its plot, from made-up figures."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from typing import Any

import docutils.core
import pytest

from benchmarks import report_rst, report_svg, schema
from benchmarks.metrics import MEASURES, METRICS, of_measure

SVG = "{http://www.w3.org/2000/svg}"


def cell(*values: float) -> dict[str, Any]:
    return schema.combine([{"value": value} for value in values])


def made(quick: bool = False) -> dict[str, Any]:
    note = dict.fromkeys(MEASURES, "what_is *done* with --quick")
    systems = {
        name: {"title": title, "versions": {"python": "3.11.7", "numpy": "2"}, "notes": note}
        for name, title in (("ipkernel", "ipkernel"), ("ray", "Ray"), ("dask", "dask & co"))
    }
    return {
        "schema": schema.SCHEMA,
        "date": "2001-02-03",
        "quick": quick,
        "rounds": 3,
        "bound_s": 30.0,
        "workers": 2,
        "machine": {
            "cpu": "A processor",
            "cores": 2,
            "memory_gb": 25.3,
            "kernel": "Linux 6",
            "load": 0.1,
        },
        "systems": systems,
        "results": {
            "start_s": {"ipkernel": cell(0.7, 0.8, 0.9), "ray": cell(3.0), "dask": cell(1.6)},
            "map_items": {"ray": cell(5) | {"note": "over 7 items"}},
            "processes": {"ipkernel": cell(5), "ray": cell(9), "dask": cell(3)},
            "tasks_1000": {"ipkernel": cell(50_000), "ray": cell(1_000), "dask": cell(500)},
            "tasks_100000": {
                "ipkernel": cell(60_000),
                "ray": {"skipped": "would take 63 s"},
                "dask": {"skipped": "would take 170 s"},
            },
        },
    }


def test_combine_takes_the_median_and_keeps_all_runs() -> None:
    runs = [{"value": 3}, {"value": 1}, {"skipped": "ended"}, {"value": 2}]
    assert schema.combine(runs) == {"value": 2, "min": 1, "max": 3, "runs": [3, 1, 2]}


def test_combine_keeps_what_the_runs_note_once_each() -> None:
    runs = [{"value": 1, "note": "b"}, {"value": 2, "note": "a"}, {"value": 3, "note": "b"}]
    assert schema.combine(runs)["note"] == "a; b"


def test_combine_without_a_value_gives_the_first_reason() -> None:
    assert schema.combine([{"skipped": "a"}, {"skipped": "b"}]) == {"skipped": "a"}
    assert schema.combine([]) == {"skipped": "not measured"}


def test_a_good_document_has_no_problems_and_survives_json() -> None:
    document = made()
    assert schema.problems(document) == []
    assert schema.problems(json.loads(json.dumps(document))) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(schema=0), "schema"),
        (lambda d: d.pop("machine"), "machine"),
        (lambda d: d.update(rounds="3"), "rounds"),
        (lambda d: d["results"].update(speed={}), "unknown figure speed"),
        (lambda d: d["results"]["start_s"].update(parsl=cell(1)), "unknown system parsl"),
        (lambda d: d["results"]["start_s"].update(ray={"value": 1.0}), "no runs"),
        (lambda d: d["results"]["start_s"].update(ray={"skipped": ""}), "no reason"),
        (lambda d: d["results"]["start_s"]["ray"].update(value=99.0), "outside"),
    ],
)
def test_what_is_wrong_is_found(change: Any, expected: str) -> None:
    document = copy.deepcopy(made())
    change(document)
    assert any(expected in text for text in schema.problems(document))


def test_every_figure_belongs_to_a_measurement() -> None:
    assert [metric for name in MEASURES for metric in of_measure(name)] == list(METRICS.values())


def test_grid() -> None:
    assert report_rst.grid([["figure", "a"], ["x", "long cell"], ["longer", "1"]]) == "\n".join(
        [
            "======  =========",
            "figure  a",
            "======  =========",
            "x       long cell",
            "longer  1",
            "======  =========",
        ]
    )


@pytest.mark.parametrize("quick", [False, True])
def test_the_tables_are_valid_and_complete(quick: bool) -> None:
    text = report_rst.render(made(quick))
    strict = {"halt_level": 2, "report_level": 2}
    html = docutils.core.publish_string(text, writer="html5", settings_overrides=strict).decode()
    for expected in (
        "A processor",
        "2001-02-03",
        "dask &amp; co",
        "50,000",
        "would take 63 s",
        "over 7 items",
    ):
        assert expected in html
    assert ("A quick run" in html) is quick
    assert "what_is *done*" in html  # notes are shown as they are, not as markup
    assert "``--quick``" in text  # but for options, which keep both hyphens only as literals
    assert "A statement on all" not in html  # nothing of it was measured


def test_counts_are_shown_as_counts_and_gaps_as_gaps() -> None:
    rows = [line.split() for line in report_rst.render(made()).splitlines()]
    assert ["processes", "beside", "the", "script", "5", "9", "3"] in rows
    assert ["100,000", "tasks,", "load-balanced", "[tasks/s]", "60,000", "–", "–"] in rows


def test_what_is_the_same_of_several_figures_is_said_once() -> None:
    document = made()
    tasks = {metric.key: dict.fromkeys(("ray", "dask"), cell(1)) for metric in of_measure("tasks")}
    why = {"skipped": "it broke"}
    for key, by_system in tasks.items():
        by_system["dask"] = why
        if key in ("tasks_1000", "tasks_direct"):
            by_system["ray"] = why
    tasks["cpu_direct_us"]["dask"] = cell(1)
    document["results"] = tasks
    text = report_rst.render(document)
    assert "* dask & co, 5 figures: not measured: it broke." in text
    assert "* Ray, 1,000 tasks, load-balanced; tasks to one engine: not measured: it broke." in text
    assert text.count("it broke") == 2


def test_bars_are_the_ratios_of_cost() -> None:
    found = {(bar.metric, bar.system): bar.ratio for bar in report_svg.bars(made())}
    assert found == {
        ("start_s", "ray"): pytest.approx(3.75),
        ("start_s", "dask"): pytest.approx(2.0),
        ("processes", "ray"): pytest.approx(1.8),
        ("processes", "dask"): pytest.approx(0.6),
        ("tasks_1000", "ray"): pytest.approx(50),
        ("tasks_1000", "dask"): pytest.approx(100),
    }


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], (0, 1)),
        ([1.0], (0, 1)),
        ([3.0, 50.0], (0, 2)),
        ([0.5], (-1, 0)),
        ([0.05, 1000.0], (-2, 3)),
    ],
)
def test_decades_enclose(ratios: list[float], expected: tuple[int, int]) -> None:
    assert report_svg.decades(ratios) == expected


def test_the_plot_is_xml_with_one_bar_for_each_ratio() -> None:
    root = ET.fromstring(report_svg.render(made()))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "Ray: 50.0x" in titles
    assert "dask & co: 0.600x" in titles
    legend = 2
    assert len(titles) == len(report_svg.bars(made())) + legend


def bar_of(root: ET.Element, title: str) -> tuple[float, float]:
    for rect in root.iter(f"{SVG}rect"):
        name = rect.find(f"{SVG}title")
        if name is not None and name.text == title:
            return float(rect.attrib["x"]), float(rect.attrib["width"])
    raise AssertionError(title)


def test_bars_start_at_one_and_are_logarithmic() -> None:
    root = ET.fromstring(report_svg.render(made()))
    slow, quicker = bar_of(root, "dask & co: 100x"), bar_of(root, "Ray: 50.0x")
    worse = bar_of(root, "dask & co: 0.600x")
    assert slow[0] == quicker[0] == pytest.approx(worse[0] + worse[1], abs=0.2)
    decade = report_svg.WIDTH / 3  # the scale goes from 0.1 to 100
    assert slow[1] == pytest.approx(2 * decade, abs=0.2)


def test_a_plot_of_peers_alone_says_so() -> None:
    document = made()
    for by_system in document["results"].values():
        by_system.pop("ipkernel", None)
    assert "No figure is known of both" in report_svg.render(document)
    ET.fromstring(report_svg.render(document))


def test_a_quick_plot_says_so() -> None:
    assert "not to be quoted" in report_svg.render(made(quick=True))
    assert "not to be quoted" not in report_svg.render(made())
