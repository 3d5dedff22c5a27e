"""The daemon's end of the link to an engine: a channel without TLS, on a local socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.protocol import Factory

from ipkernel.wire.channel import Channel
from ipkernel.wire.link import Received

__all__ = ["EngineLink", "adopt"]

#: Bytes read at a time.
READ: Final = 1 << 18


class EngineLink(Channel):
    """A channel whose owner may change, as a process first has to say which engine it is.

    Args:
        reactor: Twisted's reactor.

    Attributes:
        on_messages: Is called with this link and what has arrived.
        on_lost: Is called once, with this link and a reason.
    """

    def __init__(self, reactor: Any) -> None:
        self.on_messages: Callable[[EngineLink, list[Received]], None] | None = None
        self.on_lost: Callable[[EngineLink, str], None] | None = None
        super().__init__(reactor, received=self._deliver, lost=self._ended_with)

    def connectionMade(self) -> None:
        """The engine can be talked to."""
        self.transport.bufferSize = READ
        super().connectionMade()

    def _deliver(self, channel: Channel, batch: list[Received]) -> None:
        if self.on_messages is not None:
            self.on_messages(self, batch)

    def _ended_with(self, channel: Channel, reason: str) -> None:
        if self.on_lost is not None:
            self.on_lost(self, reason)


def adopt(reactor: Any, sock: socket.socket) -> EngineLink:
    """Make a link of a connected UNIX socket, which is then the reactor's.

    Args:
        reactor: Twisted's reactor.
        sock: The daemon's end.
    """
    link = EngineLink(reactor)
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda address: link  # type: ignore[method-assign]
    sock.setblocking(False)
    reactor.adoptStreamConnection(sock.fileno(), sock.family, factory)
    sock.close()
    return link
