"""Stop a cluster that somebody else started, knowing nothing but its directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ipkernel.cluster import daemonnotes, processes, restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process
from ipkernel.cluster.recorded import Recorded, controller_elsewhere, programs_of
from ipkernel.cluster.telling import at_once
from ipkernel.errors import ClusterError, KernelError

#: Of the time that a stop may take, the share for each degree of severity.
_ORDERLY: Final = 0.6
_TERMINATE: Final = 0.2
#: Seconds that processes without a pid file are given, which may be about to end with their parents.
_STRAYS: Final = 2.0
#: Seconds that programs of other hosts, and batch jobs, are given at each degree.
_ELSEWHERE: Final = 15.0


class Stopped(NamedTuple):
    """What a stop found and did.

    Attributes:
        found: The processes that pid files named.
        strays: Processes without a pid file that had to be killed.
        killed: Those of ``found`` that did not end when asked to.
        seconds: How long it took.
        jobs: Programs that a launcher has started elsewhere, or in a queue.
    """

    found: tuple[Process, ...]
    strays: tuple[Process, ...]
    killed: tuple[Process, ...]
    seconds: float
    jobs: tuple[Recorded, ...] = ()

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
    """End every process of a cluster on this host by its pid files, and others by their launchers.

    The controller is asked first and tells its host daemons; what does not end in time is
    terminated, then killed. What was launched on other hosts or through a queue is ended by
    the launchers that ``cluster.json`` names.

    Args:
        directory: The cluster's directory.
        timeout: Seconds that all of it may take on this host, about.
        say: Told, a sentence each, what had to be done by force.
        thorough: Also look for processes that carry the cluster's cookie and have no pid file.

    Returns:
        What was found and done. Nothing found is not an error.

    Raises:
        ClusterError: Something is still there, or the controller runs on another host.
    """
    began = time.monotonic()
    restarting.forbid(directory)
    found = tuple(directory.processes())
    elsewhere = _Elsewhere(directory, say)
    if not any(one.kind == "controller" for one in elsewhere.programs):
        _refuse_elsewhere(directory, found)
    elsewhere.tell("request_stop")
    killed = _end_local(directory, [p for p in found if p.here], timeout, say)
    late = [p for p in directory.processes() if p.here]  # was being started again meanwhile
    if late:
        found += tuple(late)
        killed += _end_local(directory, late, timeout, say)
    elsewhere.end()
    strays = _end_strays(directory, say) if thorough else ()
    directory.processes()  # removes the pid files of the killed
    daemonnotes.forbid_all(directory)
    return Stopped(found, strays, killed, time.monotonic() - began, elsewhere.programs)


class _Elsewhere:
    """The programs of a cluster that their launchers have to end, each behind its launcher."""

    def __init__(self, directory: ClusterDirectory, say: Callable[[str], object]) -> None:
        self._directory = directory
        self._say = say
        self._found: list[tuple[Recorded, Any]] = []
        recorded = [one for one in programs_of(directory) if not one.here]
        at_once(recorded, self._find)
        self._found.sort(key=lambda found: recorded.index(found[0]))
        self.programs = tuple(one for one, _ in self._found)

    def _find(self, one: Recorded) -> None:
        try:
            launcher = one.find(self._directory)
            if launcher is not None and launcher.running:
                self._found.append((one, launcher))
        except (KernelError, OSError) as error:
            self._say(f"{one.title} cannot be looked at: {error}")

    def tell(self, method: str) -> None:
        """Call a method of all launchers at the same time."""
        at_once([launcher for _, launcher in self._found], lambda one: getattr(one, method)())

    def end(self) -> None:
        """Wait until all of them have ended; insist, then kill.

        Raises:
            ClusterError: One of them is still there.
        """
        if not self._found:
            return
        left = self._wait(self._found)
        for method in ("terminate", "kill"):
            if left:
                self._found = left
                self.tell(method)
                left = self._wait(left)
        if left:
            from ipkernel.cluster.hosted import state_of

            names = ", ".join(f"{one.title} ({state_of(launcher)})" for one, launcher in left)
            raise ClusterError(
                f"cannot end {names} of cluster {self._directory.name}; if it is gone for good, "
                f"remove {self._directory.record_file}"
            )
        record = self._directory.read_record()
        if any(one.kind == "controller" for one in self.programs):
            record = {**record, "controller": {"pid": 0}}
        self._directory.write_record({**record, "engines": {}})

    @staticmethod
    def _wait(found: Sequence[tuple[Recorded, Any]]) -> list[tuple[Recorded, Any]]:
        deadline = time.monotonic() + _ELSEWHERE
        return [one for one in found if not one[1].wait(max(0.0, deadline - time.monotonic()))]


def _refuse_elsewhere(directory: ClusterDirectory, found: tuple[Process, ...]) -> None:
    for process in found:
        if process.role == "ipcontroller" and not process.here:
            raise ClusterError(
                f"the controller of cluster {directory.name} runs on host {process.host}: "
                f"stop it there"
            )


def _end_local(
    directory: ClusterDirectory,
    local: list[Process],
    timeout: float,
    say: Callable[[str], object],
) -> tuple[Process, ...]:
    """End processes of this host; return those that had to be killed.

    Raises:
        ClusterError: One of them is still there.
    """
    killed = _in_order(directory, local, timeout)
    for process in killed:
        say(f"{process.role} (pid {process.pid}) did not end when asked to; it is killed")
        process.kill()
    left = processes.wait_gone(killed, max(timeout * (1 - _ORDERLY - _TERMINATE), 0.5))
    if left:
        names = ", ".join(f"{p.role} (pid {p.pid})" for p in left)
        raise ClusterError(f"cannot end {names} of cluster {directory.name}")
    return tuple(killed)


def _in_order(directory: ClusterDirectory, local: list[Process], timeout: float) -> list[Process]:
    """Ask the controller, then everybody; return who is left."""
    controller = [p for p in local if p.role == "ipcontroller"]
    if not controller or not _asked(directory):
        for process in controller or local:
            process.terminate()
    left = processes.wait_gone(local, timeout * _ORDERLY)
    for process in left:
        process.terminate()
    return processes.wait_gone(left, timeout * _TERMINATE) if left else []


def _asked(directory: ClusterDirectory) -> bool:
    """Ask the controller to end through its door, where a signal does not reach other consoles."""
    if processes.POSIX and os.environ.get("IPKERNEL_PORTABLE") != "1":
        return False
    from ipkernel.cluster import doors

    try:
        doors.shut_down(directory)
    except (KernelError, TimeoutError, OSError):
        return False
    return True


def _end_strays(directory: ClusterDirectory, say: Callable[[str], object]) -> tuple[Process, ...]:
    """Kill what carries the cluster's cookie and is still there after a moment."""
    found = processes.marked(directory.path)
    strays = processes.wait_gone(found, _STRAYS) if found else []
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
    elsewhere = any(not one.here for one in programs_of(directory))
    if not elsewhere and not directory.pid_files():
        return
    refuse_running(directory)
    if elsewhere or directory.processes():
        stop_directory(directory, timeout=timeout)


def refuse_running(directory: ClusterDirectory) -> None:
    """Do nothing if a cluster has no controller.

    Raises:
        ClusterError: It has one; the text says where.
    """
    controller = directory.controller()
    if controller is not None:
        who = f"cluster {directory.name} is already running (controller pid {controller.pid}"
        if not controller.here:
            raise ClusterError(
                f"{who} on host {controller.host}): stop it there, or remove {controller.path} "
                f"if it is gone"
            )
        raise ClusterError(f"{who}): connect to it, or stop it first: {directory.command('stop')}")
    try:
        away = controller_elsewhere(directory)
    except ClusterError:  # its host may be gone for good
        away = None
    if away is not None:
        found, state = away
        raise ClusterError(
            f"cluster {directory.name} is already running (controller: {found.title}, {state}): "
            f"connect to it, or stop it first: {directory.command('stop')}"
        )
