"""The tables and the picture of ``stdlib_metrics.py``; runs in the user's process only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from tabulate import tabulate

from ipkernel.client.timeline import timeline_svg

TOP = 8

Row = Mapping[str, Any]


@frozen
class Overhead:
    """What the framework itself cost, from the metadata of the tasks; times in seconds.

    ``wall`` is from the first submission to the last receipt, ``work`` the sum of all times on
    engines. ``per_task`` is the part of the wall time that no engine worked, shared out over the
    tasks; ``on_the_way`` the median time of a task that it spent neither waiting for an engine to
    become free nor being executed.
    """

    tasks: int
    engines: int
    wall: float
    work: float
    per_task: float
    on_the_way: float


def overhead(metadata: Sequence[Mapping[str, Any]], engines: int) -> Overhead:
    """Compute the framework's own cost for tasks that all ran.

    Args:
        metadata: of each task, with the four times and the engine.
        engines: how many engines there were to use.
    """
    wall = _seconds(
        min(task["submitted"] for task in metadata), max(task["received"] for task in metadata)
    )
    work = sum(_seconds(task["started"], task["completed"]) for task in metadata)
    free_since: dict[int, datetime] = {}
    delays = []
    for task in sorted(metadata, key=lambda task: task["started"]):
        ready = max(task["submitted"], free_since.get(task["engine_id"], task["submitted"]))
        before = max(0.0, _seconds(ready, task["started"]))
        delays.append(before + max(0.0, _seconds(task["completed"], task["received"])))
        free_since[task["engine_id"]] = task["completed"]
    return Overhead(
        tasks=len(metadata),
        engines=engines,
        wall=wall,
        work=work,
        per_task=max(0.0, wall - work / engines) / len(metadata),
        on_the_way=sorted(delays)[len(delays) // 2],
    )


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()


def show(
    library: str,
    paths: Sequence[str],
    rows: Sequence[Row | None],
    result: Any,
    serial: float,
    *,
    same: bool,
) -> None:
    """Print what was found and what it cost.

    Args:
        library: the folder that was measured.
        paths: its files.
        rows: the metrics of each file, None where it was not parsable.
        result: the finished ``AsyncResult`` of the parallel run.
        serial: seconds that the same took in one process.
        same: whether both gave the same metrics.
    """
    parsed = [
        (os.path.relpath(path, library), row)
        for path, row in zip(paths, rows, strict=True)
        if row is not None
    ]
    for text in (
        totals([row for _, row in parsed], not_parsable=len(paths) - len(parsed)),
        largest(parsed),
        functions(parsed, "longest", "lines"),
        functions(parsed, "complex", "complexity"),
        names([row for _, row in parsed]),
        times(overhead(result.metadata, len({m["engine_id"] for m in result.metadata})), serial),
    ):
        print("\n" + text)
    print(f"\nSerial and parallel run {'agree' if same else 'DIFFER'} on all {len(paths)} files.")


def totals(rows: Sequence[Row], *, not_parsable: int) -> str:
    """Return the table of sums over all modules."""
    sums = [[key, sum(row[key] for row in rows)] for key in ("lines", "functions", "classes")]
    cells = [["modules", len(rows)], ["not parsable", not_parsable], *sums]
    return tabulate(cells, headers=["In all", ""], intfmt=",")


def largest(parsed: Sequence[tuple[str, Row]]) -> str:
    """Return the table of the modules with most lines."""
    top = sorted(parsed, key=lambda item: -item[1]["lines"])[:TOP]
    cells = [[path, row["lines"], row["functions"], row["classes"]] for path, row in top]
    return tabulate(cells, headers=["Largest modules", "lines", "functions", "classes"], intfmt=",")


def functions(parsed: Sequence[tuple[str, Row]], key: str, unit: str) -> str:
    """Return the table of the functions that lead in one measure (``longest`` or ``complex``)."""
    top = sorted(parsed, key=lambda item: -item[1][key][0])[:TOP]
    cells = [[row[key][1], row[key][0], path] for path, row in top]
    title = {"longest": "Longest functions", "complex": "Most complex functions"}[key]
    return tabulate(cells, headers=[f"{title} (one a module)", unit, "module"], intfmt=",")


def names(rows: Sequence[Row]) -> str:
    """Return the table of the names used most."""
    uses: Counter[str] = Counter()
    for row in rows:
        uses.update(dict(row["names"]))
    return tabulate(uses.most_common(TOP), headers=["Names used most", "uses"], intfmt=",")


def times(cost: Overhead, serial: float) -> str:
    """Return the table of the two runs' times and of the framework's own cost."""
    cells: list[list[Any]] = [
        ["serial, one process", f"{serial:.2f} s"],
        [f"parallel, {cost.engines} engines", f"{cost.wall:.2f} s"],
        ["speed-up", f"{serial / cost.wall:.2f}"],
        ["tasks (of 8 files each)", cost.tasks],
        ["work on the engines", f"{cost.work:.2f} s"],
        ["overhead per task: (wall - work / engines) / tasks", f"{cost.per_task * 1e3:.2f} ms"],
        ["latency per task: on the way there and back", f"{cost.on_the_way * 1e3:.2f} ms"],
    ]
    return tabulate(cells, headers=["Time", ""], disable_numparse=True)


def draw(library: str, paths: Sequence[str], result: Any, *, chunksize: int, picture: str) -> None:
    """Write the picture of the run, coloured by folder, and print where it is."""
    relative = [os.path.relpath(path, library) for path in paths]
    firsts = range(0, len(relative), chunksize)
    path = timeline_svg(
        result.metadata,
        picture,
        labels=["\n".join(relative[i : i + chunksize]) for i in firsts],
        groups=[os.path.dirname(relative[i]) or "(top level)" for i in firsts],
        title="Standard library metrics: which engine did which task when",
    )
    print(f"\nPicture of the run: {path.resolve()}")
