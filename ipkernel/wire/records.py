# mypy: disable-error-code="misc"
"""What travels through doors: the requests and answers of the control plane.

A door's methods take and return bounded byte strings (:mod:`ipkernel.wire.doors`); these
structs, encoded as MessagePack maps, are what is in them. Maps, not arrays, so that a field
can be added without breaking a peer that is one release behind.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from ipkernel.decoding import decode
from ipkernel.wire.messages import (
    MAX_LIST,
    MAX_PROPERTIES,
    PROTOCOL,
    Bytes,
    EngineId,
    Engines,
    Hints,
    Lines,
    Name,
    Pid,
    Properties,
    Resources,
    Seconds,
    Text,
    discreet_repr,
)

S = TypeVar("S", bound=Struct)
_encode = msgspec.msgpack.Encoder().encode


class Record(Struct, frozen=True, kw_only=True):
    """The base of all requests and answers."""

    __repr__ = discreet_repr


class Resume(Record):
    """Whoever had a session with this controller, or the one before it, wants to go on with it.

    Attributes:
        number: Of the session, or of the host.
        life: Which life of the controller it has spoken to last; see :class:`Resumed`.
        received: How many messages of that life it has taken.
    """

    number: Annotated[int, Meta(ge=0, lt=1 << 40)]
    life: Annotated[int, Meta(ge=0, lt=1 << 62)]
    received: Annotated[int, Meta(ge=0, lt=1 << 62)]


class Resumed(Record):
    """The controller's side of a session that goes on.

    Attributes:
        same: Whether it is the same life of the controller: each side then sends what the other
            has not taken yet, and nothing else has changed.
        taken: How many messages of the session, counted from its beginning, are safe here.
    """

    same: bool
    taken: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0


class ClientHello(Record):
    """A client introduces itself.

    Attributes:
        protocol: :data:`~ipkernel.wire.messages.PROTOCOL` of the sender.
        version: ipkernel's version, for messages to people.
        python: Major and minor version of Python.
        host: Host name of the client.
        pid: Process id of the client.
        user: Login name, for status displays only.
        resume: The session to go on with, or None for a new one.
        engine: The engine of which it is a part, or -1: it was made by a task.
        within: Name of that engine's cluster.
    """

    protocol: int = PROTOCOL
    version: Text = ""
    python: Text = ""
    host: Text = ""
    pid: Pid = 0
    user: Text = ""
    resume: Resume | None = None
    engine: EngineId = -1
    within: Text = ""


class EngineInfo(Record):
    """One engine, as clients see it.

    Attributes:
        engine: Its id.
        host: Host name.
        pid: Process id, 0 while it is starting.
        state: ``"starting"``, ``"ready"``, ``"draining"``, ``"restarting"``, ``"away"`` when its
            host is, or ``"dead"``.
        reason: Why it is not ready, with what is known of its last death.
        queued: Tasks assigned to it and not yet started.
        running: Tasks that it runs now.
        completed: Tasks that it has finished.
        restarts: How often it has been started again.
        uptime: Seconds since it was last started.
        host_id: Number of its host.
        cpu: Percent of one core that it used lately.
        memory: Bytes that it has in memory, 0 if that is not known.
        files: Open files and sockets, -1 if that is not known.
        started: When its process was started, seconds since the epoch; 0 if that is not known.
        last_loss: How its last process was lost, and when it was; empty if none was.
        began: When its process was asked for, by its host's clock, as the times of tasks are; 0 if
            that is not known.
        last_output: The last lines which that process printed, while there is no other one.
    """

    engine: EngineId
    host: Text = ""
    pid: Pid = 0
    state: Text = "ready"
    reason: Text = ""
    queued: int = 0
    running: int = 0
    completed: int = 0
    restarts: int = 0
    uptime: float = 0.0
    host_id: int = 0
    cpu: float = 0.0
    memory: int = 0
    files: int = -1
    started: float = 0.0
    last_loss: Text = ""
    began: float = 0.0
    last_output: Lines = []


class SessionGrant(Record):
    """The controller's answer to a client: a session and a ticket for its channel.

    Attributes:
        session: Number of the session; task ids are ``session << 40 | count``.
        ticket: Good for one channel from the asking Tub, within seconds.
        cluster: Name of the cluster.
        engines: All engines that the controller knows now.
        version: The controller's ipkernel version.
        python: The controller's Python version.
        life: Which life of the controller it is: another number after each start.
        resumed: What becomes of the session that the client wants to go on with; None when it is a
            new one, because none was asked for or because the controller does not know that.
        local: Where channels may be opened by processes of the controller's machine and user, in
            place of its TLS port; empty if nowhere.
    """

    session: int
    ticket: bytes
    cluster: Text = ""
    engines: Annotated[list[EngineInfo], Meta(max_length=MAX_LIST)] = []
    version: Text = ""
    python: Text = ""
    protocol: int = PROTOCOL
    life: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    resumed: Resumed | None = None
    local: Text = ""


class StoreAccess(Record):
    """How other processes reach the store of a host; see :class:`~ipkernel.wire.messages.HostAccess`.

    Attributes:
        pin: SHA-256 pin of the daemon's certificate.
        key: The secret with which the controller makes tickets for this store.
        hints: Addresses of the data port.
        local: Address for processes on the same machine.
        machine: Names the machine and its network namespace.
    """

    pin: Annotated[str, Meta(max_length=128)]
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    hints: Hints = []
    local: Text = ""
    machine: Text = ""


class HostHello(Record):
    """A host daemon introduces itself and asks for engine ids.

    Attributes:
        host: Host name.
        pid: Process id of the daemon.
        slots: How many engines it has or is about to start.
        engines: Ids that its engines already have, or want to have; they get those that are free.
        python: Major and minor version of Python.
        store: How its store is reached, or None when it has none.
        launcher: Name of the launcher that has started it, such as ``"slurm"``; may be empty.
        label: Where that launcher says that it runs, such as ``"slurm job 17"``; may be empty.
        left: Seconds until its walltime is over; 0 if it has none.
        restarts: How often it has been started again.
        job: Names the MPI job whose ranks its engines are; empty if they are of none.
        job_size: How many ranks that has, on all hosts; ``engines`` then are ranks. The engines
            get these numbers as ids, or others that follow each other as they do. 0 when they
            have their ids already.
        resume: The host that it was before, or None when it comes for the first time.
        resources: How much of each resource each of its engines has.
        host_resources: How much of others they have together.
    """

    host: Text
    pid: Pid
    slots: Annotated[int, Meta(ge=0, le=4096)]
    engines: Engines = []
    protocol: int = PROTOCOL
    version: Text = ""
    python: Text = ""
    store: StoreAccess | None = None
    launcher: Annotated[str, Meta(max_length=64)] = ""
    label: Annotated[str, Meta(max_length=256)] = ""
    left: Seconds = 0.0
    restarts: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    job: Annotated[str, Meta(max_length=64)] = ""
    job_size: Annotated[int, Meta(ge=0, le=MAX_LIST)] = 0
    resume: Resume | None = None
    resources: Resources = {}
    host_resources: Resources = {}


class HostGrant(Record):
    """The controller's answer to a host daemon.

    Attributes:
        host_id: The host's number in this cluster.
        ticket: Good for one channel from the asking Tub, within seconds.
        engines: One id per slot.
        cluster: Name of the cluster.
        life: Which life of the controller it is: another number after each start.
        resumed: As for :class:`SessionGrant`.
        local: As for :class:`SessionGrant`.
    """

    host_id: int
    ticket: bytes
    engines: Engines
    cluster: Text = ""
    protocol: int = PROTOCOL
    life: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    resumed: Resumed | None = None
    local: Text = ""


class EngineOrder(Record):
    """Start or stop engines, or send them a signal.

    Attributes:
        engines: Which; empty with ``count`` for new ones, empty alone for all.
        count: How many new engines to start.
        signal: Name of a signal, such as ``"SIGINT"``.
        host: Host name to start new engines on; empty leaves the choice to the controller.
        drain: For a stop: let engines finish what they have begun and what only they can run, and
            give the rest to others; the answer comes when they are gone.
        limit: Seconds that draining may take; engines that work on then are stopped as without
            it. 0 for as long as it takes.
    """

    engines: Engines = []
    count: Annotated[int, Meta(ge=0, le=4096)] = 0
    signal: Annotated[str, Meta(max_length=16)] = ""
    host: Text = ""
    drain: bool = False
    limit: Seconds = 0.0


class EngineAnswer(Record):
    """What became of an :class:`EngineOrder`.

    Attributes:
        engines: The engines concerned.
        problem: Empty, or why it could not be done.
    """

    engines: Engines = []
    problem: Text = ""


class Description(Record):
    """What a client says of engines; nothing, if it only asks.

    Attributes:
        engines: Which.
        put: Properties that they have from now on, with their values.
        drop: Properties that they have no longer.
        clear: Whether they have none any more but those of ``put``.
    """

    engines: Engines
    put: Properties = {}
    drop: Annotated[list[Name], Meta(max_length=MAX_PROPERTIES)] = []
    clear: bool = False


class EngineProperties(Record):
    """All properties of each of the engines of a :class:`Description`, in the same order."""

    properties: Annotated[list[Properties], Meta(max_length=MAX_LIST)]


class HostInfo(Record):
    """One host daemon, as ``status`` shows it.

    Attributes:
        objects: How many objects are in its store, as far as the controller knows.
        object_bytes: Their bytes.
        launcher: Name of the launcher that has started it, or empty.
        label: Where that launcher says that it runs, or empty.
        draining: Why its engines get nothing more, or empty.
        ends: When its walltime is over, seconds since the epoch; 0 if it has none.
        cpu: Percent of one core that the daemon used lately.
        memory: Bytes that it has in memory, those of its store that it has touched included.
        files: Open files and sockets, -1 if that is not known.
        started: When it was started, seconds since the epoch; 0 if that is not known.
        restarts: How often it has been started again.
        sole: How many of its objects are wanted and nowhere else.
    """

    host_id: int
    host: Text
    pid: Pid
    engines: Engines = []
    connected: bool = True
    since: float = 0.0
    objects: int = 0
    object_bytes: int = 0
    launcher: Text = ""
    label: Text = ""
    draining: Text = ""
    ends: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    files: int = -1
    started: float = 0.0
    restarts: int = 0
    sole: int = 0


class QueueCounts(Record):
    """Tasks by state."""

    waiting: int = 0
    ready: int = 0
    assigned: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    aborted: int = 0


#: Causes that a status tells of.
MAX_STUCK: Final = 100


class Stuck(Record):
    """Work that nobody makes progress on.

    Attributes:
        cause: Names what it is about, for programs.
        severity: ``"fault"`` for what should never be, ``"warning"`` or ``"information"``.
        reason: What is the matter, as a sentence.
        advice: What to do about it.
        since: When it began, seconds since the epoch.
    """

    cause: Text
    severity: Annotated[str, Meta(max_length=16)]
    reason: Text
    advice: Text = ""
    since: float = 0.0


class Status(Record):
    """The state of a cluster at one moment.

    Attributes:
        cpu: Percent of one core that the controller used lately.
        memory: Bytes that it has in memory.
        files: Its open files and sockets, -1 if that is not known.
        started: When it was started, seconds since the epoch.
        restarts: How often it has been started again.
        stuck: Work that nobody makes progress on.
        journal: What is wrong with its journal; empty if nothing is.
        journal_level: What that outlives: ``"process"``, ``"power"`` or ``"off"``.
        journal_size: Bytes that it takes.
    """

    cluster: Text
    pid: Pid
    host: Text
    location: Text
    uptime: float
    version: Text
    hosts: Annotated[list[HostInfo], Meta(max_length=MAX_LIST)] = []
    engines: Annotated[list[EngineInfo], Meta(max_length=MAX_LIST)] = []
    queue: QueueCounts = QueueCounts()
    clients: int = 0
    memory: int = 0
    cpu: float = 0.0
    files: int = -1
    started: float = 0.0
    restarts: int = 0
    stuck: Annotated[list[Stuck], Meta(max_length=MAX_STUCK)] = []
    journal: Text = ""
    journal_level: Annotated[str, Meta(max_length=16)] = ""
    journal_size: Bytes = 0


#: Tasks that are told of at once.
MAX_STORIES: Final = 1024


class TaskQuery(Record):
    """Ask for the story of tasks.

    Attributes:
        tasks: Task ids.
        label: With this label, those tasks that have not ended too, up to :data:`MAX_STORIES`.
        engines: Engine ids.
    """

    tasks: Annotated[list[int], Meta(max_length=MAX_STORIES)] = []
    label: Annotated[str, Meta(max_length=256)] = ""
    engines: Annotated[list[EngineId], Meta(max_length=MAX_STORIES)] = []


class TaskStory(Record):
    """Where a task is and how it came there.

    Attributes:
        task: Its id.
        state: A state of the task machine, or ``"unknown"``.
        reason: Why it is where it is, as a sentence.
        story: One line for each step.
        engine: Where it is or was, or -1.
    """

    task: int
    state: Text
    reason: Text = ""
    story: Lines = []
    engine: EngineId = -1


class EngineStory(Record):
    """What an engine does.

    Attributes:
        engine: Its id.
        state: Of the engine, or ``"unknown"``.
        host: Host name.
        pid: Its process, or 0.
        reason: What it runs, and since when, or why it does not; as a sentence.
        running: The tasks that it runs.
        queued: The tasks that wait for it, in their order, as far as there is room to name them.
        count: How many wait for it.
        story: What has happened to it, one line for each.
    """

    engine: EngineId
    state: Text
    host: Text = ""
    pid: Pid = 0
    reason: Text = ""
    running: Annotated[list[int], Meta(max_length=100)] = []
    queued: Annotated[list[int], Meta(max_length=100)] = []
    count: int = 0
    story: Lines = []


class TaskStories(Record):
    """The answer to a :class:`TaskQuery`."""

    stories: Annotated[list[TaskStory], Meta(max_length=MAX_STORIES)] = []
    engines: Annotated[list[EngineStory], Meta(max_length=MAX_STORIES)] = []


def pack(record: Record) -> bytes:
    """Return ``record`` as the bytes that go through a door."""
    return _encode(record)


_decoders: dict[type[Struct], msgspec.msgpack.Decoder[Any]] = {}


def unpack(kind: type[S], data: bytes) -> S:
    """Return the record of type ``kind`` in ``data``.

    Raises:
        msgspec.MsgspecError: The bytes do not fit its schema.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decode(decoder, data)  # type: ignore[no-any-return]
