"""A client's connections to the data port of one host: made when they are needed, kept for a while."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ipkernel.errors import ConnectError
from ipkernel.objects.datawire import (
    Hello,
    Problem,
    Reply,
    Request,
    Waiting,
    Welcome,
    decode_reply,
    error_of,
)
from ipkernel.objects.dialing import Dialling, Unreachable, usable_hints
from ipkernel.objects.line import Line
from ipkernel.objects.tlsstream import FROZEN_AFTER, StreamBroken, TlsStream, WrongPeer
from ipkernel.wire.messages import HostAccess
from ipkernel.wire.security import TubTLS

__all__ = ["Guard", "HostLine", "Lines", "LinesClosed"]

logger = logging.getLogger(__name__)

#: Seconds that a host has for letting us in.
_WELCOME: Final = 10.0
#: Seconds after which a connection that was not used is not used again.
_STALE: Final = 30.0

R = TypeVar("R", bound=Reply)


class LinesClosed(ConnectError):
    """There shall be no more connections with a host: it is gone, or this process is about to end."""


class HostLine(Line[Reply]):
    """A connection to a host, after both sides have shown who they are.

    Attributes:
        route: ``"direct"`` or ``"relay"``.
        codecs: What the host understands.
        used: Whether it served an earlier request: the host may have closed it since.
        since: When it was put aside.
    """

    def __init__(self, stream: TlsStream, route: str) -> None:
        super().__init__(stream, decode_reply)
        self.route = route
        self.codecs: tuple[str, ...] = ()
        self.used = False
        self.since = 0.0

    def hear(self) -> Reply:
        """Return the next answer; news that the host is alive does not count."""
        while isinstance(answer := super().hear(), Waiting):
            pass
        return answer

    def answer(self, kind: type[R]) -> R:
        """Return the next answer.

        Args:
            kind: What it is if there is no problem.

        Raises:
            StreamBroken: The connection is lost.
            ObjectError, TimeoutError, ConnectError: There is a problem.
        """
        answer = self.hear()
        if isinstance(answer, kind):
            return answer
        raise self.refused(answer)

    def ask(self, request: Request, kind: type[R]) -> R:
        """Send a request and return its answer; raises as :meth:`answer`."""
        self.tell(request)
        return self.answer(kind)

    @staticmethod
    def refused(answer: Reply) -> Exception:
        """Return the error that an answer means which is not the one that was hoped for."""
        if isinstance(answer, Problem):
            return error_of(answer)
        return StreamBroken(f"the other side answers with {type(answer).__name__}")


class Guard:
    """The connections that one transfer uses: they are cut when it is cancelled. For any thread.

    Attributes:
        ended: Whether they were.
    """

    def __init__(self) -> None:
        self.ended = False
        self._lock = threading.Lock()
        self._streams: set[TlsStream] = set()

    def add(self, stream: TlsStream) -> None:
        """Watch a connection; too late, it is cut at once."""
        with self._lock:
            self._streams.add(stream)
            late = self.ended
        if late:
            stream.cut()

    def remove(self, stream: TlsStream) -> None:
        """Leave a connection alone."""
        with self._lock:
            self._streams.discard(stream)

    def cut(self) -> None:
        """Cut all of them."""
        with self._lock:
            self.ended = True
            streams = list(self._streams)
        for stream in streams:
            stream.cut()


class Lines:
    """Connections to one host. For any thread.

    Args:
        access: How to reach it.
        subject: The TubID of this process.
        tls: The certificate of this process.
        same_machine: Whether the host is on this machine.
        relay: Returns a socket to the host by way of the controller; may raise ConnectError.
        unreachable: Remembers hosts that cannot be dialled.
        keep: How many unused connections are kept.
        timeout: Seconds without progress after which a connection is given up.
    """

    def __init__(
        self,
        access: HostAccess,
        subject: str,
        tls: TubTLS,
        *,
        same_machine: bool,
        relay: Callable[[], socket.socket] | None,
        unreachable: Unreachable,
        keep: int,
        timeout: float = FROZEN_AFTER,
    ) -> None:
        self.access = access
        self._hello = Hello(subject, access.ticket)
        self._tls = tls
        self._hints = usable_hints(access.hints, same_machine)
        self._relay = relay
        self._unreachable = unreachable
        self._keep = keep
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[HostLine] = []
        self._busy: set[HostLine] = set()
        self._closed = False

    def open(self, guard: Guard, patience: float = _WELCOME) -> HostLine:
        """Return a connection; :meth:`give_back` or :meth:`drop` it.

        Args:
            guard: Watches it, even before it is open.
            patience: Seconds in which a host that has accepted a new connection must have let
                us in.

        Raises:
            ConnectError: The host cannot be reached, or does not let us in.
            LinesClosed: There shall be no more connections.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise LinesClosed(f"the connections to host {self.access.name} are closed")
                line = self._idle.pop() if self._idle else None
                if line is not None:
                    self._busy.add(line)
            if line is None:
                return self._new(guard, patience)
            if time.monotonic() - line.since < _STALE and not line.stream.peer_is_gone:
                guard.add(line.stream)
                line.stream.set_timeout(self._timeout)
                return line
            self.drop(line, guard)

    def give_back(self, line: HostLine, guard: Guard) -> None:
        """Keep a connection on which nothing goes on for the next time."""
        guard.remove(line.stream)
        line.used = True
        line.since = time.monotonic()
        with self._lock:
            self._busy.discard(line)
            if not self._closed and not guard.ended and len(self._idle) < self._keep:
                self._idle.append(line)
                return
        line.close()

    def drop(self, line: HostLine, guard: Guard) -> None:
        """Close a connection."""
        guard.remove(line.stream)
        with self._lock:
            self._busy.discard(line)
        line.close()

    def drop_idle(self) -> None:
        """Close those that nobody uses: one has turned out to be dead, so others may be."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def close(self) -> None:
        """Close all; those that are in use are cut."""
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for line in busy:
            line.cut()
        self.drop_idle()

    # ---------------------------------------------------------------- new ones

    def _new(self, guard: Guard, patience: float) -> HostLine:
        line = self._connect(guard, patience)
        with self._lock:
            if not self._closed:
                self._busy.add(line)
                return line
        line.close()
        raise LinesClosed(f"the connections to host {self.access.name} are closed")

    def _connect(self, guard: Guard, patience: float) -> HostLine:
        host = self.access.tub_id
        problems: list[str] = []
        if self._relay is None or host not in self._unreachable:
            line = self._dial(problems, guard, patience)
            if line is not None:
                self._unreachable.remove(host)
                return line
            self._unreachable.add(host)
        if self._relay is None:
            why = "; ".join(problems) or "it has no address that could be dialled from here"
            raise ConnectError(f"host {self.access.name} cannot be reached: {why}")
        try:
            return self._welcomed(self._relay(), "relay", guard, patience)
        except (StreamBroken, WrongPeer) as error:
            problems.append(f"through the controller: {error}")
        raise ConnectError(f"host {self.access.name} cannot be reached: {'; '.join(problems)}")

    def _dial(self, problems: list[str], guard: Guard, patience: float) -> HostLine | None:
        with Dialling(self._hints) as dialling:
            try:
                for sock in dialling:
                    try:
                        return self._welcomed(sock, "direct", guard, patience)
                    except (StreamBroken, WrongPeer) as error:
                        # Private addresses lead elsewhere in other networks.
                        dialling.problems.append(str(error))
            finally:
                problems += dialling.problems
        return None

    def _welcomed(self, sock: socket.socket, route: str, guard: Guard, patience: float) -> HostLine:
        """Show who we are, see who it is."""
        stream = TlsStream(sock, self._tls, server=False, timeout=patience)
        guard.add(stream)
        try:
            stream.handshake().expect(self.access.tub_id, self.access.pin)
            line = HostLine(stream, route)
            line.codecs = tuple(line.ask(self._hello, Welcome).codecs)
            stream.set_timeout(self._timeout)
        except BaseException:
            guard.remove(stream)
            stream.close()
            raise
        logger.debug("connected to the store of host %s, route %s", self.access.name, route)
        return line
