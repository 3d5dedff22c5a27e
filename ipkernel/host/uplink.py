"""The way to the controller, which may be gone for a while; pure, without input or output of its own.

A host's session with the controller outlives its connections. What was sent is kept until the
controller has acknowledged it, and what is to be sent while there is no connection waits for one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from ipkernel.wire.channel import Channel
from ipkernel.wire.dropped import Dropped, may_be_dropped
from ipkernel.wire.messages import Measured, Message, Output
from ipkernel.wire.replay import Replay

__all__ = ["KEEP_OUTPUT", "Uplink"]

#: Bytes of output that are kept while there is no connection.
KEEP_OUTPUT: Final = 4 << 20
#: What a message counts for beside its payload, in bytes.
OVERHEAD: Final = 256
#: Messages after which, or bytes in a message with which, it is looked what was acknowledged.
LOOK_AFTER: Final = 32
LARGE: Final = 4096

Item = tuple[Message, Any]


class Uplink:
    """Sends to the controller, and keeps what the controller may not have.

    While there is no connection, messages wait for the next one. Only measurements do not, and of
    output only the latest :data:`KEEP_OUTPUT` bytes; a line in it says how much was dropped.
    """

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._replay = Replay()
        self._since = 0
        self._waiting: deque[Item] = deque()
        self._results = 0
        self._output = 0
        self._serial = 0
        self._dropped = Dropped("there was no controller")

    # ----------------------------------------------------------- connections

    def connect(self, channel: Channel, taken: int = 0) -> None:
        """Go on with the session on a new connection.

        Args:
            channel: The connection, on which nothing was sent yet.
            taken: How many messages of the session the controller says that it has.

        Raises:
            ValueError: It cannot have so many, or had more before; nothing was sent then.
        """
        again = self._replay.resume(taken)
        self._channel = channel
        for message, payload in again:
            channel.send(message, payload)
        for message, payload in self._take_waiting():
            self._pass(message, payload)

    def disconnect(self) -> None:
        """There is no connection any more."""
        if self._channel is not None:
            self._replay.acknowledged(self._channel.link.acknowledged)
            self._channel = None

    def restart(self) -> list[Item]:
        """Begin the session anew, without a connection: the controller knows nothing of it.

        Returns:
            What the controller may not have, in order; it is not kept any more. What of it is
            still to be told goes to :meth:`repeat`.
        """
        return [*self._replay.restart(), *self._take_waiting()]

    # --------------------------------------------------------------- sending

    def send(self, message: Message, payload: Any = b"") -> None:
        """Send a message, now or when there is a connection again."""
        if type(message) is Output:
            self._serial = serial = self._serial + 1
            message = Output(message.task, message.engine, message.stream, message.size, serial)
        self._pass(message, payload)

    def repeat(self, items: Iterable[Item]) -> None:
        """Send again what :meth:`restart` has returned: output as the same output."""
        for message, payload in items:
            self._pass(message, payload)

    def _pass(self, message: Message, payload: Any) -> None:
        channel = self._channel
        if channel is None:
            self._keep(message, payload)
            return
        channel.send(message, payload)
        self._replay.add(message, payload)
        self._since += 1
        if self._since >= LOOK_AFTER or message.size >= LARGE:
            self._since = 0
            self._replay.acknowledged(channel.link.acknowledged)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent, but for output that waits for a connection.

        A message counts for something even if it has no payload.
        """
        if self._channel is None:
            return self._results
        count, size = self._channel.backlog
        return size + count * OVERHEAD

    # --------------------------------------------------- without a connection

    def _keep(self, message: Message, payload: Any) -> None:
        if type(message) is Measured:
            return
        self._waiting.append((message, payload))
        size = message.size + OVERHEAD
        if not may_be_dropped(message):
            self._results += size
            return
        self._output += size
        if self._output > KEEP_OUTPUT:
            self._drop_output()

    def _drop_output(self) -> None:
        """Drop the oldest output that waits: more than needed, so that this is done seldom."""
        left: deque[Item] = deque()
        for message, payload in self._waiting:
            if self._output > KEEP_OUTPUT * 3 // 4 and may_be_dropped(message):
                self._output -= message.size + OVERHEAD
                self._dropped.add(message)
            else:
                left.append((message, payload))
        self._waiting = left

    def _take_waiting(self) -> list[Item]:
        """Return what waits, with a word for what was dropped where that was."""
        items: list[Item] = [*self._dropped.take(), *self._waiting]
        self._waiting.clear()
        self._results = self._output = 0
        return items
