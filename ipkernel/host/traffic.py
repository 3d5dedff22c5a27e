"""Tasks on their way to engines, and results and output on their way back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from ipkernel.host.engine import Engine
from ipkernel.host.limits import Limits
from ipkernel.host.needs import Needs, Objects, Uplink
from ipkernel.wire.link import Received
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineHello,
    ForgetFunctions,
    Free,
    Function,
    Interrupt,
    Message,
    Output,
    Reclaim,
    Release,
    Returned,
    Started,
)

__all__ = ["Traffic", "Uplink"]

logger = logging.getLogger(__name__)

#: Seconds that a task runs before the controller is told that it runs.
REPORT_AFTER: Final = 0.005
#: Bytes that may wait for the controller before engines' output and results are left alone.
OUTPUT_LIMIT: Final = 4 << 20
RESULT_LIMIT: Final = 32 << 20
#: Seconds between looks at whether the controller takes more again.
LOOK_AGAIN: Final = 0.02


class Traffic:
    """Moves messages between the controller and engines.

    Args:
        reactor: Twisted's reactor.
        uplink: The way to the controller.
        engines: All engines by the key of their slot; changes as they come and go.
        hello: Is called with an engine that has said hello, and its process id.
        objects: Brings objects that tasks need.
        limits: Ends tasks that run for too long, or are to be aborted.

    Attributes:
        by_id: The engines that have an id.
    """

    def __init__(
        self,
        reactor: Any,
        uplink: Uplink,
        engines: Mapping[str, Engine],
        hello: Callable[[Engine, int], None],
        objects: Objects,
        limits: Limits,
    ) -> None:
        self.by_id: dict[int, Engine] = {}
        self._reactor = reactor
        self._uplink = uplink
        self._engines = engines
        self._hello = hello
        self._objects = objects
        self._limits = limits
        self._needs = Needs(uplink, objects, self.feed)
        self._functions: dict[bytes, Any] = {}
        #: Tasks that engines run, or are about to, and that nobody asks for any more.
        self._disowned: set[int] = set()
        self._ticking: Any = None
        self._choked: Any = None

    def stop(self) -> None:
        """Cancel what is timed."""
        for timer in (self._ticking, self._choked):
            if timer is not None and timer.active():
                timer.cancel()
        self._ticking = self._choked = None

    # ------------------------------------------- from the controller

    def handle(self, batch: list[Received]) -> None:
        """Deal with messages of the controller."""
        touched: dict[str, Engine] = {}
        by_id = self.by_id
        for message, payload in batch:
            if type(message) is Assign:
                engine = by_id.get(message.engine)
                if engine is None or not engine.takes(message.epoch):
                    continue  # the controller knows by now, and has taken the task back
                lane = engine.lane
                if message.needs:
                    self._needs.hold(engine, message, payload)
                elif lane.held:
                    lane.add(message, payload)
                else:
                    lane.waiting[message.task] = (message, payload)
                touched[engine.key] = engine
            elif isinstance(message, Function):
                self._functions[message.digest] = bytes(payload)
            elif isinstance(message, Reclaim):
                self._reclaim(message)
            elif isinstance(message, Interrupt):
                self._interrupt(message)
            elif isinstance(message, ForgetFunctions):
                self._forget(message)
            else:
                self._objects.handle(message)
        for engine in touched.values():
            self.feed(engine)

    def _reclaim(self, message: Reclaim) -> None:
        engine = self.by_id.get(message.engine)
        tasks = []
        if engine is not None:
            held = bool(engine.lane.held)
            tasks = engine.lane.reclaim(message.tasks)
            self._needs.let_go(engine, tasks)
            if held:
                self.feed(engine)
        self._uplink.send(Returned(message.engine, tasks))

    def _interrupt(self, message: Interrupt) -> None:
        """End tasks that an engine has, each when it runs; what is over by now is left alone."""
        engine = self.by_id.get(message.engine)
        if engine is None or not engine.takes(message.epoch):
            return
        wanted = set(message.tasks)
        grace = message.grace / 1000.0
        engine.doomed.update(
            (sent.task, grace) for sent, _ in engine.lane.flight if sent.task in wanted
        )
        if engine.doomed:
            self._limits.doom(engine)

    def _forget(self, message: ForgetFunctions) -> None:
        for digest in message.digests:
            self._functions.pop(digest, None)
        for engine in self._engines.values():
            known = [digest for digest in message.digests if digest in engine.lane.known]
            engine.lane.known.difference_update(known)
            if known and engine.link is not None:
                engine.link.send(ForgetFunctions(known))
                engine.link.flush()

    def feed(self, engine: Engine) -> None:
        """Send an engine as much of what waits for it as is good."""
        link, lane = engine.link, engine.lane
        if link is None or not link.open or not lane.waiting or engine.paused:
            return  # what waits for an engine that is being ended has not begun
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
            if message.placed:
                self._needs.sent(engine, message.task)
            send(message, payload)
        link.flush()
        self._runs(engine)

    def _runs(self, engine: Engine) -> None:
        """An engine may have begun another task."""
        first = engine.lane.flight[0][0]
        if first.limit:
            self._limits.begin(engine, first)
        if engine.doomed:
            self._limits.doom(engine)
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
            if not task or task == engine.reported or task in self._disowned:
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

    def arrived(self, engine: Engine, batch: list[Received]) -> None:
        """Deal with messages of an engine; the output of what is done goes ahead of them."""
        for pipe in engine.pipes:
            pipe.drain()
        if engine.threaded:
            engine.held.extend(batch)
            self.release(engine)
            return
        for message, payload in batch:
            self._pass_on(engine, message, payload)
        self._after(engine)

    def release(self, engine: Engine) -> None:
        """Pass on what was held until its output had arrived."""
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
                if engine.limit is not None and engine.limit.task == message.task:
                    message, payload = self._limits.ended(engine, message, payload)
                if message.task in self._disowned:
                    self._discard(message)
                else:
                    self._uplink.send(message, payload)
            else:
                logger.warning("engine %d has done a task that it does not have", engine.id)
        elif isinstance(message, Output):
            if message.task not in self._disowned:
                self._uplink.send(message, payload)
        elif isinstance(message, Release):
            self._objects.give_back(message.objects, engine.subject)
        elif isinstance(message, EngineHello):
            self._hello(engine, message.pid)

    def _discard(self, message: Done) -> None:
        """A task has ended that nobody asks for, and so is its result."""
        self._disowned.discard(message.task)
        if message.object:
            self._objects.handle(Free([message.object]))

    def _after(self, engine: Engine) -> None:
        lane = engine.lane
        if lane.flight:
            engine.since = self._reactor.seconds()
            self._runs(engine)
        elif engine.doomed:  # all of them were faster
            engine.doomed.clear()
        if lane.waiting:
            self.feed(engine)
        if self._uplink.backlog > OUTPUT_LIMIT and self._choked is None:
            self._choke()

    def forward(self, message: Output, data: bytes) -> None:
        """Pass output on; that of no task goes nowhere."""
        if message.task and message.task not in self._disowned:
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
            if engine.link is not None and engine.exit is None:
                if backlog > RESULT_LIMIT:
                    engine.link.pause()
                else:
                    engine.link.resume()
        if backlog > OUTPUT_LIMIT:
            self._choked = self._reactor.callLater(LOOK_AGAIN, self._choke)

    def lost(self, engine: Engine, begun: int | None) -> tuple[list[int], list[int]]:
        """Empty an engine's lane because its process is gone; see :meth:`Lane.lost`."""
        self._needs.lost(engine)
        limit = engine.limit
        if begun is None and limit is not None and limit.killed:
            begun = engine.lane.finished + 1  # it hung in that task for a while
        started, rest = engine.lane.lost(begun)
        if self._disowned:
            wanted = [task for task in started if task not in self._disowned]
            self._disowned.difference_update(started, rest)
            started = wanted
        return self._limits.lost(engine, started), rest

    def holding(self, engine: Engine) -> list[int]:
        """Return the tasks that an engine runs or will run, and that somebody asks for."""
        flight = [message.task for message, _ in engine.lane.flight]
        return [task for task in flight if task not in self._disowned]

    def forget(self) -> None:
        """Have nothing more to do with any task: what runs is interrupted, and not reported."""
        self.drop_waiting()
        for engine in self._engines.values():
            flight = [message.task for message, _ in engine.lane.flight]
            self._disowned.update(flight)
            if flight:
                self._limits.abandon(engine, flight[0])

    def drop_waiting(self) -> None:
        """Forget the tasks that have not started, and all functions: their controller is gone."""
        self._functions.clear()
        for engine in self._engines.values():
            self._needs.let_go(engine, [*engine.waits, *engine.leases])
            engine.lane.drop_waiting()
            known, engine.lane.known = engine.lane.known, set()
            if known and engine.link is not None:
                engine.link.send(ForgetFunctions(list(known)))
                engine.link.flush()
