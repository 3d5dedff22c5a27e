"""What crashed clusters have left on this host, and how it is removed.

A cluster is over when its controller ran and is gone, and so is the process that it belonged to.
In doubt, such as when another host would have to be asked that does not answer, it is not.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.processes import Process, read_pid_file
from ipkernel.cluster.recorded import Recorded, programs_of
from ipkernel.errors import ClusterError, KernelError

#: Kinds of what is left over, in the order in which it is removed.
PROCESSES: Final = "processes"
JOB: Final = "job"
PID_FILE: Final = "pid file"
TRANSFER: Final = "interrupted transfer"
REMOTE: Final = "program's directory"
DIRECTORY: Final = "directory"

#: Seconds in which nobody has written to a transfer that counts as interrupted.
SILENT: Final = 3600.0
#: Seconds that processes and jobs are given to end when asked to.
_PATIENCE: Final = 3.0
_QUEUE: Final = 15.0
#: What :func:`ipkernel.objects.unfinished.hidden` makes.
_PART: Final = re.compile(r"\..{1,40}\.[0-9a-f]{8}\.part", re.DOTALL)
#: The module whose process is a controller.
_CONTROLLER: Final = "ipkernel.cli.ipcontroller"


class Leftover(NamedTuple):
    """Something that nobody needs any more.

    Attributes:
        kind: One of the constants of this module.
        title: What it is, for people.
        remove: Removes it; raises :class:`~ipkernel.errors.KernelError` or OSError if it cannot.
        directory: The cluster's directory, if it belongs to one.
        size: How many things it is.
    """

    kind: str
    title: str
    remove: Callable[[], object]
    directory: ClusterDirectory | None = None
    size: int = 1


def find(
    directories: Iterable[ClusterDirectory],
    say: Callable[[str], object] = lambda text: None,
    *,
    everywhere: bool = True,
) -> Iterator[Leftover]:
    """Look for what is left over; nothing is changed.

    Args:
        directories: The clusters' directories.
        say: Told, a sentence each, what cannot be looked at.
        everywhere: Also look at what belongs to no cluster of this host: transfers, and what
            the ssh launchers of other hosts have put here.

    Yields:
        What was found, in the order in which it is to be removed.
    """
    marked = processes.all_marked()
    looks = [_Look(one, marked.get(str(one), []), say) for one in directories]
    over = [look for look in looks if look.over]
    for look in over:
        yield from look.processes()
    for look in over:
        yield from look.jobs()
    for look in looks:
        yield from look.pid_files()
    if everywhere:
        yield from transfers()
        yield from remote_directories(ipython_dir() / "ssh", marked)
    for look in looks:
        yield from look.whole()


class _Look:
    """A look at one cluster."""

    def __init__(
        self,
        directory: ClusterDirectory,
        marked: list[Process],
        say: Callable[[str], object],
    ) -> None:
        self.directory = directory
        self._marked = marked
        self._say = say
        self._launchers: list[tuple[Recorded, Any]] = []
        self._unknown = False
        self.over = self._is_over()

    def _is_over(self) -> bool:
        directory = self.directory
        if directory.alive() or any(map(_is_controller, self._marked)):
            return False
        record = directory.read_record()
        owner = Process.from_dict("owner", record.get("owner"))
        if owner is not None and owner.alive:
            return False
        recorded = programs_of(directory)
        self._look_elsewhere([one for one in recorded if not one.here])
        if self._unknown or any(one.kind == "controller" for one, _ in self._launchers):
            return False
        # Without any sign that a controller ran here it may be elsewhere, as with copied FURLs.
        return any(one.kind == "controller" for one in recorded) or bool(
            self._stale("ipcontroller")
        )

    def _look_elsewhere(self, recorded: list[Recorded]) -> None:
        """Find out which programs of other hosts, or in queues, are still there."""
        for one in recorded:
            try:
                launcher = one.find(self.directory)
                if launcher is not None and launcher.running and _lasts(launcher):
                    self._launchers.append((one, launcher))
            except (KernelError, OSError) as error:
                self._unknown = True
                self._say(
                    f"{one.title} of cluster {self.directory.name} cannot be looked at, so nothing "
                    f"of that cluster is removed: {error}"
                )

    def processes(self) -> Iterator[Leftover]:
        """Yield what runs on without a controller."""
        found = self._marked
        if found:
            names = ", ".join(f"{one.role} (pid {one.pid})" for one in found)
            title = f"{names} of cluster {self.directory.name}"
            yield Leftover(PROCESSES, title, lambda: end(found), self.directory, len(found))

    def jobs(self) -> Iterator[Leftover]:
        """Yield what is in a queue, or runs on other hosts."""
        for one, launcher in self._launchers:
            title = f"{one.title} of cluster {self.directory.name}"
            yield Leftover(JOB, title, _canceller(launcher, title), self.directory)

    def pid_files(self) -> Iterator[Leftover]:
        """Yield the pid files of processes that are gone."""
        for path in self._stale(""):
            yield Leftover(PID_FILE, str(path), _remover(path), self.directory)

    def _stale(self, role: str) -> list[Path]:
        found = []
        for path in self.directory.pid_files():
            process = read_pid_file(path)
            if process is not None and not process.alive and role in ("", process.role):
                found.append(path)
        return found

    def whole(self) -> Iterator[Leftover]:
        """Yield the directory, if it is one that goes with its cluster."""
        directory = self.directory
        busy = self._unknown or (self._marked and not self.over)
        if not busy and (self.over or not self._launchers) and directory.left_over():
            yield Leftover(DIRECTORY, str(directory.path), directory.remove, directory)


def _is_controller(process: Process) -> bool:
    import psutil

    try:
        words = psutil.Process(process.pid).cmdline()
    except psutil.Error:
        return False
    return _CONTROLLER in words or bool(words and words[0].startswith("ipcontroller"))


def _lasts(launcher: Any) -> bool:
    """Tell whether a program is really there; what is asked about others may take a second."""
    state = getattr(launcher, "state", None)
    return state is None or not str(state()).startswith("ended")


def _canceller(launcher: Any, title: str) -> Callable[[], None]:
    def cancel() -> None:
        for method in ("request_stop", "terminate", "kill"):
            getattr(launcher, method)()
            if launcher.wait(_QUEUE):
                return
        raise ClusterError(f"cannot end {title}")

    return cancel


def end(found: list[Process]) -> None:
    """End processes: ask, then insist.

    Raises:
        ClusterError: One of them is still there.
    """
    for method in (Process.terminate, Process.kill):
        for one in found:
            method(one)
        found = processes.wait_gone(found, _PATIENCE)
        if not found:
            return
    names = ", ".join(f"{one.role} (pid {one.pid})" for one in found)
    raise ClusterError(f"cannot end {names}")


# -- what belongs to no cluster of this host ----------------------------------------------------


def temporary_places() -> list[Path]:
    """Return the directories for temporary files that ipkernel uses."""
    from ipkernel.objects.spill import default_directory

    found = (tempfile.gettempdir(), default_directory())
    return list(dict.fromkeys(Path(os.path.realpath(one)) for one in found))


def transfers(places: Iterable[Path] | None = None, now: float | None = None) -> Iterator[Leftover]:
    """Yield the files and directories that were being received when their engine was killed.

    Args:
        places: Where to look; by default where temporary files are.
        now: The time, seconds since the epoch; by default that of the call.
    """
    now = time.time() if now is None else now
    for place in temporary_places() if places is None else places:
        try:
            found = sorted(path for path in place.iterdir() if _PART.fullmatch(path.name))
        except OSError:
            continue
        for path in found:
            try:
                silent = _is_ours(path) and now - _last_written(path) > SILENT
            except OSError:
                continue
            if silent:
                yield Leftover(TRANSFER, str(path), _remover(path))


def _is_ours(path: Path) -> bool:
    return os.name != "posix" or path.lstat().st_uid == os.geteuid()


def _last_written(path: Path) -> float:
    """Return when something was last written to a file, or to anything in a directory."""
    latest = path.lstat().st_mtime
    if path.is_dir() and not path.is_symlink():
        for place, _, names in os.walk(path):
            latest = max(latest, *(os.lstat(os.path.join(place, n)).st_mtime for n in ["", *names]))
    return latest


def remote_directories(base: Path, marked: dict[str, list[Process]]) -> Iterator[Leftover]:
    """Yield what the ssh launchers of other hosts have put on this one and do not need.

    Args:
        base: The directory in which they put it.
        marked: The processes of this user, by what their cookie says.
    """
    if os.name != "posix" or not base.is_dir():
        return
    from ipkernel.launchers import remote

    for path in sorted(remote.unneeded(base)):
        found = marked.get(str(path), [])
        if found:
            names = ", ".join(f"{one.role} (pid {one.pid})" for one in found)
            yield Leftover(PROCESSES, f"{names} of {path}", _ender(found), None, len(found))
        yield Leftover(REMOTE, str(path), _remover(path))


def _ender(found: list[Process]) -> Callable[[], None]:
    return lambda: end(found)


def _remover(path: Path) -> Callable[[], None]:
    def remove() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return remove
