# mypy: allow-untyped-calls
"""What is different from stock Foolscap between the first byte and a usable connection.

* Only our TLS (:mod:`ipkernel.wire.security`), and clients check the FURL's pin.
* A first byte of ``0x16`` is the ClientHello of a channel, on the same port; an ``R`` begins a
  connection that is to be relayed (:mod:`ipkernel.wire.relay`), where there is somebody who does.
* A stranger may look one name up, in 2 KB and 5 seconds, and has it right or is dropped.
  Nothing that he sends is kept beyond that, logged above debug level or shown as a traceback.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from foolscap import broker, negotiate
from foolscap.tokens import NegotiationError, RemoteNegotiationError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from ipkernel.wire.channel import READ_SIZE, Channel
from ipkernel.wire.channeltls import ChannelTLS
from ipkernel.wire.relay import RELAY_BYTE, Guests, RelayGate
from ipkernel.wire.security import peer_certificate
from ipkernel.wire.tickets import TICKET_SIZE

if TYPE_CHECKING:
    from ipkernel.wire.tub import SecureTub

logger = logging.getLogger(__name__)

#: What a stranger may send through Foolscap before he has named a door, in bytes.
STRANGER_BYTES: Final = 2048
#: How long he has for it, in seconds.
STRANGER_SECONDS: Final = 5.0
#: How long a connection has to come as far as that, in seconds.
NEGOTIATION_SECONDS: Final = 10
#: The longest token from a peer that connected to us, in bytes.
INBOUND_TOKEN: Final = 1 << 20
#: The longest token from a server that we connected to: an answer of a door, in bytes.
OUTBOUND_TOKEN: Final = 17 << 20
#: A connection that was closed has so many seconds to say goodbye.
GOODBYE_SECONDS: Final = 0.5

_TLS_HANDSHAKE = b"\x16"
_GREETING = b"GET /id/"

STALE: Final = "the certificate is not the one of the FURL"


class BoundedBroker(broker.Broker):
    """A Foolscap connection whose tokens are bounded; used for servers that we dialled."""

    logReceiveErrors = False
    max_token = OUTBOUND_TOKEN
    transport: Any
    tub: Any = None
    _goodbye: Any = None

    def dataReceived(self, chunk: bytes) -> None:
        """Take in bytes; too long a token ends the connection."""
        super().dataReceived(chunk)
        if len(self.buffer) > self.max_token:
            self.turn_away(f"a token of more than {self.max_token} bytes")

    def turn_away(self, reason: str) -> None:
        """Drop the connection at once."""
        logger.debug("Foolscap connection from %s dropped: %s", self._who(), reason)
        self.connectionAbandoned = True
        self.buffer.clear()
        self.transport.abortConnection()

    def sendError(self, msg: str) -> None:
        """Tell the peer what it did wrong, and hang up."""
        super().sendError(str(msg)[:500])

    def reportReceiveError(self, failure: Failure) -> None:
        """The peer sent something that is not Foolscap: one line, no traceback."""
        logger.debug(
            "Foolscap connection from %s dropped: %.200s", self._who(), failure.getErrorMessage()
        )
        self.buffer.clear()
        self._abort_soon()

    def shutdown(self, why: Failure, fireDisconnectWatchers: bool = True) -> None:
        """Stop using the connection; a peer that does not answer is not waited for."""
        super().shutdown(why, fireDisconnectWatchers)
        self._abort_soon()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None:
            goodbye.cancel()
        super().connectionLost(reason)

    def _abort_soon(self) -> None:
        if self._goodbye is None and self.transport is not None and self._is_tcp():
            self._goodbye = self.tub.reactor.callLater(GOODBYE_SECONDS, self._abort)

    def _abort(self) -> None:
        self._goodbye = None
        self.transport.abortConnection()

    def _is_tcp(self) -> bool:
        return hasattr(self.transport, "abortConnection")

    def _who(self) -> str:
        return str(getattr(self.transport.getPeer(), "host", "?"))


class InboundBroker(BoundedBroker):
    """A Foolscap connection from somebody who has to show first that he knows a door.

    Args:
        guest: The negotiation that led here, as it stands on the Tub's doorstep.
    """

    max_token = INBOUND_TOKEN

    def __init__(self, *args: Any, guest: SecureNegotiation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guest = guest
        self._authorised = False
        self._stranger_bytes = 0
        self._patience: Any = None

    def connectionMade(self) -> None:
        """Negotiation is over; the look-up must follow."""
        self._patience = self.tub.reactor.callLater(STRANGER_SECONDS, self._out_of_patience)
        super().connectionMade()

    def dataReceived(self, chunk: bytes) -> None:
        """Take in bytes, from a stranger only a few."""
        if not self._authorised:
            self._stranger_bytes += len(chunk)
            if self._stranger_bytes > STRANGER_BYTES:
                if not self.connectionAbandoned:
                    self.turn_away("too many bytes ahead of a valid look-up")
                return
        super().dataReceived(chunk)

    def remote_getReferenceByName(self, name: bytes) -> Any:
        """Look a door up; a stranger who names none is dropped."""
        if self._authorised:
            return super().remote_getReferenceByName(name)
        try:
            found = super().remote_getReferenceByName(name)
        except Exception:
            # Let the answer leave first, so that an honest client can say what is wrong.
            self.tub.reactor.callLater(0, self._refuse)
            raise
        self._authorised = True
        self._let_in()
        return found

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self._let_in()
        super().connectionLost(reason)

    def _refuse(self) -> None:
        if not self._authorised and self.transport is not None:
            logger.debug("Foolscap connection from %s dropped: no such door", self._who())
            self.connectionAbandoned = True
            self.transport.loseConnection()
            self._abort_soon()

    def _out_of_patience(self) -> None:
        self._patience = None
        self.turn_away(f"no valid look-up within {STRANGER_SECONDS:g} s")

    def _let_in(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()
        self.tub.doorstep.left(self._guest)


class SecureNegotiation(negotiate.Negotiation):
    """Foolscap's negotiation with our TLS, our limits, and channels on the same port."""

    SERVER_TIMEOUT = NEGOTIATION_SECONDS
    transport: Any
    tub: Any = None
    brokerClass: Any

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Foolscap's own log of negotiations is not kept."""

    # ----------------------------------------------------------- as a server

    def connectionMadeServer(self) -> None:
        """A connection was accepted."""
        super().connectionMadeServer()
        self.listener.tub.doorstep.arrived(self)

    def dataReceived(self, chunk: bytes) -> None:
        """Take in bytes of the negotiation; the first one tells a channel from Foolscap."""
        if self.receive_phase == negotiate.ABANDONED:
            return
        if self.isClient:
            super().dataReceived(chunk)
            return
        if self.receive_phase == negotiate.PLAINTEXT and chunk:
            if not self.buffer and chunk.startswith(_TLS_HANDSHAKE):
                self._become_channel(chunk)
                return
            guests = self.listener.tub.relays
            if not self.buffer and guests is not None and chunk.startswith(RELAY_BYTE):
                self._become_relay(chunk, guests)
                return
            start = (self.buffer + chunk)[: len(_GREETING)]
            if not _GREETING.startswith(start):
                self.turn_away("neither Foolscap nor a channel")
                return
            self.listener.tub.doorstep.spoke(self)
        super().dataReceived(chunk)
        if self.failureReason is not None:  # the connection is being closed: hear no more
            logger.debug(
                "negotiation with %s failed: %.200s", self._who(), self.failureReason.value
            )
            self.receive_phase = negotiate.ABANDONED
            self.buffer = b""

    def turn_away(self, reason: str) -> None:
        """Drop the connection at once."""
        logger.debug("connection from %s dropped: %s", self._who(), reason)
        self.receive_phase = negotiate.ABANDONED
        self.buffer = b""
        self.transport.abortConnection()

    def negotiationTimedOut(self) -> None:
        """The peer took too long, or did not close after a failure."""
        if self.isClient:
            super().negotiationTimedOut()
            return
        self.negotiationTimer = None
        self.turn_away(f"no negotiation within {NEGOTIATION_SECONDS} s")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended before negotiation did."""
        if not self.isClient:
            self.listener.tub.doorstep.left(self)
        super().connectionLost(reason)

    def _become_channel(self, hello: bytes) -> None:
        receive_ticket(self._leave(), self.transport, hello)

    def _become_relay(self, first: bytes, guests: Guests) -> None:
        gate = RelayGate(self._leave(), guests)
        self.transport.protocol = gate
        gate.makeConnection(self.transport)
        gate.dataReceived(first)

    def _leave(self) -> SecureTub:
        """Have no more to do with the connection; return the Tub that accepted it."""
        tub: SecureTub = self.listener.tub
        self.stopNegotiationTimer()
        self.receive_phase = negotiate.ABANDONED
        tub.doorstep.left(self)
        return tub

    # ------------------------------------------------------------ both sides

    def startTLS(self, certificate: object) -> None:
        """Speak TLS from here on."""
        self.transport.startTLS(self.tub.tls)

    def handleENCRYPTED(self, header: bytes) -> None:
        """The peer's offer has arrived: see who it is before anything in it is used."""
        self.theirCertificate = peer_certificate(self.transport)
        if self.theirCertificate is not None:
            self._check_peer(self.theirCertificate.tub_id, self.theirCertificate.pin)
        hello = self.parseLines(header)
        if "error" in hello:
            raise RemoteNegotiationError(hello["error"])
        self.evaluateHello(hello)

    def _check_peer(self, tub_id: str, pin: str) -> None:
        if self.isClient:
            expected = self.tub.pins.get(self.target.getTubID())
            if expected is not None and expected != pin:
                raise NegotiationError(STALE)
        elif self.tub.allowed is not None and tub_id not in self.tub.allowed:
            raise NegotiationError("this Tub is not on the list of those who may connect")

    def switchToBanana(self, params: dict[str, Any]) -> None:
        """Negotiation is over."""
        if self.isClient:
            self.brokerClass = BoundedBroker
        else:
            self.brokerClass = partial(InboundBroker, guest=self)
        super().switchToBanana(params)

    def _who(self) -> str:
        return str(getattr(self.transport.getPeer(), "host", "?"))


def tls_factory(tub: SecureTub, is_client: bool, wrapped: Factory) -> TLSMemoryBIOFactory:
    """Return a factory for the TLS of channels.

    It leaves out Twisted's gathering of small writes: a channel gathers its own, and a
    second wait for the end of the turn would only cost time.
    """
    factory = TLSMemoryBIOFactory(tub.tls, is_client, wrapped, tub.reactor)
    factory.protocol = ChannelTLS
    factory.noisy = False
    return factory


def receive_ticket(tub: SecureTub, transport: Any, hello: bytes) -> None:
    """Speak TLS on an accepted connection and wait for the ticket of a channel.

    Args:
        tub: Whose port it is.
        transport: The connection.
        hello: The bytes that have arrived already.
    """
    transport.bufferSize = READ_SIZE
    transport.setTcpNoDelay(True)
    tls = ChannelTLS(tls_factory(tub, False, Factory()), TicketGate(tub))
    transport.protocol = tls
    tls.makeConnection(transport)
    tls.dataReceived(hello)


class TicketGate(Protocol):
    """The server's side of a channel until the ticket has been seen. It never answers.

    Args:
        tub: Whose tickets they are.
    """

    transport: Any

    def __init__(self, tub: SecureTub) -> None:
        self._tub = tub
        self._buffer = b""
        self._patience: Any = None

    def connectionMade(self) -> None:
        """TLS begins."""
        self._tub.doorstep.spoke(self)
        self._patience = self._tub.reactor.callLater(NEGOTIATION_SECONDS, self._out_of_patience)

    def dataReceived(self, data: bytes) -> None:
        """The first bytes are the ticket; what follows belongs to the channel."""
        self._buffer += data
        if len(self._buffer) < TICKET_SIZE:
            return
        shown, rest = self._buffer[:TICKET_SIZE], self._buffer[TICKET_SIZE:]
        self._buffer = b""
        tub_id = self._peer_tub_id(shown)
        ticket = self._tub.tickets.redeem(shown, tub_id)
        if ticket is None or not self._tub.knows(tub_id):
            self.turn_away("no such ticket" if ticket is None else "no Foolscap connection")
            return
        self._leave()
        channel = ticket.make_channel()
        self._hand_over(channel)
        self._tub.adopt(channel, tub_id)
        channel.makeConnection(self.transport)
        ticket.opened(channel)
        if rest:
            channel.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended before the ticket was there."""
        self._leave()

    def turn_away(self, reason: str) -> None:
        """Drop the connection at once."""
        host = getattr(self.transport.getPeer(), "host", "?")
        logger.debug("channel from %s dropped: %s", host, reason)
        self._leave()
        self.transport.abortConnection()

    def _peer_tub_id(self, shown: bytes) -> str:
        """Return who is at the other end and shows a ticket."""
        certificate = peer_certificate(self.transport)
        return certificate.tub_id if certificate is not None else ""

    def _hand_over(self, channel: Channel) -> None:
        """Have what arrives from now on go to the channel."""
        self.transport.wrappedProtocol = channel

    def _out_of_patience(self) -> None:
        self._patience = None
        self.turn_away(f"no ticket within {NEGOTIATION_SECONDS} s")

    def _leave(self) -> None:
        self._tub.doorstep.left(self)
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()
