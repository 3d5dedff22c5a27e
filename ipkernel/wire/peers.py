"""Who is at the other end of a local socket."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

__all__ = ["peer_user"]

#: ``struct ucred``: process, user, group.
_CREDENTIALS: Final = struct.Struct("3i")


def peer_user(sock: socket.socket) -> int:
    """Return the user at the other end of a connected UNIX socket; our own where nobody can tell.

    What a socket was bound to is free for everybody once it is given up.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return os.geteuid()
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user
