"""The port of the controller's UNIX socket, for systems that have such."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet import tcp, unix

__all__ = ["NearPort"]


class NearPort(unix.Port):
    """A port whose socket may have been removed by others, and has a long path perhaps.

    Attributes:
        path: Where the socket is.
    """

    path: Path

    def connectionLost(self, reason: Any) -> None:
        """Remove the socket, if it is still there."""
        with suppress(OSError):
            self.path.unlink()
        tcp.Port.connectionLost(self, reason)
