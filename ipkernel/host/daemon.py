"""The host daemon: joins a controller with its engines, stays with it, and ends in good order."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred

from ipkernel._version import __version__
from ipkernel.host.door import HostDoor
from ipkernel.host.engines import Engines
from ipkernel.host.interfaces import Begun, Job
from ipkernel.host.joining import JoinFailed, Joining
from ipkernel.host.options import Options
from ipkernel.host.output import LogBounds
from ipkernel.host.retelling import Item, held_messages, worth_repeating
from ipkernel.host.reviving import Reviver
from ipkernel.host.slots import Slots
from ipkernel.host.storage import make_storage
from ipkernel.host.uplink import Uplink
from ipkernel.host.walltime import Walltime
from ipkernel.wire.channel import Channel
from ipkernel.wire.link import Received
from ipkernel.wire.messages import Closing, Draining, Started
from ipkernel.wire.records import EngineAnswer, HostGrant, HostHello, pack
from ipkernel.wire.tub import SecureTub

__all__ = ["HostDaemon", "JoinFailed"]

logger = logging.getLogger(__name__)

#: What is said near the end of the walltime, and at the end.
NEARLY_OVER: Final = "the batch job's walltime is nearly over"
OVER: Final = "the batch job's walltime is over"


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
        self._host = host
        self._report = report
        self._uplink = Uplink()
        self._joining = Joining(
            reactor,
            tub,
            Path(options.furl_file),
            HostDoor(self),
            hello=self._hello,
            granted=self._granted,
            channel=self._make_channel,
            waiting=lambda why: report("waiting", message=why),
        )
        self._channel: Channel | None = None
        self._stopping: Deferred[None] | None = None
        self._all_ready = False
        self._names: list[int] = []
        self._known: list[int] = []
        self.finished: Deferred[None] = Deferred()
        self._storage = make_storage(reactor, tub.identity, self._uplink, options.store)
        directory = options.cluster_dir
        self._slots = slots.options
        self._reviver = Reviver(directory, reactor.seconds) if directory is not None else None
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
            self._joined(await self._joining.join(self._options.wait))
        except JoinFailed as error:
            self._fail(str(error))

    async def _rejoin(self) -> None:
        try:
            failed = self._reviver.look if self._reviver is not None else lambda: None
            self._joined(await self._joining.join(self._options.grace, again=True, failed=failed))
        except JoinFailed as error:
            self._fail(f"the controller is gone, and with it the engines end ({error})")
            return
        logger.info("joined the controller again with engines %s", self.engines.ids)

    def _hello(self, address: str) -> HostHello:
        """Return the introduction of this host, whose address is the given one."""
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return HostHello(
            host=self._host,
            pid=os.getpid(),
            slots=len(self.engines),
            engines=self.engines.ids or self._wanted_ids(),
            job=self.job.name if self.job is not None else "",
            job_size=self.job.size if self.job is not None and not self.engines.ids else 0,
            version=__version__,
            python=python,
            store=self._storage.access(address) if self._storage is not None else None,
            launcher=self._options.launcher,
            label=self._options.label,
            left=self._walltime.left,
            restarts=self._options.restarts,
            resources={**self._slots.resources, **self._options.resources},
            host_resources={**self._slots.host_resources, **self._options.host_resources},
        )

    def _wanted_ids(self) -> list[int]:
        return self.job.ranks if self.job is not None else list(self._options.engine_ids)

    def _make_channel(self) -> Channel:
        return Channel(self._reactor, received=self._received, lost=self._lost)

    def _granted(self, grant: HostGrant, address: str, port: int) -> None:
        """What goes on, and what has to be told, is known before the channel is there."""
        resumed = grant.resumed
        if resumed is not None and resumed.same:
            return
        kept = self._uplink.restart()
        self.engines.name(grant.engines, grant.cluster)
        if resumed is None:
            self.engines.forget()
            if self._storage is not None:
                self._storage.disconnected()
                self._storage.joined(grant.host_id, address, port)
            self.engines.announce()
            if self._walltime.near:
                self._uplink.send(Draining(NEARLY_OVER))
            return
        self._tell_again(kept, address, port)

    def _tell_again(self, kept: list[Item], address: str, port: int) -> None:
        """Tell a controller that was started again, and remembers this host, how things are.

        Args:
            kept: What the one before may not have got.
            address: Of the controller.
            port: Its port.
        """
        logger.info("the controller was started again; it remembers this host")
        self.engines.drop_waiting()
        send = self._uplink.send
        repeated, left = worth_repeating(kept)
        self.engines.announce_again(lambda one: one not in left)
        storage = self._storage
        held = storage.restarted(address, port) if storage is not None else []
        for message in held_messages(held):
            send(message)
        if self._walltime.near:
            send(Draining(NEARLY_OVER))
        self._uplink.repeat(repeated)
        self.engines.announce_again(lambda one: one in left)
        send(Started([]))
        if storage is not None:
            storage.ask_again()

    def _joined(self, joined: tuple[Channel, HostGrant] | None) -> None:
        if joined is None:
            return
        channel, grant = joined
        if self._stopping is not None:
            channel.close("the host daemon stops")
            return
        resumed = grant.resumed
        taken = resumed.taken if resumed is not None and resumed.same else 0
        try:
            self._uplink.connect(channel, taken)
        except ValueError as error:
            logger.error("the session cannot go on, and a new one is begun: %s", error)
            self._joining.forget()
            channel.abort("the session cannot go on")
            self._run(self._rejoin())
            return
        self._channel = channel
        if self._reviver is not None:
            self._reviver.joined()
        self._report("registered", engines=self.engines.ids)
        self._changed()

    def _received(self, channel: Channel, batch: list[Received]) -> None:
        self._joining.received += len(batch)
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
        known = self.engines.ids
        gone = [one for one in self._known if one not in known]
        self._known = known
        if (
            gone and self.job is None
        ):  # on request, perhaps of somebody else than who has started this daemon
            self._report("stopped", engines=gone)

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
            told = reason if excused else f"the host daemon stops: {reason}"
            self._run(self._stop(None, told[:500], excused=excused))
        return self._stopping

    def _fail(self, message: str) -> None:
        if self._stopping is None:
            logger.info("ending: %s", message)
            self._stopping = Deferred()
            self._run(self._stop(JoinFailed(message)))

    async def _stop(
        self, error: JoinFailed | None, told: str = "the host daemon stops", excused: bool = False
    ) -> None:
        stopping = self._stopping
        assert stopping is not None
        self._walltime.stop()
        self._joining.stop()
        if self._reviver is not None:
            self._reviver.stop()
        await self.engines.stop(told, excused=excused)
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.send(Closing(told))  # so that nobody waits for it
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
