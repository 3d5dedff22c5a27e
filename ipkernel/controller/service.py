# mypy: allow-untyped-calls
"""The controller as a whole: a Tub with doors, links to clients and hosts, and a scheduler."""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred, fail

from ipkernel._version import __version__
from ipkernel.controller.clientele import Clients, Opened
from ipkernel.controller.clientlink import CLIENT_GRACE, KEEP_SESSION
from ipkernel.controller.defaults import HOST_GRACE, RESTART_GRACE, WATCHDOG
from ipkernel.controller.describing import describe
from ipkernel.controller.doors import DOORS
from ipkernel.controller.events import RestartOver, Tick
from ipkernel.controller.hosts import Hosts, plain
from ipkernel.controller.inquiries import Inquiries
from ipkernel.controller.instructions import (
    DropClient,
    EnginesDrained,
    Instruction,
    JoinPeers,
    SessionEnded,
    ToAllClients,
    ToClient,
    ToHost,
)
from ipkernel.controller.journal import MemoryJournal, SessionClosed
from ipkernel.controller.links import Link
from ipkernel.controller.numbers import Numbers
from ipkernel.controller.orders import Orders
from ipkernel.controller.picture import Picture
from ipkernel.controller.relays import Relays
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.controller.watchdog import Surroundings
from ipkernel.controller.watching import Watching
from ipkernel.errors import ConnectError, ControllerLost, KernelError, TransferError
from ipkernel.wire.furl import Furl
from ipkernel.wire.messages import PROTOCOL, Closing, Relay
from ipkernel.wire.records import (
    ClientHello,
    Description,
    EngineProperties,
    EngineStory,
    HostGrant,
    HostHello,
    SessionGrant,
    Status,
    TaskStory,
)
from ipkernel.wire.tub import SecureTub, call, peer_tub_id

if TYPE_CHECKING:
    from ipkernel.controller.reviving import HostReviver

logger = logging.getLogger(__name__)

#: Seconds that hosts have to end their engines when the controller stops.
STOP_TIME: Final = 2.0
#: Seconds between two looks for results that have been kept long enough.
_TICK: Final = 60.0


class Controller:
    """Brings clients, hosts and the scheduler together.

    Args:
        tub: A running Tub. It belongs to the controller from now on.
        cluster: Name of the cluster.
        journal: Keeps what must not be lost; an :class:`~ipkernel.controller.journal.IJournal`.
        scheduler: Decides which task runs where.
        on_shutdown: Is called when an admin asks the controller to end, with the reason.
        restarts: How often it has been started again, for status.
        host_grace: Seconds within which a host may come back whose connection is lost.
        restart_grace: The same after a restart of the controller.
        client_grace: The same of a client; later it gets what is known of its tasks then.
        watchdog: Seconds after which work counts as stuck on which nobody makes progress; 0 for never.
        reviver: Starts host daemons again that were killed; None if nobody here does.

    Attributes:
        tub: As given.
        scheduler: As given.
        life: The number of this life of the controller; another one after each start.
        orders: Carries out orders to engines.
        inquiries: Answers long questions about tasks.
        relays: Connects peers that cannot reach each other.
    """

    def __init__(
        self,
        tub: SecureTub,
        *,
        cluster: str = "",
        journal: Any = None,
        scheduler: Scheduler | None = None,
        on_shutdown: Callable[[str], None] | None = None,
        restarts: int = 0,
        host_grace: float = HOST_GRACE,
        restart_grace: float = RESTART_GRACE,
        client_grace: float = CLIENT_GRACE,
        watchdog: float = WATCHDOG,
        reviver: HostReviver | None = None,
    ) -> None:
        self.tub = tub
        self.scheduler = scheduler if scheduler is not None else Scheduler()
        self._reactor = tub.reactor
        self._cluster = cluster
        self._on_shutdown = on_shutdown
        self._reviver = reviver
        self._journal = journal if journal is not None else MemoryJournal()
        self._turn = Turn(
            self._reactor,
            self.scheduler,
            self._journal,
            self._follow,
        )
        now = self._turn.now()
        restored = self.scheduler.restore(
            self._journal.load(), now, grace=restart_grace, keep=KEEP_SESSION
        )
        self.life = restored.life + 1 if restored.life else secrets.randbelow(1 << 61) + 1
        numbers = Numbers(
            self.life, *restored.used, self._turn.note, self._turn.now, self.scheduler.knows_session
        )
        for record in restored.records:
            self._turn.note(record)
        self._hosts = Hosts(
            self._reactor,
            self.scheduler,
            self._turn,
            self._admit,
            cluster=cluster,
            life=self.life,
            number=numbers.host,
            grace=host_grace,
            gone=self._signal_gone,
            reviver=reviver,
        )
        self.orders = Orders(self._reactor, self.scheduler, self._turn, self._hosts.call)
        self.inquiries = Inquiries(self._reactor, self.scheduler, self._turn)
        self.relays = tub.relays = Relays(self._reactor)
        self._clients = Clients(
            self._reactor,
            self.scheduler,
            self._turn,
            self._admit,
            life=self.life,
            number=numbers.session,
            grace=client_grace,
            cluster=cluster,
        )
        self._hosts.restore(restored.hosts, restart_grace)
        self._restarted: Any = None
        if restored.sessions or restored.hosts:
            logger.info(
                "started again: %d sessions, %d tasks, %d hosts that may come back",
                len(self.scheduler.sessions),
                len(self.scheduler.tasks),
                len(restored.hosts),
            )
            self._restarted = self._reactor.callLater(restart_grace, self._restart_is_over)
        self._picture = Picture(self.scheduler, self._turn.now, restarts)
        self._watching = Watching(
            self._reactor, self.scheduler.watchdog(watchdog), self._surroundings, watchdog
        )
        self._closing = ""
        self._all_gone: Deferred[None] | None = None
        self._ticking: Any = self._reactor.callLater(_TICK, self._tick)

    # ------------------------------------------------------------------- life and death

    def open_doors(self, swissnums: dict[str, str] | None = None) -> dict[str, Furl]:
        """Make the doors reachable; the Tub must listen.

        Args:
            swissnums: The secret name of each role's door; by default new ones.

        Returns:
            The FURL of each role.
        """
        names = swissnums or {}
        return {
            role: self.tub.register(door(self), names.get(role)) for role, door in DOORS.items()
        }

    def shutdown(self, reason: str) -> None:
        """Begin to stop, soon: whoever asked for it gets an answer first."""
        reason = plain(reason)
        logger.info("asked to stop: %s", reason)
        if self._on_shutdown is not None:
            self._reactor.callLater(0, self._on_shutdown, reason)

    def stop(self, reason: str = "the controller was stopped") -> Deferred[None]:
        """Tell everybody, let hosts end their engines, close all connections.

        Args:
            reason: What clients and hosts are told.

        Returns:
            Fires when all of it is done; that takes little more than 2 seconds at most.
        """
        if self._closing:
            return fail(KernelError("the controller is stopping already"))
        self._closing = reason[:1000] or "the controller was stopped"
        logger.info("stopping: %s", self._closing)
        if self._reviver is not None:
            self._reviver.stop()
        item = (Closing(self._closing), b"")
        hosts = self._hosts.links
        links: list[Link] = [*self._clients.links.values(), *hosts.values()]
        for link in links:
            link.deliver([item])
        gone: Deferred[None] = Deferred()
        for host in hosts.values():
            if host.reference is not None:
                asked = call(host.reference, "stop", self._closing.encode()[:4096])
                asked.addErrback(lambda failure: failure.trap(KernelError))
        if hosts:
            self._all_gone = gone
            timer = self._reactor.callLater(STOP_TIME, self._waited_enough)
            gone.addCallback(lambda _: timer.cancel() if timer.active() else None)
        else:
            gone.callback(None)
        return gone.addCallback(lambda _: self._close())

    def _waited_enough(self) -> None:
        left = ", ".join(map(self._hosts.name, self._hosts.links))
        logger.warning("hosts that did not stop in time: %s", left)
        self._signal_gone()

    def _signal_gone(self) -> None:
        gone, self._all_gone = self._all_gone, None
        if gone is not None:
            gone.callback(None)

    def _restart_is_over(self) -> None:
        self._restarted = None
        self._turn.add(RestartOver(self._turn.now()))

    def _close(self) -> Deferred[None]:
        if self._restarted is not None:
            self._restarted.cancel()
            self._restarted = None
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self.orders.close()
        self.inquiries.close()
        self._watching.close()
        now = self._turn.now()
        for session in self.scheduler.sessions:  # clients were told that their tasks are lost
            self._turn.note(SessionClosed(session, now))
        self._turn.add(Tick(now))
        self._clients.close(self._closing)
        self._hosts.close(self._closing)
        settled = self._turn.stop()
        settled.addCallback(lambda _: self.relays.close())
        return settled.addCallback(lambda _: self.tub.stopService()).addCallback(lambda _: None)

    def _tick(self) -> None:
        self._ticking = self._reactor.callLater(_TICK, self._tick)
        self._turn.add(Tick(self._turn.now()))

    # --------------------------------------------------------------------------- clients

    def open_session(self, client: Any, hello: ClientHello) -> Deferred[SessionGrant]:
        """Open a session for a client, or let it go on with one.

        Args:
            client: Its RIClient.
            hello: Who it is.

        Returns:
            Fires with what the client needs to begin; fails with
            :class:`~ipkernel.errors.KernelError` when it cannot be let in.
        """
        refused = self._refusal(hello.protocol, hello.version)
        if refused and hello.resume is not None:
            return fail(ControllerLost(f"the controller is lost: {refused}"))
        if refused:
            return fail(ConnectError(refused))
        return self._clients.open(client, hello).addCallback(self._granted)

    def _granted(self, opened: Opened) -> SessionGrant:
        return SessionGrant(
            session=opened.number,
            ticket=opened.ticket,
            cluster=self._cluster,
            engines=self._picture.engines(),
            version=__version__,
            python=platform.python_version(),
            life=self.life,
            resumed=opened.resumed,
            local=self.tub.local_address,
        )

    def _admit(self, link: Link, reference: Any) -> bytes:
        """Watch a peer's connection and return a ticket for its channel."""
        link.watch(reference)
        ticket = self.tub.issue_ticket(peer_tub_id(reference), link.opened, link.make_channel)
        link.revoke = partial(self.tub.revoke_ticket, ticket)
        return ticket

    def _refusal(self, protocol: int, version: str) -> str:
        if self._closing:
            return f"the controller is stopping: {self._closing}"
        if protocol != PROTOCOL:
            theirs = f"ipkernel {version}" if version else "the other side"
            return (
                f"{theirs} speaks protocol {protocol}, but the controller (ipkernel "
                f"{__version__}) speaks protocol {PROTOCOL}: install the same release on both sides"
            )
        return ""

    def describe(self, said: Description) -> Deferred[EngineProperties]:
        """Change properties of engines; see :func:`ipkernel.controller.describing.describe`."""
        return describe(self.scheduler, self._turn, said)

    # ----------------------------------------------------------------------------- hosts

    def register_host(self, host: Any, hello: HostHello) -> Deferred[HostGrant]:
        """Let a host daemon join.

        Args:
            host: Its RIHost.
            hello: Who it is and which engines it has.

        Returns:
            Fires with its number, a ticket and its engine ids; fails with
            :class:`~ipkernel.errors.KernelError` when it cannot be let in.
        """
        refused = self._refusal(hello.protocol, hello.version)
        if refused:
            return fail(ConnectError(refused))
        granted = self._hosts.register(host, hello)
        return granted.addCallback(self._with_local_port)

    def _with_local_port(self, grant: HostGrant) -> HostGrant:
        return msgspec.structs.replace(grant, local=self.tub.local_address)

    # ---------------------------------------------------------------------- instructions

    def _follow(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            kind = type(instruction)
            if kind is ToHost:
                self._hosts.deliver(instruction.host, instruction.items)  # type: ignore[union-attr]
            elif kind is ToClient:
                self._clients.deliver(instruction.session, instruction.items)  # type: ignore[union-attr]
            elif kind is ToAllClients:
                self._clients.deliver_to_all(instruction.items)  # type: ignore[union-attr]
            elif kind is DropClient:
                assert isinstance(instruction, DropClient)
                self._clients.drop(instruction.session, instruction.reason)
            elif kind is JoinPeers:
                assert isinstance(instruction, JoinPeers)
                self._join(instruction)
            elif kind is EnginesDrained:
                self.orders.drained(instruction.engines)  # type: ignore[union-attr]
            elif kind is SessionEnded:
                assert isinstance(instruction, SessionEnded)
                logger.info("session %d has ended", instruction.session)
        self._clients.acknowledge_late()

    def _join(self, instruction: JoinPeers) -> None:
        """Give a token to two peers, with which they may connect here and meet each other."""
        number = instruction.host
        hosts = self._hosts.links
        asker: Link | None
        if instruction.session:
            asker, who = (
                self._clients.links.get(instruction.session),
                f"session {instruction.session}",
            )
        else:
            asker, who = hosts.get(instruction.asker), self._hosts.name(instruction.asker)
        host = hosts.get(number)
        if asker is None:
            return
        if host is None:
            asker.deliver([(Relay(number, b"", f"host {number} is gone"), b"")])
            return
        try:
            token = self.relays.open(f"{who} with {self._hosts.name(number)}")
        except TransferError as error:
            asker.deliver([(Relay(number, b"", str(error)), b"")])
            return
        asker.deliver([(Relay(number, token), b"")])
        host.deliver([(Relay(0, token), b"")])

    # ---------------------------------------------------------------------------- status

    def explain(self, task: int) -> TaskStory:
        """Return where a task is, why it is there, and how it came there."""
        return self.scheduler.explain(task, self._turn.now())

    def explain_engine(self, engine: int) -> EngineStory:
        """Return what an engine does, since when, and what waits for it."""
        return self.scheduler.explain_engine(engine, self._turn.now())

    def _surroundings(self) -> Surroundings:
        """Return what the watchdog needs to know besides the scheduler's tables."""
        turn = self._turn
        heard = {number: link.heard for number, link in self._hosts.links.items()}
        return Surroundings(heard, turn.trouble, turn.writing_since)

    def status(self) -> Status:
        """Return the state of the cluster."""
        return self._picture.status(
            stuck=self._watching.stuck,
            cluster=self._cluster,
            location=",".join(self.tub.locationHints),
            clients=self._clients.connected,
            connected=self._hosts.links.keys(),
            journal=self._journal,
            trouble=self._turn.trouble,
        )
