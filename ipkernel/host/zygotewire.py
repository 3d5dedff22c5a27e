"""The daemon's end of the socket to the zygote, in the reactor."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from zope.interface import implementer

__all__ = ["ZygoteWire"]

_LENGTH = struct.Struct("<I")


@implementer(IReadDescriptor)
class ZygoteWire:
    """Takes the zygote's messages in.

    Args:
        reactor: Twisted's reactor.
        sock: A UNIX stream socket, not blocking.
        told: Is given each message.
        died: Is called once when the other end is gone.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        told: Callable[[dict[str, Any]], None],
        died: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._told = told
        self._died = died
        self._data = b""
        self._over = False
        reactor.addReader(self)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "zygote"

    def doRead(self) -> Any:
        """There is something to read, says the reactor."""
        try:
            data = self._socket.recv(65536)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        if not data:
            return CONNECTION_DONE
        self._data += data
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                break
            message = json.loads(self._data[_LENGTH.size : end])
            self._data = self._data[end:]
            self._told(message)
        return None

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped watching: the zygote is gone."""
        if not self._over:
            self._over = True
            self._died()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message without descriptors; small ones always fit."""
        body = json.dumps(message).encode()
        try:
            self._socket.send(_LENGTH.pack(len(body)) + body)
        except OSError:
            pass  # its death is about to be noticed

    def close(self) -> None:
        """Watch no more."""
        if not self._over:
            self._over = True
            self._reactor.removeReader(self)
