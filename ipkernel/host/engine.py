"""One engine as the daemon sees it: its process, its link, its output, its tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import mutable

from ipkernel.host.dispatch import Lane
from ipkernel.host.enginelink import EngineLink
from ipkernel.host.interfaces import Begun
from ipkernel.host.output import LOG_BOUNDS, EngineLog, LastLines, LogBounds, Markers
from ipkernel.host.pipes import NativePipe, Pipe, ThreadPipe
from ipkernel.host.processes import Exit
from ipkernel.wire.link import Received
from ipkernel.wire.messages import Output, Placed, Stream

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["Engine"]

#: The longest Output message, in bytes.
PIECE: Final = 1 << 16
#: The number of a task that never comes.
NOBODY: Final = (1 << 64) - 1

Forward = Callable[[Output, bytes], None]


@mutable
class Limit:
    """When the task that an engine runs has to end.

    Attributes:
        task: The task.
        seconds: How long it may run, or 0.0 for as long as it likes.
        aborted: Whether it was interrupted because it is to be aborted, and not for its time.
        grace: Seconds that it has to end after the interrupt.
        interrupted: When it was interrupted, by the reactor's clock, or 0.
        killed: Whether its engine was killed because of that.
    """

    task: int
    seconds: float
    aborted: bool = False
    grace: float = 0.0
    interrupted: float = 0.0
    killed: bool = False


class Engine:
    """What belongs to one slot.

    Args:
        key: The slot's name.
        number: The engine's id, -1 while there is none.
        forward: Takes output on its way to the client.
        log: Where the output is kept, or None.
        slot: Its number on this host, from 0.
        bounds: How much of the output is kept.

    Attributes:
        slot: As given.
        lane: Its tasks.
        link: Its link, once it has said hello.
        pid: Its process, or 0.
        epoch: Counts its processes.
        began: When the present one was asked for.
        reported: The running task that the controller was told of, or 0.
        since: When the first task in flight became the first.
        held: Messages of an engine whose output is read by threads, until that has arrived.
        exit: How its process ended, once it has.
        memory: Bytes that it had in memory when last seen.
        waits: For each task that waits for objects, what fires when they are there.
        leases: For each task that is ready but not sent, the objects that are leased for it.
        limit: That of the task that it runs, if that has one.
        doomed: Tasks in flight behind that one which are to be aborted, with the seconds that each
            then has to end.
        paused: Nothing is to be sent to it for a moment.
        on_output: Is called when output has arrived while something is held.
    """

    def __init__(
        self,
        key: str,
        number: int,
        forward: Forward,
        log: Path | None = None,
        slot: int = 0,
        bounds: LogBounds = LOG_BOUNDS,
    ) -> None:
        self.key = key
        self.slot = slot
        self.id = number
        self.lane = Lane()
        self.link: EngineLink | None = None
        self.progress: memoryview | None = None
        self.pipes: list[Pipe] = []
        self.held: deque[Received] = deque()
        self.last = LastLines()
        self._bounds = bounds
        self.log = EngineLog(log, *bounds) if log is not None else None
        self.pid = 0
        self.epoch = 0
        self.began = 0.0
        self.reported = 0
        self.since = 0.0
        self.exit: Exit | None = None
        self.exit_text = ""
        self.memory = 0
        self.joined = False
        self.threaded = False
        self.waits: dict[int, Deferred[list[Placed]]] = {}
        self.leases: dict[int, list[Placed]] = {}
        self.limit: Limit | None = None
        self.doomed: dict[int, float] = {}
        self.paused = False
        self.on_output: Callable[[Engine], None] | None = None
        self._markers: list[Markers] = []
        self._forward = forward

    def begin(self, reactor: Any, begun: Begun, *, threaded: bool) -> None:
        """Take charge of a new process.

        Args:
            reactor: Twisted's reactor.
            begun: What its starter holds of it.
            threaded: Whether its output must be read by threads.
        """
        self.epoch += 1
        self.began = reactor.seconds()
        self.pid = begun.pid
        self.exit = None
        self.exit_text = ""
        self.reported = 0
        self.memory = 0
        self.joined = False
        self.threaded = threaded
        self.last = LastLines()
        self.progress = begun.progress
        self.held.clear()
        self._markers = [Markers(), Markers()]
        kind = ThreadPipe if threaded else NativePipe
        self.pipes = [
            kind(reactor, begun.out, self._reader(Stream.STDOUT, self._markers[0])),
            kind(reactor, begun.err, self._reader(Stream.STDERR, self._markers[1])),
        ]

    @property
    def subject(self) -> str:
        """The name of its process for the host's store."""
        return f"engine:{self.key}:{self.epoch}"

    def takes(self, epoch: int) -> bool:
        """Tell whether a task that is meant for a process of this engine is for the present one.

        Args:
            epoch: That of the process; 0 for any.
        """
        return not epoch or (epoch == self.epoch and self.exit is None)

    def write_log_to(self, path: Path | None) -> None:
        """Keep the output in another file from now on, or in none."""
        if self.log is not None:
            self.log.close()
        self.log = EngineLog(path, *self._bounds) if path is not None else None

    def _reader(self, stream: Stream, markers: Markers) -> Callable[[bytes], None]:
        def received(data: bytes) -> None:
            for task, piece in markers.feed(data):
                self._output(stream, task, piece)
            if self.held and self.on_output is not None:
                self.on_output(self)

        return received

    def _output(self, stream: Stream, task: int, data: bytes) -> None:
        self.last.add(data)
        if self.log is not None:
            self.log.write(data)
        task = task or self.lane.running
        for offset in range(0, len(data), PIECE):
            piece = data[offset : offset + PIECE] if len(data) > PIECE else data
            self._forward(Output(task, self.id, stream, len(piece)), piece)

    @property
    def caught_up(self) -> bool:
        """True when the output of the task that is done next has arrived, as far as marks tell."""
        wanted = self.lane.finished + 1
        return all(
            pipe.ended or markers.ends >= wanted
            for pipe, markers in zip(self.pipes, self._markers, strict=True)
        )

    @property
    def begun_tasks(self) -> int | None:
        """How many tasks its process has started, None when that is not counted."""
        return self.progress[0] if self.progress is not None else None

    def aim(self) -> bool:
        """Say that the next interrupt is for the first task in flight, or for none if there is none.

        Returns:
            False when that cannot be said.
        """
        if self.progress is None:
            return False
        self.progress[1] = self.lane.finished + 1 if self.lane.flight else NOBODY
        return True

    def aim_at_any(self) -> None:
        """Say that the next interrupt is for whatever runs."""
        if self.progress is not None:
            self.progress[1] = 0

    def finish_output(self) -> None:
        """Take in what is left in the pipes of a process that has ended, and close them."""
        for pipe in self.pipes:
            pipe.close()
        for stream, markers in zip((Stream.STDOUT, Stream.STDERR), self._markers, strict=False):
            for task, piece in markers.flush():
                self._output(stream, task, piece)
        self.pipes = []
        self._markers = []
        if self.log is not None:
            self.log.close()
        if self.progress is not None:
            self.progress = None
