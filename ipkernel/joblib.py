"""joblib, and what is built on it, on the engines of a cluster."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipkernel.client.baseview import View
    from ipkernel.client.client import Client

__all__ = ["register_joblib_backend"]


def register_joblib_backend(
    name: str = "ipkernel", make_default: bool = False, view: View | None = None
) -> None:
    """Make a backend known to joblib, for ``joblib.parallel_config(name)``.

    Args:
        name: What it is called there.
        make_default: Use it wherever no other one is asked for.
        view: Where calls go; by default to a local cluster with an engine for each core, which is started when
            it is first used, and lives as long as this process.

    Raises:
        ImportError: joblib is not installed; engines need it, too.
    """
    from joblib.parallel import register_parallel_backend

    from ipkernel.client.joblibbackend import backend_class

    where = (lambda: _own_client().load_balanced_view()) if view is None else (lambda: view)
    register_parallel_backend(name, partial(backend_class(), where), make_default)


@cache
def _own_client() -> Client:
    """Start a cluster for those who have none."""
    from ipkernel.cluster.cluster import Cluster

    return Cluster().start_and_connect_sync()
