"""Which host daemons the controller starts again if they are killed: a note on each in the directory.

They are those on the controller's machine that outlive whoever has started them. A note is there as long
as its daemon is wanted: the daemon itself removes it when it ends in good order, and so does whoever
stops it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.cluster.processes import Process, host_name

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory

_PREFIX: Final = "again-"


class DaemonNote(NamedTuple):
    """What a note says.

    Attributes:
        origin: Process id of the first daemon, by which others know it.
        process: The daemon of now, or the last one.
        command: The command line of the first one; there is never a secret in it.
        slots: What its environment said about slots, as JSON; empty if nothing.
        restarts: How often it was started again.
        failure: Why it is not started again any more; empty if it is.
    """

    origin: int
    process: Process
    command: tuple[str, ...]
    slots: str = ""
    restarts: int = 0
    failure: str = ""


def first_note(pid: int, command: Iterable[str], slots: str) -> DaemonNote | None:
    """Return the note on a daemon that was just started here; None if it has ended already.

    Args:
        pid: Its process id.
        command: Its command line.
        slots: What its environment says about slots.
    """
    process = Process.now(pid)
    return DaemonNote(pid, process, tuple(command), slots) if process is not None else None


def note(directory: ClusterDirectory, daemon: DaemonNote) -> None:
    """Note that a daemon is wanted, and how it is started again if it is killed.

    Raises:
        OSError: The file cannot be written.
    """
    path = _path(directory, daemon)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(_content(daemon))
    temporary.replace(path)


def renew(directory: ClusterDirectory, daemon: DaemonNote) -> bool:
    """Change a note; one that was removed meanwhile does not come back.

    Returns:
        Whether it was still there.

    Raises:
        OSError: The file cannot be written.
    """
    path = _path(directory, daemon)
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return False
    try:
        # One write, and never shorter: whoever reads at the same time finds a whole note.
        os.write(descriptor, _content(daemon).ljust(os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)
    return path.exists()


def _content(daemon: DaemonNote) -> bytes:
    return json.dumps(daemon._asdict() | {"process": daemon.process.to_dict()}).encode()


def noted(directory: ClusterDirectory) -> list[DaemonNote]:
    """Return the notes on the daemons of this host."""
    try:
        paths = sorted(directory.state.glob(f"{_PREFIX}*.json"))
    except OSError:
        return []
    found = [_read(path) for path in paths]
    return [one for one in found if one is not None and one.process.here]


def noted_of(directory: ClusterDirectory, pid: int) -> DaemonNote | None:
    """Return the note on a daemon of this host, by the process id of it or of the first one."""
    notes = noted(directory)
    now = (one for one in notes if one.process.pid == pid)
    return next(now, None) or next((one for one in notes if one.origin == pid), None)


def returns(directory: ClusterDirectory, pid: int) -> bool:
    """Tell whether a daemon that has ended is there again, or will be.

    Args:
        directory: Of the cluster.
        pid: Process id of the first one.
    """
    found = noted_of(directory, pid)
    if found is None or found.failure:
        return False
    return directory.alive() or (found.process.pid != pid and found.process.alive)


def forbid(directory: ClusterDirectory, pid: int) -> Process | None:
    """Note that a daemon of this host is not wanted any more.

    Args:
        directory: Of the cluster.
        pid: Its process id, or that of the first one.

    Returns:
        The daemon of now, if there was a note on it.
    """
    found = noted_of(directory, pid)
    if found is None:
        return None
    _remove(_path(directory, found))
    return found.process


def forbid_all(directory: ClusterDirectory) -> None:
    """Note that no daemon of this host is wanted any more."""
    for one in noted(directory):
        _remove(_path(directory, one))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _path(directory: ClusterDirectory, daemon: DaemonNote) -> Path:
    return directory.state / f"{_PREFIX}{daemon.process.host or host_name()}-{daemon.origin}.json"


def _read(path: Path) -> DaemonNote | None:
    try:
        content: Any = json.loads(path.read_bytes())
        process = Process.from_dict("ipdaemon", content["process"])
        if process is None:
            return None
        return DaemonNote(
            int(content["origin"]),
            process,
            tuple(str(word) for word in content["command"]),
            str(content["slots"]),
            int(content["restarts"]),
            str(content["failure"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
