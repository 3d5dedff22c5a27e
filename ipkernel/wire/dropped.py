"""Output that had no room where it waited: how much of it was dropped is told in its place."""

from __future__ import annotations

from typing import Final

from ipkernel.wire.messages import Message, Output, Stream

__all__ = ["Dropped", "may_be_dropped"]


#: Bytes that what a flow needs has at most.
_NOTE: Final = 1024


def may_be_dropped(message: Message) -> bool:
    """Tell whether a message may be dropped if there is too much: what a flow needs may not."""
    if type(message) is not Output:
        return False
    return message.stream is not Stream.FLOW or message.size > _NOTE


class Dropped:
    """Counts what is dropped.

    Args:
        reason: Why that is, in a few words, for users.
    """

    __slots__ = ("_dropped", "_reason")

    def __init__(self, reason: str) -> None:
        self._reason = reason
        #: By task, engine and stream: how many bytes, and the last serial.
        self._dropped: dict[tuple[int, int, Stream], tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._dropped)

    def add(self, message: Message) -> None:
        """Note that a message is dropped, of those that may be."""
        assert isinstance(message, Output)
        which = (message.task, message.engine, message.stream)
        before, _ = self._dropped.get(which, (0, 0))
        self._dropped[which] = (before + message.size, message.serial)

    def take(self) -> list[tuple[Message, bytes]]:
        """Return what is to be told in the place of all that was dropped since this was called last."""
        items: list[tuple[Message, bytes]] = []
        for (task, engine, stream), (size, serial) in self._dropped.items():
            if stream in (Stream.STDOUT, Stream.STDERR):
                mark = f"\n[{size} bytes of output were dropped: {self._reason}]\n".encode()
                items.append((Output(task, engine, stream, len(mark), serial), mark))
        self._dropped.clear()
        return items
