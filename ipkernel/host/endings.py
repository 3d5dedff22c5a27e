"""The end of an engine's process: what it has sent and printed comes first, then why it ended is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ipkernel.host.engine import Engine
from ipkernel.host.enginelink import EngineLink
from ipkernel.host.processes import Exit
from ipkernel.host.signals import Later, Signals
from ipkernel.host.supervisor import Left
from ipkernel.wire.messages import Reason

__all__ = ["Endings", "loss_of"]

#: Seconds that the end of the link may take after the end of the process.
LINK_TIME: Final = 0.5


def loss_of(engine: Engine, left: Left, host: str, pid: int) -> Reason:
    """Return what a host knows about the end of an engine's process.

    Args:
        engine: The engine.
        left: How the process ended.
        host: Name of this host.
        pid: Of the process.
    """
    ending = left.exit
    return Reason(
        "engine",
        left.reason,
        engine=engine.id,
        host=host,
        pid=pid,
        exitcode=ending.code if ending is not None else None,
        signal=ending.signal if ending is not None else None,
        uptime=round(left.uptime, 3),
        memory=engine.memory,
        last_output=engine.last.lines(),
    )


class Endings:
    """Waits until everything of a process that has ended is there.

    Args:
        engines: All engines, by their keys.
        signals: Ends processes that have closed their link.
        later: Calls a function later.
        account: Is called with an engine when all of its process is there.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        signals: Signals,
        later: Later,
        account: Callable[[Engine], None],
    ) -> None:
        self._engines = engines
        self._signals = signals
        self._later = later
        self._account = account

    def unlinked(self, engine: Engine, link: EngineLink) -> None:
        """The link of an engine has ended."""
        if engine.link is not link:
            return
        engine.link = None
        if engine.exit is not None:
            self._buried(engine)
        else:  # user code has closed its socket, or it is about to end
            self._later(LINK_TIME, self._signals.terminate, engine.key, engine.epoch)

    def ended(self, engine: Engine, ending: Exit) -> None:
        """The process of an engine has ended."""
        if engine.exit is not None:
            return
        engine.exit = ending
        engine.memory = max(engine.memory, ending.memory)
        if engine.link is None:
            self._buried(engine)
        else:  # what it has sent comes first; then the link ends by itself
            engine.link.resume()
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
        epoch = engine.epoch
        over = False

        def account() -> None:
            nonlocal over
            if not over and engine.epoch == epoch:
                over = True
                self._account(engine)

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                account()

        for pipe in waiting:
            pipe.when_ended(one_ended)  # type: ignore[attr-defined]
        if waiting:  # a process that the engine has left behind may hold them open for ever
            self._later(LINK_TIME, account)
        else:
            account()
