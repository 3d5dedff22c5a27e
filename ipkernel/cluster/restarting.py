"""Whether, and how, a cluster's controller is started again if it is killed: a note in its directory.

The note is there as long as the controller is wanted, also if that is killed. Whoever stops a cluster removes it first, and
so does a controller that ends in good order.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipkernel.cluster.directory import ClusterDirectory, write_whole
from ipkernel.cluster.processes import Process, host_name

_NAME: Final = "restart.json"
_OWNER: Final = "owner"
_POLL: Final = 0.02
#: Bytes of a note at most.
_LARGEST: Final = 1 << 20


class Restart(NamedTuple):
    """What the note says.

    Attributes:
        command: The controller's command line; there is never a secret in it. Empty if it is for
            its owner to start it again, and not for a host daemon.
        host: Name of the host on which it runs.
        restarts: How often it was started again.
        again: Whether it is started again at all without being asked for.
        owner: The process that starts it again if there is no command; None if that is not known.
    """

    command: tuple[str, ...] = ()
    host: str = ""
    restarts: int = 0
    again: bool = True
    owner: Process | None = None


def note(directory: ClusterDirectory, restart: Restart) -> None:
    """Note that the controller is wanted, and how it is started again if it is killed.

    Raises:
        OSError: The file cannot be written.
    """
    write_whole(_path(directory), _content(restart))


def forbid(directory: ClusterDirectory) -> None:
    """Note that the controller is not wanted any more."""
    try:
        _path(directory).unlink(missing_ok=True)
    except OSError:
        pass


def count(directory: ClusterDirectory, found: Restart) -> int | None:
    """Note that the controller is started once more, if the note still says what was found there.

    Nothing but the note that is there is changed: one that was removed meanwhile does not come back.

    Returns:
        How often it was started again, this time included; None if the note is another one, or gone.

    Raises:
        OSError: The file cannot be written.
    """
    more = found._replace(restarts=found.restarts + 1)
    try:
        descriptor = os.open(_path(directory), os.O_RDWR | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    try:
        old = os.read(descriptor, _LARGEST)
        if _parsed(old) != found:
            return None
        os.lseek(descriptor, 0, os.SEEK_SET)
        # One write, and never shorter: whoever reads at the same time finds a whole note.
        os.write(descriptor, _content(more).ljust(len(old)))
    finally:
        os.close(descriptor)
    return more.restarts


def noted(directory: ClusterDirectory) -> Restart | None:
    """Return what the note says, or None if the controller is not wanted."""
    try:
        return _parsed(_path(directory).read_bytes())
    except OSError:
        return None


def _content(restart: Restart) -> bytes:
    owner = restart.owner.to_dict() if restart.owner is not None else None
    return json.dumps(restart._asdict() | {"owner": owner}).encode() + b"\n"


def _parsed(data: bytes) -> Restart | None:
    try:
        content: Any = json.loads(data)
        command = tuple(str(word) for word in content["command"])
        host, restarts = str(content["host"]), int(content["restarts"])
        owner = Process.from_dict(_OWNER, content.get("owner"))
        return Restart(command, host, restarts, bool(content["again"]), owner)
    except (ValueError, KeyError, TypeError):
        return None


def expected(directory: ClusterDirectory) -> bool:
    """Tell whether a controller that is gone is started again: it is wanted, and there is somebody to do so.

    After a crash of the whole machine the note is still there, and nobody else. What is on another
    host is believed to live.

    Args:
        directory: Of the cluster.
    """
    found = noted(directory)
    if found is None or not found.again:
        return False
    if not found.command:
        return found.owner is None or found.owner.alive
    if found.host != host_name():
        return True
    return any(p.here and p.role.startswith("ipdaemon") for p in directory.processes())


def wait_back(directory: ClusterDirectory, timeout: float) -> bool:
    """Tell whether the controller lives; wait for one that is to be started again.

    Args:
        directory: Of the cluster.
        timeout: Seconds to wait at most.
    """
    deadline = time.monotonic() + timeout
    while not directory.alive():
        if not expected(directory) or time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _path(directory: ClusterDirectory) -> Path:
    return directory.state / _NAME
