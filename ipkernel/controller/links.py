"""The controller's ends of the channels: messages in, events out; instructions in, messages out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ipkernel.controller.events import (
    FromClient,
    Item,
    Result,
    SessionDetached,
    SessionHeld,
    Undelivered,
)
from ipkernel.controller.journal import Forgotten
from ipkernel.controller.sessions import Session
from ipkernel.controller.turn import Turn
from ipkernel.wire.channel import Channel
from ipkernel.wire.messages import Finished, Output

#: Bytes that may be queued on a client's channel; beyond, its results wait here.
MAX_BACKLOG: Final = 8 << 20
#: Bytes of waiting results from which on nothing more is started for the client.
HOLD_BYTES: Final = 64 << 20
#: So many messages that wait for a client that takes none cost it the connection.
MAX_WAITING: Final = 1 << 20
#: What a queued message counts besides its payload, in bytes: small ones cost memory too.
_OVERHEAD: Final = 128
#: Bytes of queued payload from which on a client's messages are not acknowledged.
MAX_QUEUED: Final = 512 << 20
#: Seconds between two looks at a client that takes its results slowly.
_POLL: Final = 0.01
#: Seconds within which a peer must open the channel that it was granted.
OPEN_TIME: Final = 30.0
#: Messages, and bytes with their overhead, that may wait for a peer to open its channel.
MAX_EARLY: Final = 10_000
MAX_EARLY_BYTES: Final = 16 << 20


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
        self._early: list[Item] = []
        self._early_bytes = 0
        self._timer: Any = reactor.callLater(OPEN_TIME, self._not_opened)

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
        early, self._early = self._early, []
        if early:
            self.deliver(early)

    def deliver(self, items: list[Item]) -> None:
        """Send messages, in order. What comes before the channel is open waits for it."""
        channel = self.channel
        if self.gone:
            return
        if channel is None:
            self._queue_early(items)
            return
        send = channel.link.send
        for message, payload in items:
            send(message, payload)
        channel.flush_now()

    def _queue_early(self, items: list[Item]) -> None:
        """Keep messages until the channel is open, but not any number of them."""
        self._early += items
        self._early_bytes += sum(len(payload) + _OVERHEAD for _, payload in items)
        if len(self._early) > MAX_EARLY or self._early_bytes > MAX_EARLY_BYTES:
            self.lost("it did not open its channel while more and more waited for it")

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
        revoke, self.revoke = self.revoke, None
        if revoke is not None:
            revoke()
        if self._watch is not None:  # the connection may live on, and would keep all of this
            self.reference.dontNotifyOnDisconnect(self._watch)
            self._watch = None
        self._event_of_loss(reason, final)
        self._early = []
        self._ended(self)
        if self.channel is not None:
            self.channel.close(reason)

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

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ClientLink(Link):
    """The link to a client, which takes its results at its own pace.

    Results stay here until the client has acknowledged them.

    Args:
        number: Number of the session.
        session: Returns the scheduler's session, or None when it is no more.
        tub_id: The client's TubID.

    Attributes:
        number: As given.
        tub_id: As given.
    """

    def __init__(
        self,
        reactor: Any,
        turn: Turn,
        ended: Callable[[Any], None],
        number: int,
        session: Callable[[int], Session | None],
        tub_id: str = "",
    ) -> None:
        super().__init__(reactor, turn, ended)
        self.number = number
        self.tub_id = tub_id
        self._session = session
        self._sent = 0
        self._unacknowledged: deque[tuple[int, Result]] = deque()
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._unprocessed = 0
        self._held = False
        self._poll: Any = None

    # ----------------------------------------------------------------------- results

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages, and their bytes, that wait until the client has taken others."""
        return len(self._waiting), self._waiting_bytes

    def deliver(self, items: list[Item]) -> None:
        """Send messages now, or when the client has taken what is on the way."""
        channel = self.channel
        if self.gone:
            self.give_back(self._turn, items)
        elif channel is None:
            self._queue_early(items)
        elif self._waiting or _load(channel) > MAX_BACKLOG:
            self._wait(items)
        else:
            self._send(channel, items)
            channel.flush_now()

    def _send(self, channel: Channel, items: list[Item]) -> None:
        send = channel.link.send
        count = self._sent
        remember = self._unacknowledged.append
        for item in items:
            message, payload = item
            send(message, payload)
            count += 1
            if type(message) is Finished:
                remember((count, item))  # type: ignore[arg-type]
        self._sent = count
        self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        """Drop what the client has acknowledged."""
        unacknowledged = self._unacknowledged
        acknowledged = channel.link.acknowledged
        if not unacknowledged or unacknowledged[0][0] > acknowledged:
            return
        tasks = []
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            tasks.append(unacknowledged.popleft()[1][0].task)
        self._turn.note(Forgotten(self._turn.now(), tasks))

    def _wait(self, items: list[Item]) -> None:
        for message, payload in items:
            if self._waiting_bytes > HOLD_BYTES and isinstance(message, Output):
                continue  # results are never dropped; output that nobody reads is
            self._waiting.append((message, payload))
            self._waiting_bytes += len(payload) + _OVERHEAD
        if len(self._waiting) > MAX_WAITING:
            self.lost("it does not take what is sent to it")
            return
        if self._waiting_bytes > HOLD_BYTES and not self._held:
            self._hold(True)
        if self._poll is None:
            self._poll = self._reactor.callLater(_POLL, self._drain)

    def _drain(self) -> None:
        self._poll = None
        channel = self.channel
        if channel is None or self.gone:
            return
        waiting = self._waiting
        while waiting and _load(channel) <= MAX_BACKLOG:
            item = waiting.popleft()
            self._waiting_bytes -= len(item[1]) + _OVERHEAD
            self._send(channel, [item])
        channel.flush_now()
        if self._held and self._waiting_bytes < HOLD_BYTES // 4:
            self._hold(False)
        if self.owes:
            self.acknowledge()
        if waiting:
            self._poll = self._reactor.callLater(_POLL, self._drain)

    def _hold(self, held: bool) -> None:
        self._held = held
        self._turn.add(SessionHeld(self.number, held, self._turn.now()))

    @staticmethod
    def give_back(turn: Turn, items: list[Item]) -> None:
        """Return results to the scheduler that were for a client that has gone meanwhile."""
        results: list[Any] = [item for item in items if isinstance(item[0], Finished)]
        if results:
            turn.add(Undelivered(results, turn.now()))

    # ---------------------------------------------------------------------- messages

    def _received(self, channel: Channel, items: list[Item]) -> None:
        if self.gone:
            return
        turn = self._turn
        turn.add(FromClient(self.number, items, turn.now()), self, len(items))

    def processed(self, count: int) -> None:
        """So many messages are safe; acknowledge them unless too much payload is queued."""
        self._unprocessed += count
        self.acknowledge()

    def acknowledge(self) -> bool:
        """Acknowledge what is safe, if the session's queues allow it; tell whether it did."""
        if self._waiting_bytes > HOLD_BYTES:
            return False  # what it sends makes answers, and it does not take those
        session = self._session(self.number)
        if session is not None and session.bytes >= MAX_QUEUED:
            return False
        count, self._unprocessed = self._unprocessed, 0
        super().processed(count)
        return True

    @property
    def owes(self) -> bool:
        """Whether messages of the client wait to be acknowledged."""
        return self._unprocessed > 0

    # -------------------------------------------------------------------------- loss

    def _event_of_loss(self, reason: str, final: bool) -> None:
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self.channel is not None:
            self._forget(self.channel)
        undelivered = [result for _, result in self._unacknowledged]
        rest = [*self._waiting, *self._early]
        undelivered += [item for item in rest if isinstance(item[0], Finished)]  # type: ignore[misc]
        self._unacknowledged.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._turn.add(SessionDetached(self.number, undelivered, self._turn.now()))


def _load(channel: Channel) -> int:
    """Return what is queued on a channel, in bytes, small messages included."""
    count, size = channel.backlog
    return size + count * _OVERHEAD
