"""Source text that travels with functions, so that tracebacks of engines show it.

The text of a function goes with its code and is put into :mod:`linecache` on arrival, unless the file is
there. Functions of one file are merged into one entry, each at its own line.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import types

__all__ = ["Source", "register", "source_of"]

#: (file name, number of the first line, text)
Source = tuple[str, int, str]

#: Longer texts, in characters, are not sent.
MAX_SOURCE = 256 * 1024
#: A text that claims to be further down in its file than this is not believed.
_MAX_LINE = 1_000_000

_registered: dict[str, list[str]] = {}
_on_disk: dict[str, bool] = {}


@functools.lru_cache(maxsize=4096)
def source_of(code: types.CodeType) -> Source | None:
    """Return the source text of a code object, None if it is not known or too long."""
    try:
        lines, first = inspect.getsourcelines(code)
    except Exception:  # noqa: BLE001 - no source is as good as any reason for it
        return None
    text = "".join(lines)
    if not text or len(text) > MAX_SOURCE:
        return None
    return code.co_filename, max(first, 1), text


def register(source: Source) -> None:
    """Make the source text of a function known to :mod:`linecache`, unless its file is there."""
    filename, first, text = source
    if _is_file(filename) or not 0 < first <= _MAX_LINE or len(text) > MAX_SOURCE:
        return
    new = text.splitlines(keepends=True)
    last = first - 1 + len(new)
    lines = _registered.setdefault(filename, [])
    entry = linecache.cache.get(filename)
    known = entry[2] if entry is not None and len(entry) == 4 else None
    if known is lines and lines[first - 1 : last] == new:
        return
    if known is not None and known is not lines:
        # Known here from elsewhere, such as IPython's cells: keep what is there, add what is not.
        lines[:] = known
    lines.extend("\n" for _ in range(last - len(lines)))
    lines[first - 1 : last] = new
    # An entry without a modification time is not checked against the disk and so not dropped.
    linecache.cache[filename] = (len(lines), None, lines, filename)


def _is_file(filename: str) -> bool:
    if filename.startswith("<") and filename.endswith(">"):
        return False
    known = _on_disk.get(filename)
    if known is None:
        known = _on_disk[filename] = os.path.exists(filename)
    return known
