"""What can keep engines from working on hosts that ssh leads to, and from finding their controller.

The launcher of host daemons goes there as it does for a start, and comes back before it has started
anything. Where no controller runs, a port is opened that stands for it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.doctor import OK, PROBLEM, WARNING, Finding
from ipkernel.errors import KernelError
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.ssh import SSHHostLauncher
from ipkernel.launchers.sshoptions import HostEntry, read_hosts
from ipkernel.launchers.sshtalk import Conversation
from ipkernel.wire.furl import Furl, hints, local_location, read_furl

if TYPE_CHECKING:
    from ipkernel.cluster.configuration import Configuration

#: Where a controller listens if engines are elsewhere and nothing else is said.
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - as a controller does
#: Seconds that an ssh may take to end after its host has been looked at.
_END: Final = 10.0


def hosts_of(configured: Configuration) -> list[HostEntry]:
    """Return the hosts of a configuration whose engines are started by way of ssh; often none.

    Raises:
        ConfigurationError: The options of a launcher are not in order.
    """
    from ipkernel.cluster.entries import read_entries

    value = configured.value("cluster", "engines")
    entries = read_entries("engines", value, None, configured.launcher_options)
    return [host for one in entries if one.name == "ssh" for host in read_hosts(one.options)]


def examine_hosts(
    directory: ClusterDirectory, configured: Configuration, entries: Sequence[HostEntry]
) -> Iterator[Finding]:
    """Look at hosts, all at the same time.

    Args:
        directory: The cluster's directory.
        configured: Its options.
        entries: The hosts.

    Yields:
        What was found, host by host.
    """
    with contextlib.ExitStack() as stack:
        try:
            furl, what = stack.enter_context(target(directory, configured))
        except (OSError, KernelError) as error:
            yield Finding("hosts", PROBLEM, f"they cannot be asked to come back: {error}")
            return
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="ipkernel-doctor-"))
        visited = ClusterDirectory(place).create()
        visits = [Visit(visited, entry, furl, what) for entry in entries]
        stack.callback(_end, visits)
        for visit in visits:
            visit.begin()
        for visit in visits:
            yield from visit.findings()


@contextlib.contextmanager
def target(directory: ClusterDirectory, configured: Configuration) -> Iterator[tuple[Furl, str]]:
    """Context with a place that hosts are to reach, and what it is called.

    Raises:
        OSError: No port can be opened.
        ConnectError: The controller's FURL cannot be read.
    """
    if directory.exists and directory.alive():
        furl = read_furl(directory.furl_file("engine"))
        yield furl, f"the controller at {furl.location}"
        return
    interface = configured.value("cluster", "controller_ip") or _EVERYWHERE
    location = configured.value("cluster", "controller_location")
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    port = configured.value("cluster", "controller_port")
    with socket.create_server((interface, port), family=family, backlog=1024) as server:
        port = server.getsockname()[1]
        found = hints(location, port) if location else local_location(interface, port)
        furl = Furl("", "", tuple(found), "")
        yield furl, f"a port that was opened for the controller at {furl.location}"


def _end(visits: Sequence[Visit]) -> None:
    for visit in visits:
        visit.request_stop()
    for visit in visits:
        visit.end()


class Visit(SSHHostLauncher):
    """A host that is looked at; nothing is started there.

    Args:
        directory: A cluster's directory for files of this program.
        entry: The host.
        furl: Where the controller is.
        what: What that is called.
    """

    def __init__(
        self, directory: ClusterDirectory, entry: HostEntry, furl: Furl, what: str
    ) -> None:
        share = Share(1, entry.label, entry.to_dict())
        super().__init__(directory, share=share, on_event=self._told)
        self._found: list[Finding] = []
        self._furl = furl
        self._what = what

    def begin(self) -> None:
        """Go there, without waiting."""
        try:
            self.start()
        except KernelError as error:
            self._add(PROBLEM, str(error))

    def findings(self) -> list[Finding]:
        """Return what was found; waits until that is known."""
        if self.started:
            while not self.wait(1.0):  # its own time limits end it
                pass
        return self._found

    def end(self) -> None:
        """Be over for sure."""
        if self.started:
            if not self.wait(_END):
                self.kill()
                self.wait(_END)
            self.close()

    def _told(self, event: dict[str, Any]) -> None:
        if event["event"] == "error":
            self._add(PROBLEM, event["message"])

    def _add(self, level: str, text: str, advice: str = "") -> None:
        self._found.append(Finding(self.entry.label, level, text, advice))

    def set_up(self, talk: Conversation) -> None:
        """Look at the host in place of starting something."""
        talk.begin()
        talk.expect("@here")
        talk.taken = True
        checked = self.check(talk)
        self._judge(checked)
        self._find_way(talk, checked)
        talk.finish()

    def _judge(self, checked: dict[str, Any]) -> None:
        there, here = checked["python"], ".".join(map(str, sys.version_info[:3]))
        brought = self.entry.push == "yes"
        own = "ipkernel is brought along" if brought else f"ipkernel {checked['version']}"
        text = f"Python {there} ({checked['executable']}), {own}"
        if there.split(".")[:2] == here.split(".")[:2]:
            self._add(OK, text)
        else:
            advice = f"here it is {here}: functions of scripts need the same version on both sides"
            self._add(WARNING, text, advice)

    def _find_way(self, talk: Conversation, checked: dict[str, Any]) -> None:
        tunnel = self.entry.tunnel
        if tunnel != "yes" and self.reaches(talk, checked, self._furl):
            self._add(OK, f"it reaches {self._what}")
        elif tunnel == "no":
            self._add(
                PROBLEM,
                f"it does not reach {self._what}",
                "have the controller listen where the host reaches it (controller_ip, "
                "controller_location), let connections to its port through firewalls, or write "
                "tunnel = auto in [ssh]",
            )
        else:
            self.through_tunnel(self._furl)
            self._add(OK, f"it reaches {self._what} through a tunnel")
