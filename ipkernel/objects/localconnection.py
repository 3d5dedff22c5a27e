"""One connection to the store of this machine, from a process that uses it. Blocking."""

from __future__ import annotations

import array
import contextlib
import hmac
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.objects.localwire import (
    Attach,
    Hello,
    Kept,
    Problem,
    Release,
    Reply,
    Request,
    Segment,
    Welcome,
    WireError,
    encode,
    proof,
    raised_by,
    replies,
)
from ipkernel.wire.addresses import LocalAddress
from ipkernel.wire.peers import peer_user

__all__ = ["Connection", "Releases"]

#: Seconds in which a store that is alive has let a new connection in.
CONNECT_TIMEOUT: Final = 10.0
#: Seconds for which an answer may be late.
GRACE: Final = 5.0
#: Bytes read at a time; answers are short.
READ: Final = 8192


R = TypeVar("R", bound=Reply)


class Releases(Protocol):
    """Leases that have ended, and of which the store has yet to be told."""

    def take(self) -> Sequence[bytes]:
        """Return the objects of some of them; the caller tells the store."""

    def put_back(self, objects: Sequence[bytes]) -> None:
        """Take those back that the store could not be told of."""


class Connection:
    """Asks the store one question at a time. For one thread at a time, except :meth:`cut`.

    Whatever goes wrong half-way ends it: an answer that comes after its question was given up
    must not be taken for the answer to the next one.

    Args:
        address: Where the store is.
        subject: Who asks.
        ticket: The subject's.
        releases: Where ended leases are found; they travel ahead of the next question.

    Attributes:
        broken: Whether it can be used no more.
        kept: The object of the last lease, once the caller has put it where it will not be
            forgotten; the store is told so. Until then the lease ends with the connection.

    Raises:
        ConnectError: There is no store, or it does not let us in, or it is not the one that it
            claims to be.
    """

    def __init__(
        self, address: LocalAddress, subject: str, ticket: bytes, releases: Releases | None = None
    ) -> None:
        self.broken = False
        self.kept = b""
        self._address = address
        self._releases: Releases | None = None
        self._incoming = replies()
        if not address.usable:
            raise ConnectError(f"this system cannot connect to a store at {address}")
        try:
            self._socket = socket.socket(address.family, socket.SOCK_STREAM)
        except OSError as error:
            raise self._gone(error) from error
        self._socket.settimeout(CONNECT_TIMEOUT)
        try:
            self._socket.connect(address.sockaddr)
            if address.name:
                self._check_owner()
            else:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self.close()
            raise self._gone(error) from error
        except BaseException:
            self.close()
            raise
        self._greet(subject, ticket)
        self._releases = releases  # not ahead of the greeting

    def _check_owner(self) -> None:
        """See whose socket it is: a name that is not in use is free for everybody."""
        owner = peer_user(self._socket)
        if owner != os.geteuid():
            raise ConnectError(f"the store at {self._address} belongs to another user ({owner})")

    def _greet(self, subject: str, ticket: bytes) -> None:
        nonce = os.urandom(16)
        try:
            welcome = self.ask(Hello(subject, nonce, proof(ticket, nonce, "client")), Welcome)
        except TimeoutError:
            raise ConnectError(f"the store at {self._address} does not answer") from None
        except BaseException:
            self.close()
            raise
        if not hmac.compare_digest(welcome.proof, proof(ticket, nonce, "store")):
            self.close()
            raise ConnectError(f"what listens at {self._address} is not the store it should be")
        self._socket.settimeout(None)

    def _gone(self, error: Exception) -> ConnectError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return ConnectError(f"the store at {self._address} cannot be reached: {reason}")

    # -------------------------------------------------------------- asking

    def ask(self, request: Request, kind: type[R], timeout: float | None = None) -> R:
        """Ask a question and wait for the answer.

        Args:
            request: The question.
            kind: What the answer is unless there is a problem.
            timeout: Seconds within which the store has promised to answer.

        Raises:
            ConnectError: The store is gone.
            TimeoutError: It does not answer, or says that the time is over.
            Exception: There is a problem, see :func:`~ipkernel.objects.localwire.raised_by`.
        """
        return self._ask(request, kind, timeout)[0]

    def attach(self, number: int) -> int | str:
        """Return a segment of memory: a descriptor, which is the caller's, or a name.

        Raises:
            ConnectError: The store is gone.
            ObjectError: It has no such segment, or too many files are open here.
        """
        segment, descriptors = self._ask(Attach(number), Segment, None)
        if segment.name:
            return segment.name
        if not descriptors:
            raise ObjectError(
                "the memory of the store cannot be used: too many files are open in this process"
            )
        return descriptors[0]

    def tell(self) -> None:
        """Tell the store of ended leases; there is no answer.

        Raises:
            ConnectError: The store is gone.
        """
        try:
            self._send(b"")
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._gone(error) from error
            raise

    def _ask(self, request: Request, kind: type[R], timeout: float | None) -> tuple[R, list[int]]:
        descriptors: list[int] = []
        try:
            if timeout is not None:
                self._socket.settimeout(timeout + GRACE)
            self._send(encode(request))
            answer = self._receive(descriptors if kind is Segment else None)
            if timeout is not None:
                self._socket.settimeout(None)
            if not isinstance(answer, kind | Problem):
                raise WireError(f"it answers {type(answer).__name__} to {type(request).__name__}")
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self.close()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"the store at {self._address} does not answer") from error
            if isinstance(error, OSError | WireError):
                raise self._gone(error) from error
            raise
        if isinstance(answer, Problem):
            raise raised_by(answer)
        return answer, descriptors

    def _send(self, data: bytes) -> None:
        """Send what needs no answer, then ``data``."""
        released = self._releases.take() if self._releases is not None else ()
        kept = encode(Kept(self.kept)) if self.kept else b""
        ahead = kept + encode(Release(list(released))) if released else kept
        whole = memoryview(ahead + data)
        sent = 0
        try:
            while sent < len(whole):
                sent += self._socket.send(whole[sent:])
        finally:
            # The store acts upon what it has got in full, and only upon that.
            if sent >= len(kept):
                self.kept = b""
            if sent < len(ahead) and self._releases is not None:
                self._releases.put_back(released)

    def _receive(self, descriptors: list[int] | None) -> Reply:
        """Wait for the next message, and collect the descriptors that come along with it."""
        while (answer := self._incoming.next()) is None:
            if descriptors is None or not self._address.name:
                data = self._socket.recv(READ)
            else:
                data = self._receive_descriptors(descriptors)
            if not data:
                raise WireError("it has closed the connection")
            self._incoming.feed(data)
        return answer

    def _receive_descriptors(self, descriptors: list[int]) -> bytes:
        space = socket.CMSG_SPACE(struct.calcsize("i"))
        data, ancillary, _, _ = self._socket.recvmsg(READ, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors += numbers
        return data

    # -------------------------------------------------------------- ending

    def cut(self) -> None:
        """End it from any thread; the one that waits for an answer gets an error."""
        self.broken = True
        self._confirm()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over already

    def close(self) -> None:
        """Close it. The store undoes what this connection was in the middle of."""
        self.broken = True
        self._confirm()
        with contextlib.suppress(OSError):  # user code may have closed the descriptor
            self._socket.close()

    def _confirm(self) -> None:
        """Say that the last lease has arrived if that was not said; twice does no harm."""
        if self.kept:
            try:
                self._socket.send(encode(Kept(self.kept)))
            except OSError:
                pass  # the store is gone, or it has been said

    def leave(self) -> None:
        """Close it in this process only, for it is another one's."""
        self.broken = True
        self._socket.close()
