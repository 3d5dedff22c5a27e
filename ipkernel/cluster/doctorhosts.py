"""What can keep engines from working on hosts that ssh leads to, and from finding their controller.

The launcher of host daemons goes there as it does for a start, and comes back before it has started
anything. Where no controller runs, something stands for it: a port that is opened here or, if it is to
be on a host itself, a controller that is started there and ended again.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.doctor import OK, PROBLEM, WARNING, Finding
from ipkernel.cluster.entries import Entry, read_entries, starts_elsewhere
from ipkernel.cluster.recorded import programs_of
from ipkernel.errors import ConfigurationError, KernelError, LauncherError
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.ssh import SSHControllerLauncher, SSHHostLauncher
from ipkernel.launchers.sshlauncher import SSHLauncher
from ipkernel.launchers.sshoptions import HostEntry, read_controller, read_hosts
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
    entries = _entries(configured)
    return [host for one in entries if one.name == "ssh" for host in read_hosts(one.options)]


def hosts_in_use(directory: ClusterDirectory) -> list[HostEntry]:
    """Return the hosts on which a cluster that runs has started engines by way of ssh.

    Raises:
        ConfigurationError: The options that were noted are not in order.
    """
    programs = [one for one in programs_of(directory) if one.kind == "engines"]
    found = {
        host.host: host
        for one in programs
        if one.launcher == "ssh"
        for host in read_hosts(one.options)
    }
    return list(found.values())


def _entries(configured: Configuration) -> list[Entry]:
    value = configured.value("cluster", "engines")
    return read_entries("engines", value, None, configured.launcher_options)


def _interface(configured: Configuration) -> str:
    """Return where a controller listens, as it is told; empty for where it does by itself."""
    elsewhere = any(starts_elsewhere(one.launcher) for one in _entries(configured))
    chosen: str = configured.value("cluster", "controller_ip")
    return chosen or (_EVERYWHERE if elsewhere else "")


def examine_hosts(
    directory: ClusterDirectory,
    configured: Configuration,
    entries: Sequence[HostEntry],
    *,
    controller: Entry | None = None,
    running: bool = False,
) -> Iterator[Finding]:
    """Look at hosts, all at the same time.

    Args:
        directory: The cluster's directory.
        configured: Its options.
        entries: The hosts for engines.
        controller: What is to start the controller, if that is to be on another host.
        running: Whether it runs.

    Yields:
        What was found, host by host.
    """
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="ipkernel-doctor-"))
        visited = ClusterDirectory(place).create()
        goal: Goal | None = None
        try:
            if running:
                furl = read_furl(directory.furl_file("engine"))
                goal = Goal(furl, f"the controller at {furl.location}")
            elif controller is None:
                goal = stack.enter_context(opened(configured))
            elif controller.name == "ssh":
                head = StandIn(visited, read_controller(controller.options), configured)
                stack.callback(_end, [head])
                goal = head.goal(configured.value("cluster", "engine_timeout"))
                yield from head.found
            else:
                text = f"{controller.name} is to start it: what hosts have to reach is known then"
                yield Finding("controller", OK, text)
        except ConfigurationError as error:
            yield Finding("controller", PROBLEM, str(error))
            return
        except (OSError, KernelError) as error:
            yield Finding("hosts", PROBLEM, f"they cannot be asked to come back: {error}")
            return
        visits = [Visit(visited, entry, goal) for entry in entries]
        stack.callback(_end, visits)
        for visit in visits:
            visit.begin()
        for visit in visits:
            yield from visit.findings()


class Goal(NamedTuple):
    """What hosts are to reach.

    Attributes:
        furl: Where it is.
        what: What it is called.
    """

    furl: Furl
    what: str


@contextlib.contextmanager
def opened(configured: Configuration) -> Iterator[Goal]:
    """Context with a port of this host that stands for the controller.

    Raises:
        OSError: No port can be opened.
    """
    interface = _interface(configured)
    location = configured.value("cluster", "controller_location")
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    port = configured.value("cluster", "controller_port")
    with socket.create_server((interface, port), family=family, backlog=1024) as server:
        port = server.getsockname()[1]
        found = hints(location, port) if location else local_location(interface, port)
        furl = Furl("", "", tuple(found), "")
        yield Goal(furl, f"a port that was opened for the controller at {furl.location}")


def _end(guests: Sequence[Guest]) -> None:
    for guest in guests:
        guest.request_stop()
    for guest in guests:
        guest.end()


class Guest(SSHLauncher):
    """Somebody who looks at a host, and leaves nothing there.

    Args:
        directory: A cluster's directory for files of this program.
        entry: The host.
        others: Further arguments of a launcher.

    Attributes:
        found: What was found so far.
    """

    def __init__(self, directory: ClusterDirectory, entry: HostEntry, **others: Any) -> None:
        super().__init__(directory, share=Share(1, entry.label, entry.to_dict()), **others)
        self.found: list[Finding] = []

    def end(self) -> None:
        """Be over for sure."""
        if self.started:
            if not self.wait(_END):
                self.kill()
                self.wait(_END)
            self.close()

    def add(self, level: str, text: str, advice: str = "") -> None:
        """Note what was found."""
        self.found.append(Finding(self.entry.label, level, text, advice))

    def check(self, talk: Conversation) -> dict[str, Any]:
        """Note what is on the host; see :meth:`SSHLauncher.check`."""
        checked = super().check(talk)
        self._judge(checked)
        return checked

    def _judge(self, checked: dict[str, Any]) -> None:
        there, here = checked["python"], ".".join(map(str, sys.version_info[:3]))
        brought = self.entry.push == "yes"
        own = "ipkernel is brought along" if brought else f"ipkernel {checked['version']}"
        text = f"Python {there} ({checked['executable']}), {own}"
        if there.split(".")[:2] == here.split(".")[:2]:
            self.add(OK, text)
        else:
            advice = f"here it is {here}: functions of scripts need the same version on both sides"
            self.add(WARNING, text, advice)


class Visit(Guest, SSHHostLauncher):
    """A host for engines that is looked at; nothing is started there.

    Args:
        directory: A cluster's directory for files of this program.
        entry: The host.
        goal: What it is to reach, if that is known.
    """

    def __init__(self, directory: ClusterDirectory, entry: HostEntry, goal: Goal | None) -> None:
        super().__init__(directory, entry, on_event=self._told)
        self._goal = goal

    def begin(self) -> None:
        """Go there, without waiting."""
        try:
            self.start()
        except KernelError as error:
            self.add(PROBLEM, str(error))

    def findings(self) -> list[Finding]:
        """Return what was found; waits until that is known."""
        if self.started:
            while not self.wait(1.0):  # its own time limits end it
                pass
        return self.found

    def _told(self, event: dict[str, Any]) -> None:
        if event["event"] == "error":
            self.add(PROBLEM, event["message"])

    def set_up(self, talk: Conversation) -> None:
        """Look at the host in place of starting something."""
        talk.begin()
        talk.expect("@here")
        talk.taken = True
        checked = self.check(talk)
        if self._goal is not None:
            self._find_way(talk, checked, self._goal)
        talk.finish()

    def _find_way(self, talk: Conversation, checked: dict[str, Any], goal: Goal) -> None:
        tunnel = self.entry.tunnel
        if tunnel != "yes" and self.reaches(talk, checked, goal.furl):
            self.add(OK, f"it reaches {goal.what}")
        elif tunnel == "no":
            self.add(
                PROBLEM,
                f"it does not reach {goal.what}",
                "have the controller listen where the host reaches it (controller_ip, "
                "controller_location), let connections to its port through firewalls, or write "
                "tunnel = auto in [ssh]",
            )
        else:
            self.through_tunnel(goal.furl)
            self.add(OK, f"it reaches {goal.what} through a tunnel")


class StandIn(Guest, SSHControllerLauncher):
    """A controller on the host where the cluster's is to be, as long as hosts are looked at.

    Args:
        directory: A cluster's directory for files of this program.
        entry: The host.
        configured: The options of the cluster.
    """

    def __init__(
        self, directory: ClusterDirectory, entry: HostEntry, configured: Configuration
    ) -> None:
        arguments = ["--cluster-dir", str(directory), "--cluster", directory.name]
        for option, value in (
            ("--interface", _interface(configured)),
            ("--port", configured.value("cluster", "controller_port")),
            ("--location", configured.value("cluster", "controller_location")),
        ):
            arguments += [option, str(value)] if value else []
        arguments += ["--journal=off", *configured.value("cluster", "controller_args")]
        environment = configured.section("environment")
        super().__init__(directory, entry, arguments=arguments, environment=environment)

    def goal(self, patience: float) -> Goal | None:
        """Start it, note what is found, and return what hosts are to reach, if it is there.

        Args:
            patience: Seconds within which it must be ready.
        """
        try:
            self.start()
            self.wait_event("ready", patience)
        except (LauncherError, TimeoutError) as error:
            told = [one.get("message") for one in self.events if one["event"] == "error"]
            self.add(PROBLEM, str(told[0] if told else error))
            return None
        furl = read_furl(self.directory.furl_file("engine"))
        way = " through a tunnel" if self.forwarded else ""
        self.add(OK, f"a controller that was started there is reached from here{way}")
        return Goal(furl, f"a controller that was started on {self.entry.label}")
