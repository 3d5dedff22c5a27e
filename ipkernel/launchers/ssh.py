"""Launch the controller, or host daemons, on other hosts by way of ssh."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any, Final

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers import remote, sshoptions
from ipkernel.launchers.sshlauncher import ROLES, SSHLauncher, furl_name
from ipkernel.launchers.sshoptions import HostEntry
from ipkernel.launchers.sshtalk import Conversation
from ipkernel.launchers.sshtunnel import is_loopback, places
from ipkernel.wire.furl import Furl, read_furl, write_furl

#: Seconds between two looks whether the controller has written its FURL.
_LOOK: Final = 0.05


class SSHHostLauncher(SSHLauncher):
    """A host daemon, with its engines, on another host."""

    name = "ipdaemon"
    module = "ipkernel.cli.ipdaemon"
    _forwarded = 0

    @property
    def tunnelled(self) -> bool:
        """Whether the program needs the connection even if nobody watches it."""
        return bool(self._forwarded)

    def files(self, talk: Conversation, checked: dict[str, Any]) -> dict[str, str]:
        """Return the FURL as the host can use it."""
        furl = self._wait_furl(talk)
        if self._needs_tunnel(talk, checked, furl):
            furl = self.through_tunnel(furl)
        return {f"security/{furl_name('engine')}": f"{furl}\n"}

    def _wait_furl(self, talk: Conversation) -> Furl:
        """Return the controller's FURL as soon as there is one."""
        path = self.directory.furl_file("engine")
        patience = self.entry.start_timeout
        deadline = time.monotonic() + patience
        while not _is_current(path, self.directory):
            if not self.running or talk.stopped:
                raise LauncherError("it was stopped while it waited for the controller")
            if time.monotonic() > deadline:
                raise LauncherError(f"there was no controller within {patience:g} s ({path})")
            time.sleep(_LOOK)
        return read_furl(path)

    def _needs_tunnel(self, talk: Conversation, checked: dict[str, Any], furl: Furl) -> bool:
        if self.entry.tunnel != "auto":
            return self.entry.tunnel == "yes"
        return not self.reaches(talk, checked, furl)

    def reaches(self, talk: Conversation, checked: dict[str, Any], furl: Furl) -> bool:
        """Ask the host whether it reaches a place of a FURL without a tunnel."""
        same = checked["machine"] == remote.machine()
        found = [place for place in places(furl.hints) if same or not is_loopback(place[0])]
        if not found:
            return False
        return bool(talk.order("@reached", {"act": "reach", "places": found})["reached"])

    def through_tunnel(self, furl: Furl) -> Furl:
        """Open a tunnel; return the FURL as it is at the host's end."""
        if self.tunnels is None:
            raise LauncherError(
                "it does not reach the controller, and tunnels need a POSIX system here"
            )
        found = places(furl.hints)
        if not found:
            raise LauncherError("the controller has not said where it listens")
        # Loopback first: if the controller is on this machine that is the shortest way.
        host, port = min(found, key=lambda place: not is_loopback(place[0]))
        self._forwarded = self.tunnels.to_here(host, port)
        self.tell({"event": "tunnel", "host": self.entry.host, "port": self._forwarded})
        return Furl(furl.tub_id, furl.pin, (f"tcp:127.0.0.1:{self._forwarded}",), furl.swissnum)


class SSHControllerLauncher(SSHLauncher):
    """A controller on another host."""

    name = "ipcontroller"
    module = "ipkernel.cli.ipcontroller"
    _forwarded = 0

    def find_entry(self) -> HostEntry:
        """Return the host's entry."""
        if self.share.options:
            return HostEntry.from_dict(self.share.options)
        return sshoptions.read_controller(self.options)

    @property
    def tunnelled(self) -> bool:
        """Whether the program needs the connection even if nobody watches it."""
        return self.tunnels is not None

    @property
    def forwarded(self) -> int:
        """The port of this host that leads to it through the connection, 0 if there is none."""
        return self._forwarded

    def start(self) -> None:
        """Start ssh; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        for role in ROLES:  # those of an earlier controller would be taken for this one's
            self.directory.furl_file(role).unlink(missing_ok=True)
        super().start()

    def wanted_files(self) -> list[str]:
        """Return the files that the program makes and that are needed here."""
        return [f"security/{furl_name(role)}" for role in ROLES]

    def heard(self, event: dict[str, Any]) -> None:
        """Take an event of the host, or of the program there."""
        if event["event"] == "@files":
            self._keep_furls({Path(name).name: text for name, text in event["files"].items()})
        else:
            super().heard(event)

    def _keep_furls(self, found: dict[str, str]) -> None:
        """Write the controller's FURLs to the cluster directory of this host."""
        for role in ROLES:
            furl = Furl.parse(found.get(furl_name(role), ""))
            hints = furl.hints if self._is_reached(furl) else self._tunnel_hints(furl)
            kept = Furl(furl.tub_id, furl.pin, hints, furl.swissnum)
            write_furl(self.directory.furl_file(role), kept)

    def _is_reached(self, furl: Furl) -> bool:
        if self._forwarded or self.entry.tunnel != "auto":
            return self.entry.tunnel == "no"
        for host, port in places(furl.hints):
            if not is_loopback(host):
                with contextlib.suppress(OSError):
                    socket.create_connection((host, port), 3.0).close()
                    return True
        return False

    def _tunnel_hints(self, furl: Furl) -> tuple[str, ...]:
        """Return hints by way of the connection first, then those that others may reach."""
        found = places(furl.hints)
        if self.tunnels is None or not found:
            raise LauncherError(
                "the controller is not reached there, and tunnels need a POSIX system"
            )
        if not self._forwarded:
            host, port = min(found, key=lambda place: not is_loopback(place[0]))
            self._forwarded = self.tunnels.to_there(host, port)
            self.tell({"event": "tunnel", "host": self.entry.host, "port": self._forwarded})
        others = [hint for hint in furl.hints if not is_loopback(places((hint,))[0][0])]
        return (f"tcp:127.0.0.1:{self._forwarded}", *others)


def _is_current(path: Path, directory: ClusterDirectory) -> bool:
    """Tell whether a FURL file is that of the controller which runs now."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    controller = directory.controller()
    return controller is None or not controller.here or written >= controller.started - 1.0
