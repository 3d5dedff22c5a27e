"""The controller's end of a client's session, which outlives the connections it is carried by."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from ipkernel.controller.events import (
    FromClient,
    Item,
    SessionDetached,
    SessionHeld,
    Undelivered,
)
from ipkernel.controller.journal import Forgotten
from ipkernel.controller.links import MAX_EARLY, MAX_EARLY_BYTES, Link
from ipkernel.controller.sessions import Session
from ipkernel.controller.turn import Turn
from ipkernel.wire.channel import Channel
from ipkernel.wire.dropped import Dropped, may_be_dropped
from ipkernel.wire.messages import Closing, Fetch, Finished, Message, Output
from ipkernel.wire.outage import notice_outage
from ipkernel.wire.replay import Replay

logger = logging.getLogger(__name__)

#: Bytes that may be queued on a client's channel; beyond, its results wait here.
MAX_BACKLOG: Final = 8 << 20
#: Bytes of waiting results from which on nothing more is started for the client.
HOLD_BYTES: Final = 64 << 20
#: So many messages that wait for a client that takes none cost it the connection.
MAX_WAITING: Final = 1 << 20
#: What a queued message counts besides its payload, in bytes: small ones cost memory too.
_OVERHEAD: Final = 128
#: Bytes of queued payload from which on a client's messages are not acknowledged, and what a task
#: counts besides.
MAX_QUEUED: Final = 512 << 20
_TASK: Final = 128
#: Seconds between two looks at a client that takes its results slowly.
_POLL: Final = 0.01
#: Seconds after which a connection is lost whose other machine does not answer any more.
OUTAGE: Final = 10
#: Seconds that a client whose connection was lost has for coming back without having missed
#: anything, and between two looks at whether there is still a reason to wait for it.
CLIENT_GRACE: Final = 60.0
_AWAY_LOOK: Final = 0.25
#: Seconds that its session is kept after that, for a client that comes back late.
KEEP_SESSION: Final = 600.0


class ClientLink(Link):
    """The link to a client, which takes its results at its own pace.

    A session outlives its connections. What was sent stays here until the client has acknowledged it;
    when a connection is lost, what comes for the client is added to that, until it is back. After a
    while, or when it becomes too much, the client is taken to be gone, and its results are given back
    to the scheduler, who keeps them for whoever comes.

    Args:
        number: Number of the session.
        session: Returns the scheduler's session, or None when it is no more.
        tub_id: The client's TubID.
        resumed: Whether the session is older than this link, and goes on with it.
        patience: Seconds to wait for a client whose connection was lost.
        is_gone: Tells whether the client's process is known to be gone.
        away: The links whose clients are away, by number; shared by all of them.

    Attributes:
        number: As given.
        tub_id: As given.
        reason: Why the client is gone, or its connection lost.
    """

    def __init__(
        self,
        reactor: Any,
        turn: Turn,
        ended: Callable[[Any], None],
        number: int,
        session: Callable[[int], Session | None],
        tub_id: str = "",
        *,
        resumed: bool = False,
        patience: float = CLIENT_GRACE,
        is_gone: Callable[[], bool] = lambda: False,
        away: dict[int, ClientLink] | None = None,
    ) -> None:
        super().__init__(reactor, turn, ended)
        self.number = number
        self.tub_id = tub_id
        self.reason = ""
        self._session = session
        self._resumed = resumed
        self._patience = patience
        self._is_gone = is_gone
        self._away = {} if away is None else away
        self._deadline = 0.0
        self._looking: Any = None
        self._begun = self._parting = False
        self._keep = 0.0
        self._replay = Replay()
        self._acknowledged = 0
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._dropped = Dropped("the client did not take it in time")
        self._unprocessed = 0
        self._held = False
        self._poll: Any = None

    # ----------------------------------------------------------------------- results

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages, and their bytes, that wait until the client has taken others."""
        return len(self._waiting), self._waiting_bytes

    def deliver(self, items: list[Item]) -> None:
        """Send messages now, or when the client has taken what is on the way, or is back."""
        channel = self.channel
        if self.gone:
            self.give_back(self._turn, items)
        elif channel is None or self._waiting or _load(channel) > MAX_BACKLOG:
            self._wait(items)
        else:
            self._send(channel, [*self._dropped.take(), *items] if self._dropped else items)
            channel.flush_now()

    def _send(self, channel: Channel, items: list[Item]) -> None:
        send = channel.link.send
        keep = self._replay.add
        for message, payload in items:
            keep(message, payload)
            send(message, payload)
        self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        """Drop what the client has acknowledged."""
        acknowledged = channel.link.acknowledged
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._note(self._replay.acknowledged(acknowledged))

    def _note(self, gone: Iterable[tuple[Message, Any]]) -> None:
        tasks = [message.task for message, _ in gone if type(message) is Finished]
        if tasks:
            self._turn.note(Forgotten(self._turn.now(), tasks))

    def _wait(self, items: list[Item]) -> None:
        for message, payload in items:
            if self._waiting_bytes > HOLD_BYTES and may_be_dropped(message):
                self._dropped.add(message)  # results never are
                continue
            self._put([*self._dropped.take(), (message, payload)])
        if len(self._waiting) > MAX_WAITING:
            self.lost("it does not take what is sent to it", final=True)
        elif self.channel is None:
            self._wait_without_channel()
        else:
            if self._waiting_bytes > HOLD_BYTES and not self._held:
                self._hold(True)
            if self._poll is None:
                self._poll = self._reactor.callLater(_POLL, self._drain)

    def _put(self, items: list[Item]) -> None:
        for item in items:
            self._waiting.append(item)
            self._waiting_bytes += len(item[1]) + _OVERHEAD

    def _wait_without_channel(self) -> None:
        """See that not too much waits for a client that has no channel now."""
        count, size = self.waiting
        if not self._lasting and (count > MAX_EARLY or size > MAX_EARLY_BYTES):
            text = "it did not open its channel while more and more waited for it"
            self.lost(text, final=True)
        elif size > HOLD_BYTES and self.number in self._away:
            self.give_up("it is away, and too much waits for it")

    @property
    def _lasting(self) -> bool:
        """Whether the session has ever had a channel."""
        return self._begun or self._resumed

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
        """Return results and output to the scheduler that were for a client that has gone."""
        undelivered = _worth_keeping(items)
        if undelivered:
            turn.add(Undelivered(undelivered, turn.now()))

    # ---------------------------------------------------------------------- messages

    def _received(self, channel: Channel, items: list[Item]) -> None:
        if self.gone or channel is not self.channel:
            return
        count = len(items)
        if type(items[-1][0]) is Closing:
            self._parting = True  # it says so last, and of its own will
            items = items[:-1]
        if self._away:
            self._give_up_wanted(items)
        turn = self._turn
        turn.add(FromClient(self.number, items, turn.now()), self, count)

    def _give_up_wanted(self, items: list[Item]) -> None:
        """Have those who are away taken for gone whose results are asked for by this client."""
        wanted = [task for message, _ in items if type(message) is Fetch for task in message.tasks]
        for number in {task >> 40 for task in wanted} & self._away.keys():
            self._away[number].give_up("another client asks for its results")

    def processed(self, count: int) -> None:
        """So many messages are safe; acknowledge them unless too much payload is queued."""
        self._unprocessed += count
        self.acknowledge()

    def acknowledge(self) -> bool:
        """Acknowledge what is safe, if the session's queues allow it; tell whether it did."""
        if self._waiting_bytes > HOLD_BYTES:
            return False  # what it sends makes answers, and it does not take those
        session = self._session(self.number)
        if session is not None and session.bytes + session.open * _TASK >= MAX_QUEUED:
            return False
        count, self._unprocessed = self._unprocessed, 0
        super().processed(count)
        return True

    @property
    def owes(self) -> bool:
        """Whether messages of the client wait to be acknowledged."""
        return self._unprocessed > 0

    # -------------------------------------------------------------------------- loss

    def lost(self, reason: str, *, final: bool = False) -> None:
        """The connection is lost; the client may come back, unless it has ended or this is final."""
        if self.gone:
            return
        self.reason = reason
        # One that has not opened its channel may not know that it was let in again.
        unsure = self._resumed and not self._begun
        if final or unsure or self._parting or self._is_gone():
            self._keep = 0.0 if final or self._parting or not self._lasting else KEEP_SESSION
            super().lost(reason, final=True)
            return
        self._stop_timer()
        self._let_go()
        self._end_poll()
        channel = self.channel
        if channel is not None:
            self._forget(channel)
            self.channel = None
            channel.close(reason)
        if self.number not in self._away:
            logger.info("session %d: its client is away: %s", self.number, reason)
            self._away[self.number] = self
            self._deadline = self._reactor.seconds() + self._patience
            self._looking = self._reactor.callLater(0, self._look)

    def give_up(self, reason: str) -> None:
        """Wait no longer for a client that is away; it may still come back to its session."""
        self.reason = reason
        self._keep = KEEP_SESSION if self._lasting else 0.0
        super().lost(reason, final=True)

    def resume(self, received: int) -> None:
        """The client is back, and will open a channel.

        Args:
            received: How many messages of the session it has taken.

        Raises:
            ValueError: That cannot be.
        """
        count = received - self._replay.taken
        gone = list(islice(self._replay, max(0, count)))
        self._replay.resume(received)
        self._note(gone)
        self._unprocessed = 0  # it is told of what was taken in another way
        self._stop_timer()  # it may have been granted one already, and have asked again since
        self._let_go()
        self._expect_channel()

    def opened(self, channel: Channel) -> None:
        """The client has opened its channel: what it has not taken goes first."""
        if not self.gone and self.channel is None:
            for message, payload in self._replay:
                channel.link.send(message, payload)
            self._acknowledged = 0
            self._stop_looking()
        super().opened(channel)
        if not self.gone:
            self._begun = True
            notice_outage(channel.transport, OUTAGE)
            channel.watch()
            channel.flush_now()
            self._drain()

    def _not_opened(self) -> None:
        self._timer = None
        text = "it did not open the channel that it was granted"
        self.lost(text, final=not self._lasting)

    def _look(self) -> None:
        """See whether there is still a reason to wait for a client that is away."""
        self._looking = None
        if self._is_gone():
            self.give_up("its process has ended")
        elif self._reactor.seconds() >= self._deadline:
            self.give_up(f"it did not come back within {self._patience:g} s")
        else:
            self._looking = self._reactor.callLater(_AWAY_LOOK, self._look)

    def _stop_looking(self) -> None:
        self._away.pop(self.number, None)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _end_poll(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _event_of_loss(self, reason: str, final: bool) -> None:
        self._end_poll()
        self._stop_looking()
        if self.channel is not None:
            self._forget(self.channel)
        undelivered = _worth_keeping([*self._replay, *self._waiting, *self._dropped.take()])
        self._replay.restart()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._turn.add(SessionDetached(self.number, undelivered, self._turn.now(), self._keep))


def _worth_keeping(items: Iterable[Any]) -> list[Item]:
    return [item for item in items if isinstance(item[0], (Finished, Output))]


def _load(channel: Channel) -> int:
    """Return what is queued on a channel, in bytes, small messages included."""
    count, size = channel.backlog
    return size + count * _OVERHEAD
