# mypy: allow-untyped-calls
"""Tubs: a process's presence on the network, with Foolscap and channels on one port."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Callable, Collection
from typing import Any, cast

from foolscap import pb
from foolscap.connections.tcp import NEW_STYLE_HINT_RE, DefaultTCP
from foolscap.ipb import IConnectionHintHandler, InvalidHintError
from foolscap.reconnector import Reconnector
from foolscap.referenceable import TubRef
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure
from zope.interface import implementer

from ipkernel.errors import ConnectError
from ipkernel.wire import localport
from ipkernel.wire.channel import Channel
from ipkernel.wire.connect import call, connect, open_channel, peer_tub_id
from ipkernel.wire.doorstep import Doorstep
from ipkernel.wire.furl import Furl, local_location
from ipkernel.wire.identity import Identity
from ipkernel.wire.negotiation import BoundedBroker, SecureNegotiation
from ipkernel.wire.relay import Guests
from ipkernel.wire.security import TubTLS
from ipkernel.wire.tickets import Tickets

__all__ = ["SecureTub", "call", "connect", "make_tub", "open_channel", "peer_tub_id"]

logger = logging.getLogger(__name__)

#: When the Foolscap connection to a peer is lost, its channels end within so many seconds.
_CHANNEL_GRACE = 0.25
_BACKLOG = 512

Reconnector.maxDelay = 30


@implementer(IConnectionHintHandler)  # type: ignore[misc]
class _DirectTCP(DefaultTCP):
    """As Foolscap's own, but a numeric address needs no resolver and no thread for it."""

    def hint_to_endpoint(self, hint: str, reactor: Any, update_status: object) -> tuple[Any, str]:
        match = NEW_STYLE_HINT_RE.search(hint)
        if match is None:
            raise InvalidHintError("unrecognized TCP hint")
        host, port = match.group(1).strip("[]"), int(match.group(2))
        if isIPAddress(host):
            return TCP4ClientEndpoint(reactor, host, port), host
        if isIPv6Address(host):
            return TCP6ClientEndpoint(reactor, host, port), host
        return cast("tuple[Any, str]", super().hint_to_endpoint(hint, reactor, update_status))


class _Listener(pb.Listener):
    """A listener on a port that is already open, so that failing to open it is noticed."""

    noisy = False

    def __init__(self, tub: SecureTub) -> None:
        super().__init__(tub, "tcp:0", negotiationClass=SecureNegotiation)
        self.tub = tub

    def startService(self) -> None:
        self.running = True


class SecureTub(pb.Tub):
    """A Foolscap Tub with our TLS, our limits, and channels beside it.

    Args:
        identity: Who this process is.
        reactor: Twisted's reactor.

    Attributes:
        identity: As given.
        reactor: As given.
        tls: Makes the TLS side of all connections.
        pins: SHA-256 pins of servers by TubID, from FURLs.
        allowed: TubIDs that may connect, or None for all who know a FURL.
        tickets: The tickets that are good now.
        doorstep: The connections that have not shown their right to be here.
        relays: Takes connections that are to be relayed to others, or None to refuse them.
    """

    negotiationClass = SecureNegotiation
    brokerClass = BoundedBroker
    unsafeTracebacks = False

    def __init__(self, identity: Identity, reactor: Any) -> None:
        self.identity = identity
        self.reactor = reactor
        self.tls = TubTLS(identity)
        self.pins: dict[str, str] = {}
        self.allowed: Collection[str] | None = None
        self.tickets = Tickets(reactor)
        self.doorstep = Doorstep()
        self.relays: Guests | None = None
        self._channels: dict[str, set[Channel]] = {}
        self._opening: set[Any] = set()
        self._local_port: localport.LocalPort | None = None
        super().__init__(certData=identity, _test_options={"connect_timeout": 60})
        self.setOption("expose-remote-exception-types", False)
        self.setOption("accept-gifts", False)
        self.setOption("keepaliveTimeout", 10)
        self.setOption("disconnectTimeout", 30)
        self.addConnectionHintHandler("tcp", _DirectTCP())

    def setupEncryption(self, identity: Identity) -> None:
        """Called by Foolscap: take the identity as it is."""
        self.myCertificate = identity
        self.tubID = identity.tub_id

    def getCertData(self) -> bytes:
        """Return certificate and key in PEM form. This is a secret."""
        return self.identity.pem

    # ---------------------------------------------------------------- listening

    def listen(self, interface: str = "127.0.0.1", port: int = 0) -> Deferred[int]:
        """Accept connections, and set the Tub's location if it has none.

        Args:
            interface: Address to listen on; ``0.0.0.0`` for all.
            port: Port, or 0 for any free one.

        Returns:
            The port. It fails with ConnectError, in words, if it cannot be had.
        """
        listener = _Listener(self)
        try:
            listening = self.reactor.listenTCP(port, listener, _BACKLOG, interface)
        except CannotListenError as error:
            return fail(ConnectError(_why_not_listening(interface, port, error)))
        except (OSError, OverflowError, ValueError) as error:
            return fail(ConnectError(f"cannot listen on {interface!r}, port {port}: {error}"))
        listener._lp = listening
        self.listeners.append(listener)
        listener.setServiceParent(self)
        port = listening.getHost().port
        if not self.locationHints:
            self.setLocation(*local_location(interface, port))
        return succeed(port)

    def listen_locally(self) -> bool:
        """Also accept channels on a socket for this machine and user, where there are such.

        Returns:
            Whether there are.
        """
        if self._local_port is None and localport.supported():
            try:
                self._local_port = localport.LocalPort(self)
            except OSError as error:
                logger.warning("no local port, channels of this machine use TLS: %s", error)
        return self._local_port is not None

    @property
    def local_address(self) -> str:
        """Where :meth:`listen_locally` has it listen; empty if nowhere."""
        return "" if self._local_port is None else self._local_port.address

    def setLocation(self, *hints: str) -> None:
        """Say where this Tub can be reached; later FURLs have these hints.

        Args:
            hints: Such as ``tcp:192.168.1.2:4711``.
        """
        self.locationHints = list(hints)

    def register(self, door: Any, swissnum: str | None = None) -> Furl:
        """Make a Referenceable reachable for those who know its FURL.

        Args:
            door: The Referenceable; the Tub keeps it.
            swissnum: Its secret name; by default a new one of 160 bits.

        Returns:
            Its FURL, with this Tub's pin.

        Raises:
            ConnectError: The Tub has no location yet.
        """
        if not self.locationHints:
            raise ConnectError("a Tub that does not listen cannot have doors")
        if swissnum is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", swissnum):
            raise ValueError("a swissnum has letters, digits and -._~ only")
        swissnum = self.registerReference(door, swissnum).rpartition("/")[2]
        return Furl(self.identity.tub_id, self.identity.pin, tuple(self.locationHints), swissnum)

    def revoke(self, furl: Furl) -> None:
        """Close the door of a FURL for those who come from now on.

        Raises:
            KeyError: There is no such door.
        """
        door = self.nameToReference.get(furl.swissnum)
        if door is None:
            raise KeyError("no such door")
        self.unregisterReference(door)

    # ----------------------------------------------------------------- channels

    def issue_ticket(
        self,
        tub_id: str,
        opened: Callable[[Channel], None],
        make_channel: Callable[[], Channel],
        lifetime: float = 30.0,
    ) -> bytes:
        """Return a ticket with which ``tub_id`` may open one channel to this Tub.

        Args:
            tub_id: The peer that may use it.
            opened: Is called with the server's end, ahead of any message on it.
            make_channel: Makes the server's end.
            lifetime: Seconds until it expires.
        """
        return self.tickets.issue(tub_id, opened, make_channel, lifetime)

    def revoke_ticket(self, ticket: bytes) -> None:
        """Make a ticket worthless, if it is not used yet."""
        self.tickets.revoke(ticket)

    def adopt(self, channel: Channel, tub_id: str) -> None:
        """Tie a channel to its peer: it ends when the Foolscap connection does."""
        channel.peer = tub_id
        channel._ended = self._channel_ended
        self._channels.setdefault(tub_id, set()).add(channel)

    def knows(self, tub_id: str) -> bool:
        """Return whether there is a Foolscap connection with a peer now."""
        return TubRef(tub_id) in self.brokers

    def _channel_ended(self, channel: Channel) -> None:
        channels = self._channels.get(channel.peer)
        if channels is not None:
            channels.discard(channel)
            if not channels:
                del self._channels[channel.peer]

    def channels(self, tub_id: str | None = None) -> list[Channel]:
        """Return the channels with one peer, or all."""
        if tub_id is not None:
            return list(self._channels.get(tub_id, ()))
        return [channel for some in self._channels.values() for channel in some]

    # ---------------------------------------------------- called by Foolscap

    def brokerDetached(self, broker: Any, why: Failure) -> None:
        """A Foolscap connection is gone; so are the channels beside it."""
        super().brokerDetached(broker, why)
        tub_id = broker.remote_tubref.getTubID()
        for channel in self.channels(tub_id):
            channel.abort_later(_CHANNEL_GRACE, "the connection to the other side was lost")

    def stopService(self) -> Deferred[Any]:
        """Close all connections and ports.

        Returns:
            Fires when all of them are gone.
        """
        for opening in list(self._opening):
            opening.disconnect()
        if self._local_port is not None:
            self._local_port.close()
            self._local_port = None
        waiting: list[Deferred[Any]] = []
        for channel in self.channels():
            gone: Deferred[None] = Deferred()
            channel._ended = self._also(gone)
            waiting.append(gone)
            channel.close("this side is stopping")
        done = DeferredList(waiting)
        done.addCallback(lambda _: maybeDeferred(super(SecureTub, self).stopService))
        return done

    def _also(self, gone: Deferred[None]) -> Callable[[Channel], None]:
        def ended(channel: Channel) -> None:
            self._channel_ended(channel)
            gone.callback(None)

        return ended


def make_tub(identity: Identity, reactor: Any) -> SecureTub:
    """Return a running Tub.

    Args:
        identity: Who this process is.
        reactor: Twisted's reactor.
    """
    tub = SecureTub(identity, reactor)
    tub.startService()
    return tub


def _why_not_listening(interface: str, port: int, error: CannotListenError) -> str:
    where = f"port {port} of {interface or 'all interfaces'}"
    cause = error.socketError
    number = getattr(cause, "errno", None)
    if number == errno.EADDRINUSE:
        return f"{where} is in use: another process listens there"
    if number == errno.EACCES:
        return f"{where} needs privileges: take one from 1024 on"
    if number == errno.EADDRNOTAVAIL or isinstance(cause, socket.gaierror):
        return f"{interface} is not an address of this machine"
    return f"cannot listen on {where}: {os.strerror(number) if number else cause}"
