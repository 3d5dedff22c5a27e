"""A cluster as a whole: its directory, its processes, and the class that starts and stops them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipkernel.cluster.cluster import Cluster
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.cluster.engineset import EngineSet
    from ipkernel.cluster.manager import ClusterManager

__all__ = ["Cluster", "ClusterDirectory", "ClusterManager", "EngineSet"]

_WHERE = {
    "Cluster": "cluster",
    "ClusterDirectory": "directory",
    "ClusterManager": "manager",
    "EngineSet": "engineset",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name on first use: the command line needs only the directory."""
        if name not in _WHERE:
            raise AttributeError(f"module 'ipkernel.cluster' has no attribute {name!r}")
        return getattr(import_module(f"ipkernel.cluster.{_WHERE[name]}"), name)
