"""All engines of a host: feeds them, forwards what they answer, restarts what dies."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList

from ipkernel.host.engine import Engine
from ipkernel.host.enginelink import EngineLink
from ipkernel.host.interfaces import Begun
from ipkernel.host.processes import GROUP_SIGNALS, Exit, memory_of
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
from ipkernel.wire.link import Received
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineHello,
    EngineJoined,
    EngineLeft,
    EngineSetup,
    ForgetFunctions,
    Function,
    Message,
    Output,
    Reason,
    Reclaim,
    Returned,
    Started,
)

__all__ = ["Engines", "Uplink"]

logger = logging.getLogger(__name__)

#: Seconds that a task runs before the controller is told that it runs.
REPORT_AFTER: Final = 0.005
#: Bytes that may wait for the controller before engines' output and results are left alone.
OUTPUT_LIMIT: Final = 4 << 20
RESULT_LIMIT: Final = 32 << 20
#: Seconds between looks at whether the controller takes more again.
LOOK_AGAIN: Final = 0.02
#: Seconds in which an idle engine ends when its link closes; then it gets a SIGTERM.
IDLE_TIME: Final = 0.05
#: Seconds from SIGTERM to SIGKILL.
END_TIME: Final = 0.3
#: Seconds in which a new process must say hello.
HELLO_TIME: Final = 60.0
#: Seconds that the end of the link may take after the end of the process.
LINK_TIME: Final = 0.5
#: Seconds between looks at the engines' memory.
MEMORY_EVERY: Final = 2.0


class Uplink(Protocol):
    """The way to the controller."""

    def send(self, message: Message, payload: Any = b"") -> None:
        """Send a message; while there is no connection it may be lost."""

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""


class Engines:
    """The engines of one host daemon.

    Args:
        reactor: Twisted's reactor.
        starter: An :class:`~ipkernel.host.interfaces.IEngineStarter`.
        uplink: The way to the controller.
        host: Name of this host.
        log_dir: Where the output of engines is kept, or None.
        changed: Is called after an engine has joined or left.
    """

    def __init__(
        self,
        reactor: Any,
        starter: Any,
        uplink: Uplink,
        *,
        host: str,
        log_dir: Path | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._starter = starter
        self._uplink = uplink
        self._host = host
        self._cluster = ""
        self._log_dir = log_dir
        self._changed = changed
        self._supervisor = Supervisor()
        self._engines: dict[str, Engine] = {}
        self._by_id: dict[int, Engine] = {}
        self._functions: dict[bytes, Any] = {}
        self._endings: dict[str, list[Deferred[None]]] = {}
        self._next_key = 0
        self._ticking: Any = None
        self._choked: Any = None
        self._timers: set[Any] = set()
        self._stopping = False
        self._look_at_memory()

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
        for id in ids:
            key = self.new_key()
            self._new(key, id)
            self._carry_out(self._supervisor.add(key, now))

    def _new(self, key: str, id: int) -> Engine:
        engine = self._engines[key] = Engine(key, id, self._forward, self._log_path(id))
        engine.on_output = self._release
        if id >= 0:
            self._by_id[id] = engine
        return engine

    def _log_path(self, id: int) -> Path | None:
        if self._log_dir is None or id < 0:
            return None
        return self._log_dir / f"ipengine-{id}.log"

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

    def pid_of(self, id: int) -> int:
        """Return the process id of an engine, 0 if it has no process now."""
        engine = self._by_id.get(id)
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
        self._by_id.clear()
        for engine, id in zip([*named, *nameless], ids, strict=False):
            self._by_id[id] = engine
            if engine.id != id:
                engine.id = id
                path = self._log_path(id)
                if path is not None:
                    from ipkernel.host.output import EngineLog

                    engine.log = EngineLog(path)
                self._set_up(engine)

    def announce(self) -> None:
        """Tell a controller that does not know it yet which engines are ready."""
        for engine in self._engines.values():
            engine.joined = False
            engine.reported = 0
            slot = self._supervisor.slots.get(engine.key)
            if slot is None:
                continue
            if slot.phase is Phase.READY:
                self._joined(engine)
            elif slot.phase in (Phase.WAITING, Phase.DEAD):
                restarting = slot.phase is Phase.WAITING
                self._uplink.send(EngineLeft(engine.id, slot.reason, restarting))

    def drop_waiting(self) -> None:
        """Forget the tasks that have not started, and all functions: their controller is gone."""
        self._functions.clear()
        for engine in self._engines.values():
            engine.lane.waiting.clear()
            known, engine.lane.known = engine.lane.known, set()
            if known and engine.link is not None:
                engine.link.send(ForgetFunctions(list(known)))
                engine.link.flush()

    # ------------------------------------------- from the controller

    def handle(self, batch: list[Received]) -> None:
        """Deal with messages of the controller."""
        touched: dict[str, Engine] = {}
        by_id = self._by_id
        for message, payload in batch:
            if type(message) is Assign:
                engine = by_id.get(message.engine)
                if engine is None or (message.epoch and message.epoch != engine.epoch):
                    continue  # the controller knows by now, and has taken the task back
                engine.lane.waiting[message.task] = (message, payload)
                touched[engine.key] = engine
            elif isinstance(message, Function):
                self._functions[message.digest] = bytes(payload)
            elif isinstance(message, Reclaim):
                self._reclaim(message)
            elif isinstance(message, ForgetFunctions):
                self._forget(message)
        for engine in touched.values():
            self._feed(engine)

    def _reclaim(self, message: Reclaim) -> None:
        engine = self._by_id.get(message.engine)
        tasks = engine.lane.reclaim(message.tasks) if engine is not None else []
        self._uplink.send(Returned(message.engine, tasks))

    def _forget(self, message: ForgetFunctions) -> None:
        for digest in message.digests:
            self._functions.pop(digest, None)
        for engine in self._engines.values():
            known = [digest for digest in message.digests if digest in engine.lane.known]
            engine.lane.known.difference_update(known)
            if known and engine.link is not None:
                engine.link.send(ForgetFunctions(known))
                engine.link.flush()

    def _feed(self, engine: Engine) -> None:
        link, lane = engine.link, engine.lane
        if link is None or not lane.waiting:
            return
        idle = not lane.flight
        taken = lane.take()
        if not taken:
            return
        if idle:
            engine.since = self._reactor.seconds()
        known = lane.known
        send = link.send
        for message, payload in taken:
            digest = message.digest
            if digest and digest not in known:
                blob = self._functions.get(digest)
                if blob is not None:
                    known.add(digest)
                    send(Function(digest, len(blob)), blob)
            send(message, payload)
        link.flush()
        if self._ticking is None:
            self._ticking = self._reactor.callLater(REPORT_AFTER, self._tick)

    def _tick(self) -> None:
        """Tell the controller which tasks have been running for a while."""
        self._ticking = None
        now = self._reactor.seconds()
        running: list[int] = []
        more = False
        for engine in self._engines.values():
            task = engine.lane.running
            if not task or task == engine.reported:
                continue
            if now - engine.since >= REPORT_AFTER:
                engine.reported = task
                running.append(task)
            else:
                more = True
        if running:
            self._uplink.send(Started(running))
        if more:
            self._ticking = self._reactor.callLater(REPORT_AFTER, self._tick)

    # ------------------------------------------------- from an engine

    def _arrived(self, engine: Engine, batch: list[Received]) -> None:
        for pipe in engine.pipes:
            pipe.drain()
        if engine.threaded:
            engine.held.extend(batch)
            self._release(engine)
            return
        for message, payload in batch:
            self._pass_on(engine, message, payload)
        self._after(engine)

    def _release(self, engine: Engine) -> None:
        held = engine.held
        passed = False
        while held and (type(held[0][0]) is not Done or engine.caught_up):
            self._pass_on(engine, *held.popleft())
            passed = True
        if passed:
            self._after(engine)

    def _pass_on(self, engine: Engine, message: Message, payload: Any) -> None:
        if type(message) is Done:
            if engine.lane.done(message.task, message.completed - message.started):
                self._uplink.send(message, payload)
            else:
                logger.warning("engine %d has done a task that it does not have", engine.id)
        elif isinstance(message, Output):
            self._uplink.send(message, payload)
        elif isinstance(message, EngineHello):
            self._said_hello(engine)

    def _after(self, engine: Engine) -> None:
        lane = engine.lane
        if lane.flight:
            engine.since = self._reactor.seconds()
            if self._ticking is None:
                self._ticking = self._reactor.callLater(REPORT_AFTER, self._tick)
        if lane.waiting:
            self._feed(engine)
        if self._uplink.backlog > OUTPUT_LIMIT and self._choked is None:
            self._choke()

    def _forward(self, message: Output, data: bytes) -> None:
        if message.task:
            self._uplink.send(message, data)
            if self._choked is None and self._uplink.backlog > OUTPUT_LIMIT:
                self._choke()

    def _choke(self) -> None:
        """Take no more from the engines than the controller takes from us."""
        backlog = self._uplink.backlog
        self._choked = None
        for engine in self._engines.values():
            for pipe in engine.pipes:
                if backlog > OUTPUT_LIMIT:
                    pipe.pause()
                else:
                    pipe.resume()
            if engine.link is not None:
                if backlog > RESULT_LIMIT:
                    engine.link.pause()
                else:
                    engine.link.resume()
        if backlog > OUTPUT_LIMIT:
            self._choked = self._reactor.callLater(LOOK_AGAIN, self._choke)

    # ------------------------------------------------- life and death

    def _begin(self, engine: Engine, begun: Begun) -> None:
        engine.begin(self._reactor, begun, threaded=self._starter.threaded)
        if begun.link is not None:
            self._bind(engine, EngineLink(self._reactor, begun.link))
        self._later(HELLO_TIME, self._overdue, engine.key, engine.epoch)

    def _bind(self, engine: Engine, link: EngineLink) -> None:
        engine.link = link
        link.on_messages = lambda _, batch: self._arrived(engine, batch)
        link.on_lost = lambda which: self._unlinked(engine, which)
        if engine.id >= 0:
            self._set_up(engine)

    def _set_up(self, engine: Engine) -> None:
        if engine.link is not None:
            engine.link.send(EngineSetup(engine.id, self._host, self._cluster))
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
        self._said_hello(engine)

    def _said_hello(self, engine: Engine) -> None:
        self._carry_out(self._supervisor.hello(engine.key))

    def _unlinked(self, engine: Engine, link: EngineLink) -> None:
        if engine.link is not link:
            return
        engine.link = None
        if engine.exit is not None:
            self._buried(engine)
        else:  # user code has closed its socket, or it is about to end
            self._later(LINK_TIME, self._terminate, engine.key, engine.epoch)

    def failed(self, key: str, text: str) -> None:
        """A process could not be started; called by the starter."""
        engine = self._engines.get(key)
        if engine is not None:
            engine.exit_text = text
            self._ended(engine, Exit(None, None))

    def exited(self, key: str, exit: Exit) -> None:
        """A process has ended; called by the starter."""
        engine = self._engines.get(key)
        if engine is not None:
            self._ended(engine, exit)

    def _ended(self, engine: Engine, exit: Exit) -> None:
        if engine.exit is not None:
            return
        engine.exit = exit
        engine.memory = max(engine.memory, exit.memory)
        if engine.link is None:
            self._buried(engine)
        else:  # what it has sent comes first; then the link ends by itself
            self._later(LINK_TIME, self._cut, engine.key, engine.epoch)

    def _cut(self, key: str, epoch: int) -> None:
        engine = self._engines.get(key)
        if engine is not None and engine.epoch == epoch and engine.link is not None:
            link, engine.link = engine.link, None
            link.close()
            self._buried(engine)

    def _buried(self, engine: Engine) -> None:
        """Everything of a process that has ended has arrived."""
        if not engine.threaded:
            self._account(engine)
            return
        waiting = [pipe for pipe in engine.pipes if not pipe.ended]
        left = len(waiting)

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._account(engine)

        for pipe in waiting:
            pipe.when_ended(one_ended)  # type: ignore[attr-defined]
        if not waiting:
            self._account(engine)

    def _account(self, engine: Engine) -> None:
        exit, text = engine.exit, engine.exit_text
        assert exit is not None
        self._release(engine)
        begun = engine.begun_tasks
        worked = bool(begun) if begun is not None else engine.lane.sent > 0
        engine.finish_output()
        started, _ = engine.lane.lost(begun)
        engine.held.clear()
        failed = exit.code is None and exit.signal is None
        pid = engine.pid
        for instruction in self._supervisor.exited(
            engine.key,
            None if failed else exit,
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
            exit = left.exit
            loss = Reason(
                "engine",
                left.reason,
                engine=engine.id,
                host=self._host,
                pid=pid,
                exitcode=exit.code if exit is not None else None,
                signal=exit.signal if exit is not None else None,
                uptime=round(left.uptime, 3),
                memory=engine.memory,
                last_output=engine.last.lines(),
            )
            self._uplink.send(
                EngineLeft(engine.id, left.reason, left.restarting, started, loss)
            )
        self._changed()

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            engine = self._engines[instruction.key]
            if isinstance(instruction, Start):
                self._start(engine)
            elif isinstance(instruction, Wait):
                self._later(instruction.seconds, self._waited, instruction.key)
            elif isinstance(instruction, End):
                self._end(engine)
            elif isinstance(instruction, Joined):
                self._joined(engine)
            elif isinstance(instruction, Gone):
                self._gone(engine)

    def _start(self, engine: Engine) -> None:
        try:
            begun = self._starter.start(engine.key, {})
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
        self._uplink.send(EngineJoined(engine.id, self._host, engine.pid, engine.epoch))
        self._feed(engine)
        self._changed()

    def _end(self, engine: Engine) -> None:
        """Ask an engine to end; an idle one does so when its link closes."""
        if engine.link is None:
            self._terminate(engine.key, engine.epoch)
        else:
            self._later(IDLE_TIME, self._terminate, engine.key, engine.epoch)
            engine.link.finish()

    def _terminate(self, key: str, epoch: int) -> None:
        engine = self._engines.get(key)
        if engine is not None and engine.epoch == epoch and engine.exit is None:
            self._starter.signal(key, int(signal.SIGTERM), True)
            self._later(END_TIME, self._kill, key, epoch)

    def _kill(self, key: str, epoch: int) -> None:
        engine = self._engines.get(key)
        if engine is not None and engine.epoch == epoch and engine.exit is None:
            self._starter.signal(key, int(getattr(signal, "SIGKILL", signal.SIGTERM)), True)

    def _gone(self, engine: Engine) -> None:
        del self._engines[engine.key]
        if self._by_id.get(engine.id) is engine:
            del self._by_id[engine.id]
        for waiting in self._endings.pop(engine.key, []):
            waiting.callback(None)
        self._changed()

    # --------------------------------------------------------- on request

    def _chosen(self, ids: list[int]) -> list[Engine]:
        if not ids:
            return list(self._engines.values())
        return [self._by_id[id] for id in ids if id in self._by_id]

    def end(self, ids: list[int], reason: str) -> Deferred[Any]:
        """End engines for good.

        Args:
            ids: Which; empty for all.
            reason: Why.

        Returns:
            Fires when their processes are gone.
        """
        waiting: list[Deferred[None]] = []
        for engine in self._chosen(ids):
            gone: Deferred[None] = Deferred()
            waiting.append(gone)
            self._endings.setdefault(engine.key, []).append(gone)
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
        for engine in chosen:
            self._starter.signal(engine.key, number, number in GROUP_SIGNALS)
        return [engine.id for engine in chosen]

    def stop(self) -> Deferred[Any]:
        """End all engines and everything that runs here.

        Returns:
            Fires when they are gone.
        """
        self._stopping = True
        ended = self.end([], "the host daemon stops")
        ended.addCallback(self._stopped)
        return ended

    def _stopped(self, result: Any) -> Any:
        for timer in [*self._timers, self._ticking, self._choked]:
            if timer is not None and timer.active():
                timer.cancel()
        self._timers.clear()
        self._starter.close()
        return result

    # -------------------------------------------------------------- timers

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        def due() -> None:
            self._timers.discard(timer)
            function(*args)

        timer = self._reactor.callLater(seconds, due)
        self._timers.add(timer)

    def _look_at_memory(self) -> None:
        for engine in self._engines.values():
            if engine.pid:
                engine.memory = memory_of(engine.pid) or engine.memory
        self._later(MEMORY_EVERY, self._look_at_memory)
