"""Clusters of tests, which are stopped when their test has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipkernel.cluster.cluster import Cluster

__all__ = ["clusters", "home", "make"]


@contextlib.contextmanager
def clusters(n: int | None = 2, **defaults: Any) -> Iterator[Callable[..., Cluster]]:
    """Give a function that makes clusters.

    Args:
        n: How many engines they have if nothing else is said.
        defaults: Their other arguments, if no others are given.
    """
    made: list[Cluster] = []

    def make(n: int | None = n, **arguments: Any) -> Cluster:
        made.append(Cluster(n, **{**defaults, **arguments}))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop_cluster_sync()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's directory, in which there are no clusters yet."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "ipython"


@pytest.fixture
def make(home):
    with clusters() as make:
        yield make
