"""Waiting for engines whose batch jobs are in a queue, and telling where those stand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ipkernel.cluster.gathering import Failure, report
from ipkernel.cluster.hosted import Hosted, state_of, where, why_ended
from ipkernel.errors import LauncherError

if TYPE_CHECKING:
    from ipkernel.client.client import Client

#: How often it is looked whether the jobs are still there, in seconds.
_LOOK: Final = 0.5


def wait_for_jobs(client: Client, jobs: Sequence[Hosted], count: int, deadline: float) -> None:
    """Wait until a client sees engines, some of which come with batch jobs.

    Args:
        client: Who is to see them.
        jobs: The jobs.
        count: How many engines.
        deadline: By the monotonic clock.

    Raises:
        LauncherError: Jobs have ended before; the text has all of them.
        TimeoutError: They were not there in time; the text says where each job stands.
    """
    engines = client._session.engines
    while len(engines.ids) < count:
        known = engines.known
        client._check_open()
        ended = [
            Failure(job, job.failure or why_ended(job.launcher))
            for job in jobs
            if not job.launcher.running and not job.ready
        ]
        if ended:
            raise LauncherError(report(ended, len(jobs)))
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(_where_they_stand(jobs, len(engines.ids), count))
        engines.wait_for_change(known, min(left, _LOOK))
    learn_engines(client, jobs)


def _where_they_stand(jobs: Sequence[Hosted], there: int, count: int) -> str:
    lines = [f"{there} of {count} engines were there in time; the batch jobs:"]
    lines += [
        f"  {job.title} ({job.share.n} engines): {state_of(job.launcher)}"
        for job in jobs
        if not job.ready
    ]
    return "\n".join(lines)


def learn_engines(client: Client, jobs: Sequence[Hosted]) -> None:
    """Learn the ids of engines whose jobs' output cannot be read, by the names of their hosts."""
    silent = [job for job in jobs if not job.engines]
    if not silent:
        return
    hosts = client.status().hosts
    for job in silent:
        label = where(job.launcher)
        found = [one for host in hosts if label and host.label == label for one in host.engines]
        if found:
            job.heard({"event": "ready", "engines": sorted(found)})
