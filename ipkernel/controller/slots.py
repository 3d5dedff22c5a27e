"""How much work each engine may hold, and which engine gets the next task.

An engine's window is the number of tasks that may be with its host: the one that runs and about
two milliseconds of work behind it, so that tasks of microseconds stream and long tasks are bound
to an engine only when it can begin them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ipkernel.controller.tasks import Task

if TYPE_CHECKING:
    from ipkernel.controller.demands import Demand
    from ipkernel.controller.registry import Host
    from ipkernel.wire.messages import Simple, Vitals

#: Work in seconds that may wait at the host behind the running task.
PREFETCH: Final = 0.002
#: Tasks that take longer than this are not prefetched at all.
LONG: Final = 0.02
MAX_WINDOW: Final = 1024
#: Bytes of payload that may be on the way to or wait for one engine.
MAX_BYTES: Final = 8 << 20
#: What is left of an old measurement after one new one.
_KEEP: Final = 0.8
#: Seconds beyond which it makes no difference how long a task takes.
_ABSURD: Final = 1e6

STARTING: Final = "starting"
READY: Final = "ready"
RESTARTING: Final = "restarting"
DEAD: Final = "dead"
AWAY: Final = "away"


class Engine:
    """One engine: what is assigned to it and how fast it has been.

    Attributes:
        id: Its number.
        host: The host that it runs on.
        state: ``starting``, ``ready``, ``restarting``, ``dead`` or ``away``, when its host is: then
            nothing is assigned to it, and what it has it keeps.
        before: Its state before it was away.
        began: When its host has last said that it began a task.
        reason: Why it is not ready.
        pid: Its process, or 0.
        epoch: Which of the processes with this id it is; assignments name it.
        since: When it became what it is.
        born: When its process was asked for, by its host's clock; 0.0 if that is not known.
        assigned: Tasks that were sent to its host, oldest first.
        running: Those of them that its host reported as running.
        direct: Tasks bound to this engine that wait for room.
        shelved: As many entries of ``direct`` belong to tasks that were aborted meanwhile.
        bytes: Payload bytes of ``assigned``.
        window: How many tasks may be assigned.
        mean: Moving average of the seconds that a task takes, or 0.0 at first.
        reclaims: Requests to give tasks back that are not answered yet.
        turn: Whether the last single place that was wanted by both went to a direct task, and not
            to load-balanced ones.
        near_turn: Whether the next single place for them is not for one that needs its host.
        ending: It is being stopped on purpose.
        draining: Why it gets only what is bound to it already, or empty.
        rung: Its place on the :class:`Ladder`, or -1.
        completed: Tasks that it has ended.
        restarts: How often it was started again.
        used: Parts of each resource that its tasks use.
        properties: What clients have said of it, by name.
        kept: For tasks that ask for this, what they ask for is kept free; None for none.
        vitals: What its process used when it was measured last, or None.
        last_loss: How its last process was lost, with the time; empty if none was.
        last_output: The last lines that this process printed.
    """

    __slots__ = (
        "assigned",
        "before",
        "began",
        "born",
        "bytes",
        "completed",
        "direct",
        "draining",
        "ending",
        "epoch",
        "host",
        "id",
        "kept",
        "last_loss",
        "last_output",
        "mean",
        "near_turn",
        "pid",
        "properties",
        "reason",
        "reclaims",
        "restarts",
        "rung",
        "running",
        "shelved",
        "since",
        "state",
        "turn",
        "used",
        "vitals",
        "window",
    )

    def __init__(self, number: int, host: Host, now: float) -> None:
        self.id = number
        self.host = host
        self.state = STARTING
        self.before = STARTING
        self.reason = ""
        self.pid = 0
        self.epoch = 0
        self.since = now
        self.born = 0.0
        self.assigned: dict[int, Task] = {}
        self.running: set[int] = set()
        self.began = now
        self.direct: deque[Task] = deque()
        self.shelved = 0
        self.bytes = 0
        self.window = 1
        self.mean = 0.0
        self.reclaims = 0
        self.turn = False
        self.near_turn = False
        self.ending = False
        self.draining = ""
        self.rung = -1
        self.completed = 0
        self.restarts = 0
        self.used: dict[str, int] = {}
        self.properties: dict[str, Simple] = {}
        self.kept: Demand | None = None
        self.vitals: Vitals | None = None
        self.last_loss = ""
        self.last_output: list[str] = []

    @property
    def usable(self) -> bool:
        """Whether a task bound to it may wait for it."""
        return self.state != DEAD and not self.ending and not self.draining

    def open_for_direct(self) -> bool:
        """Tell whether a task bound to this engine may be assigned now."""
        return (
            self.state == READY
            and len(self.assigned) < self.window
            and self.bytes < MAX_BYTES
            and not self.ending
        )

    def open_for_any(self) -> bool:
        """Tell whether a load-balanced task may be assigned now: not behind a long one."""
        return (
            not self.reclaims and not self.running and self.open_for_direct() and not self.draining
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is with it, on the way to it, or bound to it."""
        return not self.assigned and not self.reclaims and len(self.direct) == self.shelved

    def measured(self, count: int, seconds: float) -> None:
        """Learn that ``count`` tasks took ``seconds`` together, and adapt the window.

        A window at most doubles at a time: one quick task says little about the next.
        """
        mean = seconds / count
        if not 1e-6 <= mean <= _ABSURD:  # a host may report any number, and "not a number" too
            mean = _ABSURD if mean > _ABSURD else 1e-6
        if self.mean:
            keep = _KEEP**count
            mean = self.mean * keep + mean * (1.0 - keep)
        self.mean = mean
        wanted = 1 if mean >= LONG else min(2 + int(PREFETCH / mean), MAX_WINDOW)
        self.window = min(wanted, 2 * self.window)

    def reset(self) -> None:
        """Forget what was assigned and measured: the process is another one."""
        self.assigned = {}
        self.running = set()
        self.bytes = 0
        self.window = 1
        self.mean = 0.0
        self.reclaims = 0
        self.vitals = None


def _rung(engine: Engine) -> int:
    return engine.rung


class Ladder:
    """The engines with room for load-balanced tasks, by how many tasks they hold.

    The least loaded one is found in constant time, the longest unused first among equals.
    """

    __slots__ = ("_lowest", "_rungs", "open")

    def __init__(self) -> None:
        self._rungs: list[OrderedDict[Engine, None]] = [
            OrderedDict() for _ in range(MAX_WINDOW + 1)
        ]
        self._lowest = MAX_WINDOW
        self.open = 0

    def update(self, engine: Engine) -> None:
        """Put ``engine`` where it belongs now, or take it off."""
        rung = len(engine.assigned) if engine.open_for_any() else -1
        old = engine.rung
        if rung == old:
            return
        if old >= 0:
            del self._rungs[old][engine]
            self.open -= 1
        if rung >= 0:
            self._rungs[rung][engine] = None
            self.open += 1
            if rung < self._lowest:
                self._lowest = rung
        engine.rung = rung

    def remove(self, engine: Engine) -> None:
        """Take ``engine`` off."""
        if engine.rung >= 0:
            del self._rungs[engine.rung][engine]
            engine.rung = -1
            self.open -= 1

    def first(self) -> Engine | None:
        """Return the least loaded engine, or None when none has room."""
        if not self.open:
            self._lowest = MAX_WINDOW
            return None
        rungs = self._rungs
        lowest = self._lowest
        while not rungs[lowest]:
            lowest += 1
        self._lowest = lowest
        return next(iter(rungs[lowest]))

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return which of some engines with room is first."""
        return min(engines, key=_rung)

    def step(self) -> int:
        """Return by how many tasks the least loaded engine is behind the next one, at least 1.

        Call it right after :meth:`first`. Zero stands for "there is no other".
        """
        rungs = self._rungs
        lowest = self._lowest
        if len(rungs[lowest]) > 1:
            return 1
        if self.open == 1:
            return 0
        rung = lowest + 1
        while not rungs[rung]:
            rung += 1
        return rung - lowest

    def all(self) -> list[Engine]:
        """Return the engines with room, the least loaded first."""
        engines: list[Engine] = []
        for rung in self._rungs:
            if len(engines) == self.open:
                break
            engines += rung
        return engines

    def idle(self) -> list[Engine]:
        """Return the engines that hold nothing."""
        return list(self._rungs[0])

    @property
    def any_idle(self) -> bool:
        """Whether an engine with room holds nothing."""
        return bool(self._rungs[0])
