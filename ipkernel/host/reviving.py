"""Starting a controller again that was killed, if nobody else is there to do it."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ipkernel.cluster import processes, restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.pidfile import AlreadyRunning, PidFile
from ipkernel.tries import Tries

__all__ = ["Reviver"]

logger = logging.getLogger(__name__)

#: Seconds that a controller has to end which was started while the cluster was being stopped.
_END: Final = 1.0

Spawn = Callable[[ClusterDirectory, Sequence[str]], Any]


def _spawn(directory: ClusterDirectory, command: Sequence[str]) -> subprocess.Popen[bytes]:
    return processes.spawn_alone(directory, "ipcontroller", command)


class Reviver:
    """Starts the controller of this host again when it is gone and the note in its directory allows it.

    Of several that look at the same time one does it: the one that has the lock file.

    Args:
        directory: The cluster's directory.
        seconds: Returns the time.
        spawn: Starts a process.
    """

    def __init__(
        self, directory: Path, seconds: Callable[[], float], spawn: Spawn = _spawn
    ) -> None:
        self._directory = ClusterDirectory(directory)
        self._seconds = seconds
        self._spawn = spawn
        self._tries = Tries(seconds())
        self._lock = PidFile(self._directory.state / "restarter.json")
        self._held = False
        self._process: Any = None
        self._due: float | None = None
        self._given_up = False

    def look(self) -> None:
        """The controller could not be reached: start it, if it is gone and nobody else does."""
        if self._process is not None:
            if self._process.poll() is None:
                return  # it is about to listen
            how = processes.describe_exit(self._process.returncode)
            logger.warning("the controller that was started again %s", how)
            self._process = None
        noted = restarting.noted(self._directory)
        if (
            noted is None
            or not noted.again
            or not noted.command
            or noted.host != processes.host_name()
        ):
            self._let_go()
        elif self._directory.controller() is not None:
            self._let_go()  # it only does not answer, or another one has started it
        elif self._hold() and self._is_time():
            self._begin(noted)

    def _hold(self) -> bool:
        if not self._held:
            try:
                self._lock.claim(self._directory.name, "a host daemon")
            except (AlreadyRunning, OSError):
                return False
            self._held = True
        return True

    def _is_time(self) -> bool:
        now = self._seconds()
        if self._due is None:
            pause = self._tries.ended(now)
            if pause is None:
                if not self._given_up:
                    self._given_up = True
                    times = self._tries.in_a_row + 1
                    logger.error(
                        "the controller has ended %d times in a row, and is not started again: "
                        "see %s; 'ipcluster start' starts it",
                        times,
                        self._directory.log / "ipcontroller.log",
                    )
                return False
            self._given_up = False
            self._due = now if self._tries.in_a_row == 1 else now + pause
        return now >= self._due

    def _begin(self, noted: restarting.Restart) -> None:
        self._due = None
        try:
            restarts = restarting.count(self._directory, noted)
            if restarts is None:
                self._let_go()  # it was stopped, or started, at this moment
                return
            command = [*noted.command, "--restarts", str(restarts)]
            self._process = self._spawn(self._directory, command)
        except OSError as error:
            logger.error("the controller cannot be started again: %s", error)
            return
        self._tries.began(self._seconds())
        logger.warning("the controller is gone; it is started again (pid %d)", self._process.pid)

    def joined(self) -> None:
        """The controller is there, and works."""
        self._tries.worked()
        self._let_go()

    def _let_go(self) -> None:
        """Somebody else may start it, if that is to be done at all."""
        self._due = None
        if self._held:
            self._held = False
            self._lock.remove()

    def stop(self) -> None:
        """Look no more; if the cluster is being stopped, end what was started meanwhile."""
        self._let_go()
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        if restarting.noted(self._directory) is None:
            processes.terminate_process(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END)
        if process.returncode is None:
            process.returncode = 0  # it goes on, or the interpreter would warn that nobody waited
