"""Ports of one end of an ssh connection that lead to the other, opened while it is there."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshtext
from ipkernel.launchers.sshoptions import HostEntry

#: Seconds that asking for a port may take.
_PATIENCE: Final = 20.0


class Tunnels:
    """What one ssh connection can forward, by way of its control socket.

    The socket has a relative name, and ssh runs in its directory: the length of a socket's path is
    limited, and that of a cluster directory is not.

    Args:
        entry: The host.
        directory: Where the control socket goes, only open to its owner.
    """

    def __init__(self, entry: HostEntry, directory: Path) -> None:
        self._entry = entry
        self._directory = directory
        self._name = f"ssh-{secrets.token_hex(4)}"

    @property
    def options(self) -> list[str]:
        """Options for the ssh that makes the connection."""
        return ["-o", "ControlMaster=yes", "-o", f"ControlPath=./{self._name}"]

    @property
    def place(self) -> dict[str, Any]:
        """Arguments for its :class:`subprocess.Popen`."""
        return {"cwd": self._directory}

    def to_here(self, host: str, port: int) -> int:
        """Have a port of the host's loopback interface lead to a place seen from here.

        Returns:
            The port.

        Raises:
            LauncherError: The host's ssh server does not do that.
        """
        out = self._forward("-R", f"127.0.0.1:0:{_bracketed(host)}:{port}")
        try:
            return int(out.split()[-1])
        except (IndexError, ValueError):
            raise LauncherError(sshtext.no_tunnel(out.strip(), self._entry)) from None

    def to_there(self, host: str, port: int) -> int:
        """Have a port of this machine's loopback interface lead to a place seen from the host.

        Returns:
            The port.

        Raises:
            LauncherError: That is not possible.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            own: int = free.getsockname()[1]
        self._forward("-L", f"127.0.0.1:{own}:{_bracketed(host)}:{port}")
        return own

    def _forward(self, which: str, what: str) -> str:
        # The user's configuration is left out: nothing of it matters on an existing connection,
        # and a forwarding in it would be asked for again.
        command = [self._entry.ssh, "-F", os.devnull, "-o", f"ControlPath=./{self._name}"]
        try:
            done = subprocess.run(
                [*command, "-O", "forward", which, what, "--", self._entry.host],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LauncherError(sshtext.no_tunnel(str(error), self._entry)) from None
        if done.returncode != 0:
            raise LauncherError(sshtext.no_tunnel(done.stderr.strip(), self._entry))
        return done.stdout

    def remove(self) -> None:
        """Remove what ssh leaves when it is killed."""
        with contextlib.suppress(OSError):
            (self._directory / self._name).unlink()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def places(hints: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return hosts and ports of a FURL's hints."""
    found = []
    for hint in hints:
        host, _, port = hint.removeprefix("tcp:").rpartition(":")
        if host and port.isdecimal():
            found.append((host.strip("[]"), int(port)))
    return found


def is_loopback(host: str) -> bool:
    """Tell whether an address means the machine on which it is used."""
    return host == "localhost" or host.startswith("127.") or host == "::1"
