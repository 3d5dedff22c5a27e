"""Launchers: each gets a controller or a host daemon running somewhere, and nothing more."""

from __future__ import annotations

import difflib
from typing import Any

from ipkernel.errors import ConfigurationError

#: Entry points in this group name launchers of other packages: ``<kind>.<name>``.
GROUP = "ipkernel.launchers"


def find_launcher(kind: str, name: Any) -> Any:
    """Return the launcher class for a kind of process.

    Args:
        kind: ``"controller"`` or ``"engines"``.
        name: ``"local"`` in any case, the name of an installed plug-in, or a class itself.

    Raises:
        ConfigurationError: There is no such launcher.
    """
    if not isinstance(name, str):
        return name
    if name.lower() == "local":
        from ipkernel.launchers import local

        return local.LocalControllerLauncher if kind == "controller" else local.LocalHostLauncher
    found = _plugins(kind)
    if name.lower() in found:
        return found[name.lower()].load()
    known = sorted({"local", *found})
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    raise ConfigurationError(f"there is no launcher {name!r} for the {kind}; {hint}")


def _plugins(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    prefix = f"{kind}."
    return {
        point.name.removeprefix(prefix).lower(): point
        for point in entry_points(group=GROUP)
        if point.name.startswith(prefix)
    }
