"""Carries messages between a session and whichever channel leads to the controller now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ipkernel.client import renewal
from ipkernel.client.session import Session
from ipkernel.client.submission import TASK_COST
from ipkernel.wire.channel import Channel
from ipkernel.wire.link import Received
from ipkernel.wire.messages import Message, Submit
from ipkernel.wire.replay import Replay

#: Messages taken from the queue between two writes, and in one turn of the reactor.
BATCH: Final = 128
TURN: Final = 1024
#: Seconds between looks at how much the controller has taken: while somebody waits for it, and
#: otherwise, to let go of what is kept until then.
LOOK: Final = 0.01
LAZY_LOOK: Final = 0.25
#: Seconds after which references that were dropped are given back, if nothing is sent anyway.
TIDY: Final = 0.2


class Courier:
    """Carries messages between a session and a channel, and from one channel to the next.

    What is sent is kept until the controller has it for good; so it is read again if a connection is
    lost, and must not be changed before.

    Args:
        reactor: Twisted's reactor, or a Clock.
        session: Whose messages.

    Attributes:
        session: As given.
        channel: The channel that is used now, or None.
        received: How many messages of the controller's current life have been taken.
    """

    def __init__(self, reactor: Any, session: Session) -> None:
        self.session = session
        self.channel: Channel | None = None
        self.received = 0
        self._reactor = reactor
        self._replay = Replay()
        #: How much was ever sent, in the measure of ``Submission.queued_bytes``, and is taken.
        self._sent = self._taken = 0
        self._acknowledged = 0
        self._looking: Any = None
        self._tidying: Any = None
        self._over = False

    # ------------------------------------------------- channels come and go

    def make_channel(self, lost: Callable[[str], None]) -> Channel:
        """Return the channel to be used from now on, to be connected; what is kept goes first.

        Args:
            lost: Called once, when it has ended, with the reason.
        """
        channel = Channel(
            self._reactor,
            received=self._received,
            lost=lambda _, why: lost(why),
        )
        for message, payload in self._replay:
            channel.queue(message, payload)
        self.channel = channel
        self._acknowledged = 0
        return channel

    def disconnect(self) -> None:
        """Use no channel until there is a new one; what is sent meanwhile waits in the session."""
        if self.channel is not None:
            self._account()
            self.channel = None

    def resume(self, taken: int) -> None:
        """Go on with the same controller.

        Args:
            taken: How many messages of this session it has.

        Raises:
            ValueError: That cannot be.
        """
        self._replay.resume(taken)
        self._recount()

    def renew(self, taken: int) -> None:
        """Go on with a controller that was started again.

        Args:
            taken: How many messages of this session it knows from before.

        Raises:
            ValueError: It cannot know so many.
        """
        replay = self._replay
        if taken > replay.count:
            raise ValueError(f"{taken} messages cannot be known: {replay.count} were sent")
        known = max(0, taken - replay.taken)
        kept = replay.restart()
        replay.renew(taken, renewal.items(self.session, kept[known:]))
        self.session.objects.elsewhere.clear()  # this controller knows of none
        self.received = 0
        self._recount()

    def stop(self) -> None:
        """Send nothing more."""
        self._over = True
        self.channel = None
        for timer in (self._tidying, self._looking):
            if timer is not None:
                timer.cancel()
        self._tidying = self._looking = None
        self._replay.restart()

    @property
    def left(self) -> tuple[int, ...]:
        """What has not left this process yet, in numbers that are all 0 when there is nothing."""
        queued = len(self.session.queue)
        channel = self.channel
        return (queued, len(self._replay)) if channel is None else (queued, *channel.backlog)

    # ------------------------------------------------- messages

    def _received(self, channel: Channel, messages: list[Received]) -> None:
        if channel is not self.channel:
            return  # they come again on the next one
        # One that cannot be dealt with must not come again and again.
        self.received += len(messages)
        if channel.link.acknowledged != self._acknowledged:
            self._account()
        self.session.received(messages)
        if self._tidying is None and len(self.session.objects.references):
            self._tidy_later()

    def drain(self) -> None:
        """Send what is queued; what is too much for one turn goes in the next."""
        channel = self.channel
        if channel is None:
            return  # it is called for again when there is a channel
        send = channel.queue
        keep = self._replay.add
        sent = 0
        for count, (message, payload) in enumerate(self.session.take(), 1):
            keep(message, payload)
            send(message, payload)
            sent += message.size
            if type(message) is Submit:
                sent += TASK_COST
            if not count % BATCH:
                channel.flush_now()
                if count >= TURN:
                    self.session._awake = True  # nobody needs to wake us
                    self._reactor.callLater(0, self.drain)
                    break
        channel.flush_now()
        self._sent += sent
        self._account()
        if self._tidying is None and len(self.session.objects.references):
            self._tidy_later()

    def _tidy_later(self) -> None:
        if not self._over:
            self._tidying = self._reactor.callLater(TIDY, self._tidy)

    def _tidy(self) -> None:
        """Give back what was dropped; the garbage collector cannot wake anybody."""
        self._tidying = None
        references = self.session.objects.references
        if references.waiting:
            self.drain()
        if self._tidying is None and len(references):
            self._tidy_later()

    # ------------------------------------------------- what the controller has

    def _account(self) -> None:
        """Forget what the controller has, and look again while it has not got all."""
        assert self.channel is not None
        acknowledged = self.channel.link.acknowledged
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._taken += sum(
                _cost(message) for message, _ in self._replay.acknowledged(acknowledged)
            )
            self.session.sent(self._taken)
        if len(self._replay) and not self._over:
            pause = LOOK if self.session.blocked else LAZY_LOOK
            timer = self._looking
            if timer is None:
                self._looking = self._reactor.callLater(pause, self._look)
            elif pause == LOOK and timer.getTime() > self._reactor.seconds() + LOOK:
                timer.reset(LOOK)

    def _look(self) -> None:
        self._looking = None
        if self.channel is not None:
            self._account()

    def _recount(self) -> None:
        kept = sum(_cost(message) for message, _ in self._replay)
        self._taken = self._sent - kept
        self.session.sent(self._taken)


def _cost(message: Message) -> int:
    return message.size + TASK_COST if type(message) is Submit else message.size
