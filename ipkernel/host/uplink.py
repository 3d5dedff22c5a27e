"""The way to the controller, which may be gone for a while."""

from __future__ import annotations

from typing import Any, Final

from ipkernel.wire.channel import Channel
from ipkernel.wire.messages import Done, Message

__all__ = ["Uplink"]

#: Bytes of results that are kept for a controller that is away.
KEEP: Final = 16 << 20


class Uplink:
    """Sends to the controller, and keeps results while there is none.

    What else is sent meanwhile goes nowhere: after reconnecting, the state is announced anew.
    """

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._kept: list[tuple[Message, Any]] = []
        self._kept_bytes = 0

    def connect(self, channel: Channel) -> None:
        """Use this channel from now on, and send what was kept."""
        self._channel = channel
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for message, payload in kept:
            channel.send(message, payload)

    def disconnect(self) -> None:
        """There is no channel any more."""
        self._channel = None

    def send(self, message: Message, payload: Any = b"") -> None:
        """Send a message, or keep it if it is a result."""
        if self._channel is not None:
            self._channel.send(message, payload)
        elif isinstance(message, Done) and self._kept_bytes + message.size <= KEEP:
            self._kept.append((message, payload))
            self._kept_bytes += message.size

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._channel.backlog[1] if self._channel is not None else 0
