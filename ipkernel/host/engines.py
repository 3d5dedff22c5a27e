"""All engines of a host: feeds them, forwards what they answer, restarts what dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList

from ipkernel.host.endings import Endings, loss_of
from ipkernel.host.engine import Engine
from ipkernel.host.enginelink import EngineLink
from ipkernel.host.interfaces import Begun
from ipkernel.host.limits import Limits
from ipkernel.host.needs import NoObjects, Objects
from ipkernel.host.output import LOG_BOUNDS, LogBounds
from ipkernel.host.processes import Exit
from ipkernel.host.signals import Signals
from ipkernel.host.slots import Slots
from ipkernel.host.supervisor import (
    End,
    Gone,
    Instruction,
    Joined,
    Left,
    Phase,
    Start,
    Supervisor,
    Wait,
)
from ipkernel.host.traffic import Traffic, Uplink
from ipkernel.host.watching import Watch
from ipkernel.sizes import size_text
from ipkernel.wire.link import Received
from ipkernel.wire.messages import (
    EngineJoined,
    EngineLeft,
    EngineSetup,
    Holding,
)

__all__ = ["Engines"]

logger = logging.getLogger(__name__)

#: Seconds in which a new process must say hello.
HELLO_TIME: Final = 60.0


class Engines:
    """The engines of one host daemon.

    Args:
        reactor: Twisted's reactor.
        starter: An :class:`~ipkernel.host.interfaces.IEngineStarter`.
        uplink: The way to the controller.
        host: Name of this host.
        log_dir: Where the output of engines is kept, or None.
        log_bounds: How much of it.
        slots: How engines are to be.
        objects: This host's store, and what brings objects to it; by default there is none.
        changed: Is called, a turn of the reactor later, when engines have joined or left.
        began: When this process began, by the reactor's clock; 0 for now.
    """

    def __init__(
        self,
        reactor: Any,
        starter: Any,
        uplink: Uplink,
        *,
        host: str,
        log_dir: Path | None = None,
        log_bounds: LogBounds = LOG_BOUNDS,
        slots: Slots | None = None,
        objects: Objects | None = None,
        changed: Callable[[], None] = lambda: None,
        began: float = 0.0,
    ) -> None:
        self._objects = objects if objects is not None else NoObjects()
        self._reactor = reactor
        self._starter = starter
        self._uplink = uplink
        self._host = host
        self._cluster = ""
        self._log_dir = log_dir
        self._log_bounds = log_bounds
        self._slots = slots if slots is not None else Slots()
        self._changed = changed
        self._supervisor = Supervisor()
        self._engines: dict[str, Engine] = {}
        self._timers: set[Any] = set()
        self._signals = Signals(starter, self._engines, self._later)
        self._endings = Endings(self._engines, self._signals, self._later, self._account)
        self._limits = Limits(
            reactor,
            uplink,
            host,
            interrupt=self._signals.interrupt,
            kill=self._signals.end_at_once,
            resume=self._resume,
        )
        self._traffic = Traffic(
            reactor, uplink, self._engines, self._said_hello, self._objects, self._limits
        )
        self._awaited: dict[str, list[Deferred[None]]] = {}
        self._next_key = 0
        self._stopping = False
        self._excused = False
        self._noted = False
        limit = self._slots.options.memory
        self._watch = Watch(
            reactor, self._engines, uplink, began=began, limit=limit, exceeded=self._exceeded
        )

    # ------------------------------------------------------------- slots

    def new_key(self) -> str:
        """Return a name for a new slot."""
        self._next_key += 1
        return str(self._next_key)

    def add(self, begun: Iterable[Begun] = (), ids: Iterable[int] = ()) -> None:
        """Take charge of engines.

        Args:
            begun: Processes that were asked for already; their ids come later.
            ids: Ids of engines to be started now.
        """
        now = self._reactor.seconds()
        for one in begun:
            self._next_key = max(self._next_key, int(one.key))
            engine = self._new(one.key, -1)
            self._supervisor.add(one.key, now, begun=True)
            self._begin(engine, one)
        for number in ids:
            key = self.new_key()
            self._new(key, number)
            self._carry_out(self._supervisor.add(key, now))

    def _new(self, key: str, number: int) -> Engine:
        taken = {engine.slot for engine in self._engines.values()}
        slot = next(n for n in range(len(taken) + 1) if n not in taken)
        engine = self._engines[key] = Engine(
            key, number, self._traffic.forward, self._log_path(number), slot, self._log_bounds
        )
        engine.on_output = self._traffic.release
        if number >= 0:
            self._traffic.by_id[number] = engine
        return engine

    def _log_path(self, number: int) -> Path | None:
        if self._log_dir is None or number < 0:
            return None
        return self._log_dir / f"ipengine-{number}.log"

    @property
    def ids(self) -> list[int]:
        """The ids of all engines that have one, in order of their slots."""
        return [engine.id for engine in self._engines.values() if engine.id >= 0]

    @property
    def ready(self) -> list[int]:
        """The ids of the engines that are ready, sorted."""
        return sorted(e.id for e in self._engines.values() if e.joined and e.id >= 0)

    @property
    def troubles(self) -> list[str]:
        """One line for each engine that has given up."""
        slots = self._supervisor.slots
        return [
            f"engine {self._engines[key].id} {slot.reason}"
            for key, slot in slots.items()
            if slot.phase is Phase.DEAD
        ]

    def __len__(self) -> int:
        return len(self._engines)

    def pid_of(self, number: int) -> int:
        """Return the process id of an engine, 0 if it has no process now."""
        engine = self._traffic.by_id.get(number)
        return engine.pid if engine is not None else 0

    def name(self, ids: list[int], cluster: str) -> None:
        """Give the engines the ids that the controller wants for them.

        Args:
            ids: One for each slot, in the order of :attr:`ids` and then of slots without one.
            cluster: Name of the cluster.
        """
        self._cluster = cluster
        named = [e for e in self._engines.values() if e.id >= 0]
        nameless = [e for e in self._engines.values() if e.id < 0]
        self._traffic.by_id.clear()
        for engine, number in zip([*named, *nameless], ids, strict=False):
            self._traffic.by_id[number] = engine
            if engine.id != number:
                engine.id = number
                engine.write_log_to(self._log_path(number))
                self._set_up(engine)

    def announce(self) -> None:
        """Tell a controller that does not know it yet which engines are ready."""
        for engine in self._engines.values():
            self._announce(engine)

    def _announce(self, engine: Engine) -> None:
        engine.joined = False
        engine.reported = 0
        slot = self._supervisor.slots.get(engine.key)
        if slot is None:
            return
        if slot.phase is Phase.READY:
            self._joined(engine)
        elif slot.phase in (Phase.WAITING, Phase.DEAD):
            restarting = slot.phase is Phase.WAITING
            self._uplink.send(EngineLeft(engine.id, slot.reason, restarting))

    def announce_again(self, chosen: Callable[[int], bool]) -> None:
        """Tell a controller that was started again of engines, and of what they are busy with.

        Args:
            chosen: Says by the id which engines to tell of.
        """
        for engine in self._engines.values():
            if chosen(engine.id):
                self._announce(engine)
                if engine.joined:
                    tasks = self._traffic.holding(engine)
                    self._uplink.send(Holding(engine.id, engine.epoch, tasks))

    def drop_waiting(self) -> None:
        """Forget the tasks that have not started, and all functions: their controller is gone."""
        self._traffic.drop_waiting()

    def forget(self) -> None:
        """Have nothing more to do with any task: the controller that gave them is gone for good."""
        self._traffic.forget()

    def handle(self, batch: list[Received]) -> None:
        """Deal with messages of the controller."""
        self._traffic.handle(batch)

    # ------------------------------------------------- life and death

    def _begin(self, engine: Engine, begun: Begun) -> None:
        engine.begin(self._reactor, begun, threaded=self._starter.threaded)
        if begun.link is not None:
            self._bind(engine, EngineLink(self._reactor, begun.link))
        self._later(HELLO_TIME, self._overdue, engine.key, engine.epoch)

    def _bind(self, engine: Engine, link: EngineLink) -> None:
        engine.link = link
        link.on_messages = lambda _, batch: self._traffic.arrived(engine, batch)
        link.on_lost = lambda which: self._endings.unlinked(engine, which)
        if engine.id >= 0:
            self._set_up(engine)

    def _set_up(self, engine: Engine) -> None:
        if engine.link is not None:
            subject = engine.subject
            store, ticket = self._objects.admit(subject)
            late = self._slots.late(engine.slot, engine.id)
            setup = EngineSetup(engine.id, self._host, self._cluster, store, ticket, subject, late)
            engine.link.send(setup)
            engine.link.flush()

    def spawned(self, key: str, pid: int) -> None:
        """A process exists; called by the starter."""
        engine = self._engines.get(key)
        if engine is not None:
            engine.pid = pid
            self._supervisor.spawned(key, pid)

    def linked(self, key: str, link: EngineLink, pid: int) -> None:
        """An engine has connected by itself; called by the starter."""
        engine = self._engines.get(key)
        if engine is None or engine.exit is not None:
            link.close()
            return
        self._bind(engine, link)
        self._said_hello(engine, pid)

    def _said_hello(self, engine: Engine, pid: int) -> None:
        engine.pid = pid  # its starter may be late to tell
        self._carry_out(self._supervisor.hello(engine.key))

    def failed(self, key: str, text: str) -> None:
        """A process could not be started; called by the starter."""
        engine = self._engines.get(key)
        if engine is not None:
            engine.exit_text = text
            self._endings.ended(engine, Exit(None, None))

    def exited(self, key: str, ending: Exit) -> None:
        """A process has ended; called by the starter."""
        engine = self._engines.get(key)
        if engine is not None:
            self._endings.ended(engine, ending)

    def _account(self, engine: Engine) -> None:
        ending, text = engine.exit, engine.exit_text
        assert ending is not None
        self._traffic.release(engine)
        begun = engine.begun_tasks
        worked = bool(begun) if begun is not None else engine.lane.sent > 0
        engine.finish_output()
        started, _ = self._traffic.lost(engine, begun)
        engine.held.clear()
        failed = ending.code is None and ending.signal is None
        pid = engine.pid
        for instruction in self._supervisor.exited(
            engine.key,
            None if failed else ending,
            self._reactor.seconds(),
            worked=worked,
            text=text,
        ):
            if isinstance(instruction, Left):
                self._left(engine, instruction, started, pid)
            else:
                self._carry_out([instruction])

    def _left(self, engine: Engine, left: Left, started: list[int], pid: int) -> None:
        engine.pid = 0
        engine.joined = False
        logger.log(
            logging.WARNING if left.restarting and not self._stopping else logging.INFO,
            "engine %d (pid %d) is gone: %s",
            engine.id,
            pid,
            left.reason,
        )
        if engine.id >= 0:
            loss = loss_of(engine, left, self._host, pid)
            self._uplink.send(
                EngineLeft(engine.id, left.reason, left.restarting, started, loss, self._excused)
            )
        self._note_change()

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            engine = self._engines[instruction.key]
            if isinstance(instruction, Start):
                self._start(engine)
            elif isinstance(instruction, Wait):
                self._later(instruction.seconds, self._waited, instruction.key)
            elif isinstance(instruction, End):
                self._signals.ask_to_end(engine)
            elif isinstance(instruction, Joined):
                self._joined(engine)
            elif isinstance(instruction, Left):
                self._left(engine, instruction, [], engine.pid)
            elif isinstance(instruction, Gone):
                self._gone(engine)

    def _start(self, engine: Engine) -> None:
        try:
            begun = self._starter.start(engine.key, self._slots.place(engine.slot))
        except OSError as error:
            engine.exit = Exit(None, None)
            now = self._reactor.seconds()
            text = f"could not be started: {error.strerror or error}"
            instructions = self._supervisor.exited(engine.key, None, now, text=text)
            for instruction in instructions:
                if isinstance(instruction, Left):
                    self._left(engine, instruction, [], 0)
                else:
                    self._carry_out([instruction])
            return
        self._begin(engine, begun)

    def _waited(self, key: str) -> None:
        self._carry_out(self._supervisor.waited(key, self._reactor.seconds()))

    def _overdue(self, key: str, epoch: int) -> None:
        engine = self._engines.get(key)
        if engine is not None and engine.epoch == epoch:
            self._carry_out(self._supervisor.overdue(key))

    def _joined(self, engine: Engine) -> None:
        if engine.id < 0 or engine.joined:
            return
        engine.joined = True
        joined = EngineJoined(
            engine.id, self._host, engine.pid, engine.epoch, began=max(0.0, engine.began)
        )
        self._uplink.send(joined)
        self._traffic.feed(engine)
        self._note_change()

    def _exceeded(self, engine: Engine, used: int) -> None:
        """End an engine that uses more memory than it may, at once: it goes on growing."""
        limit = size_text(self._slots.options.memory)
        self._signals.end_at_once(
            engine,
            f"it used {size_text(used)}, more than its limit of {limit} (slots.memory), and was ended",
        )

    def _gone(self, engine: Engine) -> None:
        del self._engines[engine.key]
        if self._traffic.by_id.get(engine.id) is engine:
            del self._traffic.by_id[engine.id]
        for waiting in self._awaited.pop(engine.key, []):
            waiting.callback(None)
        self._note_change()

    # --------------------------------------------------------- on request

    def _chosen(self, ids: list[int]) -> list[Engine]:
        if not ids:
            return list(self._engines.values())
        by_id = self._traffic.by_id
        return [by_id[number] for number in ids if number in by_id]

    def over(self, reason: str) -> None:
        """All engines end together; called by the starter."""
        known = [engine.exit_text for engine in self._engines.values() if engine.exit_text]
        self.end([], "; ".join([reason, *known]))

    def end(self, ids: list[int], reason: str) -> Deferred[Any]:
        """End engines for good.

        Args:
            ids: Which; empty for all.
            reason: Why.

        Returns:
            Fires when their processes are gone.
        """
        waiting: list[Deferred[None]] = []
        self._starter.expect_end()
        for engine in self._chosen(ids):
            gone: Deferred[None] = Deferred()
            waiting.append(gone)
            self._awaited.setdefault(engine.key, []).append(gone)
            now = self._reactor.seconds()
            self._carry_out(self._supervisor.end(engine.key, reason, now))
        return DeferredList(waiting)

    def restart(self, ids: list[int], reason: str) -> list[int]:
        """End engines and start them again under the same ids.

        Args:
            ids: Which; empty for all.
            reason: Why.

        Returns:
            Those that there are.
        """
        chosen = self._chosen(ids)
        for engine in chosen:
            now = self._reactor.seconds()
            self._carry_out(self._supervisor.end(engine.key, reason, now, again=True))
        return [engine.id for engine in chosen]

    def signal(self, ids: list[int], number: int) -> list[int]:
        """Send a signal to engines; an interrupt or an end goes to all that they started.

        Args:
            ids: Which; empty for all.
            number: The signal.

        Returns:
            Those that there are.
        """
        chosen = [engine for engine in self._chosen(ids) if engine.pid]
        self._signals.send(chosen, number)
        return [engine.id for engine in chosen]

    def _resume(self, engine: Engine) -> None:
        self._traffic.feed(engine)

    def stop(
        self, reason: str = "the host daemon stops", *, excused: bool = False
    ) -> Deferred[Any]:
        """End all engines and everything that runs here.

        Args:
            reason: Why.
            excused: The tasks that run are to be run elsewhere, whatever their retries.

        Returns:
            Fires when they are gone.
        """
        self._stopping = True
        self._excused = excused
        ended = self.end([], reason)
        ended.addCallback(self._stopped)
        return ended

    def _stopped(self, result: Any) -> Any:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._watch.stop()
        self._limits.stop()
        self._traffic.stop()
        self._starter.close()
        return result

    def _note_change(self) -> None:
        # Later, for whoever is told may want to end engines in the midst of what goes on here.
        if not self._noted and not self._stopping:
            self._noted = True
            self._later(0, self._tell_change)

    def _tell_change(self) -> None:
        self._noted = False
        self._changed()

    # -------------------------------------------------------------- timers

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        def due() -> None:
            self._timers.discard(timer)
            function(*args)

        timer = self._reactor.callLater(seconds, due)
        self._timers.add(timer)
