"""The controller's ends of the connections of peers: what is the same for clients and hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ipkernel.controller.events import Item
from ipkernel.controller.turn import Turn
from ipkernel.wire.channel import Channel

#: Seconds within which a peer must open the channel that it was granted.
OPEN_TIME: Final = 30.0
#: Messages, and bytes with their overhead, that may wait for a peer to open its channel.
MAX_EARLY: Final = 10_000
MAX_EARLY_BYTES: Final = 16 << 20
#: So many messages that a host has not taken cost it the connection: no host is given that much to do.
MAX_UNTAKEN: Final = 1 << 18


class Link:
    """One peer: its Foolscap reference, its channel, and whether it is still there.

    Args:
        reactor: Twisted's reactor, or a Clock.
        turn: Takes events.
        ended: Is called once, with the link, when the peer is gone.

    Attributes:
        channel: The channel, once the peer has opened it.
        reference: The peer's Foolscap object, or None in tests.
        revoke: Makes the ticket for the channel worthless; is called when the peer is gone.
        gone: Whether the peer is gone.
    """

    def __init__(self, reactor: Any, turn: Turn, ended: Callable[[Any], None]) -> None:
        self.channel: Channel | None = None
        self.reference: Any = None
        self.revoke: Callable[[], None] | None = None
        self.gone = False
        self._reactor = reactor
        self._turn = turn
        self._ended = ended
        self._watch: Any = None
        self._timer: Any = None
        self._expect_channel()

    def watch(self, reference: Any) -> None:
        """End when the connection to a peer's Foolscap object does."""
        self.reference = reference
        self._watch = reference.notifyOnDisconnect(self.lost, "its connection was lost")

    def make_channel(self) -> Channel:
        """Return this end of the channel, not connected yet."""
        return Channel(
            self._reactor,
            received=self._received,
            lost=self._channel_lost,
            auto_acknowledge=False,
        )

    def opened(self, channel: Channel) -> None:
        """The peer has opened its channel."""
        self._stop_timer()
        if self.gone or self.channel is not None:
            channel.close("this channel is not expected")
            return
        self.channel = channel
        self.revoke = None  # the ticket is used up

    def deliver(self, items: list[Item]) -> None:
        """Send messages, in order. What comes before the channel is open waits for it."""
        raise AssertionError("a link knows what it sends")

    def processed(self, count: int) -> None:
        """So many of the peer's messages are safe: it may send more."""
        if self.channel is not None and not self.gone:
            self.channel.acknowledge(count)

    def lost(self, reason: str, *, final: bool = False) -> None:
        """The connection is lost, and with ``final`` the peer; further calls do nothing."""
        if self.gone:
            return
        self.gone = True
        self._stop_timer()
        self._let_go()
        self._event_of_loss(reason, final)
        self._ended(self)
        if self.channel is not None:
            self.channel.close(reason)

    def _let_go(self) -> None:
        """Have nothing more to do with the peer's connection."""
        revoke, self.revoke = self.revoke, None
        if revoke is not None:
            revoke()
        if self._watch is not None:  # the connection may live on, and would keep all of this
            self.reference.dontNotifyOnDisconnect(self._watch)
            self._watch = None

    def _received(self, channel: Channel, items: list[Any]) -> None:
        raise AssertionError("a link knows what it receives")

    def _event_of_loss(self, reason: str, final: bool) -> None:
        raise AssertionError("a link knows what its loss means")

    def _channel_lost(self, channel: Channel, reason: str) -> None:
        if channel is self.channel:
            self.lost(reason)

    def _not_opened(self) -> None:
        self._timer = None
        self.lost("it did not open the channel that it was granted")

    def _expect_channel(self) -> None:
        self._timer = self._reactor.callLater(OPEN_TIME, self._not_opened)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
