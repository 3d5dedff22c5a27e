"""A script with a cluster that does jobs: ``python -m tests.integration.mixed_jobs JSON``.

Its argument has those of Cluster. How it is told what to do: :mod:`tests.integration.hosts_jobs`.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from typing import Any

from ipkernel import Cluster
from tests.integration.hosts_jobs import LONG, kept, serve, stay


def place() -> tuple[str, str]:
    """Return where an engine is: the host, and the job if it is one of a batch system's."""
    return socket.gethostname(), os.environ.get("SLURM_JOB_ID", "")


def places(rc: Any, count: int) -> list[tuple[str, str]]:
    """Wait until there are so many engines; return where they are."""
    rc.wait_for_engines(count, timeout=LONG)
    return sorted(rc[:].apply_async(place).get(LONG))


def scale(rc: Any, count: int) -> None:
    """Have so many engines."""
    kept["cluster"].scale_sync(count)


def work(rc: Any, path: str, host: str, count: int) -> None:
    """Begin calls that never end on one of the hosts; each may be lost with two engines."""
    view = rc.load_balanced_view(retries=2)
    kept["results"] = [view.apply_async(stay, path, host) for _ in range(count)]


def results(rc: Any) -> list[str]:
    """Return on which hosts these calls have ended."""
    return [one.get(LONG) for one in kept["results"]]


def ended(rc: Any) -> list[str]:
    """Return what was told of programs that have ended."""
    return [one["message"] for one in kept["events"] if one["event"] == "ended"]


def main(arguments: str) -> None:
    """Start the cluster, do jobs until the standard input ends, and stop it."""
    events: list[dict[str, Any]] = []
    cluster = Cluster(on_event=lambda program, event: events.append(event), **json.loads(arguments))
    kept.update(cluster=cluster, events=events)
    with cluster as rc:
        serve(rc, globals())


if __name__ == "__main__":
    # Engines import the functions of this module by its name.
    importlib.import_module("tests.integration.mixed_jobs").main(*sys.argv[1:])
