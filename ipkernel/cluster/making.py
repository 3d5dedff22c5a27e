"""Make a cluster's directory, and remove it, safely on file systems that hosts share.

Nothing here relies on locks: what must happen once is a link or a rename, which every file system
does at once or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ipkernel.cluster.configuration import FILE, load
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir, write_beside
from ipkernel.cluster.processes import Process, marked
from ipkernel.cluster.recorded import Recorded, programs_of
from ipkernel.cluster.sources import settings_by_place
from ipkernel.errors import ClusterError, KernelError

#: What ipkernel puts into a cluster directory.
_OURS: Final = ("security", "log", "state", "pid", FILE, "cluster.json")
#: How a file system says that it has no hard links.
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def create_cluster(directory: ClusterDirectory, given: Mapping[str, Any] | None = None) -> Path:
    """Make a cluster's directory with a commented configuration file.

    Of several that try at the same time, on whatever hosts, one succeeds.

    Args:
        directory: The directory; it may be there, but must have no configuration file.
        given: Options to set in the file, as for :func:`~ipkernel.cluster.configuration.load`.

    Returns:
        The configuration file.

    Raises:
        ClusterError: There is such a cluster, or the directory cannot be made.
        ConfigurationError: An option is unknown, or a value not acceptable.
        SecurityError: The directory belongs to somebody else, or is not private.
    """
    from ipkernel.cluster.template import template

    load(directory, given=given)  # refuses what contradicts each other before anything is made
    text = template(f"cluster {directory.name!r}", settings_by_place(given or {}))
    path = directory.path / FILE
    if os.path.lexists(path):
        raise ClusterError(f"there is a cluster {directory.name!r} already ({path})")
    directory.create()
    put_new(beside(path, text.encode()), path)
    return path


def put_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, which must be free; the temporary file goes.

    Raises:
        ClusterError: There is such a file already, or it cannot be written.
    """
    try:
        os.link(temporary, path)  # fails if it is there, also on a network file system
    except FileExistsError:
        raise ClusterError(f"{path} is there already") from None
    except OSError as error:
        if not error.errno or error.errno not in _NO_LINKS:
            raise ClusterError(f"cannot write {path}: {error.strerror or error}") from None
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path, data: bytes) -> Path:
    """Write a new file beside ``path``, for its owner only; return that file.

    Raises:
        ClusterError: It cannot be written.
    """
    try:
        return write_beside(path, data)
    except OSError as error:
        raise ClusterError(f"cannot write {path}: {error.strerror or error}") from None


def refuse_running(directory: ClusterDirectory) -> None:
    """Do nothing if no process or job of a cluster is left, here or on another host.

    Raises:
        ClusterError: One is; the text says which, where, and what to do.
    """
    found = directory.processes() or marked(directory.path)
    away = [one for one in found if not one.here]
    what = f"cluster {directory.name} is running: "
    what += ", ".join(f"{one.role} (pid {one.pid}{_where(one)})" for one in found)
    if away:
        raise ClusterError(
            f"{what}; stop it on host {away[0].host}, or if that is gone for good, remove "
            f"{away[0].path}"
        )
    stop = f"stop it first: {directory.command('stop')}"
    if found:
        raise ClusterError(f"{what}; {stop}")
    for program in programs_of(directory):
        left = "" if program.here else _still_there(program, directory)
        if left:
            raise ClusterError(
                f"cluster {directory.name} may be running: {program.title} {left}; {stop}, or if "
                f"it is gone for good, remove {directory.record_file}"
            )


def _still_there(program: Recorded, directory: ClusterDirectory) -> str:
    """Say what is known of a program that was launched elsewhere; empty if it has ended."""
    try:
        launcher = program.find(directory)
        if launcher is None or not launcher.running:
            return ""
        return f"({launcher.state()})"
    except (KernelError, OSError) as error:
        return f"cannot be looked at ({error})"


def _where(process: Process) -> str:
    return "" if process.here else f" on host {process.host}"


def delete_cluster(directory: ClusterDirectory) -> list[str]:
    """Remove a cluster that does not run, with its directory.

    A directory that is not in ``$IPYTHONDIR`` only loses what ipkernel has put into it.

    Returns:
        Names of what was left there because it is not ipkernel's; empty if all is gone.

    Raises:
        ClusterError: It runs, here or on another host, there is no such cluster, or not all of it
            can be removed.
        SecurityError: Its directory belongs to somebody else, or is not private.
    """
    if not directory.exists or not directory.pid.is_dir():
        raise ClusterError(f"there is no cluster {directory.name!r} ({directory.path})")
    if directory.path.is_symlink():
        raise ClusterError(f"{directory.path} is a link: delete the directory that it leads to")
    directory.check()
    refuse_running(directory)
    doomed = _put_aside(directory)
    if doomed.processes():  # it was started since then
        _put_back(doomed, directory)
        refuse_running(directory)
    whole = directory.path.parent == ipython_dir()
    if whole:
        doomed.remove()
    else:
        for name in _OURS:
            path = doomed.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
    left = _put_back(doomed, directory) if doomed.exists else []
    ours = left if whole else [name for name in left if name in _OURS]
    if ours:
        raise ClusterError(
            f"cannot remove {', '.join(ours)} in {directory.path}: check the permissions of the "
            f"directory and of what is in it"
        )
    return left


def _put_aside(directory: ClusterDirectory) -> ClusterDirectory:
    """Rename a directory, so that nobody starts its cluster any more."""
    doomed = directory.path.with_name(f".{directory.path.name}.deleted-{os.getpid()}")
    try:
        os.rename(directory.path, doomed)
    except OSError as error:
        raise ClusterError(f"cannot remove {directory.path}: {error.strerror or error}") from None
    return ClusterDirectory(doomed)


def _put_back(doomed: ClusterDirectory, directory: ClusterDirectory) -> list[str]:
    """Give a directory its name back, unless it is empty; return what is in it."""
    try:
        doomed.path.rmdir()
    except OSError:
        try:
            os.rename(doomed.path, directory.path)
        except OSError:  # somebody has made a new one
            raise ClusterError(
                f"there is a new {directory.path} already; what was left of the old one is in "
                f"{doomed.path}"
            ) from None
        return sorted(path.name for path in directory.path.iterdir())
    return []
