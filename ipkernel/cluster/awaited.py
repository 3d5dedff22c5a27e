"""Starts that are awaited: what becomes of a cluster when nobody waits for its start any more."""

from __future__ import annotations

import sys
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ipkernel.errors import KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.base import ClusterBase

T = TypeVar("T")


def awaited_start(
    loop: AbstractEventLoop, cluster: ClusterBase, start: Callable[[], T]
) -> Future[T]:
    """Start a cluster in another thread; if the future is cancelled, stop it again there.

    A start cannot be interrupted: the cluster is stopped as soon as the start has returned. A
    cluster that ran before is left alone.

    Args:
        loop: The running event loop.
        cluster: The cluster.
        start: Starts it, and may return a client, which is closed if nobody gets it.

    Returns:
        Its result.
    """
    attempt = _Attempt(cluster, start)
    future = loop.run_in_executor(None, attempt.run)

    def over(ended: Future[T]) -> None:
        if ended.cancelled() and attempt.abandon():
            loop.run_in_executor(None, attempt.undo)

    future.add_done_callback(over)
    return future


class _Attempt:
    """One start in another thread, and how to undo it."""

    def __init__(self, cluster: ClusterBase, start: Callable[[], Any]) -> None:
        self._cluster = cluster
        self._start = start
        self._result: Any = None
        self._ran_before = False
        self._done = False
        self._abandoned = False
        self._lock = threading.Lock()

    def run(self) -> Any:
        """Start the cluster."""
        with self._cluster._lock:  # nobody else starts it between this look and the start
            self._ran_before = self._cluster.running
            self._result = self._start()
            with self._lock:
                self._done = True
                abandoned = self._abandoned
            if abandoned:
                self.undo()
        return self._result

    def abandon(self) -> bool:
        """Nobody waits any more; tell whether it is too late for :meth:`run` to undo it."""
        with self._lock:
            self._abandoned = True
            return self._done

    def undo(self) -> None:
        """Close the client that nobody got, and stop the cluster if it did not run before."""
        from ipkernel.client.client import Client

        cluster = self._cluster
        try:
            with cluster._lock:
                if isinstance(self._result, Client):
                    self._result.close()
                    if cluster._client is self._result:
                        cluster._client = None
                if not self._ran_before:
                    cluster.stop_cluster_sync()
        except KernelError as error:
            sys.stderr.write(f"ipkernel: {error}\n")
