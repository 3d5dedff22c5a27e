"""What a launcher is."""

# ruff: noqa: N805 - methods of an interface have no self

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from zope.interface import Attribute, Interface

#: No options.
NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Share(NamedTuple):
    """What one program of an engines launcher is to have of all engines.

    Attributes:
        n: Number of engines.
        label: Where they are, for messages; empty on this host.
        options: What distinguishes this program from the launcher's others.
    """

    n: int
    label: str = ""
    options: Mapping[str, Any] = NONE


class ILauncher(Interface):
    """One program of a cluster, started somewhere and watched from here.

    A launcher is used once: after it has ended, make a new one. Its methods may be called from
    any thread; none but :meth:`wait` and :meth:`wait_event` wait.
    """

    name = Attribute("What is launched, for messages: 'ipcontroller' or 'ipdaemon'.")
    pid = Attribute("Process id of what was started; 0 if it has none here or was not started.")
    running = Attribute("Whether it was started and has not ended.")
    exit_code = Attribute("How it ended, as subprocess has it; None before.")
    label = Attribute("Where it runs, for messages, such as 'host a'; empty on this host.")

    def start() -> None:
        """Start it, and return without waiting until it is ready.

        Raises:
            ipkernel.errors.LauncherError: It could not be started at all.
        """

    def wait_event(event: str, timeout: float) -> dict[str, Any]:
        """Wait until the program has reported an event, and return what it said.

        Raises:
            ipkernel.errors.LauncherError: It ended, or reported an error, before; the text has
                the cause and the last lines of its log. It is raised as soon as that is known.
            TimeoutError: It did neither within ``timeout`` seconds.
        """

    def request_stop() -> None:
        """Ask for a stop in good order. Does nothing if it is not running."""

    def wait(timeout: float) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds; return whether it has."""

    def terminate() -> None:
        """Ask more loudly than :meth:`request_stop`: everything of it is told to end."""

    def kill() -> None:
        """End it at once with everything that belongs to it here."""

    def signal(name: str) -> None:
        """Send the program itself a signal, by name, such as ``"SIGTERM"``."""

    def output(lines: int = 20) -> list[str]:
        """Return the last lines of its log and of what it wrote to its standard error."""

    def close() -> None:
        """Free what the launcher holds of an ended, or no longer wanted, program."""

    def state() -> str:
        """Say in a few words where it stands; asking a batch system may take a second."""

    def record() -> dict[str, Any]:
        """Return, as plain data without secrets, what :meth:`ILauncherClass.from_record` needs."""

    def preview() -> str:
        """Return what it runs: a command line, or a batch script. There is no secret in it."""


class ILauncherClass(Interface):
    """A class of launchers for host daemons or controllers, as an entry point names it."""

    SPEC = Attribute("Its options: lines of a ConfigObj specification, each after its help.")
    immediate = Attribute("Whether its programs run at once, or may wait in a queue.")

    def plan(n: int | None, options: Mapping[str, Any]) -> list[Share]:
        """Split engines over programs.

        Args:
            n: How many engines; None for what the options, or the launcher itself, have.
            options: The values of its section of the configuration.

        Raises:
            ipkernel.errors.ConfigurationError: The options do not allow it.
        """

    def from_record(
        directory: Any, record: dict[str, Any], options: Mapping[str, Any]
    ) -> ILauncher:
        """Return a launcher for what another process has started, to watch and to end it."""
