"""A cluster as a whole: its directory, its processes, and the class that starts and stops them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipkernel.cluster.cluster import Cluster, EngineSet
    from ipkernel.cluster.directory import ClusterDirectory

__all__ = ["Cluster", "ClusterDirectory", "EngineSet"]


def __getattr__(name: str) -> object:
    """Import a public name on first use: the command line needs only the directory."""
    if name in ("Cluster", "EngineSet"):
        from ipkernel.cluster import cluster

        return getattr(cluster, name)
    if name == "ClusterDirectory":
        from ipkernel.cluster.directory import ClusterDirectory

        return ClusterDirectory
    raise AttributeError(f"module 'ipkernel.cluster' has no attribute {name!r}")
