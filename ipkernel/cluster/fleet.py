"""What a cluster has to run tasks on, and what it is still to get: for scaling it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.cluster.adapting import Load, Seen
from ipkernel.cluster.hosted import where
from ipkernel.errors import KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.recorded import Recorded
    from ipkernel.cluster.running import RunningCluster
    from ipkernel.wire.records import HostInfo, Status

#: Seconds for which a daemon is waited for that is being started again, and between two looks.
_BACK: Final = 10.0
_POLL: Final = 0.05
#: States of engines that are there, or will be in a moment.
_THERE = ("starting", "ready", "restarting", "away")


class Job(NamedTuple):
    """A batch job that was submitted and whose engines are not there yet, or are all gone.

    Attributes:
        n: How many engines it is to have.
        title: Its name, for people.
        end: Ends it.
    """

    n: int
    title: str
    end: Callable[[], object]


class Picture(NamedTuple):
    """A cluster at one moment.

    Attributes:
        status: What the controller says.
        jobs: Those that have not joined.
    """

    status: Status
    jobs: list[Job]

    @property
    def load(self) -> Load:
        """What there is, for the policy."""
        seen = tuple(
            Seen(
                one.engine,
                one.host_id,
                one.queued + one.running,
                one.completed,
                one.state == "ready",
            )
            for one in self.status.engines
            if one.state in _THERE and not self._leaving(one.host_id)
        )
        queue = self.status.queue
        tasks = queue.ready + queue.assigned + queue.running
        return Load(seen, sum(job.n for job in self.jobs), tasks)

    def _leaving(self, host_id: int) -> bool:
        return any(host.host_id == host_id and host.draining for host in self.status.hosts)


class Fleet:
    """Looks at a cluster again and again; remembers how to reach what others have started.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._found: dict[str, Any] = {}

    def look(self) -> Picture:
        """Return what there is now; a daemon that is being started again is waited for.

        Others would be started in its place, and be too many when it is there.

        Raises:
            ClusterError: The cluster does not run.
            ConnectError: The controller cannot be reached.
        """
        deadline = time.monotonic() + _BACK
        status = self._cluster._status()
        while self._cluster._coming_back(status) and time.monotonic() < deadline:
            time.sleep(_POLL)
            status = self._cluster._status()
        return Picture(status, self._jobs(status.hosts))

    def _jobs(self, hosts: list[HostInfo]) -> list[Job]:
        there = {host.label for host in hosts if host.connected and host.label}
        jobs = []
        for engine_set in list(self._cluster.engines.values()):
            for hosted in engine_set.programs:
                launcher = hosted.launcher
                if hosted.entry.immediate or hosted.ready or where(launcher) in there:
                    continue
                if launcher.running:
                    end = _ender(self._cluster._end_hosts, hosted)
                    jobs.append(Job(hosted.share.n, hosted.title, end))
            for recorded in engine_set.recorded:
                launcher = None if recorded.label in there else self._recorded(recorded)
                if launcher is not None and launcher.running:
                    jobs.append(Job(recorded.n, recorded.title, launcher.request_stop))
        return jobs

    def _recorded(self, recorded: Recorded) -> Any:
        """Return the launcher of a job that another process has submitted; None if it is none."""
        if recorded.here or not recorded.label:
            return None
        if recorded.label not in self._found:
            try:
                launcher = recorded.find(self._cluster.directory)
            except (KernelError, OSError):
                launcher = None
            if getattr(launcher, "immediate", True):
                launcher = None
            self._found[recorded.label] = launcher
        return self._found[recorded.label]


def _ender(end: Callable[[list[Any]], object], hosted: Any) -> Callable[[], object]:
    return lambda: end([hosted])
