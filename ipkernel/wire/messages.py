# mypy: disable-error-code="misc"
"""The messages of the work plane: typed, bounded headers in front of opaque payloads.

A message is a small :class:`msgspec.Struct`, encoded as a MessagePack array whose first
element is the message's number. Its ``size`` says how many payload bytes belong to it; they
travel behind the headers of the frame, in the same order. Controllers and host daemons read
headers and pass payloads on; only engines and clients look inside.

The structs *are* the schema of the wire: a header that does not fit is refused by
:func:`decode` before any of it is used.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Annotated, ClassVar, Final, Union

import msgspec
from msgspec import Meta, Struct

from ipkernel import decoding

#: Version of everything in this module and in :mod:`ipkernel.wire.records`.
PROTOCOL: Final = 1

#: The longest payload of one message, in bytes.
MAX_PAYLOAD: Final = 8 << 30

#: The highest priority of a task, and with a minus the lowest.
MAX_PRIORITY: Final = 1_000_000

#: The longest timeout of a task, in seconds.
MAX_TIMEOUT: Final = 1e9

#: The largest amount of a resource, and how many resources a task may use.
MAX_AMOUNT: Final = 1e15
MAX_RESOURCES: Final = 16

#: How many properties an engine may have, and how long one may be that is text.
MAX_PROPERTIES: Final = 64
MAX_VALUE: Final = 256

#: As many engines a cluster can have.
MAX_ENGINES: Final = 1 << 20

#: Bytes of a recovery task.
MAX_RECOVERY: Final = 1 << 16

#: The most targets, tasks or lines that one message may list.
MAX_LIST: Final = 1 << 16

TaskId = Annotated[int, Meta(ge=0, lt=1 << 62)]
"""A task: session number in the upper bits, the client's own count in the lower 40."""
EngineId = Annotated[int, Meta(ge=-1, lt=MAX_ENGINES)]
"""A small number from 0; -1 stands for "none"."""
Pid = Annotated[int, Meta(ge=0, lt=1 << 32)]
"""A process; 0 if there is none, or it is not known."""
Size = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD)]
Digest = Annotated[bytes, Meta(max_length=16)]
Text = Annotated[str, Meta(max_length=4096)]
Label = Annotated[str, Meta(max_length=256)]
Lines = Annotated[list[Text], Meta(max_length=100)]
Tasks = Annotated[list[TaskId], Meta(max_length=MAX_LIST)]
ObjectId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""An object: 128 random bits, so that who knows an id has been given it."""
MaybeObject = Annotated[bytes, Meta(max_length=16)]
"""An object, or empty for none."""
Needs = Annotated[list[ObjectId], Meta(max_length=1024)]
Objects = Annotated[list[ObjectId], Meta(max_length=MAX_LIST)]
Bytes = Annotated[int, Meta(ge=0, lt=1 << 50)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e11)]
"""A time, or how long something takes: a number that can be shown, so neither NaN nor infinite."""
HostNumber = Annotated[int, Meta(ge=0, lt=1 << 40)]
"""A host daemon, as the controller counts them from 1; 0 stands for "none"."""
Grace = Annotated[int, Meta(ge=0, le=1 << 32)]
"""Milliseconds from an interrupt to the end of an engine that does not react to it."""
Hints = Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=32)]
Engines = Annotated[list[EngineId], Meta(max_length=MAX_LIST)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
"""What users call a resource, or a property of engines."""
Amount = Annotated[float, Meta(gt=0.0, le=MAX_AMOUNT)]
Resources = Annotated[dict[Name, Amount], Meta(max_length=MAX_RESOURCES)]
"""How much of each resource there is, or is used."""
Simple = (
    bool
    | Annotated[int, Meta(ge=-(1 << 62), lt=1 << 62)]
    | float
    | Annotated[str, Meta(max_length=MAX_VALUE)]
    | None
)
"""The value of a property."""
Clearing = Annotated[int, Meta(ge=0, le=3)]
Properties = Annotated[dict[Name, Simple], Meta(max_length=MAX_PROPERTIES)]


class Kind(IntEnum):
    """What an engine is asked to do with a task's payload."""

    APPLY = 1
    """Call a function; the payload is a call made by :mod:`ipkernel.serialize`."""
    MAP = 2
    """Call a function for each item of a chunk; the result is the list of results."""
    EXECUTE = 3
    """Run source text through IPython."""
    PUSH = 4
    """Put names into the engine's namespace."""
    PULL = 5
    """Return the values of names or expressions."""
    KEYS = 6
    """Return the names in the engine's namespace."""
    CLEAR = 7
    """Empty the engine's namespace."""


#: What users call each kind, such as in the headline of an error.
METHODS: Final = {kind: kind.name.lower() for kind in Kind}


class Outcome(IntEnum):
    """How a task ended, and so what the payload of its result is."""

    OK = 0
    """The pickled value."""
    ERROR = 1
    """An encoded :class:`ipkernel.serialize.failure.ErrorInfo`: user code raised."""
    ABORTED = 2
    """An encoded :class:`Reason`: cancelled before or while it ran."""
    LOST = 3
    """An encoded :class:`Reason`: the engine or its host was lost while it ran."""
    IMPOSSIBLE = 4
    """An encoded :class:`Reason`: no engine could ever run it."""
    TIMEOUT = 5
    """An encoded :class:`Reason`: it ran for longer than it was allowed to."""
    REJECTED = 6
    """As for ERROR, from an engine only: another engine may be able to run it."""
    RETRY = 7
    """As for ERROR, from an engine only: it is to be run again if its retries allow."""
    RETRY_ITEMS = 8
    """As for OK, from an engine only: items have failed, so it is to be run again if its retries allow."""


class Fate(IntEnum):
    """What became of a task whose client wanted it aborted."""

    DEQUEUED = 1
    """It had not begun, and never will."""
    INTERRUPTED = 2
    """It was interrupted while it ran."""
    KILLED = 3
    """It ran and did not react to the interrupt, or its engine was lost: that is started again."""
    ENDED = 4
    """It had ended already, or did so in spite of it."""
    UNKNOWN = 5
    """The controller knows no such task, or none any more."""


class Stream(IntEnum):
    """Where output of a task came from."""

    STDOUT = 1
    STDERR = 2
    DISPLAY = 3
    """A MessagePack map with ``data``, ``metadata`` and ``transient``: rich output."""
    DATA = 4
    """A pickled value published by the task while it runs."""
    FLOW = 5
    """A :class:`~ipkernel.objects.chunks.Note` for the client's machinery."""


#: Fields that are secrets, and are not to be seen in logs and tracebacks.
_SECRETS: Final = frozenset({"key", "ticket", "token"})


def discreet_repr(struct: Struct) -> str:
    """Return the usual text for a struct, without its secrets."""
    fields = [
        f"{name}={'...' if name in _SECRETS else repr(getattr(struct, name))}"
        for name in struct.__struct_fields__
    ]
    return f"{type(struct).__name__}({', '.join(fields)})"


class Message(Struct, array_like=True, frozen=True, gc=False):
    """The base of all messages.

    ``size`` is the length of the message's payload in bytes; kinds of message that carry
    none leave it at the class's 0.
    """

    size: ClassVar[int] = 0

    __repr__ = discreet_repr


class Past(Struct, array_like=True, frozen=True, gc=False):
    """A task of which its client knows that it has ended.

    Attributes:
        task: Its id.
        engine: Where it ran, or -1.
        ok: Whether it has succeeded.
    """

    task: TaskId
    engine: EngineId
    ok: bool


class Dependency(Struct, array_like=True, frozen=True, gc=False):
    """What a task waits for: others, of this session or another one.

    Attributes:
        tasks: Those of which the client does not know the end.
        ended: Those of which it does.
        all: Whether all of them must have ended as wanted, or one is enough.
        success: Whether one that succeeded is as wanted.
        failure: Whether one that failed, or was aborted, is.
    """

    tasks: Tasks = []
    ended: Annotated[list[Past], Meta(max_length=MAX_LIST)] = []
    all: bool = True
    success: bool = True
    failure: bool = False


class Recovery(Struct, array_like=True, frozen=True, gc=False):
    """A call without arguments of the user's that is run in the place of a task that has failed.

    Attributes:
        digest: The function's name by hash, or empty when the payload holds it.
        payload: The call.
    """

    digest: Digest
    payload: Annotated[bytes, Meta(max_length=MAX_RECOVERY)]


class Clear(IntFlag):
    """When an engine empties its namespace because of a task."""

    BEFORE = 1
    AFTER = 2


class Terms(Struct, array_like=True, frozen=True, gc=False):
    """What is asked of few tasks only, apart so that the others do not carry it.

    Attributes:
        priority: Of the load-balanced tasks of one session, those with a higher one go first.
        timeout: Seconds that it may run on an engine, or 0.
        after: A load-balanced task waits for these.
        follow: It waits for these, and then goes where they ran: to the engine that ran all of
            them, or that ran the one that was enough.
        resources: How much of each resource a load-balanced task uses where it runs, or None.
        where: The properties, with their values, that its engine must have, or None.
        clear: When its engine empties the namespace, bits of :class:`Clear`.
        recovery: What is run in the place of a load-balanced task when it has failed for good.
    """

    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    timeout: Annotated[float, Meta(ge=0.0, le=MAX_TIMEOUT)] = 0.0
    after: Dependency | None = None
    follow: Dependency | None = None
    resources: Resources | None = None
    where: Properties | None = None
    clear: Clearing = 0
    recovery: Recovery | None = None


class Submit(Message, tag=1):
    """Client to controller: run a task on one engine, or one task on each of several.

    Attributes:
        task: The task's id. With ``spread`` unset and n targets, ids ``task`` to
            ``task + n - 1`` belong to the targets in order.
        kind: What to do.
        size: Bytes of payload.
        targets: Engine ids; empty means any engine.
        spread: True for a load-balanced task (any one of ``targets``); False for one task
            on every engine of ``targets``.
        digest: The function's name by hash, or empty when the payload holds it.
        retries: How often to run it again after it had started and was lost, or asked for it.
        label: A name of the user's own.
        needs: Objects that must be in the store of the engine's host before it can run.
        stored: The payload is the object ``needs[0]``, and ``size`` is 0.
        keep: Leave the result in the store of the engine's host, however small it is.
        terms: What else is asked of it, if anything.
    """

    task: TaskId
    kind: Kind
    size: Size
    targets: Engines = []
    spread: bool = True
    digest: Digest = b""
    retries: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    label: Label = ""
    needs: Needs = []
    stored: bool = False
    keep: bool = False
    terms: Terms | None = None


class Function(Message, tag=2):
    """A pickled function, sent once per connection ahead of the tasks that name it."""

    digest: Digest
    size: Size


class Cancel(Message, tag=3):
    """Client to controller: abort these tasks.

    Attributes:
        tasks: Which.
        serial: The client's own number for this request; 0 if it wants no :class:`Cancelled`.
        grace: Milliseconds that a task which runs has to end after it was interrupted.
    """

    tasks: Tasks
    serial: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    grace: Grace = 1000


class Fetch(Message, tag=4):
    """Client to controller: send me the results of these tasks, when they have ended."""

    tasks: Tasks


class Failed(Struct, array_like=True, frozen=True, gc=False):
    """How a task failed: its outcome, and what belongs to that."""

    outcome: Outcome
    payload: Annotated[bytes, Meta(max_length=MAX_RECOVERY)]


class Finished(Message, tag=5):
    """Controller to client: a task has ended.

    Attributes:
        task: Its id.
        outcome: How it ended.
        engine: Where it ran, or -1.
        started: When the engine began, seconds since the epoch, or 0.
        completed: When the engine was done, seconds since the epoch, or 0.
        size: Bytes of payload.
        attempts: How many engines began to run it.
        object: The object that is the result, or empty when the payload is.
        length: Bytes of that object.
        host: Where it is.
        failed: How the task itself failed, if this is the result of its recovery task.
        label: The user's name for the task, by which others find its result.
        kind: What the task was to do, by which they know what its result is.
    """

    task: TaskId
    outcome: Outcome
    engine: EngineId
    started: Seconds
    completed: Seconds
    size: Size
    attempts: int = 1
    object: MaybeObject = b""
    length: Bytes = 0
    host: HostNumber = 0
    failed: Failed | None = None
    label: Label = ""
    kind: Kind = Kind.APPLY


class Output(Message, tag=6):
    """Engine to host to controller to client: output of a task while it runs.

    ``task`` is 0 for output that belongs to no task.

    Attributes:
        task: Its id.
        engine: Where it runs.
        stream: What kind of output.
        size: Length of the payload.
        serial: Counts what the host's daemon has sent, from 1, so that output which comes a second
            time, after a connection was lost, is known; 0 where nobody counts.
    """

    task: TaskId
    engine: EngineId
    stream: Stream
    size: Size
    serial: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0


class EngineJoined(Message, tag=7):
    """Controller to client, host to controller: an engine is ready for work.

    Attributes:
        engine: Its id.
        host: Host name.
        pid: Its process.
        epoch: Counts the processes that the host has started for this id, from 1.
        host_id: The host's number (controller to client only).
        began: When that process was asked for, seconds since the epoch by the host's clock, as the
            times of tasks are; 0 if that is not known.
    """

    engine: EngineId
    host: Text
    pid: Pid
    epoch: Annotated[int, Meta(ge=0)] = 0
    host_id: HostNumber = 0
    began: Seconds = 0.0


class EngineLeft(Message, tag=8):
    """Host to controller, controller to client: an engine is gone.

    Attributes:
        engine: Its id.
        reason: What happened, as a sentence.
        restarting: True when its host starts it again under the same id.
        started: The tasks that had started on it (host to controller only).
        loss: The same facts as data.
        excused: True when the engine goes as was to be expected. Host to controller: its machine is
            taken away, as at the end of a batch job; what had started is run elsewhere, and that is
            not counted as an attempt. Controller to client: it drains, or has drained.
    """

    engine: EngineId
    reason: Text
    restarting: bool = False
    started: Tasks = []
    loss: Reason | None = None
    excused: bool = False


class Closing(Message, tag=9):
    """Controller to client and host: the controller is about to stop. Host to controller: I stop."""

    reason: Text


class Placed(Struct, array_like=True, frozen=True, gc=False):
    """Where an object is in the shared memory of its host.

    Attributes:
        object: Its id.
        segment: Number of the segment of memory.
        offset: Where it starts there, in bytes.
        size: Its length in bytes.
    """

    object: ObjectId
    segment: Annotated[int, Meta(ge=0)]
    offset: Bytes
    size: Bytes


class Assign(Message, tag=10):
    """Controller to host, host to engine: run this task on this engine.

    ``epoch`` is that of the :class:`EngineJoined` that the controller knows: a host drops a task
    that was meant for the engine's last process, for the controller has re-queued it. 0 fits all.
    ``needs``, ``stored`` and ``keep`` are those of the :class:`Submit`; ``placed`` (host to engine
    only) says where the objects of ``needs`` are, in the same order. ``limit`` is how long the task
    may run, in milliseconds, or 0. ``clear`` is that of its :class:`Terms`.
    """

    task: TaskId
    engine: EngineId
    kind: Kind
    size: Size
    digest: Digest = b""
    epoch: Annotated[int, Meta(ge=0)] = 0
    needs: Needs = []
    stored: bool = False
    keep: bool = False
    placed: Annotated[list[Placed], Meta(max_length=1024)] = []
    limit: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    clear: Clearing = 0


class Done(Message, tag=11):
    """Engine to host, host to controller: a task has ended (fields as in Finished)."""

    task: TaskId
    engine: EngineId
    outcome: Outcome
    started: Seconds
    completed: Seconds
    size: Size
    object: MaybeObject = b""
    length: Bytes = 0


class Started(Message, tag=12):
    """Host to controller: these tasks have begun and are still running."""

    tasks: Tasks


class Reclaim(Message, tag=13):
    """Controller to host: give back those of these tasks that have not started."""

    engine: EngineId
    tasks: Tasks


class Returned(Message, tag=14):
    """Host to controller: these tasks had not started and will not be run here.

    It is also the answer to a :class:`Reclaim` that came too late (``tasks`` is empty).
    """

    engine: EngineId
    tasks: Tasks


class ForgetFunctions(Message, tag=15):
    """Controller to host, host to engine: these functions will not be named again."""

    digests: Annotated[list[Digest], Meta(max_length=MAX_LIST)]


class EngineHello(Message, tag=16):
    """Engine to host: the first message on an engine's link."""

    pid: Pid
    token: Annotated[bytes, Meta(max_length=32)] = b""


class EngineSetup(Message, tag=17):
    """Host to engine: who you are, ahead of the first task and again when the id changes.

    Attributes:
        engine: The engine's id.
        host: Host name.
        cluster: Name of the cluster.
        store: Address of the host's store, or empty.
        ticket: The right to use it.
        subject: Whose right that is.
        environment: Variables whose values depend on the engine's id.
    """

    engine: EngineId
    host: Text
    cluster: Text = ""
    store: Text = ""
    ticket: Annotated[bytes, Meta(max_length=64)] = b""
    subject: Annotated[str, Meta(max_length=128)] = ""
    environment: dict[str, str] = {}


class ObjectMade(Message, tag=18):
    """Client or host to controller: there is an object, and ``owner`` holds a reference to it.

    Attributes:
        object: Its id.
        length: Its bytes.
        host: Where it is; 0 when the client itself has it and provides it when asked to.
        owner: The session that holds the reference.
    """

    object: ObjectId
    length: Bytes
    host: HostNumber = 0
    owner: Annotated[int, Meta(ge=0)] = 0


class Release(Message, tag=19):
    """Client to controller: the session drops its reference to each of these objects.

    Engine to host: its leases of them have ended.
    """

    objects: Objects


class Seek(Message, tag=20):
    """Host or client to controller: where can this object be fetched?

    Attributes:
        object: Its id.
        failed: The host from which it could not be fetched after an earlier answer, or 0.
        problem: Why not.
    """

    object: ObjectId
    failed: HostNumber = 0
    problem: Text = ""


class Source(Message, tag=21):
    """Controller to host or client: the answer to a :class:`Seek`.

    Attributes:
        object: The object.
        length: Its bytes.
        host: Fetch it from this host; 0 with an empty ``problem`` means that it will be put
            into the asking host's store by its owner.
        problem: Why it cannot be had, or empty.
    """

    object: ObjectId
    length: Bytes = 0
    host: HostNumber = 0
    problem: Text = ""


class Provide(Message, tag=22):
    """Controller to client: put this object of yours into the store of this host."""

    object: ObjectId
    host: HostNumber


class NotProvided(Message, tag=23):
    """Client to controller: the answer to a :class:`Provide` that failed."""

    object: ObjectId
    host: HostNumber
    problem: Text


class Copied(Message, tag=24):
    """Host to controller: these objects are in my store now."""

    objects: Objects


class Moving(Message, tag=39):
    """An object is on its way from one host to another, and that takes long.

    The host that fetches says so to the controller every second, and the controller to the clients whose
    tasks wait for it, at last with all bytes ``done``, however it has ended.

    Attributes:
        object: Its id.
        done: Bytes that are there.
        length: Its bytes, for clients.
        host: Who fetches it, for clients.
    """

    object: ObjectId
    done: Bytes
    length: Bytes = 0
    host: HostNumber = 0


class Free(Message, tag=25):
    """Controller to host and to client: nobody refers to these objects any more."""

    objects: Objects


class HostAccess(Message, tag=26):
    """Controller to client and to host: how to reach the store of a host.

    Attributes:
        host: The host's number.
        name: Its name, for people.
        tub_id: Its TubID.
        pin: SHA-256 pin of its certificate.
        hints: Addresses of its data port, such as ``tcp:192.168.1.2:4711``.
        local: Address for processes on the same machine, or empty.
        machine: Names the machine and its network namespace: ``local``, and hints that are
            loopback addresses, are good only where this is the same.
        ticket: The receiver's right to use it.
    """

    host: HostNumber
    name: Text
    tub_id: Annotated[str, Meta(max_length=64)]
    pin: Annotated[str, Meta(max_length=128)]
    hints: Hints = []
    local: Text = ""
    machine: Text = ""
    ticket: Annotated[bytes, Meta(max_length=64)] = b""


class HostGone(Message, tag=27):
    """Controller to client and to host: this host is lost, with the objects in its store."""

    host: HostNumber
    reason: Text = ""


class Relay(Message, tag=28):
    """Connect through the controller, because ``host`` cannot be reached directly.

    A client or host asks for it with an empty token. The controller answers with a token, or a
    ``problem``, and sends the token to the other host too (``host`` is 0 then). Both sides
    connect to the controller's port and send the token ahead of their TLS.
    """

    host: HostNumber = 0
    token: Annotated[bytes, Meta(max_length=32)] = b""
    problem: Text = ""


class SessionGone(Message, tag=29):
    """Controller to host: the client of this session is gone and brings no more objects."""

    session: Annotated[int, Meta(ge=0)]


class Vitals(Struct, array_like=True, frozen=True, gc=False):
    """What one process uses of its machine.

    Attributes:
        engine: Its id; -1 for the host daemon itself.
        cpu: Percent of one core, since it was measured last.
        memory: Bytes that it has in memory.
        files: Open files and sockets; -1 where the system does not tell.
        started: When it was started, seconds since the epoch by its host's clock.
    """

    engine: EngineId
    cpu: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    memory: Bytes = 0
    files: Annotated[int, Meta(ge=-1, lt=1 << 31)] = -1
    started: Seconds = 0.0


class Measured(Message, tag=30):
    """Host to controller, every other second: what its processes use."""

    processes: Annotated[list[Vitals], Meta(max_length=8192)]


class Draining(Message, tag=31):
    """Host to controller: assign nothing more to my engines, for I am about to go."""

    reason: Text


class Holding(Message, tag=32):
    """Host to a controller that was started again: these tasks an engine has begun or will begin.

    Attributes:
        engine: Its id.
        epoch: Which of the processes with this id; see :class:`EngineJoined`.
        tasks: What is with the engine, in order; it has begun the first of them.
    """

    engine: EngineId
    epoch: Annotated[int, Meta(ge=0)]
    tasks: Tasks


class Held(Message, tag=33):
    """Host, or client, to a controller that was started again: all objects that it has or uses.

    Attributes:
        objects: From a host, what is in its store; from a client, what it has references to.
        lengths: From a host, their lengths in bytes; from a client, empty.
        last: Whether this is the last of several such messages.
    """

    objects: Objects
    lengths: Annotated[list[Bytes], Meta(max_length=MAX_LIST)] = []
    last: bool = True


class Cancelled(Message, tag=34):
    """Controller to client: what became of tasks that it wanted aborted, as soon as that is known.

    Attributes:
        serial: That of the :class:`Cancel`; several answers may add up to all of its tasks.
        tasks: The tasks of which this tells.
        fates: What became of each.
    """

    serial: Annotated[int, Meta(ge=1, lt=1 << 62)]
    tasks: Tasks
    fates: Annotated[list[Fate], Meta(max_length=MAX_LIST)]


class Interrupt(Message, tag=35):
    """Controller to host: end those of these tasks that have been sent to the engine's process.

    Each is interrupted while it runs, and neither before nor after. If it does not end, the
    process is. Tasks that wait at the host are not meant: a :class:`Reclaim` goes ahead of this.

    Attributes:
        engine: The engine's id.
        epoch: That of the process; see :class:`Assign`.
        tasks: Which.
        grace: Milliseconds that each has to end.
    """

    engine: EngineId
    epoch: Annotated[int, Meta(ge=0)]
    tasks: Tasks
    grace: Grace = 1000


class Resubmit(Message, tag=38):
    """Client to controller: run a task that has ended again, with the same content.

    Attributes:
        task: The id of the new task, of the client's own session.
        of: The task that has ended, of any session.
    """

    task: TaskId
    of: TaskId


class Reason(Struct, frozen=True):
    """Why a task ended without a result of its own, as data.

    Attributes:
        kind: ``"aborted"``, ``"engine"``, ``"host"``, ``"no-engine"``, ``"object"``,
            ``"store-full"``, ``"timeout"``, ``"dependency"``, ``"resources"``, ``"unknown-task"`` or
            ``"limit"``.
        text: A sentence for people.
        engine: Engine id, or -1.
        host: Host name.
        pid: Process id, or 0.
        exitcode: Exit status, or None when a signal ended it.
        signal: Signal number, or None.
        uptime: Seconds the engine lived.
        memory: Bytes of resident memory when last seen, or 0.
        last_output: The last lines that it printed.
        fate: How it was aborted; None for what was not.
    """

    kind: Annotated[str, Meta(max_length=16)]
    text: Text
    engine: EngineId = -1
    host: Text = ""
    pid: int = 0
    exitcode: int | None = None
    signal: int | None = None
    uptime: float = 0.0
    memory: int = 0
    last_output: Lines = []
    fate: Fate | None = None


AnyMessage = Union[  # noqa: UP007 - msgspec wants a typing object here
    Submit, Function, Cancel, Fetch, Finished, Output, EngineJoined, EngineLeft, Closing,
    Assign, Done, Started, Reclaim, Returned, ForgetFunctions, EngineHello,
    EngineSetup, ObjectMade, Release, Seek, Source, Provide, NotProvided, Copied, Free, HostAccess,
    HostGone, Relay, SessionGone, Measured, Draining, Holding, Held, Cancelled,
    Interrupt, Resubmit, Moving,
]  # fmt: skip

#: Encodes the list of headers of one frame.
encode = msgspec.msgpack.Encoder().encode

#: Decodes the list of headers of one frame; raises :class:`msgspec.ValidationError` or
#: :class:`msgspec.DecodeError` when the bytes do not fit the schema.
decode = msgspec.msgpack.Decoder(Annotated[list[AnyMessage], Meta(max_length=MAX_LIST)]).decode

_reason_encoder = msgspec.msgpack.Encoder()
_reason_decoder = msgspec.msgpack.Decoder(Reason)


def encode_reason(reason: Reason) -> bytes:
    """Return ``reason`` as the payload of a result."""
    return _reason_encoder.encode(reason)


def decode_reason(payload: bytes | bytearray | memoryview) -> Reason:
    """Return the :class:`Reason` in a result's payload.

    Raises:
        msgspec.MsgspecError: The bytes are not one.
    """
    return decoding.decode(_reason_decoder, payload)
