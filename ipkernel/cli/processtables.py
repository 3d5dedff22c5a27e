"""What ``ipcluster status`` says of processes: controller, host daemons, engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipkernel.cli.tables import number, size, span, table
from ipkernel.ranges import ranges_text

if TYPE_CHECKING:
    from ipkernel.wire.records import EngineInfo, HostInfo, Status


def usage(status: Status) -> list[str]:
    """Return what the controller uses, in a few words each."""
    said = [f"CPU {status.cpu:.0f} %", size(status.memory)]
    if status.files >= 0:
        said.append(number(status.files, "open file"))
    if status.restarts:
        said.append(f"started again {number(status.restarts, 'time')}")
    return said


def _resources(of: HostInfo | EngineInfo) -> tuple[str, str, str]:
    """Return CPU, memory and open files of a process, for a row; "-" for what was not measured."""
    if not of.memory:
        return "-", "-", "-"
    return f"{of.cpu:.0f} %", size(of.memory), str(of.files) if of.files >= 0 else "-"


def _restarts(of: HostInfo | EngineInfo) -> str:
    return f" ({number(of.restarts, 'restart')})" if of.restarts else ""


def hosts_table(status: Status, now: float) -> str:
    """Return a table of the host daemons, and why some of them are about to go.

    Args:
        status: The state of the cluster.
        now: The time, seconds since the epoch.
    """
    heads = ("HOST", "PID", "LAUNCHER", "STATE", "ENGINES", "UPTIME", "CPU", "MEMORY", "FILES")
    rows = [
        (
            host.host,
            host.pid,
            host.label or host.launcher or "-",
            _host_state(host) + _restarts(host),
            ranges_text(host.engines) or "-",
            span(max(0.0, now - host.started)) if host.started else "-",
            *_resources(host),
        )
        for host in status.hosts
    ]
    shown = table(heads, rows, right="PID UPTIME CPU MEMORY FILES")
    leaving = [
        f"host {host.host}: {host.draining}"
        + (f" (ends in {span(max(0.0, host.ends - now))})" if host.ends else "")
        for host in status.hosts
        if host.draining
    ]
    kept = [
        f"host {host.host}: it has no engines, but {number(host.sole, 'object')} that nobody else has"
        for host in status.hosts
        if host.label and host.sole and not host.engines
    ]
    return "\n".join([shown, *leaving, *kept])


def _host_state(host: HostInfo) -> str:
    if not host.connected:
        return "not connected"
    return "draining" if host.draining else "connected"


def engines_table(status: Status) -> str:
    """Return a table of the engines, and why some are not ready or were lost."""
    heads = (
        "ENGINE", "HOST", "PID", "STATE", "RUNNING", "QUEUED", "DONE", "UPTIME", "CPU", "MEMORY",
        "FILES",
    )  # fmt: skip
    rows = [
        (
            engine.engine,
            engine.host,
            engine.pid or "-",
            engine.state + _restarts(engine),
            engine.running,
            engine.queued,
            engine.completed,
            span(engine.uptime),
            *_resources(engine),
        )
        for engine in status.engines
    ]
    shown = table(heads, rows, right="ENGINE PID RUNNING QUEUED DONE UPTIME CPU MEMORY FILES")
    reasons = [f"engine {e.engine}: {e.reason}" for e in status.engines if e.reason]
    losses = [
        f"engine {e.engine} was lost at {e.last_loss}"
        for e in status.engines
        if e.last_loss and not e.reason
    ]
    return "\n".join([shown, *reasons, *losses])
