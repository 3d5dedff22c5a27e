"""What a host's processes use: told to the controller, and bounded where that is wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from ipkernel.host.engine import Engine
from ipkernel.host.needs import Uplink
from ipkernel.vitals import Gauge, private_memory
from ipkernel.wire.messages import Measured, Vitals

__all__ = ["EVERY", "LOOK", "Watch"]

#: Seconds between two measurements of a process.
EVERY: Final = 2.0
#: Seconds until the first one.
FIRST: Final = 0.5
#: Processes that are measured at a time, so that nothing else has to wait for long.
AT_ONCE: Final = 16
#: Seconds between two looks at whether an engine uses more memory than it may.
LOOK: Final = 0.1

Measure = Callable[[int, float, Callable[[], float]], Any]


class Watch:
    """Measures the engines of a host and their daemon.

    Args:
        clock: Twisted's reactor, or a Clock.
        engines: All engines by the key of their slot; changes as they come and go.
        uplink: The way to the controller.
        began: When this process began, by the clock; 0 for now.
        limit: Bytes of memory that an engine may use, 0 for any number.
        exceeded: Is called with an engine that uses more, and how much.
        gauge: Returns what measures the process with an id; see :class:`~ipkernel.vitals.Gauge`.
        memory: Returns the bytes of the process with an id that count for the limit.
    """

    def __init__(
        self,
        clock: Any,
        engines: Mapping[str, Engine],
        uplink: Uplink,
        *,
        began: float = 0.0,
        limit: int = 0,
        exceeded: Callable[[Engine, int], object] = lambda engine, used: None,
        gauge: Measure = Gauge,
        memory: Callable[[int], int] = private_memory,
    ) -> None:
        self._clock = clock
        self._engines = engines
        self._uplink = uplink
        self._began = began or clock.seconds()
        self._limit = limit
        self._exceeded = exceeded
        self._gauge = gauge
        self._memory = memory
        self._gauges: dict[int, Any] = {}
        self._at = 0
        self._timers: dict[str, Any] = {}
        self._again("measure", FIRST)
        if limit:
            self._again("check", LOOK)

    def stop(self) -> None:
        """Watch no more."""
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            timer.cancel()

    def _again(self, what: str, seconds: float) -> None:
        self._timers[what] = self._clock.callLater(seconds, getattr(self, f"_{what}"))

    def _measure(self) -> None:
        """Measure the next processes, and tell the controller."""
        processes = {engine.pid: engine for engine in self._engines.values() if engine.pid}
        own = os.getpid()
        pids = [own, *processes]
        parts = -(-len(pids) // AT_ONCE)
        self._at %= parts
        found = []
        for pid in pids[self._at * AT_ONCE : (self._at + 1) * AT_ONCE]:
            engine = processes.get(pid)
            started = self._began if engine is None else engine.began
            reading = self._read(pid, started)
            if reading is None:
                continue
            if engine is not None:
                engine.memory = reading.memory
            number = -1 if engine is None else engine.id
            if pid == own or number >= 0:
                found.append(
                    Vitals(
                        number,
                        min(reading.cpu, 1e6),
                        reading.memory,
                        reading.files,
                        started,
                    )
                )
        self._at += 1
        self._gauges = {pid: gauge for pid, gauge in self._gauges.items() if pid in pids}
        if found:
            self._uplink.send(Measured(found))
        self._again("measure", EVERY / parts)

    def _read(self, pid: int, started: float) -> Any:
        gauge = self._gauges.get(pid)
        if gauge is None:
            gauge = self._gauges[pid] = self._gauge(pid, started, self._clock.seconds)
        return gauge.read()

    def _check(self) -> None:
        """Look whether engines keep to their limit."""
        for engine in list(self._engines.values()):
            if engine.pid and engine.exit is None:
                used = self._memory(engine.pid)
                if used > self._limit:
                    engine.memory = max(engine.memory, used)
                    self._exceeded(engine, used)
        self._again("check", LOOK)
