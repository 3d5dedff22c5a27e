"""Signals to engines: interrupts of what they run, requests to end, and what follows if they do not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ipkernel.host.engine import Engine
from ipkernel.host.limits import SETTLE
from ipkernel.host.processes import GROUP_SIGNALS

__all__ = ["Later", "Signals"]

#: Seconds in which an idle engine ends when its link closes; then it gets a SIGTERM.
IDLE_TIME: Final = 0.05
#: Seconds from SIGTERM to SIGKILL.
END_TIME: Final = 0.3

#: Calls a function after so many seconds, with further arguments.
Later = Callable[..., None]


class Signals:
    """Signals the engines of one host daemon.

    Args:
        starter: An :class:`~ipkernel.host.interfaces.IEngineStarter`.
        engines: All engines, by their keys.
        later: Calls a function later.
    """

    def __init__(self, starter: Any, engines: Mapping[str, Engine], later: Later) -> None:
        self._starter = starter
        self._engines = engines
        self._later = later

    def send(self, engines: Iterable[Engine], number: int) -> None:
        """Send a signal to engines; an interrupt or an end goes to all that they started."""
        for engine in engines:
            if number == signal.SIGINT and engine.aim():  # it may take a moment
                self._later(SETTLE, self._settled, engine, engine.epoch)
            self._starter.signal(engine.key, number, number in GROUP_SIGNALS)

    def interrupt(self, engine: Engine) -> None:
        """Interrupt the task that an engine runs, and no other, even if it ends just now.

        What it has started itself is interrupted too, unless that could be another task's already.
        """
        alone = len(engine.lane.flight) == 1
        if engine.aim() or alone:
            self._starter.signal(engine.key, int(signal.SIGINT), alone)

    def _settled(self, engine: Engine, epoch: int) -> None:
        if engine.epoch == epoch and engine.limit is None:
            engine.aim_at_any()

    # ------------------------------------------------------------- the end

    def ask_to_end(self, engine: Engine) -> None:
        """Ask an engine to end, and insist; an idle one does so when its link closes."""
        if engine.link is None:
            self.terminate(engine.key, engine.epoch)
        else:
            self._later(IDLE_TIME, self.terminate, engine.key, engine.epoch)
            engine.link.finish()

    def terminate(self, key: str, epoch: int) -> None:
        """Tell a process to end, and kill it soon; do nothing if it has ended.

        Args:
            key: Of its engine.
            epoch: Which of that engine's processes.
        """
        if self._lives(key, epoch):
            self._starter.signal(key, int(signal.SIGTERM), True)
            self._later(END_TIME, self.kill, key, epoch)

    def kill(self, key: str, epoch: int) -> None:
        """Kill a process, see :meth:`terminate`."""
        if self._lives(key, epoch):
            self._starter.signal(key, int(getattr(signal, "SIGKILL", signal.SIGTERM)), True)

    def end_at_once(self, engine: Engine, why: str) -> None:
        """Kill an engine's process; others are told why."""
        engine.exit_text = why
        self.kill(engine.key, engine.epoch)

    def _lives(self, key: str, epoch: int) -> bool:
        engine = self._engines.get(key)
        return engine is not None and engine.epoch == epoch and engine.exit is None
