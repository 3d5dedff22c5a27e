# mypy: allow-untyped-calls
"""The TLS of channels, with fewer steps than Twisted's own on the way of a small message.

A blocking call is made of small messages that each wake another process, and most of its time is
the interpreter's. So what is small goes into the socket at once, not in another turn of the
reactor that has to be asked for it and told that it is over, and a single whole record is read
without asking OpenSSL for more that cannot be there. Everything else is as in Twisted.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from ipkernel.wire.atonce import can_send_at_once, send_at_once

__all__ = ["ChannelTLS"]

#: Bytes up to which data is sent at once; the rest of a bulk is left to the reactor.
SMALL: Final = 1 << 14
#: More than any record has, in bytes.
_RECORD: Final = 1 << 15
_APPLICATION_DATA: Final = 23
_HEAD: Final = 5
#: What of Twisted's own TLS is used here. Where something of it is not there, all is done in Twisted's
#: way.
_OF_TLS: Final = (
    "_tlsConnection", "_handshakeDone", "_appSendBuffer", "_lostTLSConnection", "_aborted",
    "_flushReceiveBIO", "_tlsShutdownFinished",
)  # fmt: skip


class ChannelTLS(TLSMemoryBIOProtocol):
    """TLS between a channel and a TCP connection."""

    _direct = False
    _known = False
    #: Bytes that the current record still lacks, and the start of the next one's head.
    _lacking = 0
    _head = b""

    def makeConnection(self, transport: Any) -> None:
        """TLS begins on a connection."""
        self._direct = can_send_at_once(transport)
        super().makeConnection(transport)
        self._known = all(hasattr(self, name) for name in _OF_TLS)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have arrived."""
        if (
            not self._lacking
            and not self._head
            and len(data) > _HEAD
            and data[0] == _APPLICATION_DATA
            and (data[3] << 8) + data[4] + _HEAD == len(data)
            and self._known
            and self._handshakeDone
            and not self._appSendBuffer
            and not self._lostTLSConnection
        ):
            self._take_record(data)
        else:
            self._follow(data)
            super().dataReceived(data)

    def _follow(self, data: bytes) -> None:
        """Keep track of where records begin."""
        data = self._head + data
        end = len(data)
        begin = self._lacking
        while begin + _HEAD <= end:
            begin += _HEAD + (data[begin + 3] << 8) + data[begin + 4]
        self._head = data[begin:]
        self._lacking = max(0, begin - end)

    def _take_record(self, data: bytes) -> None:
        """Take in one record; there is no other, and reading it gives nothing to be sent."""
        connection = self._tlsConnection
        connection.bio_write(data)
        try:
            plain = connection.recv(_RECORD)
        except (WantReadError, ZeroReturnError):  # it is about the connection: no data
            self._flushReceiveBIO()
        except Error:
            self._tlsShutdownFinished(Failure())
        else:
            if not self._aborted:
                self.wrappedProtocol.dataReceived(plain)

    def _flushSendBIO(self) -> None:
        if not self._direct:
            super()._flushSendBIO()
            return
        try:
            data = self._tlsConnection.bio_read(_RECORD)
        except WantReadError:
            return
        raw: Any = self.transport
        if len(data) <= SMALL:
            data = send_at_once(raw, data)
        if data:
            raw.write(data)
