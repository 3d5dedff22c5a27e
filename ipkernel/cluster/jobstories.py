"""What is known of a batch job, or of another program that was to bring engines, by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ipkernel.cluster.recorded import title

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.wire.records import HostInfo, Status

__all__ = ["JobStory", "job_stories"]


class JobStory(NamedTuple):
    """A program that brings engines, or was to.

    Attributes:
        job: Its name: the launcher and the place.
        state: Where it stands, such as ``"joined"`` or ``"pending (Resources)"``.
        reason: More of it, as a sentence; may be empty.
        engines: The ids of its engines.
        lines: The end of what it has said, if it has died.
    """

    job: str
    state: str
    reason: str = ""
    engines: tuple[int, ...] = ()
    lines: tuple[str, ...] = ()


def job_stories(name: str, status: Status, directory: ClusterDirectory | None) -> list[JobStory]:
    """Return what is known of the programs with a name.

    Args:
        name: As ``ipcluster status`` shows it, or a part of it: the launcher, the number of a job,
            or the name of a host.
        status: What the controller says.
        directory: The cluster's directory, which says what was launched, if it is known.
    """
    found = [
        _joined(host, status)
        for host in status.hosts
        if _is_named(name, host.launcher, host.label, host.host)
    ]
    if directory is not None:
        from ipkernel.cluster.joining import standings

        for one in standings(directory, status.hosts):
            if _is_named(name, one.program.launcher, one.program.label, ""):
                count = f"{one.program.n} engine{'' if one.program.n == 1 else 's'}"
                reason = f"it was to bring {count}, and no host of it has joined"
                found.append(JobStory(one.program.title, one.state, reason, (), one.lines))
    return found


def _is_named(name: str, launcher: str, label: str, host: str) -> bool:
    whole = title(launcher, label)
    names = {whole, label, launcher, host, host.partition(".")[0], *label.split()}
    return bool(name) and name in names


def _joined(host: HostInfo, status: Status) -> JobStory:
    mine = [engine for engine in status.engines if engine.host_id == host.host_id]
    states: dict[str, int] = {}
    for engine in mine:
        states[engine.state] = states.get(engine.state, 0) + 1
    told = [f"host {host.host} (daemon pid {host.pid})"]
    told.append(", ".join(f"{count} engines {state}" for state, count in states.items()))
    running = sum(engine.running for engine in mine)
    told.append(f"{running} tasks running" if running else "")
    if host.draining:
        told.append(f"it gets nothing more: {host.draining}")
    bad = _reasons(engine.reason for engine in mine if engine.state not in ("ready", "draining"))
    reason = "; ".join(part for part in [*told, *bad] if part)
    name = title(host.launcher, host.label) if host.launcher else host.host
    state = "joined" if host.connected else "joined, and not connected at present"
    return JobStory(name, state, reason, tuple(host.engines))


def _reasons(reasons: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(reason for reason in reasons if reason))[:3]
