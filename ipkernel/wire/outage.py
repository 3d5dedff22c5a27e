"""Noticing that a network is down, or that the machine at its other end is.

The operating system asks the other one. It answers even while the process there is busy, or
stopped, so that nobody is thought lost who is only slow.
"""

from __future__ import annotations

import socket
from typing import Any, Final

__all__ = ["notice_outage"]

#: How often the other side is asked before it is given up.
_QUESTIONS: Final = 3


def notice_outage(transport: Any, seconds: int) -> bool:
    """Have a connection end when nothing has come back from the other machine for a while.

    Args:
        transport: Twisted's transport of the connection, TLS or not.
        seconds: How long, about; at least 4.

    Returns:
        False if that is not to be had for this connection: it is none of a network.
    """
    sock = _socket_of(transport)
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    pause = max(1, seconds // (_QUESTIONS + 1))
    wanted = (
        ("TCP_KEEPIDLE", seconds - _QUESTIONS * pause),
        ("TCP_KEEPALIVE", seconds - _QUESTIONS * pause),  # the same on macOS
        ("TCP_KEEPINTVL", pause),
        ("TCP_KEEPCNT", _QUESTIONS),
        ("TCP_USER_TIMEOUT", seconds * 1000),  # for what was sent and is not acknowledged
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in wanted:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:  # it is lost already
        return False
    return True


def _socket_of(transport: Any) -> socket.socket | None:
    """Return the socket below a transport, whatever is wrapped around it."""
    while transport is not None:
        found = getattr(transport, "socket", None)
        if found is not None and hasattr(found, "setsockopt"):
            inner = getattr(found, "_socket", found)  # pyOpenSSL's connections hold it
            return inner if isinstance(inner, socket.socket) else None
        transport = getattr(transport, "transport", None)
    return None
