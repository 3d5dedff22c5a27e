"""What must happen to clusters when something fails, and when this process exits."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

from ipkernel.errors import KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.base import ClusterBase

_running: set[ClusterBase] = set()
_owner = os.getpid()


class StopOnFailure:
    """Within it, an error stops the whole cluster before it goes on to the caller."""

    def __init__(self, cluster: ClusterBase) -> None:
        self._cluster = cluster
        self._was_running = cluster.running

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        cluster = self._cluster
        if kind is None or self._was_running or cluster._attached:
            return
        if cluster.controller is not None or cluster.engines:
            try:
                cluster.stop_cluster_sync()
            except KernelError as second:
                sys.stderr.write(f"ipkernel: {second}\n")


def remember(cluster: ClusterBase) -> None:
    """Have a cluster stopped when this process exits."""
    if not cluster.shutdown_atexit:
        return
    if not _running:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
    _running.add(cluster)


def forget(cluster: ClusterBase) -> None:
    """Leave a cluster alone when this process exits."""
    _running.discard(cluster)


def _stop_all() -> None:
    if os.getpid() != _owner:  # a forked child: the clusters are its parent's
        return
    for cluster in list(_running):
        try:
            cluster.stop_cluster_sync()
        except KernelError as error:
            sys.stderr.write(f"ipkernel: {error}\n")
