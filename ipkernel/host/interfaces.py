"""The plug-in point of the host: how engine processes come into being."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from attrs import define
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    import socket

    from ipkernel.host.processes import Exit

__all__ = ["Begun", "IEngineStarter", "Job", "Place", "StarterEvents"]


class Place(NamedTuple):
    """Where and how an engine process is to run.

    Attributes:
        environment: Variables to be set for it.
        cwd: Its directory; empty for that of its starter.
        cpus: The cores that it is bound to; empty for all.
    """

    environment: Mapping[str, str] = {}
    cwd: str = ""
    cpus: tuple[int, ...] = ()


class Job(NamedTuple):
    """An MPI job: its processes have come by themselves, and live and die together.

    Attributes:
        name: Distinguishes it from other jobs of the cluster.
        size: How many ranks it has, on all its hosts.
        ranks: Those of this host, in the order of their slots.
    """

    name: str
    size: int
    ranks: list[int]


@define
class Begun:
    """What the daemon holds of an engine process that was asked for.

    Attributes:
        key: The slot's name.
        out: Reading end of its standard output.
        err: Reading end of its standard error.
        link: The daemon's end of its link, or None when the engine will connect.
        progress: Counts the tasks that it has started; its second item says which of them an
            interrupt is meant for, 0 for any. None when nobody counts.
        pid: Its process id, or 0 when that is reported later.
    """

    key: str
    out: int
    err: int
    link: socket.socket | None = None
    progress: memoryview | None = None
    pid: int = 0


class StarterEvents(Protocol):
    """What a starter reports, in the reactor's thread."""

    def spawned(self, key: str, pid: int) -> None:
        """The process exists."""

    def linked(self, key: str, link: Any, pid: int) -> None:
        """The engine has connected and said hello on this link."""

    def failed(self, key: str, text: str) -> None:
        """The process could not be started."""

    def exited(self, key: str, ending: Exit) -> None:
        """The process has ended, and its group was killed."""

    def over(self, reason: str) -> None:
        """All processes end, and none can be started again; :meth:`exited` follows for each."""


class IEngineStarter(Interface):
    """Starts engine processes, signals them, and tells when they end.

    A starter works before there is a reactor: processes can be asked for while the daemon
    still imports it. Reports come only after :meth:`attach`.
    """

    threaded = Attribute("True when the engines' output must be read by threads.")
    job = Attribute("The :class:`Job` whose ranks the processes are; None if they are of none.")

    def start(key: str, place: Place) -> Begun:  # noqa: N805
        """Ask for a process.

        Args:
            key: The slot's name; unique among the processes that live.
            place: Where and how it is to run.

        Raises:
            OSError: There are no more descriptors or processes.
        """

    def attach(reactor: Any, events: StarterEvents) -> None:  # noqa: N805
        """Begin to report."""

    def signal(key: str, number: int, group: bool) -> None:  # noqa: N805
        """Send a signal to a process or to its group; nothing happens if it has ended."""

    def expect_end() -> None:
        """Learn that processes which end from now on were meant to."""

    def close() -> None:
        """Start no more, and end whatever is left."""
