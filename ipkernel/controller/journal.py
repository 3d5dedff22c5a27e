"""What is written down before the controller lets anybody know of it.

The rule: inbound event, transition, commit, and only then release what goes out. Records hold
references to the messages and payloads themselves, so to make one costs next to nothing; how they
are encoded is the business of the journal that keeps them: :mod:`ipkernel.controller.rows` does it
for :mod:`ipkernel.controller.sqlitejournal`. The tags are part of that format, and so is the order
of the fields: new ones come last, with a default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from zope.interface import Attribute, Interface, implementer

from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Message, Output, Past, Simple

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class LifeBegan(Struct, frozen=True, eq=False, array_like=True, tag=1):
    """A controller has started, with what was recorded before.

    ``life`` is the number that peers know it by. Numbers up to ``sessions`` and ``hosts`` may have been
    given to sessions and hosts by it or an earlier one; when these are used up, it writes another
    such record.
    """

    life: int
    time: float
    sessions: int = 0
    hosts: int = 0


class SessionBegan(Struct, frozen=True, eq=False, array_like=True, tag=2):
    """A client opened a session; ``tub_id`` is what it proves itself by when it comes back."""

    session: int
    time: float
    client: str
    tub_id: str = ""


class SessionClosed(Struct, frozen=True, eq=False, array_like=True, tag=3):
    """Nothing of this session is left: no client, no task, no result."""

    session: int
    time: float


class Submitted(Struct, frozen=True, eq=False, array_like=True, tag=4):
    """What a client sent at once: submissions and functions with their payloads, in order.

    Other kinds of message among ``items`` need not be kept. ``taken`` counts all messages of the
    session up to the last of these.
    """

    session: int
    time: float
    items: list[tuple[Message, Payload]]
    taken: int = 0


class Assigned(Struct, frozen=True, eq=False, array_like=True, tag=5):
    """These tasks go to engines of a host: ``engines`` names one for each of ``tasks``."""

    host: int
    tasks: list[int]
    engines: list[int]


class Again(Struct, frozen=True, eq=False, array_like=True, tag=6):
    """How it stands with a task that waits, once more or still.

    Attributes:
        task: Its id.
        time: When that was so.
        attempts: How many engines began it and were lost.
        note: The latest unusual step of it, or empty.
        targets: The engines that may run it by now, if it is load-balanced; empty for any.
        past: Others that it waited for, and that have ended.
        free: Whether it waits for no others any more.
        refused: What engines said that have rejected it since it was written down last, by their ids.
            Whoever is among ``targets`` again after that is another engine with such an id.
    """

    task: int
    time: float
    attempts: int
    note: str
    targets: list[int] = []
    past: list[Past] = []
    free: bool = True
    refused: dict[int, str] = {}


class Printed(Struct, frozen=True, eq=False, array_like=True, tag=7):
    """Output of tasks that have not ended, in order."""

    items: list[tuple[Output, Payload]]


class Ended(Struct, frozen=True, eq=False, array_like=True, tag=8):
    """These tasks have ended, with these results.

    ``submitted`` says when each of them came, 0.0 if that is not known; older releases did not write it.
    """

    time: float
    items: list[tuple[Finished, Payload]]
    submitted: list[float] = []

    @property
    def came(self) -> list[float]:
        """When each of them came, 0.0 where that is not known."""
        known = self.submitted
        return known if len(known) == len(self.items) else [0.0] * len(self.items)


class Forgotten(Struct, frozen=True, eq=False, array_like=True, tag=9):
    """The results of these tasks were acknowledged by a client, or kept long enough.

    With ``purged``, somebody wants nothing to be known of them any more, not even how they ended.
    """

    time: float
    tasks: list[int]
    purged: bool = False


class HostCame(Struct, frozen=True, eq=False, array_like=True, tag=10):
    """A host daemon joined with these engines, or has these engines from now on.

    ``properties`` is what clients have said of engines, by their ids; ``local``, whether the
    daemon's process was seen on the controller's machine.
    """

    host: int
    time: float
    name: str
    pid: int
    tub_id: str
    engines: list[int]
    properties: dict[int, dict[str, Simple]] = {}
    local: bool = False


class HostWent(Struct, frozen=True, eq=False, array_like=True, tag=11):
    """A host is lost for good; what it had begun was decided on."""

    host: int
    time: float


class Over(Struct, frozen=True, eq=False, array_like=True, tag=12):
    """What is left of an :class:`Ended` whose results are forgotten: how the tasks ended."""

    time: float
    ends: list[Finished]
    submitted: list[float]


class Unwanted(Struct, frozen=True, eq=False, array_like=True, tag=13):
    """Somebody wants these tasks aborted, which hosts have: they are not to be run again.

    ``grace`` is how long each has to end in after an interrupt, in milliseconds.
    """

    time: float
    tasks: list[int]
    grace: int


Record: TypeAlias = (
    LifeBegan
    | SessionBegan
    | SessionClosed
    | Submitted
    | Assigned
    | Again
    | Printed
    | Ended
    | Forgotten
    | HostCame
    | HostWent
    | Over
    | Unwanted
)


#: The output of a task, its end, and the payload of that.
Recorded: TypeAlias = tuple[list[tuple[Output, Payload]], Finished, Payload]


class IJournal(Interface):
    """Keeps records, for longer than the process if it can."""

    level = Attribute('What it outlives: "process", "power", or "off" for nothing.')
    size = Attribute("Bytes that it takes.")
    notice = Attribute("What a user should know of it; empty if it is sound.")

    def commit(records: Sequence[Record]) -> Deferred[None] | None:  # noqa: N805
        """Keep ``records``, all of them or none.

        Args:
            records: In the order in which things happened. The journal may keep references to
                them and to what is in them; nothing of that is changed later.

        Returns:
            None when they are safe already; otherwise a Deferred that fires when they are. Until
            it has fired nothing that follows from them leaves the controller, and ``commit`` is
            not called again. It fails with :class:`~ipkernel.errors.JournalError` when they could
            not be written; nothing of them is kept then, and the same may be tried again.
        """

    def load() -> Iterator[Record]:
        """Return what was recorded before and still matters, in the order in which it happened.

        It is called once, before the first commit, and read to its end. Left out may be what was
        submitted for tasks that have ended, and left out are tasks whose results are forgotten
        (where others were submitted with them, they are named as such; of those that ended last there
        is an :class:`Over`, unless they were purged), sessions that have been
        closed (but not the results of their tasks), hosts that are lost, and all lives but the
        latest. A :class:`Submitted` without items says how many messages of a session were taken.
        What is not asked for before the first commit is dropped then: the log begins anew.
        """

    def read(tasks: Collection[int]) -> dict[int, Recorded]:  # noqa: N805
        """Return output, result and payload of those of ``tasks`` that have ended and are kept."""

    def close() -> None:
        """Let go of the files. Nothing is committed or read afterwards."""


@implementer(IJournal)
class MemoryJournal:
    """A journal that keeps nothing but counts: a restart begins with an empty cluster.

    Attributes:
        commits: How often it was asked to commit.
        records: How many records it was given.
    """

    level = "off"
    size = 0
    notice = ""

    def __init__(self) -> None:
        self.commits = 0
        self.records = 0

    def commit(self, records: Sequence[Record]) -> None:
        """Count ``records``; nothing has to be waited for."""
        self.commits += 1
        self.records += len(records)

    def load(self) -> Iterator[Record]:
        """Return nothing: that is what there was before."""
        return iter(())

    def read(self, tasks: Collection[int]) -> dict[int, Recorded]:
        """Return nothing: nothing is kept."""
        return {}

    def close(self) -> None:
        """Do nothing."""
