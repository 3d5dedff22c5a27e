"""Channels: a :class:`~ipkernel.wire.link.Link` on a Twisted TLS connection.

What is sent in one turn of the reactor leaves in as few frames as possible at the turn's
end; no timer is ever waited for. When the network takes no more, writing stops until it
does, so a slow peer costs bounded memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ipkernel.wire.lean import soon
from ipkernel.wire.link import Link, Payload, ProtocolViolation, Received, Window
from ipkernel.wire.messages import Message

__all__ = ["Channel", "ReceivedCallback"]

logger = logging.getLogger(__name__)

#: After close(), queued data has so many seconds to leave.
CLOSE_TIME: Final = 1.0
#: What has been processed is acknowledged after so many seconds at the latest. No sender
#: waits for that: it lets the other side forget what it keeps until it is acknowledged.
ACK_TIME: Final = 0.2
#: Both ends of a channel that is watched say something within so many seconds, and each ends it when it
#: has heard nothing so many times in a row.
BEAT: Final = 10.0
BEATS: Final = 4
#: Bytes read from and buffered for the network at a time.
READ_SIZE: Final = 1 << 18

ReceivedCallback: TypeAlias = Callable[["Channel", list[Received]], None]


def describe_loss(reason: Failure) -> str:
    """Return in one line why a connection ended."""
    if reason.check(ConnectionDone):
        return "closed by the other side"
    if reason.check(ConnectionAborted):
        return "aborted"
    if reason.type is ConnectionLost and getattr(reason.value, "args", ()) in (
        (),
        ("Connection lost",),
    ):
        return "connection lost: the other side is gone"
    text = reason.getErrorMessage().strip().rstrip(".")
    return " ".join(f"connection lost: {text or type(reason.value).__name__}".split())


@implementer(IPushProducer)
class Channel(Protocol):
    """One end of a channel. All methods are for the reactor's thread.

    Args:
        reactor: Twisted's reactor, or a Clock in tests.
        received: Is called with the channel and the messages that have arrived.
        lost: Is called exactly once, when the connection has ended, with a one-line reason.
        auto_acknowledge: Whether messages count as processed when ``received`` returns;
            otherwise :meth:`acknowledge` is to be called.
        window: How much may be under way; both ends must use the same.

    Attributes:
        peer: TubID of the other side.
    """

    transport: Any

    def __init__(
        self,
        reactor: Any,
        *,
        received: ReceivedCallback,
        lost: Callable[[Channel, str], None],
        auto_acknowledge: bool = True,
        window: Window | None = None,
    ) -> None:
        self.peer = ""
        self.link = Link(window)
        self._reactor = reactor
        self._received = received
        self._lost = lost
        self._auto = auto_acknowledge
        self._open = False
        self._over = False
        self._deaf = False
        self._paused = False
        self._flush_due = False
        self._closing = False
        self._reason = ""
        self._deadline: Any = None
        self._ack_timer: Any = None
        self._ended: Callable[[Channel], None] | None = None
        self._heart: Any = None
        self._heard = False
        self._spoken = False
        self._missed = 0

    # -------------------------------------------------------------------- use

    def send(self, message: Message, payload: Payload = b"") -> None:
        """Queue a message; it leaves at the end of the reactor's turn, or when it can.

        What is sent on a channel that is closing or lost goes nowhere.

        Args:
            message: The header; its ``size`` must be the payload's length.
            payload: The payload, or several buffers that make it up. They must not be
                changed afterwards.

        Raises:
            ValueError: ``message.size`` is not the payload's length.
        """
        if self._closing or self._over:
            return
        self.link.send(message, payload)
        if not self._flush_due and not self._paused and self._open:
            self._flush_due = True
            soon(self._reactor, self._flush_turn)

    def queue(self, message: Message, payload: Payload = b"") -> None:
        """Queue a message as :meth:`send` does, by somebody who calls :meth:`flush_now` himself.

        Args:
            message: The header.
            payload: The payload.

        Raises:
            ValueError: ``message.size`` is not the payload's length.
        """
        if not self._closing and not self._over:
            self.link.send(message, payload)

    def flush_now(self) -> None:
        """Write what is queued now, as far as windows and network allow."""
        if self._paused or not self._open:
            return
        link = self.link
        write = self.transport.write
        while not self._paused:
            pieces = link.data_to_send()
            if not pieces:
                break
            write(b"".join(pieces) if len(pieces) > 1 else pieces[0])
            self._spoken = True
            if link.idle:
                break
        if self._closing and link.backlog[0] == 0 and not self._paused:
            self._hang_up()

    def acknowledge(self, count: int | None = None) -> None:
        """Say that received messages have been processed (None: all so far).

        Raises:
            ValueError: ``count`` is more than have arrived.
        """
        self.link.acknowledge(count)
        self._ack_in_time()
        if self.link.ack_due:
            self._flush_soon()

    def close(self, reason: str = "") -> None:
        """End the channel; what is queued may leave first, for at most a second.

        Args:
            reason: What ``lost`` is told.
        """
        if self._closing or self._over:
            return
        self._closing = True
        self._reason = reason or "closed"
        if not self._open:
            return
        self._deadline_in(CLOSE_TIME, self._reason)
        self.flush_now()

    def abort(self, reason: str) -> None:
        """End the channel at once; what is queued is lost.

        Args:
            reason: What ``lost`` is told.
        """
        if self._over:
            return
        if not self._reason:
            self._reason = reason
        self._closing = self._deaf = True
        if self._open:
            self.transport.abortConnection()

    def abort_later(self, seconds: float, reason: str) -> None:
        """End the channel after ``seconds``, unless it ends by itself before."""
        if not self._over and self._open:
            self._deadline_in(seconds, reason)

    def watch(self) -> None:
        """End the channel if nothing is heard of the other side any more; both sides are to do so.

        What has nothing to say still says that it is there. So a connection is noticed that takes bytes
        and passes none on, of which neither the network nor the door next to it knows anything.
        """
        if self._heart is None and self._open:
            self._heart = self._reactor.callLater(BEAT, self._beat)

    @property
    def backlog(self) -> tuple[int, int]:
        """Messages and payload bytes queued and not yet written."""
        return self.link.backlog

    @property
    def alive(self) -> bool:
        """True from the connection's start to its end."""
        return self._open

    # --------------------------------------------------- called by Twisted

    def connectionMade(self) -> None:
        """The connection is there, and the peer is who it should be."""
        self._open = True
        transport = self.transport
        transport.registerProducer(self, True)
        if self._closing:
            self.abort(self._reason)
        elif self.link.backlog[0]:
            self._flush_soon()

    def dataReceived(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._deaf:
            return
        self._heard = True
        link = self.link
        try:
            messages = link.receive(data)
            if messages:
                self._received(self, messages)
                if self._auto:
                    link.acknowledge()
        except ProtocolViolation as violation:
            logger.debug("channel to %s broke the protocol: %s", self.peer, violation)
            self._reason = ""
            self.abort(f"the other side broke the protocol: {violation}")
            return
        except Exception as error:
            logger.exception("a message from %s could not be dealt with", self.peer)
            # One fault ends one channel, not the process.
            self.abort(f"internal error: {type(error).__name__}: {error}")
            return
        if self._ack_timer is None:
            self._ack_in_time()
        if not self._flush_due and not link.idle:
            self._flush_soon()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        if self._over:
            return
        self._over = self._deaf = True
        self._open = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)
        text = self._reason or describe_loss(reason)
        try:
            self._lost(self, text)
        except Exception:
            logger.exception("the end of the channel to %s could not be dealt with", self.peer)

    def pauseProducing(self) -> None:
        """The network takes no more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The network takes more again."""
        if self._paused:
            self._paused = False
            self.flush_now()

    def stopProducing(self) -> None:
        """The network takes nothing any more; connectionLost follows."""
        self._paused = True

    # ---------------------------------------------------------------- inside

    def _flush_soon(self) -> None:
        if not self._flush_due and not self._paused and self._open:
            self._flush_due = True
            soon(self._reactor, self._flush_turn)

    def _ack_in_time(self) -> None:
        if self._ack_timer is None and self._open and self.link.ack_pending:
            self._ack_timer = self._reactor.callLater(ACK_TIME, self._ack_late)

    def _ack_late(self) -> None:
        self._ack_timer = None
        self.link.want_ack()
        self.flush_now()

    def _beat(self) -> None:
        self._heart = None
        self._missed = 0 if self._heard else self._missed + 1
        if self._missed >= BEATS:
            self.abort(f"connection lost: nothing was heard for {BEAT * BEATS:g} s")
            return
        if not self._spoken:
            self.link.beat()
            self.flush_now()
        self._heard = self._spoken = False
        self._heart = self._reactor.callLater(BEAT, self._beat)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush_now()

    def _hang_up(self) -> None:
        self._open = False
        self._paused = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _deadline_in(self, seconds: float, reason: str) -> None:
        if self._deadline is None:
            self._deadline = self._reactor.callLater(seconds, self._too_late, reason)

    def _too_late(self, reason: str) -> None:
        self._deadline = None
        if not self._reason:
            self._reason = reason
        self._closing = True
        if not self._over:
            self.transport.abortConnection()
