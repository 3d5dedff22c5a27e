"""``python -m benchmarks``: measure ipkernel and its peers side by side and write the reports."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import driver, envs, machine, report_rst, report_svg, schema
from benchmarks.metrics import MEASURES, METRICS
from benchmarks.systems import SYSTEMS, WORKERS, Entry

RESULTS = envs.ROOT / "benchmarks" / "results"


def _names(text: str, known: Sequence[str]) -> list[str]:
    """Return the comma-separated names in ``text``, in the order of ``known``."""
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown) or 'nothing named'}; known: {', '.join(known)}"
        )
    return [name for name in known if name in wanted]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a run; exits with a message if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--systems",
        type=lambda text: _names(text, list(SYSTEMS)),
        default=list(SYSTEMS),
        help=f"comma-separated, of {', '.join(SYSTEMS)}",
    )
    parser.add_argument(
        "--only",
        metavar="MEASURE",
        type=lambda text: _names(text, list(MEASURES)),
        default=list(MEASURES),
        help=f"comma-separated, of {', '.join(MEASURES)}",
    )
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--bound", type=float, help="seconds a figure may take; default 30, or 5")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: a smoke run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for the reports")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    if options.bound is None:
        options.bound = 5.0 if options.quick else 30.0
    if options.rounds < 1 or options.bound <= 0:
        parser.error("--rounds and --bound must be above zero")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepare(names: Sequence[str]) -> list[tuple[Entry, Path]]:
    """Make the environments; a system whose environment fails is left out and named."""
    ready = []
    for name in names:
        entry = SYSTEMS[name]
        try:
            ready.append((entry, envs.ensure(entry)))
        except envs.EnvironmentFailed as error:
            _say(f"{name} is left out: {error}")
    return ready


def document(
    plan: driver.Plan, found: dict[str, dict[str, list[driver.Report]]], about: dict[str, Any]
) -> dict[str, Any]:
    """Return the results document: the runs put together, in table order."""
    return {
        "schema": schema.SCHEMA,
        "date": datetime.date.today().isoformat(),
        "quick": plan.quick,
        "rounds": plan.rounds,
        "bound_s": plan.bound,
        "workers": WORKERS,
        **about,
        "results": {
            key: {name: schema.combine(runs) for name, runs in found[key].items()}
            for key in METRICS
            if key in found
        },
    }


def _about(systems: Sequence[tuple[Entry, Path]]) -> dict[str, Any]:
    return {
        "machine": machine.describe(),
        "systems": {
            entry.name: {
                "title": entry.title,
                "versions": envs.versions(python, entry.packages),
                "notes": driver.notes(entry, python),
            }
            for entry, python in systems
        },
    }


def write(results: dict[str, Any], directory: Path) -> None:
    """Write the JSON files, the tables and the plot into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    (directory / f"{results['date']}.json").write_text(text)
    (directory / "latest.json").write_text(text)
    (directory / "latest.rst").write_text(report_rst.render(results))
    (directory / "latest.svg").write_text(report_svg.render(results))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = parse(arguments)
    systems = _prepare(options.systems)
    if not systems:
        _say("no system can be measured")
        return 1
    about = _about(systems)
    plan = driver.Plan(
        systems=systems,
        measures=options.only,
        rounds=options.rounds,
        bound=options.bound,
        quick=options.quick,
        cold_runs=1 if options.quick else 3,
    )
    results = document(plan, driver.run(plan, _say), about)
    wrong = schema.problems(results)
    write(results, options.output)
    for text in wrong:
        _say(f"wrong in the results: {text}")
    _say(f"written to {options.output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
