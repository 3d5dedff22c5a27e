"""What tests of faults share: clusters with a bystander, programs run by hand, and waits that end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import ipkernel
from ipkernel.cluster.cluster import Cluster
from tests.support import leaks

#: Seconds after which a wait is a hang.
PATIENCE = 60.0


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    """Poll until ``condition()`` is true and return what it says; fail after a while."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.01)
    return found


def marked_with(cookie: str) -> list[psutil.Process]:
    """Return the processes of this machine that carry ``cookie``; zombies have no environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(leaks.COOKIE) == cookie:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def noted(number: int, file: str, seconds: float = 0.0) -> int:
    """Write down that this was run, and take some time; for engines."""
    import os
    import time

    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"%d\n" % number)
    os.close(descriptor)
    time.sleep(seconds)
    return number


def runs_of(file: Path) -> Counter[int]:
    """Return how often each number was noted."""
    return Counter(map(int, file.read_text().split()))


class Bystander(threading.Thread):
    """Another client, which goes on working and must never notice anything."""

    def __init__(self, directory: Path) -> None:
        super().__init__(name="bystander", daemon=True)
        self._directory = directory
        self._over = threading.Event()
        self.done = 0
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Have small tasks run, one after the other, by whichever engine is free."""
        try:
            with ipkernel.Client(cluster_dir=self._directory, timeout=PATIENCE) as rc:
                # Tests kill engines without a look at what runs there.
                view = rc.load_balanced_view(retries=10)
                while not self._over.wait(0.01):
                    assert view.apply_async(abs, -self.done).get(PATIENCE) == self.done
                    self.done += 1
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Fail unless it works as if nothing had happened."""
        before = self.done
        wait_for(lambda: self.error is not None or self.done > before + 1)
        if self.error is not None:
            raise AssertionError("somebody else was disturbed") from self.error

    def end(self) -> None:
        """Let it go."""
        self._over.set()
        self.join(PATIENCE)
        assert not self.is_alive()


class Shared:
    """A cluster for all tests of a module, a client of it, and a bystander."""

    def __init__(self, cluster: Cluster, rc: Any, bystander: Bystander, n: int) -> None:
        self.cluster = cluster
        self.rc = rc
        self.bystander = bystander
        self.n = n

    def check(self) -> None:
        """Fail unless all engines work and the other client has noticed nothing."""
        self.all_engines()
        assert self.rc[:].apply_async(abs, -1).get(PATIENCE) == [1] * self.n
        self.bystander.check()

    def all_engines(self) -> list[int]:
        """Wait until there are all engines, restarted ones too; return their process ids."""
        self.rc.wait_for_engines(self.n, timeout=PATIENCE)
        return self.rc[:].apply_async(os.getpid).get(PATIENCE)


@contextlib.contextmanager
def shared_cluster(directory: Path, n: int = 3, **arguments: Any) -> Iterator[Shared]:
    """Run a cluster whose engines may die within tests; at the end nothing of it may be left.

    Its processes have a cookie of their own: an engine that was started again during a test is
    not that test's leak.
    """
    cookie = secrets.token_hex(16)
    environment = {leaks.COOKIE: cookie, **arguments.pop("environment", {})}
    cluster = Cluster(
        n, cluster_dir=directory / "cluster_shared", environment=environment, **arguments
    )
    try:
        with cluster.start_and_connect() as rc:
            bystander = Bystander(cluster.cluster_dir)
            try:
                bystander.check()
                yield Shared(cluster, rc, bystander, n)
            finally:
                bystander.end()
    finally:
        cluster.stop_cluster()
    left = marked_with(cookie)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert not left, f"left behind: {left}"


class Program:
    """A program of ipkernel, or a script, that is run by hand; it is killed in the end."""

    def __init__(self, *command: str, cwd: Path | None = None, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env={**os.environ, **environment},
        )
        self._read = b""

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def line(self, seconds: float = PATIENCE) -> str:
        """Return the next line that it prints; fail if none comes."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], "it prints nothing"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise AssertionError(f"the program has ended: {self.end()}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def end(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Wait until it has ended; return its exit code and what it has printed since."""
        out, err = self.process.communicate(timeout=seconds)
        read, self._read = self._read, b""
        return self.process.returncode, (read + out).decode(), err.decode()


def command(name: str, *arguments: Any) -> list[str]:
    """Return the command line of one of ipkernel's programs."""
    return [sys.executable, "-m", f"ipkernel.cli.{name}", *map(str, arguments)]


class Controller(Program):
    """A controller that is run by hand, and is ready."""

    def __init__(self, directory: Path, *arguments: Any, **environment: str) -> None:
        super().__init__(
            *command("ipcontroller", "--cluster-dir", directory, *arguments), **environment
        )
        self.directory = directory
        try:
            event = json.loads(self.line())
            assert event["event"] == "ready", event
        except BaseException:
            self.__exit__()
            raise
        self.port = int(event["location"].rpartition(":")[2])

    def furl_file(self, role: str = "client") -> Path:
        """Return the path of a role's FURL file."""
        return self.directory / "security" / f"ipcontroller-{role}.furl"

    def stop(self) -> None:
        """Have it end in good order."""
        self.process.terminate()
        assert self.end() == (0, "", "")


def run(*words: str, seconds: float = PATIENCE, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end."""
    with Program(*words, **environment) as program:
        return program.end(seconds)
