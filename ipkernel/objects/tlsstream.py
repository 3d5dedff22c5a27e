"""TLS 1.3 on a blocking socket: bytes go from memory to the network and back without copies.

For threads that move large objects. Certificates are shown on both sides and checked like those of all
other connections, see :mod:`ipkernel.wire.security`. Everything heavy happens in OpenSSL and in the
system, where the interpreter's lock is not held.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
import threading
import time
from typing import Final, Self

from OpenSSL import SSL

from ipkernel.errors import ConnectError
from ipkernel.objects.courtesy import STRIDE, give_way
from ipkernel.objects.interfaces import Buffer
from ipkernel.wire.security import PeerCertificate, TubTLS, certificate_of

__all__ = ["FROZEN_AFTER", "StreamBroken", "TlsStream", "WrongPeer"]

#: Seconds without any progress after which the peer is taken for frozen.
FROZEN_AFTER: Final = 15.0
#: Bytes of a TLS record: what OpenSSL reads or writes at a time.
_RECORD: Final = 16384
#: Whoever closes a socket throws away what is on its way.
_LINGER: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
#: A call that fails after a smaller share of the timeout was interrupted, or may be repeated.
_EARLY: Final = 0.9
#: What a blocking call fails with when the socket's timeout is over.
_LATE: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ETIMEDOUT, 10060})


class StreamBroken(Exception):
    """The connection is of no use any more; the text says why."""


class WrongPeer(ConnectError):
    """Somebody else than expected answers at this address."""


class TlsStream:
    """A TLS connection. For one thread at a time, except :meth:`cut`.

    Args:
        sock: A connected socket, which becomes this object's.
        tls: Whose certificate is shown.
        server: Which of the two sides this is.
        timeout: Seconds without progress after which any operation fails.

    Attributes:
        peer: Certificate of the other side, after :meth:`handshake`.
    """

    peer: PeerCertificate

    def __init__(
        self,
        sock: socket.socket,
        tls: TubTLS,
        *,
        server: bool,
        timeout: float = FROZEN_AFTER,
    ) -> None:
        self._socket = sock
        self._closing = threading.Lock()
        self._timeout = 0.0
        sock.settimeout(None)
        with contextlib.suppress(OSError):  # the peer may be gone already
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.set_timeout(timeout)
        self._connection = tls.over(sock)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def set_timeout(self, seconds: float) -> None:
        """Change after how many seconds without progress an operation fails."""
        if seconds == self._timeout:
            return
        self._timeout = seconds
        # The system's own timeouts: with Python's the socket does not block, and each record costs an
        # exception and a system call more.
        value: int | bytes
        if sys.platform == "win32":
            # There it is an error that ends the connection.
            value = max(1, int(seconds * 1000))
        else:
            # After a half it is seen whether anything moved: a call may have sent a part and begun anew.
            value = struct.pack("@ll", int(seconds / 2), int(seconds / 2 % 1 * 1e6) + 1)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def handshake(self) -> Self:
        """Agree on keys and see the peer's certificate.

        Raises:
            StreamBroken: It failed.
        """
        since = time.monotonic()
        while True:
            try:
                self._connection.do_handshake()
                break
            except SSL.Error as error:
                self._failed(error, since)
        peer = certificate_of(self._connection)
        if peer is None:
            raise StreamBroken("the peer shows no certificate")
        self.peer = peer
        return self

    def expect(self, tub_id: str, pin: str) -> None:
        """See that the peer is the one that was meant.

        Args:
            tub_id: Its TubID.
            pin: SHA-256 pin of its certificate.

        Raises:
            WrongPeer: It is another one.
        """
        if self.peer.tub_id != tub_id or self.peer.pin != pin:
            raise WrongPeer(f"the certificate there is not that of {tub_id}")

    def send(self, data: Buffer) -> None:
        """Send all of ``data``.

        Raises:
            StreamBroken: The connection is lost, or the peer takes nothing in.
        """
        view = memoryview(data)
        send, size, sent = self._connection.send, len(view), 0
        stop = give_way() if size > STRIDE else None
        stopped = 0
        since = time.monotonic()
        while sent < size:
            try:
                sent += send(view[sent:])  # one record
                since = time.monotonic()
                if stop is not None and sent - stopped >= STRIDE:
                    stopped = sent
                    stop()
            except SSL.Error as error:
                self._failed(error, since)

    def receive_into(self, target: memoryview) -> None:
        """Fill ``target``.

        Raises:
            StreamBroken: The connection is lost, or nothing comes.
        """
        receive, size, received = self._connection.recv_into, len(target), 0
        stop = give_way() if size > STRIDE else None
        stopped = 0
        since = time.monotonic()
        while received < size:
            try:
                received += receive(target[received : received + _RECORD])
                since = time.monotonic()
                if stop is not None and received - stopped >= STRIDE:
                    stopped = received
                    stop()
            except SSL.Error as error:
                self._failed(error, since)

    def receive(self, size: int) -> bytearray:
        """Return the next ``size`` bytes; for small ones."""
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return data

    @property
    def peer_is_gone(self) -> bool:
        """Whether the peer has closed the connection, seen without waiting; for who awaits nothing."""
        flags = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)
        if not getattr(socket, "MSG_DONTWAIT", 0):
            return False
        try:
            return not self._socket.recv(1, flags)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def cut(self) -> None:
        """End the connection at once, whatever goes on; from any thread. The owner closes it."""
        with self._closing, contextlib.suppress(OSError):
            # The peer must see a reset when it is closed. After a mere shutdown, whoever waits there for
            # room in our buffers waits on: the system tells nobody any more that they are empty.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection up."""
        with self._closing:
            self._socket.close()

    def _failed(self, error: SSL.Error, since: float) -> None:
        """Raise what an error of OpenSSL means; return if the operation is to be repeated.

        Args:
            error: The error.
            since: When something moved for the last time.
        """
        wants = isinstance(error, SSL.WantReadError | SSL.WantWriteError)
        if wants and time.monotonic() - since < _EARLY * self._timeout:
            return  # a signal, or the first half of the time
        code = error.args[0] if isinstance(error, SSL.SysCallError) and error.args else 0
        if wants or code in _LATE:
            text = f"frozen: nothing moved for {self._timeout:g} s"
        elif isinstance(error, SSL.ZeroReturnError):
            text = "the other side has closed the connection"
        elif code:
            text = f"the connection was lost ({errno.errorcode.get(code, 'cut off')})"
        else:
            text = f"TLS failed: {_tls_reason(error)}"
        raise StreamBroken(text) from None


def _tls_reason(error: SSL.Error) -> str:
    """Return what OpenSSL says went wrong: the last part of its first complaint."""
    try:
        return str(error.args[0][0][2]) or "no reason given"
    except (IndexError, TypeError):
        return str(error) or "no reason given"
