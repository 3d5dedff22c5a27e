"""The beginning of a relayed connection: a letter and a token ahead of somebody else's TLS.

Two peers that cannot reach each other both connect to the controller's port and show the token that
it has given them. From then on it passes what they send, which it cannot read.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from ipkernel.wire.tub import SecureTub

logger = logging.getLogger(__name__)

#: The first byte of a relayed connection.
RELAY_BYTE: Final = b"R"
#: Bytes in a token.
TOKEN_SIZE: Final = 32
#: Seconds in which the token must be there.
TOKEN_SECONDS: Final = 10.0


class Guests(Interface):
    """Who knows the tokens, and what is to be done with those who show one."""

    def arrived(self, token: bytes, guest: RelayGate) -> bool:
        """Somebody has shown a token; return whether it is good. Nothing is read from him yet."""

    def left(self, guest: RelayGate) -> None:
        """Somebody with a good token has gone, before he was handed over or released."""


class RelayGate(Protocol):
    """An accepted connection until it has shown its token, and while it waits for its partner.

    A stranger may send the few bytes of a token within some seconds, and is never answered.

    Args:
        tub: Whose port it is.
        guests: Knows the tokens.

    Attributes:
        early: What was received together with the token, and belongs to the partner.
    """

    transport: Any

    def __init__(self, tub: SecureTub, guests: Guests) -> None:
        self.early = b""
        self._tub = tub
        self._guests = guests
        self._buffer = b""
        self._welcome = False
        self._patience: Any = None
        self._released: Deferred[None] | None = None

    def connectionMade(self) -> None:
        """The first byte said what this is."""
        self._tub.doorstep.spoke(self)
        self._patience = self._tub.reactor.callLater(TOKEN_SECONDS, self._out_of_patience)

    def dataReceived(self, data: bytes) -> None:
        """Gather the token."""
        self._buffer += data
        end = len(RELAY_BYTE) + TOKEN_SIZE
        if len(self._buffer) < end:
            return
        token, self.early = self._buffer[len(RELAY_BYTE) : end], self._buffer[end:]
        self._buffer = b""
        self._leave_doorstep()
        self.transport.pauseProducing()
        self._welcome = True
        if not self._guests.arrived(token, self):
            self._welcome = False
            self.turn_away("no such token")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended, or was taken out of the reactor."""
        self._leave_doorstep()
        released, self._released = self._released, None
        if released is not None:
            released.callback(None)
        elif self._welcome:
            self._welcome = False
            self._guests.left(self)

    def turn_away(self, reason: str) -> None:
        """Drop the connection at once."""
        host = getattr(self.transport.getPeer(), "host", "?")
        logger.debug("relayed connection from %s dropped: %s", host, reason)
        self._leave_doorstep()
        self._welcome = False
        self.early = b""
        self.transport.abortConnection()

    def hand_over(self, protocol: Protocol) -> None:
        """Let another protocol have the connection; it is still paused."""
        self._welcome = False
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def duplicate(self) -> socket.socket:
        """Return a second descriptor of the connection, which is the caller's to close.

        Raises:
            OSError: There is none to be had.
        """
        copy = socket.socket(fileno=os.dup(self.transport.fileno()))
        copy.setblocking(False)
        return copy

    def release(self) -> Deferred[None]:
        """Take the connection out of the reactor without ending it: duplicates go on.

        Returns:
            Fires when the reactor does not use it any more.
        """
        self._released = Deferred()
        self.transport._shouldShutdown = False  # it closes its own descriptor and no more
        self.transport.loseConnection()
        return self._released

    def _out_of_patience(self) -> None:
        self._patience = None
        self.turn_away(f"no token within {TOKEN_SECONDS:g} s")

    def _leave_doorstep(self) -> None:
        self._tub.doorstep.left(self)
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()
