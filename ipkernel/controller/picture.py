"""The state of a cluster, as ``status`` shows it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Container
from typing import Any, Final

from ipkernel._version import __version__
from ipkernel.controller import away
from ipkernel.controller.registry import Host
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.slots import DEAD, READY, RESTARTING, Engine
from ipkernel.vitals import Gauge, Reading
from ipkernel.wire.messages import Vitals
from ipkernel.wire.records import EngineInfo, HostInfo, Status, Stuck

#: Seconds for which a measurement of the controller itself is shown again.
_FRESH: Final = 1.0
_UNKNOWN: Final = Vitals(-1)


class Picture:
    """Puts together what is known of a cluster.

    Args:
        scheduler: Knows engines and hosts.
        now: Returns the time, seconds since the epoch.
        restarts: How often the controller has been started again.
        gauge: Measures the controller.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        now: Callable[[], float],
        restarts: int = 0,
        gauge: Callable[..., Any] = Gauge,
    ) -> None:
        self._scheduler = scheduler
        self._now = now
        self._restarts = restarts
        self._began = now()
        self._gauge = gauge(os.getpid(), self._began, now)
        self._gauge.read()  # what it took to get here is not used in the time from here on
        self._reading = Reading()
        self._read_at = 0.0

    def status(
        self,
        *,
        cluster: str,
        location: str,
        clients: int,
        connected: Container[int],
        stuck: list[Stuck],
        journal: Any,
        trouble: str,
    ) -> Status:
        """Return the state of the cluster.

        Args:
            cluster: Its name.
            location: Where the controller is reached.
            clients: How many are connected.
            connected: The numbers of the hosts that are.
            stuck: What the watchdog says.
            journal: The controller's journal.
            trouble: Why that cannot be written at present, or empty.
        """
        if trouble:
            trouble = f"cannot be written: {trouble}. Nothing new is taken in until it can be"
        now = self._now()
        if now - self._read_at >= _FRESH:
            self._read_at = now
            self._reading = self._gauge.read() or self._reading
        scheduler = self._scheduler
        return Status(
            cluster=cluster,
            pid=os.getpid(),
            host=socket.gethostname(),
            location=location,
            uptime=now - self._began,
            version=__version__,
            hosts=[
                host_info(
                    host,
                    number in connected,
                    scheduler.objects.usage(number),
                    scheduler.objects.sole(number),
                )
                for number, host in sorted(scheduler.hosts.items())
            ],
            engines=self.engines(),
            queue=scheduler.counts(),
            clients=clients,
            memory=self._reading.memory,
            cpu=round(self._reading.cpu, 1),
            files=self._reading.files,
            started=self._began,
            restarts=self._restarts,
            stuck=stuck,
            journal=(trouble or journal.notice)[:4000],
            journal_level=journal.level,
            journal_size=journal.size,
        )

    def engines(self) -> list[EngineInfo]:
        """Return what people are told of all engines."""
        now = self._now()
        return [engine_info(engine, now) for _, engine in sorted(self._scheduler.engines.items())]


def host_info(host: Host, connected: bool, usage: tuple[int, int], sole: int) -> HostInfo:
    """Return what people are told of a host.

    Args:
        host: Which.
        connected: Whether its connection is there.
        usage: How many objects are in its store, and their bytes.
        sole: How many of them would be lost with it.
    """
    vitals = host.vitals or _UNKNOWN
    return HostInfo(
        host_id=host.id,
        host=host.name,
        pid=host.pid,
        engines=sorted(host.engines),
        connected=connected,
        since=host.since,
        objects=usage[0],
        object_bytes=usage[1],
        launcher=host.facts.launcher,
        label=host.facts.label,
        draining=host.draining,
        ends=host.ends,
        cpu=round(vitals.cpu, 1),
        memory=vitals.memory,
        files=vitals.files,
        started=vitals.started,
        restarts=host.facts.restarts,
        sole=sole,
    )


def engine_info(engine: Engine, now: float) -> EngineInfo:
    """Return what people are told of an engine."""
    running = max(len(engine.running), 1 if engine.assigned else 0)
    vitals = engine.vitals or _UNKNOWN
    drains = engine.state == READY and engine.draining
    return EngineInfo(
        engine=engine.id,
        host=engine.host.name,
        pid=engine.pid,
        state="draining" if drains else engine.state,
        reason=(engine.draining if drains else away.why(engine) or engine.reason)[:4000],
        queued=len(engine.assigned) - running + len(engine.direct) - engine.shelved,
        running=running,
        completed=engine.completed,
        restarts=engine.restarts,
        uptime=max(0.0, now - engine.since) if engine.state == READY else 0.0,
        host_id=engine.host.id,
        cpu=round(vitals.cpu, 1),
        memory=vitals.memory,
        files=vitals.files,
        started=vitals.started,
        last_loss=engine.last_loss,
        began=engine.born,
        last_output=engine.last_output if engine.state in (RESTARTING, DEAD) else [],
    )
