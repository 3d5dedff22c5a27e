"""The controller's end of the channel of a host daemon, which outlives its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ipkernel.controller.events import FromHost, HostAway, HostLost, Item
from ipkernel.controller.links import MAX_EARLY, MAX_EARLY_BYTES, MAX_UNTAKEN, Link
from ipkernel.controller.turn import Turn
from ipkernel.wire.channel import Channel
from ipkernel.wire.messages import Closing
from ipkernel.wire.outage import notice_outage
from ipkernel.wire.replay import Replay

#: Seconds after which the connection to a host counts as lost whose machine does not answer.
OUTAGE: Final = 10
#: Seconds of silence that are told when a host is lost.
SILENT: Final = 5.0


class HostLink(Link):
    """One connection to a host daemon.

    What is sent is kept until the host has acknowledged it, for the next connection.

    Args:
        host: The host's number.
        tub_id: Its TubID.
        replay: What was sent on earlier connections and may have to be sent again.
        grace: Seconds within which the host may come back when the connection is lost.

    Attributes:
        host: As given.
        tub_id: As given.
        replay: What the host has not acknowledged.
        may_return: Whether the host may come back, now that the connection is lost.
        reason: Why it was lost.
        heard: When the host has last said something.
    """

    def __init__(
        self,
        reactor: Any,
        turn: Turn,
        ended: Callable[[Any], None],
        host: int,
        tub_id: str,
        replay: Replay | None = None,
        grace: float = 0.0,
    ) -> None:
        super().__init__(reactor, turn, ended)
        self.host = host
        self.tub_id = tub_id
        self.replay = Replay() if replay is None else replay
        self.may_return = False
        self.reason = ""
        self._grace = grace
        self._leaving = False
        self.heard = reactor.seconds()
        self._resent = len(self.replay), self.replay.bytes

    def opened(self, channel: Channel) -> None:
        """The host has opened its channel: send what it has not got yet."""
        super().opened(channel)
        if self.channel is channel:
            notice_outage(channel.transport, OUTAGE)
            channel.watch()
            self._send(channel, self.replay)

    def deliver(self, items: list[Item]) -> None:
        """Send messages, in order, and keep them until the host has taken them."""
        if self.gone:
            return
        replay = self.replay
        replay.extend(items)
        channel = self.channel
        if channel is not None:
            self._send(channel, items)
            replay.acknowledged(channel.link.acknowledged)
            if len(replay) > MAX_UNTAKEN:
                self.lost("it does not take what is sent to it", final=True)
            return
        count, size = self._resent
        if len(replay) - count > MAX_EARLY or replay.bytes - size > MAX_EARLY_BYTES:
            self.lost("it did not open its channel while more and more waited for it", final=True)

    def _send(self, channel: Channel, items: Any) -> None:
        send = channel.link.send
        for message, payload in items:
            send(message, payload)
        channel.flush_now()

    def _received(self, channel: Channel, items: list[Item]) -> None:
        if self.gone:
            return
        turn = self._turn
        self.heard = turn.now()
        self.replay.acknowledged(channel.link.acknowledged)
        if type(items[-1][0]) is Closing:
            self._leaving = True
        turn.add(FromHost(self.host, items, self.heard), self, len(items))

    def _event_of_loss(self, reason: str, final: bool) -> None:
        now = self._turn.now()
        silent = now - self.heard
        if silent >= SILENT:  # it says something every other second
            reason += f"; nothing was heard of it for {silent:.0f} s"
        self.reason = reason
        if self.channel is not None:
            self.replay.acknowledged(self.channel.link.acknowledged)
        self.may_return = not final and not self._leaving and self._grace > 0.0
        if self.may_return:
            self._turn.add(HostAway(self.host, reason, now + self._grace, now))
        else:
            self._turn.add(HostLost(self.host, reason, now))
