"""The results as reStructuredText tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import metrics, stats
from benchmarks.metrics import MEASURES, Metric

MISSING = "–"
NAMED = 4
"""Of how many figures a remark gives the names; of more it gives the number."""

_WORKERS = "Every system has {workers} workers of one thread, all on this machine, and its default settings."
_ROUNDS = (
    "Each figure is the median of {rounds} round{s}; in a round the systems take turns, each in "
    "processes of its own that are started and ended for it. All values are in the JSON file."
)
_COLD = (
    "Cold: new processes, their files already in the page cache of the system. Warm: a cluster "
    "that has answered some calls before. The first table is cold, all others are warm: "
    "of arrays, up to four of the same size were moved before those that count."
)
_BOUND = "No figure may take more than about {bound:g} s; what would is left out and named."
_MEMORY = (
    "MB are 10\\ :sup:`6` bytes; memory is the proportional set size (PSS), in which shared pages "
    "are divided among their users."
)
_WORK = (
    "Tasks return their number and are all different. Arrays are random and new each time; the "
    "receiver reads each page within the time."
)
#: As text its two hyphens would become a dash.
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Return a reST simple table; the first row is its head, no cell of a first column empty."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def cell(metric: Metric, result: Mapping[str, Any] | None) -> str:
    """Return what a table shows of one figure of one system."""
    if result is None or "skipped" in result:
        return MISSING
    number = float(result["value"])
    return stats.figure(number) if metric.unit else f"{number:g}"


def _row(metric: Metric, names: Sequence[str], results: Mapping[str, Any]) -> list[str]:
    unit = f" [{metric.unit}]" if metric.unit else ""
    by_system = results.get(metric.key, {})
    return [metric.title + unit, *(cell(metric, by_system.get(name)) for name in names)]


def _remarks(keys: Sequence[Metric], document: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of single figures; what is the same of several is said once."""
    figures: dict[tuple[str, str], list[str]] = {}
    for metric in keys:
        for name, result in document["results"].get(metric.key, {}).items():
            title = document["systems"][name]["title"]
            if "skipped" in result:
                text = f"not measured: {result['skipped']}"
            elif "note" in result:
                text = str(result["note"])
            else:
                continue
            figures.setdefault((title, text), []).append(metric.title)
    return [
        f"{title}, {_of(titles, len(keys))}: {text}." for (title, text), titles in figures.items()
    ]


def _of(titles: Sequence[str], figures: int) -> str:
    """Return what a remark on some of so many figures calls them."""
    if len(titles) == figures > 1:
        return "all"
    return "; ".join(titles) if len(titles) <= NAMED else f"{len(titles)} figures"


def _bullet(text: str) -> str:
    return textwrap.fill(
        text,
        98,
        initial_indent="* ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _escape(text: str) -> str:
    for mark in ("\\", "*", "`", "|", "_"):
        text = text.replace(mark, "\\" + mark)
    return _OPTION.sub(r"``\g<0>``", text)


def _section(measure: str, document: Mapping[str, Any]) -> str:
    shown = [metric for metric in metrics.of_measure(measure) if metric.key in document["results"]]
    names = list(document["systems"])
    head = ["", *(document["systems"][name]["title"] for name in names)]
    rows = [_row(metric, names, document["results"]) for metric in shown]
    title = MEASURES[measure]
    notes = [
        f"{document['systems'][name]['title']}: {document['systems'][name]['notes'][measure]}."
        for name in names
        if measure in document["systems"][name]["notes"]
    ]
    bullets = "\n".join(_bullet(_escape(text)) for text in notes + _remarks(shown, document))
    head[0] = "figure"
    return f"{title}\n{'-' * len(title)}\n\n{grid([head, *rows])}\n\n{bullets}\n"


def _versions(document: Mapping[str, Any]) -> str:
    rows = [["system", "Python", "packages"]]
    for system in document["systems"].values():
        found = dict(system["versions"])
        python = found.pop("python", MISSING)
        packages = ", ".join(f"{name} {version}" for name, version in found.items())
        rows.append([system["title"], python, packages or MISSING])
    return grid(rows)


def _introduction(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    warning = ""
    if document["quick"]:
        warning = (
            ".. warning:: A quick run: one round, small sizes, perhaps a busy machine. It shows"
            " that\n   everything runs; its figures are not to be quoted.\n\n"
        )
    described = (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory, "
        f"{machine['kernel']}; load {machine['load']} at the start."
    )
    counted = _ROUNDS.format(rounds=document["rounds"], s="s" * (document["rounds"] != 1))
    workers = _WORKERS.format(workers=document["workers"])
    bounded = _BOUND.format(bound=document["bound_s"])
    facts = [described, workers, counted, _COLD, bounded, _MEMORY, _WORK]
    return warning + "\n".join(_bullet(fact) for fact in facts) + "\n\n" + _versions(document)


def render(document: Mapping[str, Any]) -> str:
    """Return the whole report of a results document (see `schema`) as reStructuredText."""
    title = f"Measured side by side on {document['date']}"
    parts = [f"{title}\n{'=' * len(title)}\n", _introduction(document), ""]
    parts.extend(
        _section(measure, document)
        for measure in MEASURES
        if any(metric.key in document["results"] for metric in metrics.of_measure(measure))
    )
    return "\n".join(parts).rstrip() + "\n"
