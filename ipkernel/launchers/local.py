"""Launch on this host, as child processes.

A child's standard input is its *lifeline*: it ends in good order when that closes, which the
operating system does for us even when this process is killed. Its standard output carries its
events, one JSON object a line. Children have a session of their own, so that a Ctrl-C in the
terminal reaches only their owner, who decides what it means.
"""

from __future__ import annotations

import os
import shlex
import site
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import IO, Any, Final

from zope.interface import implementer, provider

from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers.base import Launcher
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass, Share
from ipkernel.signals import signal_here

_LOG_LIMIT: Final = 5_000_000

_started: weakref.WeakSet[LocalLauncher] = weakref.WeakSet()


@implementer(ILauncher)
@provider(ILauncherClass)
class LocalLauncher(Launcher):
    """One of ipkernel's programs as a child process.

    Its arguments are those of :class:`~ipkernel.launchers.base.Launcher`.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "running" if self.running else "not running"
        return f"<{type(self).__name__} {self.name} pid={self.pid} {state}>"

    @classmethod
    def plan(cls, n: int | None, options: Mapping[str, Any]) -> list[Share]:
        """Have all engines on this host, by default one for each core."""
        return [Share(processes.cpu_count() if n is None else n)]

    @classmethod
    def from_record(
        cls, directory: ClusterDirectory, record: dict[str, Any], options: Mapping[str, Any]
    ) -> LocalLauncher:
        """Return a launcher that was not started: its process is found by its pid file."""
        return cls(directory, options=options)

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, as :attr:`subprocess.Popen.returncode`; None before."""
        return self._process.poll() if self._process is not None else None

    def how_ended(self) -> str:
        """Say how it ended, such as ``"exited with code 1"``."""
        return processes.describe_exit(self.exit_code)

    def command(self) -> list[str]:
        """Return the command line; there is never a secret in it."""
        lifeline = ["--lifeline"] if self.lifeline else []
        return [sys.executable, "-P", "-m", self.module, *self.arguments, *lifeline]

    def state(self) -> str:
        """Say in a few words where it stands."""
        if self._process is None:
            return "not started"
        return "running" if self.running else f"ended: {self.how_ended()}"

    def record(self) -> dict[str, Any]:
        """Return what it is, as plain data."""
        return {"pid": self.pid, "n": self.share.n}

    def preview(self) -> str:
        """Return the command line."""
        return shlex.join(self.command())

    def start(self) -> None:
        """Start the child; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        if self._process is not None:
            raise LauncherError(f"{self.name} was started already")
        for path in (self.error_file, self.log_file):
            self._offsets[path] = path.stat().st_size if path.exists() else 0
        try:
            with self._open_errors() as errors:
                self._process = self.spawn(errors)
        except OSError as error:
            raise LauncherError(f"cannot start {self.name}: {error}") from None
        _started.add(self)
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name=f"launcher-{self.name}", daemon=True
        )
        self._reader.start()

    def spawn(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the process.

        Args:
            errors: For its standard error.

        Raises:
            OSError: It cannot be started.
        """
        return subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE if self.lifeline else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(self.directory, self._environment),
            bufsize=0,
            **processes.spawn_options(stays=not self.lifeline),
        )

    def _open_errors(self) -> IO[bytes]:
        if self._offsets[self.error_file] > _LOG_LIMIT:
            self.error_file.replace(self.error_file.with_suffix(".err.1"))
            self._offsets[self.error_file] = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.fdopen(os.open(self.error_file, flags, 0o600), "ab", buffering=0)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Collect events until the child is gone; runs in a thread of its own."""
        assert process.stdout is not None
        with process.stdout as stream:
            pending = b""
            while data := stream.read(65536):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self.tell_line(line)
        process.wait()
        self.tell_end()

    def request_stop(self) -> None:
        """Close the lifeline, or send SIGTERM to a child without one."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass
        elif self.running:
            processes.terminate_process(process)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        return self._process is None or processes.wait_process(self._process, timeout)

    def terminate(self) -> None:
        """Send SIGTERM (or its like) to the child's process group."""
        if self.running:
            processes.terminate_group(self.pid)

    def kill(self) -> None:
        """Kill the child's process group."""
        if self.running:
            processes.kill_group(self.pid)

    def signal(self, name: str) -> None:
        """Send the child a signal by name, such as ``"SIGTERM"``.

        Raises:
            ValueError: This system has no such signal, or cannot send it.
        """
        if self.running and self._process is not None:
            processes.signal_child(self._process, signal_here(name))

    def close(self) -> None:
        """Close the lifeline and wait a moment for the thread that reads."""
        self.request_stop() if self.lifeline else None
        if self._reader is not None and not self.running:
            self._reader.join(0.5)

    def release(self) -> None:
        """Let go of a child without a lifeline: it goes on, and is no longer watched."""
        process = self._process
        if process is not None and not self.lifeline and process.returncode is None:
            process.returncode = 0  # or the interpreter would warn that nobody waited for it

    def forget(self) -> None:
        """In a forked child: drop our end of the lifeline, which belongs to the parent."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass


class LocalControllerLauncher(LocalLauncher):
    """A controller on this host."""

    name = "ipcontroller"
    module = "ipkernel.cli.ipcontroller"


class LocalHostLauncher(LocalLauncher):
    """A host daemon, with its engines, on this host."""

    name = "ipdaemon"
    module = "ipkernel.cli.ipdaemon"


def child_environment(directory: ClusterDirectory, further: dict[str, str]) -> dict[str, str]:
    """Return the environment for a program of a cluster: ours, our module path, the cookie."""
    environment = dict(os.environ)
    known = environment.get("PYTHONPATH", "").split(os.pathsep)
    path = dict.fromkeys([*script_path(), *filter(None, known)])
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(path)
    environment[processes.COOKIE] = str(directory.path)
    environment["SPT_NOENV"] = "1"  # else setproctitle writes over the cookie that others look for
    environment.update(further)
    return environment


def script_path() -> list[str]:
    """Return the entries of ``sys.path`` that another Python would not have by itself."""
    library = os.path.dirname(os.__file__)
    own = {
        library,
        os.path.join(library, "lib-dynload"),
        os.path.join(library, "site-packages"),
        *(getattr(site, "getsitepackages", list)()),
        site.USER_SITE or "",
        os.path.dirname(sys.executable),  # where an installed command, our "script", is
    }
    found = []
    for entry in sys.path:
        path = os.path.abspath(entry) if isinstance(entry, str) else ""
        if not path or path in own or os.pathsep in path or not os.path.exists(path):
            continue
        if os.path.basename(path).startswith("python") and path.endswith(".zip"):
            continue
        found.append(path)
    return list(dict.fromkeys(found))


def _after_fork_in_child() -> None:
    # Otherwise a forked child that outlives us would keep the cluster alive.
    for launcher in list(_started):
        launcher.forget()
    _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
