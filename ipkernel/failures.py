"""Several failures as text: which of them say the same, and where each of them was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipkernel.ranges import ranges_text

__all__ = ["Entry", "Group", "alike", "engine_label", "grouped", "label", "left_out"]

#: ename, evalue, traceback and engine_info of a failure.
Entry = tuple[str, str, str, dict[str, Any]]
#: The first of some failures that say the same, and all of them, by index.
Group = tuple[int, list[int]]


def engine_label(engine_info: Mapping[str, Any]) -> str:
    """Return the number of the engine; nothing if it is not known."""
    engine = engine_info.get("engine", engine_info.get("engine_id"))
    return "" if engine is None else str(engine)


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Return the failures that say the same together, in the order of the first of each."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (ename, evalue, _, _) in enumerate(entries):
        groups.setdefault((ename, evalue), []).append(i)
    return [(indices[0], indices) for indices in groups.values()]


def label(entries: Sequence[Entry], i: int) -> str:
    """Return what stands before a failure: its engine, or else its place, and what was done."""
    info = entries[i][3]
    method = info.get("method", "apply")
    return f"[{engine_label(info) or i}{method and ':'}{method}]: "


def alike(entries: Sequence[Entry], indices: Sequence[int]) -> str:
    """Return what stands behind the first of some failures that say the same; nothing if it is alone."""
    if len(indices) == 1:
        return ""
    infos = (entries[i][3] for i in indices[1:])
    others = [info.get("engine", info.get("engine_id")) for info in infos]
    named = dict.fromkeys(other for other in others if other is not None)
    where = f", on {ranges_text(named)}" if named else ""
    return f"  ({len(indices) - 1} more like this{where})"


def left_out(groups: Sequence[Group], limit: int) -> list[str]:
    """Return the last line, for the groups beyond so many; none if all are shown."""
    left = sum(len(indices) for _, indices in groups[limit:])
    return [f"... and {left} more exception{'s' if left > 1 else ''}"] if left else []
