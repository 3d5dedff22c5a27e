"""Writing into a connection's socket at once, where Twisted waits for its reactor's next turn.

A blocking call is made of small messages that each wake another process. To ask the reactor for a turn, and to
tell it that it was the last one, takes longer than to send one of them.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.abstract import FileDescriptor

__all__ = ["can_send_at_once", "send_at_once"]

#: What of Twisted's own is used here. Where something of it is not there, all is done in Twisted's way.
_OF_CONNECTION: Final = ("_tempDataBuffer", "dataBuffer", "connected", "disconnecting")


def can_send_at_once(connection: Any) -> bool:
    """Tell whether :func:`send_at_once` can be used for a connection."""
    known = all(hasattr(connection, name) for name in _OF_CONNECTION)
    return known and isinstance(connection, FileDescriptor)


def send_at_once(connection: Any, data: bytes) -> bytes:
    """Send as much as the socket takes, unless something else is to leave before.

    Args:
        connection: Twisted's, of a socket.
        data: What to send.

    Returns:
        The rest; it is to be written as always.
    """
    if (
        connection._tempDataBuffer
        or connection.dataBuffer
        or not connection.connected
        or connection.disconnecting
    ):
        return data
    sent = connection.writeSomeData(data)
    if not isinstance(sent, int):  # the connection is lost, as the reactor will notice
        return data
    return data[sent:]
