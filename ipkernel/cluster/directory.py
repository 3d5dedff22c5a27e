"""The cluster directory: where everything of one cluster lives.

Cheap to import, because every command starts here: no Twisted, no Foolscap.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ipkernel.cluster.processes import Process, host_name, read_pid_file
from ipkernel.errors import ClusterError, ConfigurationError, SecurityError

#: The cluster that is meant when none is named.
DEFAULT_NAME: Final = "default"
_PREFIX: Final = "cluster_"
#: An option begins with a dash, and Windows knows no dot at the end.
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,64}(?<!\.)\Z")
_PRIVATE: Final = re.compile(r"\d{9,}-[a-z0-9]{4}\Z")
_ROLES: Final = ("client", "engine", "monitor", "admin")
#: Seconds that a private directory may be without any process before it counts as left over.
_YOUNG: Final = 60.0


def check_name(name: str) -> str:
    """Return ``name`` if it can name a cluster.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} cannot name a cluster: use 1 to 64 letters, digits, '_', '.' and '-', "
            f"without '-' in front and '.' at the end"
        )
    return name


def ipython_dir() -> Path:
    """Return ``$IPYTHONDIR``, by default ``~/.ipython``, as an absolute path."""
    named = os.environ.get("IPYTHONDIR")
    return Path(os.path.abspath(os.path.expanduser(named or os.path.join("~", ".ipython"))))


def private_name() -> str:
    """Return a name for a cluster that nobody named: the Unix time and four characters."""
    letters = random.SystemRandom().choices("abcdefghijklmnopqrstuvwxyz0123456789", k=4)
    return f"{int(time.time())}-{''.join(letters)}"


class ClusterDirectory:
    """The directory of one cluster, whether it exists yet or not.

    Args:
        path: Where it is; relative to the current directory if not absolute.

    Attributes:
        path: The directory, absolute.
        name: Name of the cluster: the last part of the path without ``cluster_``.
        security: Identity and FURL files.
        log: Log files.
        state: What the controller keeps over a restart.
        pid: One file for each of the cluster's long-lived processes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self.name = self.path.name.removeprefix(_PREFIX) or DEFAULT_NAME
        self.security = self.path / "security"
        self.log = self.path / "log"
        self.state = self.path / "state"
        self.pid = self.path / "pid"

    @classmethod
    def named(cls, name: str = DEFAULT_NAME) -> ClusterDirectory:
        """Return the directory of the cluster called ``name`` in :func:`ipython_dir`.

        Raises:
            ConfigurationError: That cannot be a name.
        """
        return cls(ipython_dir() / f"{_PREFIX}{check_name(name)}")

    @classmethod
    def private(cls) -> ClusterDirectory:
        """Return a directory that nobody uses yet, for a cluster without a name."""
        while True:
            directory = cls.named(private_name())
            if not directory.path.exists():
                return directory

    def __repr__(self) -> str:
        return f"<ClusterDirectory {self.path}>"

    def __str__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterDirectory) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.path.is_dir()

    @property
    def is_private(self) -> bool:
        """Whether this is the directory of a cluster without a name, which goes when it stops."""
        return _PRIVATE.match(self.name) is not None and self.path.name.startswith(_PREFIX)

    @property
    def record_file(self) -> Path:
        """Where :class:`~ipkernel.cluster.cluster.Cluster` notes what it started."""
        return self.path / "cluster.json"

    def create(self) -> ClusterDirectory:
        """Make the directory and those in it, all of them for its owner only.

        Returns:
            The directory itself.

        Raises:
            ClusterError: It cannot be made or written to.
            SecurityError: It belongs to somebody else, or others can get at its secrets.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise ClusterError(
                f"{str(self.path)!a} cannot be the directory of a cluster: its name is no UTF-8 text"
            ) from None
        if os.path.lexists(self.path):
            self.check()  # before anything is put there that is not wanted
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.path, self.security, self.log, self.state, self.pid):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ClusterError(
                f"cannot make the cluster directory {self.path}: {error.strerror or error}"
            ) from None
        self.check()
        for path in (self.path, self.security, self.log, self.pid):
            if not os.access(path, os.W_OK | os.X_OK):
                raise ClusterError(
                    f"cannot write to {path}: check its owner, its permissions, and how it is mounted"
                )
        return self

    def check(self) -> None:
        """Refuse a directory that is not safe to use.

        Raises:
            ClusterError: There is no such directory.
            SecurityError: It belongs to somebody else, or others can get at its secrets or
                put something of their own there.
        """
        paths = (self.path, self.state, self.pid, self.security)
        found = []
        for path in paths:
            try:
                found.append((path, path.stat()))
            except (FileNotFoundError, NotADirectoryError):
                pass  # some come with the first start and go with the last stop
            except OSError as error:
                said = error.strerror or error
                raise ClusterError(f"cannot look at {self.path}: {said}") from None
        if not found:
            raise ClusterError(f"there is no cluster directory {self.path}")
        if os.name == "posix":
            for path, status in found:
                _check_owner(path, status)
                if path == self.security and status.st_mode & 0o077 and not self.pid.exists():
                    # Such as /etc: what to do about its mode is not for us to say.
                    raise ClusterError(f"{self.path} is not the directory of a cluster")
                (_check_closed if path == self.security else _check_kept)(path, status)

    def command(self, verb: str) -> str:
        """Return the command line that does something with this cluster.

        Args:
            verb: The command of ``ipcluster``, such as ``"stop"``.
        """
        words = ["ipcluster", verb]
        if not _NAME.match(self.name) or self != ClusterDirectory.named(self.name):
            words += ["--cluster-dir", str(self.path)]
        elif self.name != DEFAULT_NAME:
            words += ["--cluster", self.name]
        return shlex.join(words) if os.name == "posix" else subprocess.list2cmdline(words)

    def furl_file(self, role: str) -> Path:
        """Return where the FURL of a role is: ``client``, ``engine``, ``monitor`` or ``admin``.

        Raises:
            ValueError: There is no such role.
        """
        if role not in _ROLES:
            raise ValueError(f"unknown role {role!r}: the roles are {', '.join(_ROLES)}")
        return self.security / f"ipcontroller-{role}.furl"

    @property
    def question_socket(self) -> Path:
        """Where a controller of this machine answers what the monitor role may ask."""
        return self.security / "ipcontroller.sock"

    def pid_files(self) -> list[Path]:
        """Return the pid files, the controller's first."""
        try:
            files = [p for p in self.pid.iterdir() if p.suffix == ".json" and p.name[0] != "."]
        except OSError:
            return []
        return sorted(files, key=lambda p: (p.stem != "ipcontroller", p.name))

    def processes(self) -> list[Process]:
        """Return the processes that the pid files name and that live, the controller first.

        A pid file of this host whose process is gone is removed on the way. A process of
        another host cannot be looked at and is believed to live.
        """
        found = []
        for path in self.pid_files():
            process = read_pid_file(path)
            if process is None:
                continue
            if process.alive:
                found.append(process)
            elif read_pid_file(path) == process:  # not replaced meanwhile
                _discard(path)  # it says nothing to anybody any more
        return found

    def controller(self) -> Process | None:
        """Return the controller if it lives."""
        process = read_pid_file(self.pid / "ipcontroller.json")
        return process if process is not None and process.alive else None

    def alive(self) -> bool:
        """Tell whether the cluster's controller lives."""
        return self.controller() is not None

    def read_record(self) -> dict[str, Any]:
        """Return what was noted about the cluster when it was started; empty if nothing."""
        try:
            content = json.loads(self.record_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Note something about the cluster, for :meth:`read_record`.

        Raises:
            OSError: The file cannot be written.
        """
        write_whole(self.record_file, (json.dumps(record, indent=1) + "\n").encode())

    def left_over(self) -> bool:
        """Tell whether this is a private directory whose cluster and owner are gone."""
        if not self.is_private or any(
            one.alive for one in map(read_pid_file, self.pid_files()) if one
        ):
            return False
        record = self.read_record()
        if not record:
            try:
                return time.time() - self.path.stat().st_mtime > _YOUNG
            except OSError:
                return False
        owner = Process.from_dict("owner", record.get("owner"))
        return owner is None or not owner.alive

    def remove(self) -> None:
        """Remove the directory with all that is in it, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def keep_logs(self) -> None:
        """Remove what only a cluster that runs, or runs again, has a use for: keys and tasks."""
        for path in (self.security, self.state):
            shutil.rmtree(path, ignore_errors=True)


def write_beside(path: Path, data: bytes) -> Path:
    """Write a new file beside ``path``, for its owner only; return that file.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    temporary = path.with_name(f".{host_name()}-{os.getpid()}.{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
    except OSError:
        _discard(temporary)
        raise
    return temporary


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, for its owner only, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    temporary = write_beside(path, data)
    try:
        temporary.replace(path)
    except OSError:
        _discard(temporary)
        raise


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise SecurityError(
            f"{path} belongs to user {status.st_uid}, not to you (user {os.geteuid()}): "
            f"use a cluster directory of your own"
        )


def _check_closed(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SecurityError(
            f"{path} is accessible by others (mode {mode:04o}) and holds the cluster's secrets: "
            f"run 'chmod 700 {path}'"
        )


def _check_kept(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise SecurityError(
            f"others can write to {path} (mode {mode:04o}) and so take the cluster over: "
            f"run 'chmod go-w {path}'"
        )


def find_directory(
    cluster: str | None = None,
    *,
    cluster_dir: str | os.PathLike[str] | None = None,
    cluster_id: str | None = None,
    profile: str | None = None,
) -> ClusterDirectory:
    """Return the directory that the usual arguments mean; it need not exist.

    Args:
        cluster: Name of the cluster.
        cluster_dir: The directory itself, or a file in it such as ``cluster.json``.
        cluster_id: An older word for the name.
        profile: Another one; given together with ``cluster_id`` the name is
            ``<profile>-<cluster_id>``.

    Raises:
        ConfigurationError: The arguments contradict each other, or a name is not one.
    """
    if cluster_dir:
        if not isinstance(cluster_dir, str | os.PathLike):
            raise ConfigurationError(
                f"cluster_dir and cluster_file must be paths, not {cluster_dir!r}"
            )
        if cluster:
            raise ConfigurationError("give a cluster's name or its directory, not both")
        path = Path(cluster_dir).expanduser()
        return ClusterDirectory(path.parent if path.is_file() else path)
    if cluster and (cluster_id or profile):
        raise ConfigurationError("give either cluster, or profile and cluster_id")
    name = cluster or "-".join(check_name(one) for one in (profile, cluster_id) if one)
    return ClusterDirectory.named(name or DEFAULT_NAME)


def all_directories() -> Iterator[ClusterDirectory]:
    """Yield every cluster directory of :func:`ipython_dir` that is ours, by name."""
    try:
        paths = sorted(ipython_dir().glob(f"{_PREFIX}*"))
    except OSError:
        return
    for path in paths:
        directory = ClusterDirectory(path)
        if _NAME.match(directory.name) and directory.pid.is_dir() and _is_ours(path):
            yield directory


def forget_old(age: float = 86400.0) -> None:
    """Remove private directories that have been left over for ``age`` seconds."""
    threshold = time.time() - age
    for directory in all_directories():
        try:
            old = directory.is_private and directory.path.stat().st_mtime < threshold
        except OSError:
            continue
        if old and directory.left_over():
            directory.remove()


def _is_ours(path: Path) -> bool:
    try:
        return os.name != "posix" or path.stat().st_uid == os.geteuid()
    except OSError:
        return False
