# mypy: allow-untyped-calls
"""Two connected channels without a network, for tests.

Nothing moves until ``pump`` is called, so a test decides when bytes arrive and in what
pieces, and nothing depends on timing::

    clock = Clock()
    a, b, pump = memory_channels(clock)
    a.send(Cancel([1]))
    pump()
    assert b.inbox == [(Cancel([1]), b"")]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from ipkernel.wire.channel import Channel
from ipkernel.wire.link import Received, Window

__all__ = ["MemoryChannel", "MemoryTransport", "Pump", "memory_channels"]

#: A transport that has more than this to deliver asks its producer to pause (bytes).
HIGH_WATER = 1 << 18


class MemoryChannel(Channel):
    """A channel that keeps what happens to it.

    Attributes:
        inbox: The messages that have arrived, with their payloads.
        losses: What ``lost`` was told, once for each call.
    """

    def __init__(
        self, clock: Any, *, auto_acknowledge: bool = True, window: Window | None = None
    ) -> None:
        self.inbox: list[Received] = []
        self.losses: list[str] = []
        super().__init__(
            clock,
            received=lambda _, messages: self.inbox.extend(messages),
            lost=lambda _, why: self.losses.append(why),
            auto_acknowledge=auto_acknowledge,
            window=window,
        )


class MemoryTransport:
    """One direction of an in-memory connection, as a Twisted transport.

    Attributes:
        pending: Bytes written and not delivered yet.
        closing: True when the writer has asked to close.
    """

    def __init__(self, owner: Channel) -> None:
        self.owner = owner
        self.pending = bytearray()
        self.closing = False
        self.gone = False
        self.frozen = False
        self._producer: Any = None
        self._paused = False

    def write(self, data: bytes) -> None:
        """Take bytes to be delivered."""
        if self.closing or self.gone:
            return
        self.pending += data
        if len(self.pending) > HIGH_WATER and self._producer is not None and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Take several stretches of bytes to be delivered."""
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Remember whom to pause."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget whom to pause."""
        self._producer = None

    def loseConnection(self) -> None:
        """Close when everything has been delivered."""
        self.closing = True

    def abortConnection(self) -> None:
        """Close now; what is pending is lost."""
        self.pending.clear()
        self.closing = True
        self.gone = True

    def take(self, size: int) -> bytes:
        """Remove and return up to ``size`` pending bytes."""
        data = bytes(self.pending[:size])
        del self.pending[: len(data)]
        if self._paused and len(self.pending) <= HIGH_WATER:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        return data


Pump = Callable[..., int]


def memory_channels(
    clock: Any,
    first: Channel | None = None,
    second: Channel | None = None,
    *,
    window: Window | None = None,
) -> tuple[Any, Any, Pump]:
    """Return two connected channels and the function that moves bytes between them.

    Args:
        clock: A :class:`twisted.internet.task.Clock`; ``pump`` runs what is due now.
        first: One end; a :class:`MemoryChannel` by default.
        second: The other end; a :class:`MemoryChannel` by default.
        window: For channels made here.

    Returns:
        Both ends and ``pump(chunk=65536, rounds=None)``, which delivers everything in both
        directions in chunks of at most ``chunk`` bytes until nothing moves (or for so many
        rounds) and returns how many bytes it has delivered. A transport whose ``frozen`` is
        set delivers nothing.
    """
    a = first if first is not None else MemoryChannel(clock, window=window)
    b = second if second is not None else MemoryChannel(clock, window=window)
    to_b, to_a = MemoryTransport(a), MemoryTransport(b)
    a.peer, b.peer = a.peer or "b", b.peer or "a"
    a.makeConnection(to_b)
    b.makeConnection(to_a)
    ended: set[int] = set()

    def deliver(source: MemoryTransport, target: Channel, chunk: int) -> int:
        if source.frozen:
            return 0
        data = source.take(chunk)
        if data:
            target.dataReceived(data)
        return len(data)

    def end(channel: Channel, kind: type[Exception]) -> int:
        if id(channel) in ended:
            return 0
        ended.add(id(channel))
        channel.connectionLost(Failure(kind()))
        return 1

    def hang_up() -> int:
        moved = 0
        for mine, other in ((to_b, to_a), (to_a, to_b)):
            if mine.gone:
                moved += end(mine.owner, ConnectionAborted) + end(other.owner, ConnectionDone)
            elif mine.closing and not mine.pending:
                moved += end(other.owner, ConnectionDone) + end(mine.owner, ConnectionDone)
        return moved

    def pump(chunk: int = 65536, rounds: int | None = None) -> int:
        total = 0
        while rounds is None or rounds > 0:
            clock.advance(0)
            moved = deliver(to_b, b, chunk) + deliver(to_a, a, chunk)
            total += moved
            if not moved + hang_up() and not _due(clock):
                break
            rounds = rounds if rounds is None else rounds - 1
        return total

    return a, b, pump


def _due(clock: Any) -> bool:
    now = clock.seconds()
    return any(call.getTime() <= now for call in clock.getDelayedCalls())
