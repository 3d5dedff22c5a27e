"""Text for terminals: tables, spans of time, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, indent: str = "", right: str = ""
) -> str:
    """Return rows under heads, in columns that are as wide as they must be.

    Args:
        heads: One for each column.
        rows: As many values each; they are shown by ``str``.
        indent: What each line begins with.
        right: The heads of the columns that are aligned to the right, separated by spaces.

    Raises:
        ValueError: A row has another number of values than there are heads.
    """
    from tabulate import tabulate  # imported when there is a table to show: it takes a while

    lines = [[str(value) for value in row] for row in rows]
    for line in lines:
        if len(line) != len(heads):
            raise ValueError(f"{len(line)} values for {len(heads)} columns: {line}")
    to_the_right = set(right.split())
    sides = ["right" if head in to_the_right else "left" for head in heads]
    text = tabulate(
        lines,
        heads,
        tablefmt="plain",
        disable_numparse=True,
        colalign=sides if lines else None,
        preserve_whitespace=True,
    )
    return "\n".join((indent + line).rstrip() for line in text.splitlines())


def harmless(text: str) -> str:
    """Return a text without what a terminal would obey instead of showing it.

    Hosts, batch systems and engines say much of what is shown in their own words. Line ends and
    tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def span(seconds: float) -> str:
    """Return a span of time in at most two units: ``8 s``, ``3 m 20 s``, ``5 d 2 h``."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for name, length in units:
        whole, left = divmod(left, length)
        if whole or parts:
            parts.append(f"{whole} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def size(count: float) -> str:
    """Return a number of bytes with its unit: ``512 B``, ``3.4 MB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def number(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 engine``, ``4 engines``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
