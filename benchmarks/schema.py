"""The results as data: putting the runs together, and checking a results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import stats
from benchmarks.metrics import METRICS

SCHEMA = 1


def combine(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the runs of one figure of one system together.

    Args:
        runs: each with a ``value`` or a ``skipped`` text.

    Returns:
        Median, extremes, all values and notes; the first reason if no run has a value.
    """
    values = [float(run["value"]) for run in runs if "value" in run]
    if not values:
        reasons = [str(run["skipped"]) for run in runs if "skipped" in run]
        return {"skipped": reasons[0] if reasons else "not measured"}
    notes = sorted({str(run["note"]) for run in runs if "note" in run})
    return {
        **({"note": "; ".join(notes)} if notes else {}),
        "value": stats.median(values),
        "min": min(values),
        "max": max(values),
        "runs": values,
    }


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a results document; an empty list if nothing is."""
    found = []
    if document.get("schema") != SCHEMA:
        found.append(f"schema is {document.get('schema')!r}, not {SCHEMA}")
    for key, kind in _TOP.items():
        if not isinstance(document.get(key), kind):
            found.append(f"{key} is missing or of a wrong type")
    if found:
        return found
    systems = document["systems"]
    for key, by_system in document["results"].items():
        if key not in METRICS:
            found.append(f"unknown figure {key}")
        for name, cell in by_system.items():
            if name not in systems:
                found.append(f"{key}: unknown system {name}")
            found.extend(f"{key} of {name}: {text}" for text in _cell_problems(cell))
    return found


_TOP: dict[str, type | tuple[type, ...]] = {
    "date": str,
    "quick": bool,
    "rounds": int,
    "bound_s": (int, float),
    "workers": int,
    "machine": dict,
    "systems": dict,
    "results": dict,
}


def _cell_problems(cell: Mapping[str, Any]) -> list[str]:
    if "skipped" in cell:
        return [] if isinstance(cell["skipped"], str) and cell["skipped"] else ["no reason"]
    runs = cell.get("runs")
    if not runs or not all(isinstance(run, (int, float)) for run in runs):
        return ["no runs"]
    if not cell["min"] <= cell["value"] <= cell["max"]:
        return ["the value is outside its extremes"]
    return []
