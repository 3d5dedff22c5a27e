"""Starting host daemons of the controller's machine again that were killed, if nobody else does it."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ipkernel.cluster import daemonnotes, processes, restarting
from ipkernel.cluster.daemonnotes import DaemonNote
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.host.options import SLOTS
from ipkernel.ranges import ranges_text
from ipkernel.tries import Tries

__all__ = ["HostReviver"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at a daemon that is lost but lives, or that was started and has not joined.
_LOOK: Final = 0.25

Spawn = Callable[[ClusterDirectory, Sequence[str], Mapping[str, str]], Any]


def _spawn(
    directory: ClusterDirectory, command: Sequence[str], further: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return processes.spawn_alone(directory, "ipdaemon", command, further)


class _Revival:
    """What is known of a daemon that was killed at least once."""

    def __init__(self, now: float) -> None:
        self.tries = Tries(now)
        self.engines: list[int] = []
        self.process: Any = None  # the one that was started here last
        self.timer: Any = None

    def stop(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class HostReviver:
    """Starts host daemons again that the notes in the cluster's directory name.

    Args:
        reactor: Twisted's reactor, or a Clock.
        directory: The cluster's directory.
        spawn: Starts a process.
    """

    def __init__(self, reactor: Any, directory: Path, spawn: Spawn = _spawn) -> None:
        self._reactor = reactor
        self._directory = ClusterDirectory(directory)
        self._spawn = spawn
        self._revivals: dict[int, _Revival] = {}
        self._stopped = False

    def lost(self, name: str, pid: int, engines: Sequence[int]) -> None:
        """A host is lost: start its daemon again, if that was killed here and is wanted.

        Args:
            name: Of the host.
            pid: Process id of its daemon.
            engines: The ids of its engines.
        """
        if self._stopped or name != processes.host_name():
            return
        noted = daemonnotes.noted_of(self._directory, pid)
        if noted is None or noted.process.pid != pid:
            self._reap(pid)  # it ends in good order, or is for others to start
            return
        now = self._reactor.seconds()
        revival = self._revivals.setdefault(noted.origin, _Revival(now))
        revival.engines = sorted(engines)
        revival.stop()
        self._look(noted.origin, revival)

    def joined(self, name: str, pid: int) -> None:
        """A host has joined; its daemon is looked at no longer."""
        if name != processes.host_name():
            return
        for origin, revival in self._revivals.items():
            if revival.timer is None:
                continue
            noted = daemonnotes.noted_of(self._directory, origin)
            if noted is not None and noted.process.pid == pid:
                revival.stop()

    def _reap(self, pid: int) -> None:
        """Have the system forget a child of this process when it has ended."""
        for revival in self._revivals.values():
            process = revival.process
            if process is not None and process.pid == pid:
                revival.stop()
                if process.poll() is None:
                    self._later(_LOOK, self._reap_again, pid, revival)

    def _reap_again(self, pid: int, revival: _Revival) -> None:
        revival.timer = None
        self._reap(pid)

    def _look(self, origin: int, revival: _Revival) -> None:
        revival.timer = None
        process = revival.process
        ended = process is not None and process.poll() is not None
        noted = self._wanted(origin)
        if noted is None:
            return
        if not ended and noted.process.alive:  # it may be frozen, or about to join
            self._later(_LOOK, self._look, origin, revival)
            return
        how = "was killed or has crashed"
        if ended:
            how = processes.describe_exit(process.returncode)
        revival.process = None
        pause = revival.tries.ended(self._reactor.seconds())
        title = f"the host daemon (pid {noted.process.pid})"
        if pause is None:
            self._give_up(noted, f"it ended {revival.tries.in_a_row + 1} times in a row")
            return
        logger.warning("%s %s; it is started again in %g s", title, how, pause)
        self._later(pause, self._begin, origin, revival)

    def _begin(self, origin: int, revival: _Revival) -> None:
        revival.timer = None
        noted = self._wanted(origin)
        if noted is None:
            return
        restarts = noted.restarts + 1
        command = [*noted.command, "-n", str(len(revival.engines)), "--restarts", str(restarts)]
        if revival.engines:
            command += ["--engine-ids", ranges_text(revival.engines)]
        try:
            process = self._spawn(self._directory, command, {SLOTS: noted.slots})
            revival.process = process
            revival.tries.began(self._reactor.seconds())
            now = processes.Process.now(process.pid)
            changed = noted._replace(process=now or noted.process, restarts=restarts)
            if not daemonnotes.renew(self._directory, changed):
                self._end(process)  # it was stopped at this moment
                return
        except OSError as error:
            self._give_up(noted, f"it cannot be started: {error}")
            return
        logger.warning(
            "the host daemon is started again (pid %d) with engines %s",
            process.pid,
            revival.engines,
        )
        self._later(_LOOK, self._look, origin, revival)

    def _wanted(self, origin: int) -> DaemonNote | None:
        """Return the note on a daemon if that, and the cluster, are still wanted."""
        if self._stopped or restarting.noted(self._directory) is None:
            return None
        noted = daemonnotes.noted_of(self._directory, origin)
        return noted if noted is not None and noted.origin == origin else None

    def _give_up(self, noted: DaemonNote, why: str) -> None:
        logger.error(
            "the host daemon is not started again, for %s: see %s; 'ipcluster engines' starts one",
            why,
            self._directory.log / "ipdaemon.log",
        )
        with suppress(OSError):
            daemonnotes.renew(self._directory, noted._replace(failure=why))

    def _later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        revival = arguments[-1]
        revival.timer = self._reactor.callLater(seconds, function, *arguments)

    @staticmethod
    def _end(process: Any) -> None:
        if process.poll() is None:
            processes.terminate_process(process)

    def stop(self) -> None:
        """Start nothing more; daemons that have not joined yet need not do so any more."""
        self._stopped = True
        for revival in self._revivals.values():
            waiting = revival.timer is not None
            revival.stop()
            process = revival.process
            if process is not None and waiting:
                self._end(process)
            if process is not None and process.returncode is None:
                process.returncode = 0  # or the interpreter would warn that nobody waited for it
