"""The one place where the version is written; packaging and documentation read it from here."""

from __future__ import annotations

__version__ = "0.11.0.dev0"


def _release(version: str) -> tuple[int | str, ...]:
    """Split a version into its parts: numbers as ``int``, everything else (``dev0``) as ``str``."""
    return tuple(int(part) if part.isdigit() else part for part in version.split("."))


version_info: tuple[int | str, ...] = _release(__version__)
