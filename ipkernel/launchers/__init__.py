"""Launchers: each gets a controller or a host daemon running somewhere, and nothing more."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any, Final

from ipkernel.errors import ConfigurationError

#: Entry points in this group name launchers of other packages: ``<kind>.<name>``.
GROUP = "ipkernel.launchers"

#: ipkernel's own, by kind and name: their modules in this package, and classes.
_BUILT_IN: Final[dict[tuple[str, str], str]] = {
    ("controller", "local"): "local.LocalControllerLauncher",
    ("engines", "local"): "local.LocalHostLauncher",
}


def find_launcher(kind: str, name: Any) -> Any:
    """Return the launcher class for a kind of process.

    Args:
        kind: ``"controller"`` or ``"engines"``.
        name: The name of one of ipkernel's own such as ``"local"``, in any case, or of an
            installed plug-in, or a class itself.

    Raises:
        ConfigurationError: There is no such launcher.
    """
    if not isinstance(name, str):
        return name
    own = _BUILT_IN.get((kind, name.lower()))
    if own is not None:
        module, _, class_name = own.partition(".")
        return getattr(import_module(f"ipkernel.launchers.{module}"), class_name)
    found = _plugins(kind)
    if name.lower() in found:
        return found[name.lower()].load()
    known = sorted({*(known for of, known in _BUILT_IN if of == kind), *found})
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
