"""Tasks that run for longer than they may, or are to be aborted: they are interrupted, then killed.

The time of a task begins when it becomes the first in its engine's pipe. Nothing is sent behind a
task with a limit, or one that was interrupted, before it is done. What was behind a task that is
to be aborted already is not affected: the engine is told which task the interrupt is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ipkernel.host.engine import Engine, Limit
from ipkernel.host.needs import Uplink
from ipkernel.wire.messages import Assign, Done, Fate, Outcome, Reason, encode_reason

__all__ = ["Limits"]

#: Seconds that a task which took too long has to end after an interrupt; then its engine is killed.
GRACE: Final = 2.0
#: Seconds that the news of a task's end may take while the engine runs the next one.
NEWS: Final = 0.05
#: Seconds after an interrupt in which nothing new is begun: signals may take a moment.
SETTLE: Final = 0.2


class Limits:
    """The ends that are put to tasks which run on a host's engines.

    Args:
        reactor: Twisted's reactor.
        uplink: The way to the controller.
        host: Name of this host.
        interrupt: Interrupts the first task in flight to an engine.
        kill: Kills an engine, and takes the reason.
        resume: Sends an engine what waits for it.
    """

    def __init__(
        self,
        reactor: Any,
        uplink: Uplink,
        host: str,
        *,
        interrupt: Callable[[Engine], object],
        kill: Callable[[Engine, str], object],
        resume: Callable[[Engine], object],
    ) -> None:
        self._reactor = reactor
        self._uplink = uplink
        self._host = host
        self._interrupt = interrupt
        self._kill = kill
        self._resume = resume
        self._timers: dict[str, Any] = {}

    def begin(self, engine: Engine, message: Assign) -> None:
        """Note that an engine runs a task that has a limit; again is no matter."""
        limit = engine.limit
        if limit is not None and limit.task == message.task:
            return
        limit = engine.limit = Limit(message.task, message.limit / 1000.0)
        self._wait(engine, limit.seconds, self._overdue)

    def doom(self, engine: Engine) -> None:
        """Abort the task that an engine runs if it is one of those that are to be."""
        task = engine.lane.running
        grace = engine.doomed.pop(task, None)
        if grace is None:
            return
        limit = engine.limit
        if limit is None:
            limit = engine.limit = Limit(task, 0.0)
        if limit.interrupted:
            return  # its time was over, and that is how it ends
        limit.aborted = True
        engine.paused = True  # nothing is to be sent behind it
        self._interrupt_for(engine, limit, grace)

    def ended(self, engine: Engine, message: Done, payload: Any) -> tuple[Done, Any]:
        """Take note of the end of the task whose limit an engine has.

        Returns:
            What is to be reported: that it took too long, if it was interrupted and has failed.
        """
        limit, engine.limit = engine.limit, None
        assert limit is not None
        self._forget(engine)
        engine.paused = False
        if not limit.interrupted:
            return message, payload
        left = limit.interrupted + SETTLE - self._reactor.seconds()
        if left > 0:
            engine.paused = True
            self._wait(engine, left, self._settled)
        else:
            engine.aim_at_any()
        if message.outcome is Outcome.OK:
            return message, payload
        return self._cut_short(engine, limit, "interrupted", message)

    def abandon(self, engine: Engine, task: int) -> None:
        """Interrupt the task that an engine runs, because nobody asks for it any more."""
        self._forget(engine)
        engine.limit = Limit(task, 0.0, interrupted=self._reactor.seconds())
        self._interrupt(engine)

    def lost(self, engine: Engine, started: list[int]) -> list[int]:
        """Take note that an engine's process has ended.

        Args:
            engine: Which.
            started: The tasks that had begun.

        Returns:
            Those of them that are lost with it: one that was to be ended is not.
        """
        limit, engine.limit = engine.limit, None
        engine.paused = False
        engine.doomed.clear()
        self._forget(engine)
        if limit is None or not limit.interrupted or limit.task not in started:
            return started
        how = "interrupted, and its engine ended"
        if limit.killed:
            how = (
                f"interrupted; as it went on for {limit.grace:g} s more, its engine was killed "
                f"and is started again"
            )
        now = self._reactor.seconds()
        done = Done(limit.task, engine.id, Outcome.LOST, engine.since, now, 0)
        self._uplink.send(*self._cut_short(engine, limit, how, done))
        return [task for task in started if task != limit.task]

    def stop(self) -> None:
        """Cancel what is timed."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _cut_short(self, engine: Engine, limit: Limit, how: str, done: Done) -> tuple[Done, bytes]:
        where = f"on engine {engine.id} on {self._host} (pid {engine.pid})"
        fate = None
        if limit.aborted:
            outcome, kind = Outcome.ABORTED, "aborted"
            text = f"the task was cancelled while it ran {where} and was {how}"
            fate = Fate.KILLED if limit.killed else Fate.INTERRUPTED
        else:
            outcome, kind = Outcome.TIMEOUT, "timeout"
            text = (
                f"the task ran for longer than its timeout of {limit.seconds:g} s {where} "
                f"and was {how}"
            )
        reason = Reason(kind, text[:4000], engine.id, self._host, engine.pid, fate=fate)
        payload = encode_reason(reason)
        message = Done(done.task, engine.id, outcome, done.started, done.completed, len(payload))
        return message, payload

    # ------------------------------------------------------------- what is timed

    def _wait(self, engine: Engine, seconds: float, then: Callable[[Engine], None]) -> None:
        def due() -> None:
            del self._timers[engine.key]
            then(engine)

        self._forget(engine)
        self._timers[engine.key] = self._reactor.callLater(seconds, due)

    def _forget(self, engine: Engine) -> None:
        timer = self._timers.pop(engine.key, None)
        if timer is not None:
            timer.cancel()

    def _overdue(self, engine: Engine) -> None:
        assert engine.limit is not None
        self._interrupt_for(engine, engine.limit, GRACE)

    def _interrupt_for(self, engine: Engine, limit: Limit, grace: float) -> None:
        limit.interrupted = self._reactor.seconds()
        limit.grace = grace
        self._wait(engine, grace, self._deaf)
        self._interrupt(engine)

    def _deaf(self, engine: Engine) -> None:
        limit = engine.limit
        assert limit is not None
        begun = engine.begun_tasks
        if begun is not None and begun > engine.lane.finished + 1:
            self._wait(engine, NEWS, self._deaf)  # it runs the next task by now
            return
        limit.killed = True
        why = "a task was cancelled"
        if not limit.aborted:
            why = f"a task ran for longer than its timeout of {limit.seconds:g} s"
        self._kill(engine, f"was killed: {why} and did not end when it was interrupted")

    def _settled(self, engine: Engine) -> None:
        engine.paused = False
        engine.aim_at_any()
        self._resume(engine)
