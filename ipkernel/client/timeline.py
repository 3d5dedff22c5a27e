"""A picture of which engine did which task when, as one self-contained SVG file.

One row per engine, one box per task, a time axis below; pointing at a box tells its task, times and
engine. What is drawn comes from the metadata of an :class:`~ipkernel.client.asyncresult.AsyncResult`::

    timeline_svg(ar.metadata, "run.svg")
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

_WIDTH = 1200.0
_LEFT = 90.0
_TOP = 56.0
_ROW = 30.0
_BOX = 24.0
_LEGEND_COLUMN = 185.0
_HAIR = 0.5
"""Boxes that are narrower than this many pixels are joined with their neighbours."""

_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#e69f00",
    "#44aa99",
    "#882255",
    "#999933",
    "#6699cc",
)
_OTHER = "#bbbbbb"

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}"
    ".t{font-size:16px;font-weight:600}"
    ".b{stroke:#fff;stroke-width:.4}.b:hover{stroke:#000;stroke-width:1.5}"
    ".f{stroke:#c00;stroke-width:1.5}.g{stroke:#ddd}"
)


@frozen
class Box:
    """One task, or several too short to be told apart, in the row of one engine.

    ``start`` and ``end`` are seconds since the first task started; ``count`` says how many tasks
    the box stands for; ``failed`` is true if one of them did not end well.
    """

    engine: int
    start: float
    end: float
    title: str
    group: str = ""
    count: int = 1
    failed: bool = False


def boxes(
    metadata: Iterable[Mapping[str, Any]],
    labels: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> list[Box]:
    """Make a box of every task that ran, in order of engine and start.

    Args:
        metadata: one mapping per task with at least ``started``, ``completed`` (datetimes) and
            ``engine_id``; tasks that never ran (a time or the engine is missing) are left out.
        labels: a text per task, in the order of ``metadata``; without it the task's id is shown.
        groups: what decides the colour of each task, in the order of ``metadata``.

    Returns:
        The boxes, their times relative to the earliest start.
    """
    ran: list[tuple[datetime, datetime, int, str, str, bool]] = []
    for index, task in enumerate(metadata):
        started, completed, engine = (
            task.get(key) for key in ("started", "completed", "engine_id")
        )
        if started is None or completed is None or engine is None:
            continue
        label = labels[index] if index < len(labels) else f"task {task.get('msg_id', index)}"
        group = groups[index] if index < len(groups) else ""
        failed = task.get("status", "ok") != "ok"
        ran.append((started, completed, engine, label, group, failed))
    if not ran:
        return []
    zero = min(started for started, *_ in ran)
    made = [
        Box(
            engine=engine,
            start=(started - zero).total_seconds(),
            end=(max(completed, started) - zero).total_seconds(),
            title=label,
            group=group,
            failed=failed,
        )
        for started, completed, engine, label, group, failed in ran
    ]
    return sorted(made, key=lambda box: (box.engine, box.start))


def join_slivers(ordered: Iterable[Box], sliver: float) -> list[Box]:
    """Join neighbours of one engine and colour that together last less than ``sliver`` seconds.

    A run of a million tasks so gives a picture that a browser can still show.
    """
    joined: list[Box] = []
    for box in ordered:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.engine, last.group, last.failed) == (box.engine, box.group, box.failed)
            and box.end - last.start < sliver
        ):
            joined[-1] = evolve(last, end=max(last.end, box.end), count=last.count + 1)
        else:
            joined.append(box)
    return joined


def ticks(span: float, wanted: int = 10) -> list[float]:
    """Return about ``wanted`` round numbers (1, 2 or 5 times a power of ten apart) in 0…``span``."""
    if span <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= wanted)
    return [round(i * step, 9) for i in range(int(span / step + 1e-9) + 1)]


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _colours(all_boxes: Sequence[Box]) -> dict[str, str]:
    """Give the groups that took most time a colour each, the others grey."""
    time: dict[str, float] = defaultdict(float)
    for box in all_boxes:
        time[box.group] += box.end - box.start
    largest = sorted(time, key=lambda group: -time[group])
    return {group: _COLOURS[i] if i < len(_COLOURS) else _OTHER for i, group in enumerate(largest)}


def _draw_box(box: Box, y: float, scale: float, colour: str) -> str:
    width = max((box.end - box.start) * scale, _HAIR)
    what = box.title if box.count == 1 else f"{box.count} tasks from {box.title}"
    tip = (
        f"{what}\n{_duration(box.end - box.start)} on engine {box.engine}, "
        f"from {box.start:.3f} s" + ("\nfailed" if box.failed else "")
    )
    return (
        f'<rect class="b{" f" if box.failed else ""}" x="{_LEFT + box.start * scale:.2f}" '
        f'y="{y:.0f}" width="{width:.2f}" height="{_BOX:.0f}" fill="{colour}">'
        f"<title>{escape(tip, quote=False)}</title></rect>"
    )


def _draw_axis(span: float, scale: float, bottom: float) -> list[str]:
    lines = []
    for tick in ticks(span):
        x = _LEFT + tick * scale
        lines.append(
            f'<line class="g" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom + 4}"/>'
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{tick:g} s</text>'
        )
    return lines


def _draw_legend(colours: Mapping[str, str], y: float) -> tuple[list[str], float]:
    named = [(g, c) for g, c in colours.items() if g and c != _OTHER]
    if len(named) < sum(1 for group in colours if group):
        named.append(("others", _OTHER))
    columns = int((_WIDTH - _LEFT) // _LEGEND_COLUMN)
    lines = []
    for i, (group, colour) in enumerate(named):
        x, row = _LEFT + (i % columns) * _LEGEND_COLUMN, y + (i // columns) * 20
        lines.append(
            f'<rect x="{x}" y="{row - 10}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{x + 18}" y="{row}">{escape(group)}</text>'
        )
    return lines, y + math.ceil(len(named) / columns) * 20


def render(all_boxes: Sequence[Box], title: str = "Tasks by engine and time") -> str:
    """Return the whole picture as SVG text; it needs no other file.

    Args:
        all_boxes: what :func:`boxes` made.
        title: the heading.
    """
    span = max((box.end for box in all_boxes), default=0.0)
    scale = (_WIDTH - _LEFT - 20) / (span or 1.0)
    shown = join_slivers(all_boxes, _HAIR / scale)
    rows = {engine: i for i, engine in enumerate(sorted({box.engine for box in shown}))}
    colours = _colours(shown)
    bottom = _TOP + _ROW * len(rows)
    legend, height = _draw_legend(colours, bottom + 48)
    body = _draw_axis(span, scale, bottom)
    body += [
        f'<text x="{_LEFT - 10}" y="{_TOP + i * _ROW + 19}" text-anchor="end">engine {engine}</text>'
        for engine, i in rows.items()
    ]
    body += [
        _draw_box(box, _TOP + rows[box.engine] * _ROW + 3, scale, colours[box.group])
        for box in shown
    ]
    count = sum(box.count for box in shown)
    heading = f"{count} tasks on {len(rows)} engines in {_duration(span)}"
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:.0f}" '
                f'height="{height:.0f}" viewBox="0 0 {_WIDTH:.0f} {height:.0f}">'
            ),
            f"<style>{_STYLE}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text class="t" x="{_LEFT}" y="24">{escape(title)}</text>',
            f'<text x="{_LEFT}" y="44">{heading}</text>',
            *body,
            *legend,
            "</svg>",
            "",
        ]
    )


def timeline_svg(
    metadata: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] = (),
    groups: Sequence[str] = (),
    title: str = "Tasks by engine and time",
) -> Path:
    """Draw which engine did which task when, and write it to ``path`` as SVG.

    Args:
        metadata: the metadata of the tasks, as in ``AsyncResult.metadata``. Tasks that never ran
            are left out.
        path: the file to write; an existing one is replaced.
        labels: a text for each task, shown when one points at its box (default: the task's id).
        groups: what each task belongs to; decides its colour (default: one colour for all).
        title: the heading of the picture.

    Returns:
        The path written to.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.write_text(render(boxes(metadata, labels, groups), title), encoding="utf-8")
    return target
