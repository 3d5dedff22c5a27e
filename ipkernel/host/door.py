"""What the controller may ask of a host daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foolscap.referenceable import Referenceable
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from ipkernel.host.processes import signal_number
from ipkernel.wire.doors import RIHost
from ipkernel.wire.records import EngineAnswer, EngineOrder, pack, unpack

if TYPE_CHECKING:
    from ipkernel.host.daemon import HostDaemon

__all__ = ["HostDoor"]


@implementer(RIHost)  # type: ignore[misc]
class HostDoor(Referenceable):
    """What the controller may ask of a host daemon.

    Args:
        daemon: The daemon behind it.
    """

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon

    def remote_start_engines(self, order: bytes) -> bytes:
        """Start engines with the ids of an EngineOrder."""
        wanted = unpack(EngineOrder, order)
        if self._daemon.job is not None:
            problem = "the engines of an MPI job are as many as it began with"
            return pack(EngineAnswer(problem=problem))
        engines = self._daemon.engines
        fresh = [one for one in wanted.engines if one not in engines.ids]
        engines.add(ids=fresh)
        return pack(EngineAnswer(engines=fresh))

    def remote_stop_engines(self, order: bytes) -> Deferred[bytes]:
        """End engines for good; answers when they are gone."""
        wanted = unpack(EngineOrder, order)
        engines = self._daemon.engines
        there = [one for one in engines.ids if not wanted.engines or one in wanted.engines]
        ended = engines.end(there, "stopped on request") if there else succeed(None)
        return ended.addCallback(lambda _: pack(EngineAnswer(engines=there)))

    def remote_restart_engines(self, order: bytes) -> bytes | Deferred[bytes]:
        """End engines and start them again under the same ids."""
        wanted = unpack(EngineOrder, order)
        if self._daemon.job is not None:
            return self._daemon.renew()
        restarted = self._daemon.engines.restart(wanted.engines, "restarted on request")
        return pack(EngineAnswer(engines=restarted))

    def remote_signal_engines(self, order: bytes) -> bytes:
        """Send a signal to engines."""
        wanted = unpack(EngineOrder, order)
        try:
            number = signal_number(wanted.signal)
        except ValueError as error:
            return pack(EngineAnswer(problem=str(error)))
        return pack(EngineAnswer(engines=self._daemon.engines.signal(wanted.engines, number)))

    def remote_stop(self, reason: bytes) -> None:
        """End all engines and the daemon."""
        self._daemon.stop(reason.decode("utf-8", "replace") or "the controller wants it")
