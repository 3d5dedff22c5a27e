"""Launchers: each gets a controller or a host daemon running somewhere, and nothing more."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any, Final

from ipkernel.errors import ConfigurationError

#: Entry points in this group name launchers of other packages: ``<kind>.<name>``.
GROUP = "ipkernel.launchers"

#: ipkernel's own, by kind and name: their modules in this package, and classes.
_BUILT_IN: Final[dict[tuple[str, str], str]] = {
    ("controller", "local"): "local.LocalControllerLauncher",
    ("engines", "local"): "local.LocalHostLauncher",
    ("controller", "ssh"): "ssh.SSHControllerLauncher",
    ("engines", "ssh"): "ssh.SSHHostLauncher",
    ("controller", "slurm"): "slurm.SlurmControllerLauncher",
    ("engines", "slurm"): "slurm.SlurmHostLauncher",
    ("controller", "pbs"): "pbs.PBSControllerLauncher",
    ("engines", "pbs"): "pbs.PBSHostLauncher",
    ("controller", "sge"): "sge.GridEngineControllerLauncher",
    ("engines", "sge"): "sge.GridEngineHostLauncher",
    ("controller", "lsf"): "lsf.LSFControllerLauncher",
    ("engines", "lsf"): "lsf.LSFHostLauncher",
    ("controller", "htcondor"): "htcondor.HTCondorControllerLauncher",
    ("engines", "htcondor"): "htcondor.HTCondorHostLauncher",
    ("controller", "mpi"): "mpi.MPIControllerLauncher",
    ("engines", "mpi"): "mpi.MPILauncher",
    ("controller", "windows_hpc"): "windows_hpc.WindowsHPCControllerLauncher",
    ("engines", "windows_hpc"): "windows_hpc.WindowsHPCHostLauncher",
    ("controller", "xgrid"): "xgrid.XgridControllerLauncher",
    ("engines", "xgrid"): "xgrid.XgridHostLauncher",
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
    name = check_name(kind, name)
    own = _BUILT_IN.get((kind, name))
    if own is None:
        return _plugins(kind)[name].load()
    module, _, class_name = own.partition(".")
    return getattr(import_module(f"ipkernel.launchers.{module}"), class_name)


def check_name(kind: str, name: str) -> str:
    """Return a launcher's name as it is known, if there is such a launcher; nothing is loaded.

    Raises:
        ConfigurationError: There is none; with the nearest known name.
    """
    wanted = name.lower()
    if (kind, wanted) in _BUILT_IN or wanted in _plugins(kind):
        return wanted
    known = sorted(launcher_names(kind))
    near = difflib.get_close_matches(wanted, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    raise ConfigurationError(f"there is no launcher {name!r} for the {kind}; {hint}")


def launcher_names(kind: str = "") -> list[str]:
    """Return the names of the launchers of a kind, or of both; ipkernel's own come first."""
    kinds = [kind] if kind else ["controller", "engines"]
    own = [name for one in kinds for of, name in _BUILT_IN if of == one]
    others = sorted(name for one in kinds for name in _plugins(one))
    return list(dict.fromkeys([*own, *others]))


def _plugins(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    prefix = f"{kind}."
    return {
        point.name.removeprefix(prefix).lower(): point
        for point in _installed(entry_points)
        if point.name.startswith(prefix)
    }


@cache
def _installed(look: Callable[..., Iterable[Any]]) -> tuple[Any, ...]:
    """Look through all installed packages for launchers, once: it takes a while."""
    return tuple(look(group=GROUP))
