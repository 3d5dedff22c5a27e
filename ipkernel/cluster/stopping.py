"""Stop a cluster that somebody else started, knowing nothing but its directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process
from ipkernel.errors import ClusterError

#: Of the time that a stop may take, the share for each degree of severity.
_ORDERLY: Final = 0.6
_TERMINATE: Final = 0.2


class Stopped(NamedTuple):
    """What a stop found and did.

    Attributes:
        found: The processes that pid files named.
        strays: Processes without a pid file that had to be killed.
        killed: Those of ``found`` that did not end when asked to.
        seconds: How long it took.
    """

    found: tuple[Process, ...]
    strays: tuple[Process, ...]
    killed: tuple[Process, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether everything ended in good order."""
        return not self.strays and not self.killed


def stop_directory(
    directory: ClusterDirectory,
    *,
    timeout: float = 5.0,
    say: Callable[[str], object] = lambda text: None,
    thorough: bool = True,
) -> Stopped:
    """End every process of a cluster on this host, by its pid files.

    The controller is asked first and tells its host daemons; what does not end in time is
    terminated, then killed.

    Args:
        directory: The cluster's directory.
        timeout: Seconds that all of it may take, about.
        say: Told, a sentence each, what had to be done by force.
        thorough: Also look for processes that carry the cluster's cookie and have no pid file.

    Returns:
        What was found and done. Nothing found is not an error.

    Raises:
        ClusterError: Something is still there, or the controller runs on another host.
    """
    began = time.monotonic()
    found = tuple(directory.processes())
    _refuse_elsewhere(directory, found)
    local = [p for p in found if p.here]
    left = _in_order(local, timeout)
    killed = tuple(left)
    for process in left:
        say(f"{process.role} (pid {process.pid}) did not end when asked to; it is killed")
        process.kill()
    left = processes.wait_gone(left, max(timeout * (1 - _ORDERLY - _TERMINATE), 0.5))
    if left:
        names = ", ".join(f"{p.role} (pid {p.pid})" for p in left)
        raise ClusterError(f"cannot end {names} of cluster {directory.name}")
    strays = _end_strays(directory, say) if thorough else ()
    directory.processes()  # removes the pid files of the killed
    return Stopped(found, strays, killed, time.monotonic() - began)


def _refuse_elsewhere(directory: ClusterDirectory, found: tuple[Process, ...]) -> None:
    for process in found:
        if process.role == "ipcontroller" and not process.here:
            raise ClusterError(
                f"the controller of cluster {directory.name} runs on host {process.host}: "
                f"stop it there"
            )


def _in_order(local: list[Process], timeout: float) -> list[Process]:
    """Ask the controller, then everybody; return who is left."""
    controller = [p for p in local if p.role == "ipcontroller"]
    for process in controller or local:
        process.terminate()
    left = processes.wait_gone(local, timeout * _ORDERLY)
    for process in left:
        process.terminate()
    return processes.wait_gone(left, timeout * _TERMINATE) if left else []


def _end_strays(directory: ClusterDirectory, say: Callable[[str], object]) -> tuple[Process, ...]:
    """Kill what carries the cluster's cookie and is still there after a moment."""
    found = processes.marked(directory.path)
    strays = processes.wait_gone(found, 0.5) if found else []
    for process in strays:
        say(f"{process.role} (pid {process.pid}) was left over; it is killed")
        process.kill()
    processes.wait_gone(strays, 1.0)
    return tuple(strays)


def end_leftovers(directory: ClusterDirectory, timeout: float = 5.0) -> None:
    """Before a start: end host daemons of this host that have outlived their controller.

    Raises:
        ClusterError: The cluster is running, or one of them cannot be ended.
    """
    if not directory.pid_files():
        return
    controller = directory.controller()
    if controller is not None:
        who = f"cluster {directory.name} is already running (controller pid {controller.pid}"
        if not controller.here:
            raise ClusterError(
                f"{who} on host {controller.host}): stop it there, or remove {controller.path} "
                f"if it is gone"
            )
        raise ClusterError(
            f"{who}): connect to it, or stop it first with "
            f"'ipcluster stop --cluster-dir {directory.path}'"
        )
    if directory.processes():
        stop_directory(directory, timeout=timeout)
