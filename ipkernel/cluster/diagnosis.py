"""Why a cluster has fewer engines than it should: what is known of each program and each engine.

A program is launched, its host daemon connects, its engines are registered; or it dies on the way,
for a reason that the end of its log tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ipkernel.cluster import daemonnotes, processes
from ipkernel.cluster.recorded import Recorded
from ipkernel.launchers.base import tail

if TYPE_CHECKING:
    from ipkernel.client.locate import Place
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.wire.records import EngineInfo, HostInfo

T = TypeVar("T")

#: Last lines of a log that are shown.
LINES: Final = 8
#: Seconds that launchers may take to tell where their programs stand, when somebody waits for it.
PATIENCE: Final = 5.0
#: States of engines that had a process, which is gone.
_LOST: Final = ("restarting", "dead")


def local_state(program: Recorded, directory: ClusterDirectory, hosts: Iterable[HostInfo]) -> str:
    """Return where a program of this host stands; empty if it has joined, or nothing is known.

    Args:
        program: A program of the launcher for this host.
        directory: The cluster's directory.
        hosts: What the controller knows.
    """
    pid = program.record.get("pid")
    if not isinstance(pid, int) or not pid:
        return ""
    noted = daemonnotes.noted_of(directory, pid)
    pid = noted.process.pid if noted is not None else pid
    here = [h for h in hosts if h.connected and h.host == processes.host_name()]
    # One that was started again is there before its new number is noted.
    if any(
        host.pid == pid or (noted is None and host.launcher == program.launcher and host.restarts)
        for host in here
    ):
        return ""
    if any(one.pid == pid for one in processes.marked(directory.path)):
        return f"launched as pid {pid}, not connected yet"
    if noted is None:
        return f"died (pid {pid})"
    if noted.failure:
        return f"died (pid {pid}), and is not started again: {noted.failure}"
    return f"died (pid {pid}), and is about to be started again"


def launched_state(program: Recorded, directory: ClusterDirectory) -> str:
    """Return where a program stands that is not known to be anywhere else yet.

    Known is the process that was started for it, such as an ssh. Empty if that is not known, either.

    Args:
        program: A program of a launcher that starts processes of its host.
        directory: The cluster's directory.
    """
    pid = program.record.get("pid")
    if not isinstance(pid, int) or not pid:
        return ""
    noted = processes.Process.from_dict(program.launcher, program.record.get("process"))
    if noted is not None:
        alive = noted.alive
    else:
        alive = any(one.pid == pid for one in directory.processes())
    return f"launched as pid {pid}, not connected yet" if alive else f"died (pid {pid})"


def last_lines(launcher: Any) -> tuple[str, ...]:
    """Return the end of what a program wrote to its standard error, or else of its log."""
    told = getattr(launcher, "output", None)
    try:
        return tuple(told(LINES)) if callable(told) else ()
    except OSError:
        return ()


def engine_lines(directory: ClusterDirectory, engine: EngineInfo) -> list[str]:
    """Return the last lines that an engine printed whose process was lost.

    The controller knows them from the engine's host; of what it does not know, the log may be here.
    """
    if engine.state not in _LOST:
        return []
    return engine.last_output or tail(directory.log / f"ipengine-{engine.engine}.log", LINES)


def describe_engines(
    engines: Iterable[EngineInfo], directory: ClusterDirectory | None
) -> Iterator[str]:
    """Yield lines about the engines that are not ready.

    Args:
        engines: What the controller knows.
        directory: The cluster's directory, if it is known.
    """
    for one in engines:
        if one.state == "ready":
            continue
        why = f": {one.reason}" if one.reason else ""
        yield f"engine {one.engine} on {one.host or 'unknown host'}: {one.state}{why}"
        yield from indented(one.last_output if directory is None else engine_lines(directory, one))


def describe_programs(
    hosts: Iterable[HostInfo], directory: ClusterDirectory | None
) -> Iterator[str]:
    """Yield lines about the programs and host daemons that have brought no, or too few, engines.

    Args:
        hosts: What the controller knows.
        directory: The cluster's directory, if it is known.
    """
    hosts = list(hosts)
    for host in hosts:
        if not host.connected:
            yield f"host {host.host} (daemon pid {host.pid}): not connected any more"
        elif not host.engines:
            yield f"host {host.host} (daemon pid {host.pid}): connected, no engines registered"
    if directory is None:
        return
    from ipkernel.cluster.joining import standings

    for one in _within(2 * PATIENCE, lambda: standings(directory, hosts)) or ():
        count = f"{one.program.n} engine{'' if one.program.n == 1 else 's'}"
        yield f"{one.program.title} ({count}): {one.state}"
        yield from indented(one.lines)


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines so that they are seen to belong to the one above."""
    for line in lines:
        yield f"    {line}".rstrip()


def _within(seconds: float, ask: Callable[[], T]) -> T | None:
    """Return an answer, or None if it does not come in time, or is an error."""
    found: list[T] = []

    def run() -> None:
        try:
            found.append(ask())
        except Exception:  # noqa: BLE001 - a diagnosis must not hide what it is about
            return

    thread = threading.Thread(target=run, name="ipkernel-diagnosis", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def directory_of(place: Place | None) -> ClusterDirectory | None:
    """Return the cluster directory in which a client has found its FURL.

    Args:
        place: Where the client has it from; None if it has none.

    Returns:
        None if the client has only the FURL, or the directory does not say what was launched.
    """
    if place is None or place.security is None:
        return None
    from ipkernel.cluster.directory import ClusterDirectory

    directory = ClusterDirectory(place.security.parent)
    return directory if directory.record_file.is_file() else None
