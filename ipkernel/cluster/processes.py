"""The processes of a cluster as seen from outside: who they are, and how to end them.

Only processes that are proven to be the cluster's are ever signalled: a pid file names a
process by number *and* start time, and what has no pid file carries the cluster's cookie in
its environment. What differs between systems is in this module.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.signals import code_text
from ipkernel.vitals import same_process_lives

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory

#: The environment variable that all processes of a cluster carry: its directory.
COOKIE: Final = "IPKERNEL_CLUSTER"
_POLL: Final = 0.01
#: Seconds that another thread may take to collect the exit code of a process that has ended.
_REAP: Final = 5.0
POSIX: Final = os.name == "posix"


def host_name() -> str:
    """Return this host's name, as pid files have it."""
    import socket

    return socket.gethostname()


class Process(NamedTuple):
    """A process that a pid file names.

    Attributes:
        role: Stem of the pid file, such as ``"ipcontroller"``.
        pid: Its number.
        started: When it began, in seconds since the epoch, as psutil tells it.
        host: Name of its host.
        path: The pid file, or None.
    """

    role: str
    pid: int
    started: float
    host: str
    path: Path | None = None

    @classmethod
    def from_dict(cls, role: str, content: Any, path: Path | None = None) -> Process | None:
        """Return the process that ``content`` describes, or None if it describes none."""
        try:
            pid, started = int(content["pid"]), float(content["started"])
            host = str(content.get("host") or "")
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(role, pid, started, host, path) if pid > 0 else None

    @classmethod
    def this(cls, role: str) -> Process:
        """Describe the calling process."""
        import psutil

        return cls(role, os.getpid(), psutil.Process().create_time(), host_name())

    @classmethod
    def now(cls, pid: int, role: str = "ipdaemon") -> Process | None:
        """Describe a process of this host; None if it has ended."""
        import psutil

        try:
            return cls(role, pid, psutil.Process(pid).create_time(), host_name())
        except psutil.Error:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads."""
        return {"pid": self.pid, "started": self.started, "host": self.host}

    @property
    def here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host in ("", host_name())

    @property
    def alive(self) -> bool:
        """Whether it lives; a process of another host is believed to."""
        return not self.here or same_process_lives(self.pid, self.started)

    def signal(self, number: int) -> bool:
        """Send it a signal, if it is of this host and still the same process.

        Returns:
            Whether it was there to get it.
        """
        if not self.here:
            return False
        return _send(self.pid, self.started, number)

    def terminate(self) -> bool:
        """Ask it to end in good order; see :meth:`signal`."""
        number = signal.SIGTERM if POSIX else signal.CTRL_BREAK_EVENT  # type: ignore[attr-defined]
        return self.signal(number)

    def kill(self) -> bool:
        """End it and the rest of its process group at once; see :meth:`signal`."""
        if not self.here or not same_process_lives(self.pid, self.started):
            return False
        kill_group(self.pid)
        return True


def read_pid_file(path: Path) -> Process | None:
    """Return the process that a pid file names; None when it is missing, garbled or a copy."""
    content = _content(path)
    process = Process.from_dict(path.stem, content, path)
    return None if process is not None and is_copy(path, content) else process


def is_copy(path: Path, content: Mapping[str, Any]) -> bool:
    """Tell whether a pid file was copied together with its directory.

    The process that it names is then that of another cluster. It is not if the directory was moved.

    Args:
        path: The pid file.
        content: What it says.
    """
    place, here = content.get("directory"), os.path.abspath(path.parent)
    if not isinstance(place, str) or place == here:
        return False
    if content.get("host") != host_name():  # whose directories may have other names
        return False
    with suppress(OSError):
        if os.path.samefile(place, here):
            return False
    other = _content(Path(place) / path.name)
    same = ("pid", "started", "host")
    return isinstance(other, dict) and all(other.get(one) == content.get(one) for one in same)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _send(pid: int, started: float, number: int) -> bool:
    """Signal a process without a gap in which its number could pass to another one."""
    if not hasattr(os, "pidfd_open"):
        if not same_process_lives(pid, started):
            return False
        try:
            os.kill(pid, _like(number))
        except OSError:  # it has just ended, or on Windows has another console
            return False
        return True
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not same_process_lives(pid, started):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def kill_group(pid: int) -> None:
    """Kill a process that leads a group of its own, and the group with it."""
    if not POSIX:
        _kill_tree(pid)
        return
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def spawn_alone(
    directory: ClusterDirectory,
    program: str,
    command: Sequence[str],
    further: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start a program of a cluster that outlives this process.

    Args:
        directory: Of the cluster.
        program: Its name, by which the file with its standard error is called.
        command: Its command line.
        further: Further environment variables.

    Raises:
        OSError: It cannot be started.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(directory.log / f"{program}.err", flags, 0o600), "ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, COOKIE: str(directory), **further},
            **spawn_options(),
        )


def terminate_process(process: subprocess.Popen[bytes]) -> None:
    """Ask a child of ours to end in good order."""
    if POSIX:
        process.terminate()
    else:
        signal_child(process, signal.SIGINT)


def signal_child(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a child of ours; nothing happens if it has ended.

    Raises:
        ValueError: Windows cannot send this one.
    """
    with suppress(OSError):
        process.send_signal(_like(number))


def _like(number: int) -> int:
    """Return what has the effect of a signal: an interrupt would end a process at once on Windows."""
    if not POSIX and number == signal.SIGINT:
        return int(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
    return number


def terminate_group(pid: int) -> None:
    """Ask a process that leads a group of its own, and the group with it, to end."""
    try:
        if not POSIX:
            os.kill(pid, signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined]
        elif os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)
    except OSError:  # it has ended, or on Windows has another console
        pass


def _kill_tree(pid: int) -> None:
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue


def wait_gone(processes: Iterable[Process], timeout: float) -> list[Process]:
    """Wait until processes are gone.

    Args:
        processes: Whom to wait for; those of other hosts are waited for by their pid files.
        timeout: Seconds to wait at most.

    Returns:
        Those that are still there.
    """
    deadline = time.monotonic() + timeout
    left = [p for p in processes if _is_there(p)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL)
        left = [p for p in left if _is_there(p)]
    return left


def _is_there(process: Process) -> bool:
    if process.here:
        return process.alive
    return process.path is not None and process.path.exists()


def marked(directory: str | os.PathLike[str]) -> list[Process]:
    """Return the processes of this user and host that carry the cookie of a cluster directory.

    The calling process and those it descends from are left out.
    """
    return all_marked().get(os.fspath(directory), [])


def all_marked() -> dict[str, list[Process]]:
    """Return the processes of this user and host that carry any cookie, by what it says.

    The calling process and those it descends from are left out.
    """
    import psutil

    me = psutil.Process()
    skip = {me.pid, *(p.pid for p in me.parents())}
    found: dict[str, list[Process]] = {}
    for process in psutil.process_iter():
        try:
            if process.pid in skip or not _is_mine(process):
                continue
            cookie = process.environ().get(COOKIE)
            if cookie is not None and process.status() != psutil.STATUS_ZOMBIE:
                this = Process(process.name(), process.pid, process.create_time(), "")
                found.setdefault(cookie, []).append(this)
        except (psutil.Error, OSError):
            continue
    return found


def _is_mine(process: Any) -> bool:
    """Tell whether a process is this user's; elsewhere the system shows no others' environment."""
    return not POSIX or process.uids().real == os.getuid()


def spawn_options(*, stays: bool = False) -> dict[str, Any]:
    """Return arguments for :class:`subprocess.Popen` that keep a terminal's Ctrl-C away.

    Args:
        stays: Whether the program is to stay when the terminal goes.
    """
    if POSIX:
        return {"start_new_session": True}
    api: Any = subprocess  # on Windows a console that is closed ends all programs that have it
    return {"creationflags": api.CREATE_NEW_PROCESS_GROUP | (api.CREATE_NO_WINDOW if stays else 0)}


def wait_process(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for a child of ours; notices its end at once where the system can tell.

    Args:
        process: The child.
        timeout: Seconds to wait at most.

    Returns:
        Whether it has ended.
    """
    if process.poll() is not None:
        return True
    if hasattr(os, "pidfd_open"):
        import select

        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            pass
        else:
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(max(timeout, 0) * 1000):
                    return False
            finally:
                os.close(descriptor)
            timeout = _REAP
    try:
        process.wait(max(timeout, 0.001))
    except subprocess.TimeoutExpired:
        return False
    return True


def describe_exit(code: int | None) -> str:
    """Say in words how a process ended, from :attr:`subprocess.Popen.returncode`."""
    if code is None:
        return "is still running"
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with {code_text(code)}"


def cpu_count() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:
        return os.cpu_count() or 1
