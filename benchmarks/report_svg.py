"""The ratios to the peers as a plot: horizontal bars on a logarithmic scale, plain SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from benchmarks import stats
from benchmarks.metrics import METRICS
from benchmarks.systems import OURS

LEFT, WIDTH, RIGHT = 330, 560, 70
TOP, BAR, GAP = 92, 11, 9
COLOURS = ("#3566a8", "#d1772a", "#4b8f3c", "#8c8c8c", "#7d55a0", "#a8433b")


class Bar(NamedTuple):
    """One peer's ratio in one figure: how many times its cost is ours."""

    metric: str
    system: str
    ratio: float


def bars(document: Mapping[str, Any]) -> list[Bar]:
    """Return the ratios of all figures that both ipkernel and a peer have, in table order."""
    found = []
    for key, metric in METRICS.items():
        by_system = document["results"].get(key, {})
        ours = by_system.get(OURS, {}).get("value")
        for name in document["systems"]:
            theirs = by_system.get(name, {}).get("value")
            if name == OURS or ours is None or theirs is None:
                continue
            ratio = stats.ratio(ours, theirs, metric.lower_is_better)
            if ratio is not None:
                found.append(Bar(key, name, ratio))
    return found


def decades(ratios: list[float]) -> tuple[int, int]:
    """Return the powers of ten that enclose all ratios and 1."""
    low = min([*ratios, 1.0])
    high = max([*ratios, 1.0])
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return (first, last) if last > first else (first, first + 1)


def _text(x: float, y: float, text: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height}"'
        f' fill="{colour}"><title>{escape(title)}</title></rect>'
    )


class _Scale(NamedTuple):
    first: int
    last: int

    def x(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.first) / (self.last - self.first)
        return LEFT + share * WIDTH


def _axis(scale: _Scale, bottom: float) -> list[str]:
    parts = []
    for power in range(scale.first, scale.last + 1):
        x = scale.x(10.0**power)
        strong = ' stroke="#333"' if power == 0 else ' stroke="#ddd"'
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom:.1f}"{strong}/>')
        label = f"{10**power:g}" if power < 0 else f"{10**power:,}"
        parts.append(_text(x, TOP - 13, f"{label}x", ' text-anchor="middle"'))
    return parts


def _legend(document: Mapping[str, Any], colours: Mapping[str, str]) -> list[str]:
    parts = []
    x = float(LEFT)
    for name, colour in colours.items():
        title = str(document["systems"][name]["title"])
        parts.append(_rect(x, 44, 11, 11, colour, title))
        parts.append(_text(x + 16, 54, title))
        x += 34 + 7 * len(title)
    return parts


def render(document: Mapping[str, Any]) -> str:
    """Return the plot of a results document (see `schema`) as the text of an SVG file."""
    found = bars(document)
    peers = [name for name in document["systems"] if name != OURS]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    scale = _Scale(*decades([bar.ratio for bar in found]))
    parts: list[str] = []
    y = float(TOP)
    for key in METRICS:
        group = [bar for bar in found if bar.metric == key]
        if not group:
            continue
        middle = y + len(group) * BAR / 2 + 4
        metric = METRICS[key]
        parts.append(_text(LEFT - 10, middle, metric.title, ' text-anchor="end"'))
        for bar in group:
            start, end = sorted((scale.x(1.0), scale.x(bar.ratio)))
            label = f"{stats.figure(bar.ratio)}x"
            title = f"{document['systems'][bar.system]['title']}: {label}"
            parts.append(_rect(start, y, end - start, BAR - 1, colours[bar.system], title))
            parts.append(_text(end + 4, y + BAR - 2, label, ' class="small"'))
            y += BAR
        y += GAP
    if not found:
        parts.append(_text(LEFT, TOP + 14, "No figure is known of both ipkernel and a peer."))
        y += 24
    quick = " (quick run, not to be quoted)" if document["quick"] else ""
    heading = f"Cost of the peers relative to ipkernel, {document['date']}{quick}"
    total = LEFT + WIDTH + RIGHT
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y + 12:.0f}"'
        f' width="{total}" height="{y + 12:.0f}" font-family="sans-serif" font-size="12">'
    )
    head = [
        opening,
        "<style>.small { font-size: 10px; fill: #444; }</style>",
        f'<rect width="{total}" height="{y + 12:.0f}" fill="white"/>',
        _text(LEFT, 20, heading, ' font-weight="bold"'),
        _text(LEFT, 36, "Right of 1x: ipkernel is faster or smaller. Logarithmic scale."),
    ]
    body = head + _legend(document, colours) + _axis(scale, y) + parts
    return "\n".join([*body, "</svg>"]) + "\n"
