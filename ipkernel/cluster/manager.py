"""Several clusters at once: find, make and remove them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import (
    ClusterDirectory,
    all_directories,
    check_name,
    find_directory,
)
from ipkernel.cluster.making import create_cluster, delete_cluster
from ipkernel.errors import ClusterError, KernelError


class ClusterManager:
    """The clusters of this user, by their keys: their names.

    Attributes:
        clusters: Those that were loaded or made here.
    """

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}

    def __repr__(self) -> str:
        return f"<ClusterManager {', '.join(self.clusters) or 'no clusters'}>"

    def list(self) -> Sequence[str]:
        """Return the keys of the clusters that have a directory in ``$IPYTHONDIR``."""
        return [directory.name for directory in all_directories()]

    def load_clusters(
        self,
        *,
        profile_dirs: Iterable[str | os.PathLike[str]] | None = None,
        profile_dir: str | os.PathLike[str] | None = None,
        profiles: Iterable[str] | None = None,
        profile: str | None = None,
        init_default_clusters: bool = False,
        **arguments: Any,
    ) -> dict[str, Cluster]:
        """Find the clusters that have a directory; those that run can be used at once.

        One that cannot be used is left out, with a warning that says why.

        Args:
            profile_dirs: Cluster directories to look at, instead of those in ``$IPYTHONDIR``.
            profile_dir: The same for one.
            profiles: Names of the clusters to load, instead of all.
            profile: The same for one.
            init_default_clusters: Also make a cluster object for the cluster ``default``, though
                it has no directory yet.
            arguments: Further arguments for :class:`~ipkernel.cluster.cluster.Cluster`.

        Returns:
            All clusters that are known now, by key.
        """
        paths = [*(profile_dirs or ()), *([profile_dir] if profile_dir is not None else ())]
        names = [*(profiles or ()), *([profile] if profile is not None else ())]
        if paths:
            found = [ClusterDirectory(path) for path in paths]
        elif names:
            found = [ClusterDirectory.named(name) for name in names]
        else:
            found = list(all_directories())
        for directory in found:
            try:
                cluster = Cluster.from_directory(directory.path, **arguments)
            except KernelError as error:
                warnings.warn(f"cluster {directory.name} is left out: {error}", stacklevel=2)
            else:
                self.clusters[directory.name] = cluster
        default = ClusterDirectory.named()
        if init_default_clusters and default.name not in self.clusters:
            self.clusters[default.name] = Cluster(cluster_dir=default.path, **arguments)
        return self.clusters

    def new_cluster(self, **arguments: Any) -> tuple[str, Cluster]:
        """Make a cluster, which is not started; a named one gets its directory.

        Args:
            arguments: Those of :class:`~ipkernel.cluster.cluster.Cluster`.

        Returns:
            Its key and the cluster.

        Raises:
            ClusterError: There is such a cluster.
            ConfigurationError: An argument is not acceptable.
        """
        cluster = Cluster(**arguments)
        key = cluster.cluster_id
        if key in self.clusters:
            raise ClusterError(f"there is a cluster {key!r} already")
        if not cluster.directory.is_private:
            create_cluster(cluster.directory)
        self.clusters[key] = cluster
        return key, cluster

    def get_cluster(self, key: str) -> Cluster:
        """Return a cluster that was loaded or made here.

        Args:
            key: Its name, or ``<profile>:<cluster_id>``.

        Raises:
            KeyError: It was not.
        """
        key = _name(key)
        if key not in self.clusters:
            known = ", ".join(self.clusters) or "none"
            raise KeyError(f"there is no cluster {key!r}; there are: {known}")
        return self.clusters[key]

    def remove_cluster(self, key: str) -> None:
        """Remove a cluster that does not run, with its directory.

        Args:
            key: Its name, or ``<profile>:<cluster_id>``.

        Raises:
            ClusterError: It runs, here or on another host, or there is no such cluster.
            SecurityError: Its directory belongs to somebody else, or is not private.
        """
        known = self.clusters.get(_name(key))
        directory = known.directory if known is not None else ClusterDirectory.named(_name(key))
        if directory.exists or known is None:
            delete_cluster(directory)
        self.clusters.pop(_name(key), None)


def _name(key: str) -> str:
    profile, colon, cluster_id = key.partition(":")
    return find_directory(profile=profile, cluster_id=cluster_id).name if colon else check_name(key)
