"""The host daemon: joins a controller with its engines, stays with it, and ends in good order."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from foolscap.referenceable import Referenceable
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import deferLater
from zope.interface import implementer

from ipkernel._version import __version__
from ipkernel.errors import ConnectError, KernelError, SecurityError
from ipkernel.host.engines import Engines
from ipkernel.host.interfaces import Begun, Job
from ipkernel.host.options import Options
from ipkernel.host.output import LogBounds
from ipkernel.host.processes import signal_number
from ipkernel.host.slots import Slots
from ipkernel.host.storage import make_storage
from ipkernel.host.uplink import Uplink
from ipkernel.host.walltime import Walltime
from ipkernel.wire.channel import Channel
from ipkernel.wire.connect import ends_of
from ipkernel.wire.doors import RIHost
from ipkernel.wire.furl import read_furl
from ipkernel.wire.link import Received
from ipkernel.wire.messages import PROTOCOL, Closing, Draining
from ipkernel.wire.records import EngineAnswer, EngineOrder, HostGrant, HostHello, pack, unpack
from ipkernel.wire.tub import SecureTub, call, connect, open_channel

__all__ = ["HostDaemon", "HostDoor", "JoinFailed"]

logger = logging.getLogger(__name__)

#: Seconds between attempts to reach the controller: the first, and the longest.
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0
#: Seconds for which the pauses stay short: a controller that is being started comes up in less.
EAGER: Final = 3.0
#: Seconds that one attempt may take.
ATTEMPT: Final = 10.0
#: What is said near the end of the walltime, and at the end.
NEARLY_OVER: Final = "the batch job's walltime is nearly over"
OVER: Final = "the batch job's walltime is over"


class JoinFailed(KernelError):
    """The controller could not be joined; the text says why."""


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


class HostDaemon:
    """One host daemon, from its start to its end.

    Args:
        reactor: Twisted's reactor.
        tub: This process's Tub, running.
        options: How it is to run. The file with the engine FURL is read again at each attempt.
        starter: An :class:`~ipkernel.host.interfaces.IEngineStarter`, not yet attached.
        begun: The engine processes that it was asked for already.
        slots: How engines are to be.
        host: Name of this host.
        began: When this process began, by the reactor's clock; its walltime counts from there.
        report: Is told what happens: an event's name, and its fields.

    Attributes:
        engines: The engines.
        job: The MPI job whose ranks they are, or None.
        finished: Fires with None when everything has ended in good order; fails with
            :class:`JoinFailed` otherwise. The engines have ended in both cases.
    """

    def __init__(
        self,
        reactor: Any,
        tub: SecureTub,
        options: Options,
        starter: Any,
        begun: Sequence[Begun],
        *,
        slots: Slots,
        host: str,
        began: float,
        report: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self._reactor = reactor
        self._tub = tub
        self._options = options
        self._furl_file = Path(options.furl_file)
        self._host = host
        self._report = report
        self._uplink = Uplink()
        self._door = HostDoor(self)
        self._channel: Channel | None = None
        self._stopping: Deferred[None] | None = None
        self._all_ready = False
        self._names: list[int] = []
        self._ending_because = ""
        self.finished: Deferred[None] = Deferred()
        self._storage = make_storage(reactor, tub.identity, self._uplink, options.store)
        directory = options.cluster_dir
        self._slots = slots.options
        self.engines = Engines(
            reactor,
            starter,
            self._uplink,
            host=host,
            log_dir=directory / "log" if directory is not None else None,
            log_bounds=LogBounds(
                slots.options.output_limit or options.log_size, options.log_backups
            ),
            slots=slots,
            objects=self._storage,
            changed=self._changed,
            began=began,
        )
        self.engines.add(begun)
        self.job: Job | None = starter.job
        starter.attach(reactor, self.engines)
        left = max(0.001, began + options.walltime - reactor.seconds()) if options.walltime else 0.0
        self._walltime = Walltime(
            reactor, left, options.drain_margin, self._ends_soon, self._time_is_over
        )

    def start(self) -> None:
        """Begin to look for the controller."""
        self._run(self._first_join())

    def _run(self, work: Any) -> None:
        ensureDeferred(work).addErrback(
            lambda failure: self._fail(f"internal error: {failure.getTraceback()}")
        )

    # ------------------------------------------------------------- joining

    async def _first_join(self) -> None:
        try:
            await self._join(self._options.wait)
        except JoinFailed as error:
            self._fail(str(error))

    async def _rejoin(self) -> None:
        try:
            await self._join(self._options.grace)
        except JoinFailed as error:
            self._fail(f"the controller is gone, and with it the engines end ({error})")
            return
        logger.info("joined the controller again with engines %s", self.engines.ids)

    async def _join(self, seconds: float) -> None:
        """Try to join for so many seconds."""
        began = self._reactor.seconds()
        pause = FIRST_PAUSE
        told = False
        while self._stopping is None:
            try:
                await self._attempt(
                    max(0.5, min(ATTEMPT, began + seconds - self._reactor.seconds()))
                )
                return
            except ConnectError as error:
                cause = str(error)
            left = began + seconds - self._reactor.seconds()
            if left <= 0:
                raise JoinFailed(cause)
            if not told and self._reactor.seconds() - began > 1.0:
                told = True
                self._report("waiting", message=cause)
                logger.info("cannot join yet: %s", cause)
            await deferLater(self._reactor, min(pause, left))
            if self._reactor.seconds() - began > EAGER:
                pause = min(pause * 1.5, LONGEST_PAUSE)

    async def _attempt(self, seconds: float) -> None:
        try:
            furl = read_furl(self._furl_file)
        except SecurityError as error:
            raise JoinFailed(str(error)) from None
        except ConnectError as error:
            if self._furl_file.exists():
                raise JoinFailed(str(error)) from None
            raise
        reference = await connect(self._tub, furl, seconds)
        here, there = ends_of(reference)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        hello = HostHello(
            host=self._host,
            pid=os.getpid(),
            slots=len(self.engines),
            engines=self.engines.ids or self._wanted_ids(),
            job=self.job.name if self.job is not None else "",
            job_size=self.job.size if self.job is not None and not self.engines.ids else 0,
            version=__version__,
            python=python,
            store=self._storage.access(here.host) if self._storage is not None else None,
            launcher=self._options.launcher,
            label=self._options.label,
            left=self._walltime.left,
            restarts=self._options.restarts,
            resources={**self._slots.resources, **self._options.resources},
            host_resources={**self._slots.host_resources, **self._options.host_resources},
        )
        try:
            answer = await call(reference, "register", self._door, pack(hello))
            grant = unpack(HostGrant, answer)
        except ConnectError:
            raise
        except (KernelError, msgspec.MsgspecError) as error:
            raise JoinFailed(f"the controller did not let this host join: {error}") from None
        if grant.protocol != PROTOCOL:
            raise JoinFailed(
                f"the controller speaks protocol {grant.protocol}, this host {PROTOCOL}: "
                "install the same version of ipkernel on both"
            )
        channel = await open_channel(self._tub, reference, grant.ticket, self._make_channel)
        if self._stopping is not None:
            channel.close("the host daemon stops")
            return
        if self._storage is not None:
            self._storage.joined(grant.host_id, there.host, there.port)
        self._joined(channel, grant)

    def _wanted_ids(self) -> list[int]:
        return self.job.ranks if self.job is not None else list(self._options.engine_ids)

    def _make_channel(self) -> Channel:
        return Channel(self._reactor, received=self._received, lost=self._lost)

    def _joined(self, channel: Channel, grant: HostGrant) -> None:
        self._channel = channel
        self.engines.name(grant.engines, grant.cluster)
        self._uplink.connect(channel)
        self._report("registered", engines=self.engines.ids)
        self.engines.announce()
        if self._walltime.near:
            self._uplink.send(Draining(NEARLY_OVER))
        self._changed()

    def _received(self, channel: Channel, batch: list[Received]) -> None:
        for message, _ in batch:
            if isinstance(message, Closing):
                self.stop(message.reason or "the controller stops")
        self.engines.handle(batch)

    def _lost(self, channel: Channel, reason: str) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        self._uplink.disconnect()
        if self._stopping is None:
            logger.info("the connection to the controller was lost: %s", reason)
            self._report("lost", message=reason)
            self.engines.drop_waiting()
            if self._storage is not None:
                self._storage.disconnected()
            self._run(self._rejoin())

    # ------------------------------------------------------------ walltime

    def _ends_soon(self) -> None:
        if self._stopping is None:
            logger.info("%s: nothing new is begun here", NEARLY_OVER)
            self._report("draining", message=NEARLY_OVER)
            self._uplink.send(Draining(NEARLY_OVER))

    def _time_is_over(self) -> None:
        self.stop(OVER, excused=True)

    # ------------------------------------------------------------- reporting

    def _changed(self) -> None:
        if self._stopping is not None:
            return
        if self.job is not None and not len(self.engines):
            self.stop("its MPI job is over")
            return
        if self._channel is None:
            return
        ready, troubles = self.engines.ready, self.engines.troubles
        if not self._all_ready and len(ready) == len(self.engines):
            self._all_ready = True
            self._report("ready", engines=ready)
        elif not self._all_ready and troubles and len(troubles) == len(self.engines):
            self._fail("; ".join(troubles))
        new = [one for one in ready if one not in self._names]
        if new:
            self._names = ready
            pids = [self.engines.pid_of(one) for one in new]
            self._report("engines", engines=new, pids=pids)
        else:
            self._names = [one for one in self._names if one in ready]

    # --------------------------------------------------------------- ending

    def renew(self) -> Deferred[bytes]:
        """End the MPI job, which its launcher then starts anew; answers when the engines are gone."""
        self._report("restart")
        answer = pack(EngineAnswer(engines=self.engines.ids))
        return self.engines.end([], "restarted on request").addCallback(lambda _: answer)

    def stop(self, reason: str, *, excused: bool = False) -> Deferred[None]:
        """End all engines and leave.

        Args:
            reason: Why, for the log.
            excused: What runs is to be run elsewhere, without counting that as an attempt.

        Returns:
            Fires when they are gone; :attr:`finished` follows.
        """
        if self._stopping is None:
            logger.info("stopping: %s", reason)
            self._report("stopping", message=reason)
            self._stopping = Deferred()
            self._run(self._stop(None, reason if excused else ""))
        return self._stopping

    def _fail(self, message: str) -> None:
        if self._stopping is None:
            logger.info("ending: %s", message)
            self._stopping = Deferred()
            self._run(self._stop(JoinFailed(message)))

    async def _stop(self, error: JoinFailed | None, excuse: str = "") -> None:
        stopping = self._stopping
        assert stopping is not None
        self._walltime.stop()
        if excuse:
            await self.engines.stop(excuse, excused=True)
        else:
            await self.engines.stop()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.send(Closing("the host daemon stops"))  # so that nobody waits for it
            channel.flush_now()
            channel.close("the host daemon stops")
        if self._storage is not None:
            await self._storage.close()
        await self._tub.stopService()
        stopping.callback(None)
        if error is not None:
            self.finished.errback(error)
        else:
            self.finished.callback(None)
