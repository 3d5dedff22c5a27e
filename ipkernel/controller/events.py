"""What the scheduler is told. All times are seconds since the epoch, from one clock.

Events are batches: one carries whatever a channel delivered at once, as it was delivered.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Finished, Message, Simple
from ipkernel.wire.records import StoreAccess

Item: TypeAlias = tuple[Message, Payload]
"""A message and its payload, as channels deliver them."""
Result: TypeAlias = tuple[Finished, Payload]


class FromClient(Struct, frozen=True, eq=False):
    """Messages of a client arrived."""

    session: int
    items: list[Item]
    now: float


class FromHost(Struct, frozen=True, eq=False):
    """Messages of a host daemon arrived."""

    host: int
    items: list[Item]
    now: float


class SessionOpened(Struct, frozen=True, eq=False):
    """A client has come; its results go to its channel from now on.

    ``inside`` is the engine in which a task has made it, or -1.
    """

    session: int
    now: float
    client: str = ""
    tub_id: str = ""
    inside: int = -1


class SessionResumed(Struct, frozen=True, eq=False):
    """A client has come back to its session, which the scheduler knows."""

    session: int
    now: float
    client: str = ""


class SessionDetached(Struct, frozen=True, eq=False):
    """A client has gone. ``undelivered`` are results and output that it did not acknowledge.

    It may come back: for ``keep`` seconds its session is kept even if it has no task, and as long
    as it has results that nobody has fetched. 0.0 if it said that it will not.
    """

    session: int
    undelivered: list[Item]
    now: float
    keep: float = 0.0


class Undelivered(Struct, frozen=True, eq=False):
    """These results, and this output, were on the way to a client when it went."""

    items: list[Item]
    now: float


class SessionHeld(Struct, frozen=True, eq=False):
    """A client does not take its results: start none of its tasks while ``held``."""

    session: int
    held: bool
    now: float


class HostFacts(Struct, frozen=True):
    """What a host daemon says of itself for people, and how long it will be there.

    Attributes:
        launcher: Name of the launcher that has started it.
        label: Where that launcher says that it runs.
        left: Seconds until its walltime is over; 0.0 if it has none.
        restarts: How often it has been started again.
        job: The MPI job whose ranks its engines are; empty if they are of none.
        resources: How much of each resource each of its engines has.
        shared: How much of others they have together.
        local: Whether its process was seen on the controller's machine.
    """

    launcher: str = ""
    label: str = ""
    left: float = 0.0
    restarts: int = 0
    job: str = ""
    resources: dict[str, float] = {}
    shared: dict[str, float] = {}
    local: bool = False


class HostJoined(Struct, frozen=True, eq=False):
    """A host daemon has come, with these engines, none of which is ready yet."""

    host: int
    name: str
    pid: int
    engines: list[int]
    now: float
    tub_id: str = ""
    store: StoreAccess | None = None
    facts: HostFacts = HostFacts()


class HostAway(Struct, frozen=True, eq=False):
    """A host daemon's connection is gone, but it may come back until a certain time."""

    host: int
    reason: str
    until: float
    now: float


class HostBack(Struct, frozen=True, eq=False):
    """A host daemon that was away is connected again.

    Attributes:
        host: Its number.
        now: When.
        engines: All engines that it has, those that are not known yet included.
        joined: None if it goes on where it was. Otherwise it has lost nothing but its place: it
            comes to a controller that was started again, and says anew who it is, and then what
            its engines have.
    """

    host: int
    now: float
    engines: list[int]
    joined: HostJoined | None = None


class HostLost(Struct, frozen=True, eq=False):
    """A host daemon is gone for good, and with it all of its engines."""

    host: int
    reason: str
    now: float


class EnginesAdded(Struct, frozen=True, eq=False):
    """A host is about to start engines with these ids."""

    host: int
    engines: list[int]
    now: float


class EnginesEnding(Struct, frozen=True, eq=False):
    """These engines are about to be stopped on purpose: assign nothing more to them.

    With ``ending`` False it did not come to that after all.
    """

    engines: list[int]
    now: float
    ending: bool = True


class EnginesDraining(Struct, frozen=True, eq=False):
    """These engines are to be stopped when they have nothing to do: give them nothing more.

    What they have begun, and what is bound to them already, they may finish.
    """

    engines: list[int]
    reason: str
    now: float


class EnginesGone(Struct, frozen=True, eq=False):
    """These engines do not exist any more and their ids are free."""

    engines: list[int]
    reason: str
    now: float


class TasksPurged(Struct, frozen=True, eq=False):
    """A client wants these tasks forgotten, as far as they have ended."""

    tasks: list[int]
    now: float


class EnginesDescribed(Struct, frozen=True, eq=False):
    """These engines have some more properties, with these values, and some no longer."""

    engines: list[int]
    put: dict[str, Simple]
    drop: list[str]
    now: float


class RestartOver(Struct, frozen=True, eq=False):
    """Whoever has not come back since the controller was started again need not be waited for."""

    now: float


class Tick(Struct, frozen=True, eq=False):
    """Time has passed: forget what has been kept long enough."""

    now: float


Event: TypeAlias = (
    FromClient
    | FromHost
    | SessionOpened
    | SessionResumed
    | SessionDetached
    | Undelivered
    | SessionHeld
    | HostJoined
    | HostAway
    | HostBack
    | HostLost
    | EnginesAdded
    | EnginesEnding
    | EnginesDraining
    | EnginesGone
    | TasksPurged
    | EnginesDescribed
    | RestartOver
    | Tick
)
