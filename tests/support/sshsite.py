"""Hosts with an ssh server each: network namespaces in which the system's ``sshd`` runs.

Everything that the servers and ssh need is made for the site: keys, configurations, homes. Nothing
of the user's is read or touched. Needs Linux, root, ``ip``, ``sshd`` and ``ssh`` (Debian:
iproute2, openssh-server, openssh-client).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from tests.support import leaks, netns

__all__ = ["HERE", "SshSite", "needs_sshd"]

_SSHD: Final = "/usr/sbin/sshd"
_PATIENCE: Final = 30.0
#: The machine from which everything is started.
HERE: Final = "here"


def missing() -> str:
    """Return what keeps this machine from having hosts with ssh servers, or nothing."""
    if not os.path.exists(_SSHD) or shutil.which("ssh") is None:
        return "there is no sshd or ssh (Debian: apt install openssh-server openssh-client)"
    return netns.missing()


def needs_sshd(test: Any) -> Any:
    """Skip a test where there can be no such hosts; in continuous integration it fails instead."""
    if os.environ.get("CI"):
        return test
    import pytest  # here only: the benchmarks use sites in environments without it

    return pytest.mark.skipif(bool(missing()), reason=missing() or "-")(test)


def _locked() -> bool:
    """Tell whether the password of root is locked, with which sshd lets nobody in by itself."""
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("root:!") for line in lines)


class SshSite:
    """Hosts with ssh servers, and the machine ``here`` from which they are reached.

    Args:
        directory: For keys, configurations and homes.
        hosts: Their names, each with further lines of its server's configuration.
        cookie: Value of the variable that marks all processes.
        others: Names of further machines, without a server.

    Attributes:
        net: The network; all machines are at the switch ``lan``.
        directory: As given.
        ssh_config: The configuration for ssh.

    Use it as a context manager; at its end nothing may be left of what ran there.
    """

    def __init__(
        self,
        directory: Path,
        hosts: Mapping[str, Sequence[str]],
        cookie: str = "",
        others: Sequence[str] = (),
    ) -> None:
        self.net = netns.Network({name: ["lan"] for name in (HERE, *hosts, *others)})
        self.directory = directory
        self.ssh_config = directory / "ssh_config"
        self._hosts = hosts
        self._cookie = cookie or os.environ.get(leaks.COOKIE, "benchmark")
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SshSite:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.net)
            stack.callback(self._stop_servers)
            self._make_keys()
            for name, lines in self._hosts.items():
                self._start_server(name, lines)
            for name in self._hosts:
                self._wait_server(name)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            left = self._wait_empty() if error is None else []
        finally:
            self._stack.close()
        assert not left, f"left behind on hosts: {left}"

    def home(self, name: str) -> Path:
        """Return a user's home on a host."""
        return self.directory / f"home-{name}"

    def left(self, name: str) -> list[str]:
        """Return what the launcher has left in the home on a host, cached packages aside."""
        place = self.home(name) / ".ipython" / "ssh"
        found = os.listdir(place) if place.is_dir() else []
        return [one for one in found if not one.startswith("packages-")]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of ipkernel on a host."""
        wanted = str(self.home(name))
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environment = process.environ()
                if environment.get("HOME") == wanted and process.status() != "zombie":
                    found.append(process)
        return found

    def command(self, *words: Any) -> list[str]:
        """Return the command line that runs ``words`` where clusters are started."""
        return self.net.command(HERE, *words)

    def environment(self, **more: str) -> dict[str, str]:
        """Return an environment for what is started there."""
        home = self.directory / "home-here"
        return {
            **os.environ,
            leaks.COOKIE: self._cookie,
            "HOME": str(home),
            "IPYTHONDIR": str(home / ".ipython"),
            **more,
        }

    def options(self, **more: Any) -> dict[str, Any]:
        """Return options for the section ``[ssh]``: this configuration, and Python's place."""
        return {"ssh_config": str(self.ssh_config), "python": sys.executable, **more}

    # -- how it is made -------------------------------------------------------------------

    def _make_keys(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        for name in ("user", "stranger", *(f"host-{one}" for one in self._hosts)):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.key(name)],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        for name in (HERE, *self._hosts):
            self.home(name).mkdir(mode=0o700)
        known = [
            f"{self.net.address(name)} {self._public(f'host-{name}').read_text()}"
            for name in self._hosts
        ]
        (self.directory / "known_hosts").write_text("".join(known))
        blocks = [f"Host {n}\n    HostName {self.net.address(n)}\n" for n in self._hosts]
        blocks.append(
            f"Host *\n    User root\n    IdentityFile {self.key('user')}\n    IdentitiesOnly yes\n"
            f"    IdentityAgent none\n    UserKnownHostsFile {self.directory / 'known_hosts'}\n"
            "    GlobalKnownHostsFile /dev/null\n"
        )
        self.ssh_config.write_text("".join(blocks))

    def key(self, name: str) -> Path:
        """Return the file of a private key: ``user``, ``stranger``, or a host's."""
        return self.directory / f"key-{name}"

    def _public(self, name: str) -> Path:
        return self.directory / f"key-{name}.pub"

    def _start_server(self, name: str, lines: Sequence[str]) -> None:
        kept = {
            leaks.COOKIE: self._cookie,
            "HOME": str(self.home(name)),
            "IPYTHONDIR": str(self.home(name) / ".ipython"),
        }
        kept.update({one: os.environ[one] for one in ("TMPDIR", "PYTHONPATH") if one in os.environ})
        config = self.directory / f"sshd-{name}.conf"
        given = [
            *lines,
            f"HostKey {self.key(f'host-{name}')}",
            f"ListenAddress {self.net.address(name)}",
            f"AuthorizedKeysFile {self._public('user')}",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            f"UsePAM {'yes' if _locked() else 'no'}",
            "PidFile none",
            "MaxStartups 100",
            f"SetEnv {' '.join(shlex.quote(f'{a}={b}') for a, b in kept.items())}",
        ]
        config.write_text("\n".join(given) + "\n")
        # The machine has a name, and a /run, of its own.
        script = (
            'echo "$0" > /proc/sys/kernel/hostname && mount -t tmpfs tmpfs /run && mkdir /run/sshd '
            '&& exec "$@"'
        )
        log = self.directory / f"sshd-{name}.log"
        words = ["unshare", "--uts", "sh", "-c", script, name, _SSHD, "-D", "-f", config, "-E", log]
        self._servers[name] = subprocess.Popen(
            self.net.command(name, *words), stdin=subprocess.DEVNULL
        )

    def _wait_server(self, name: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        probe = f"import socket; socket.create_connection(('{self.net.address(name)}', 22), 5)"
        while subprocess.run(
            self.command(sys.executable, "-c", probe), capture_output=True, check=False
        ).returncode:
            assert self._servers[name].poll() is None, self._log(name)
            assert time.monotonic() < deadline, self._log(name)

    def _log(self, name: str) -> str:
        log = self.directory / f"sshd-{name}.log"
        return f"sshd of {name}: {log.read_text() if log.exists() else 'no log'}"

    def _wait_empty(self) -> list[str]:
        """Return what is left on hosts after a while that it has to end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = [self._describe(name, p) for name in self._hosts for p in self.processes(name)]
            found += [f"{name}: {one}" for name in self._hosts for one in self.left(name)]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    @staticmethod
    def _describe(name: str, process: psutil.Process) -> str:
        with contextlib.suppress(psutil.Error):
            return f"{name}: {' '.join(process.cmdline())[:100]}"
        return f"{name}: {process.pid}"

    def _stop_servers(self) -> None:
        """End the servers, and what is left of their sessions."""
        for name, server in self._servers.items():
            for process in self.processes(name):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(server.pid).children(recursive=True):
                    child.kill()
            server.kill()
            server.wait()
