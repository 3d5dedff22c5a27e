"""Who is at the other end of a local socket."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["can_tell_users", "peer_user"]

#: ``struct ucred``: process, user, group.
_CREDENTIALS: Final = struct.Struct("3i")
#: The number that stands for all users without one in this process's name space, and those with one.
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_MAPPED: Final = Path("/proc/self/uid_map")
#: Line of the latter where all users have numbers.
_ALL: Final = ["0", "0", "4294967295"]


def peer_user(sock: socket.socket) -> int:
    """Return the user at the other end of a connected UNIX socket; our own where nobody can tell.

    What a socket was bound to is free for everybody once it is given up.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return os.geteuid()
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user


def can_tell_users() -> bool:
    """Tell whether a user with the number of our own is our own.

    In a user name space that has no number for us, as in some containers, all strangers have the same.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return False
    try:
        if os.geteuid() != int(_OVERFLOW.read_text("ascii")):
            return True
        return _MAPPED.read_text("ascii").split() == _ALL
    except (OSError, ValueError):
        return False
