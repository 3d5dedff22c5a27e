"""Whose line of code a warning is about: the user's, however deep in ours it is noticed."""

from __future__ import annotations

import sys
import types

__all__ = ["users_level"]


def users_level() -> int:
    """Return the ``stacklevel`` with which :func:`warnings.warn`, called next, names the user's line.

    That is the first one, up from the caller of this, which is not in a module of ipkernel.
    """
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        frame = frame.f_back
        level += 1
    return level


def _is_ours(frame: types.FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] == "ipkernel"
