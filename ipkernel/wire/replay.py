"""What one end of a session keeps until the other end has it for good.

A session outlives its connections. Both ends count its messages from the session's beginning; the
one that sends keeps each until the other has acknowledged it, and after a loss of the connection
sends again what the other says it has not taken. So nothing is lost and nothing comes twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from ipkernel.wire.link import Payload
from ipkernel.wire.messages import Message

__all__ = ["Replay"]


class Replay:
    """Messages that were sent, or are to be sent, and that the other end has not acknowledged.

    Attributes:
        taken: How many messages of the session the other end has taken.
        bytes: Payload of those that are kept.
    """

    __slots__ = ("_base", "_kept", "bytes", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.bytes = 0
        self._base = 0
        self._kept: deque[tuple[Message, Payload]] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[tuple[Message, Payload]]:
        """Iterate over what is kept, oldest first."""
        return iter(self._kept)

    @property
    def count(self) -> int:
        """How many messages the session has had so far."""
        return self.taken + len(self._kept)

    def add(self, message: Message, payload: Payload = b"") -> None:
        """Keep a message; the caller sends it on the connection, if there is one."""
        self._kept.append((message, payload))
        self.bytes += message.size

    def extend(self, items: Sequence[tuple[Message, Payload]]) -> None:
        """Keep messages with their payloads, as :meth:`add` does."""
        self._kept.extend(items)
        self.bytes += sum([message.size for message, _ in items])

    def acknowledged(self, count: int) -> list[tuple[Message, Payload]]:
        """Forget what the other end has acknowledged on this connection.

        Args:
            count: Messages since :meth:`resume`, or since the beginning, as
                :attr:`~ipkernel.wire.link.Link.acknowledged` counts them.

        Returns:
            What was forgotten.

        Raises:
            ValueError: So many were never sent.
        """
        return self._forget(self._base + count)

    def resume(self, taken: int) -> list[tuple[Message, Payload]]:
        """Begin with a new connection.

        Args:
            taken: How many messages of the session the other end says that it has.

        Returns:
            What is to be sent on it before anything else.

        Raises:
            ValueError: The other end cannot have so many, or has forgotten what it acknowledged.
        """
        self._forget(taken)
        self._base = taken
        return list(self._kept)

    def restart(self) -> list[tuple[Message, Payload]]:
        """Begin to count anew: the other end knows nothing of this session's messages.

        Returns:
            What was kept, which is not kept any more.
        """
        kept = list(self._kept)
        self._kept.clear()
        self.taken = self._base = self.bytes = 0
        return kept

    def renew(self, taken: int, items: Iterable[tuple[Message, Payload]]) -> None:
        """Go on with another end, which has taken over from the first one.

        Args:
            taken: How many messages of the session it says that it has.
            items: What is to be sent to it first, instead of what was kept.
        """
        self._kept = deque(items)
        self.bytes = sum(message.size for message, _ in self._kept)
        self.taken = self._base = taken

    def _forget(self, taken: int) -> list[tuple[Message, Payload]]:
        count = taken - self.taken
        if not 0 <= count <= len(self._kept):
            raise ValueError(
                f"{taken} messages cannot have been taken: {self.taken} were, and "
                f"{len(self._kept)} more sent"
            )
        popleft = self._kept.popleft
        gone = [popleft() for _ in range(count)]
        size = 0
        for message, _ in gone:
            size += message.size
        self.bytes -= size
        self.taken = taken
        return gone
