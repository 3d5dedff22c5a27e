"""Relays: two peers that cannot reach each other, joined at the controller's port.

A token is made for one who asks and one host. Both connect and show it; from then on the controller
passes bytes, in constant memory, and has no means to read them.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from contextlib import ExitStack
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ipkernel.controller.bridging import Bridge
from ipkernel.errors import TransferError
from ipkernel.sizes import size_text
from ipkernel.wire.relay import TOKEN_SIZE, RelayGate

logger = logging.getLogger(__name__)

#: Relays at a time, those included for which a token was handed out.
MAX_RELAYS: Final = 64
#: Seconds for which a token is good.
TOKEN_LIFE: Final = 30.0


class _Joint(Protocol):
    """What passes bytes between two connections."""

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes in each direction."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End soon."""


class _Meeting:
    """A token that was handed out, and who has come with it."""

    __slots__ = ("guest", "timer", "what")

    def __init__(self, what: str, timer: Any) -> None:
        self.what = what
        self.timer = timer
        self.guest: RelayGate | None = None


class _Relay:
    """Two connections that are joined."""

    __slots__ = ("began", "joint", "what")

    def __init__(self, what: str, began: float) -> None:
        self.what = what
        self.began = began
        self.joint: _Joint | None = None


class Relays:
    """The relays of a controller.

    Args:
        reactor: Twisted's reactor.
        portable: Whether the reactor passes the bytes, instead of the kernel; by default where
            the kernel cannot, or ``IPKERNEL_PORTABLE=1`` says so.
    """

    def __init__(self, reactor: Any, *, portable: bool | None = None) -> None:
        self._reactor = reactor
        self._portable = must_be_portable() if portable is None else portable
        self._meetings: dict[bytes, _Meeting] = {}
        self._going: set[_Relay] = set()
        self._closed: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._meetings) + len(self._going)

    def open(self, what: str) -> bytes:
        """Return a token for two connections.

        Args:
            what: Whose they are, for people.

        Raises:
            TransferError: There are too many relays.
        """
        if self._closed is not None:
            raise TransferError("the controller is stopping")
        if len(self) >= MAX_RELAYS:
            raise TransferError(
                f"the controller relays {MAX_RELAYS} connections already: open the hosts' data "
                f"ports to each other, or try again later"
            )
        token = secrets.token_bytes(TOKEN_SIZE)
        timer = self._reactor.callLater(TOKEN_LIFE, self._expired, token)
        self._meetings[token] = _Meeting(what, timer)
        return token

    def close(self) -> Deferred[None]:
        """End all relays.

        Returns:
            Fires when all their connections are closed.
        """
        if self._closed is None:
            self._closed = Deferred()
            for token in list(self._meetings):
                self._end_meeting(token, "the controller is stopping")
            for relay in list(self._going):
                if relay.joint is not None:
                    relay.joint.stop()
            self._check_closed()
        done: Deferred[None] = Deferred()
        if self._closed.called:
            done.callback(None)
        else:
            self._closed.addCallback(done.callback)
        return done

    def _check_closed(self) -> None:
        if self._closed is not None and not self._closed.called and not self._going:
            self._closed.callback(None)

    # ------------------------------------------------------------------------- meeting

    def arrived(self, token: bytes, guest: RelayGate) -> bool:
        """Somebody has shown a token; return whether it is good."""
        meeting = self._meetings.get(token)
        if meeting is None:
            return False
        if meeting.guest is None:
            meeting.guest = guest
            return True
        del self._meetings[token]
        meeting.timer.cancel()
        self._join(meeting.what, (meeting.guest, guest))
        return True

    def left(self, guest: RelayGate) -> None:
        """Somebody has gone who waited for his partner: his token is used up."""
        for token, meeting in list(self._meetings.items()):
            if meeting.guest is guest:
                meeting.guest = None
                self._end_meeting(token, "its partner has gone")

    def _expired(self, token: bytes) -> None:
        meeting = self._meetings[token]
        logger.info("relay for %s: not both sides came within %g s", meeting.what, TOKEN_LIFE)
        self._end_meeting(token, "its partner did not come")

    def _end_meeting(self, token: bytes, reason: str) -> None:
        meeting = self._meetings.pop(token)
        if meeting.timer.active():
            meeting.timer.cancel()
        if meeting.guest is not None:
            meeting.guest.turn_away(reason)

    # ------------------------------------------------------------------------- passing

    def _join(self, what: str, guests: tuple[RelayGate, RelayGate]) -> None:
        relay = _Relay(what, self._reactor.seconds())
        self._going.add(relay)
        if self._portable:
            self._start(relay, Bridge(guests, lambda: self._ended(relay)))
            return
        try:
            with ExitStack() as undo:
                sockets = [undo.enter_context(guest.duplicate()) for guest in guests]
                undo.pop_all()
        except OSError as error:
            for guest in guests:
                guest.turn_away(str(error))
            self._failed(Failure(error), relay)
            return
        early = guests[0].early, guests[1].early
        released = gatherResults([guest.release() for guest in guests])
        released.addCallback(lambda _: self._splice(sockets, early, relay))
        released.addErrback(self._failed, relay)

    def _splice(
        self, sockets: list[socket.socket], early: tuple[bytes, bytes], relay: _Relay
    ) -> None:
        from ipkernel.controller.splicing import Splice

        def ended() -> None:  # in its thread
            self._reactor.callFromThread(self._ended, relay)

        one, two = sockets
        try:
            for each in sockets:
                _keep_alive(each)
            joint = Splice((one, two), early, ended)
        except OSError:
            one.close()
            two.close()
            raise
        self._start(relay, joint)

    def _start(self, relay: _Relay, joint: _Joint) -> None:
        relay.joint = joint
        joint.start()
        if self._closed is not None:
            joint.stop()

    def _failed(self, failure: Failure, relay: _Relay) -> None:
        logger.warning("relay for %s: %s", relay.what, failure.getErrorMessage())
        self._ended(relay)

    def _ended(self, relay: _Relay) -> None:
        self._going.discard(relay)
        if relay.joint is not None:
            there, back = relay.joint.passed
            logger.info(
                "relay for %s ended after %.1f s: %s passed (%d + %d bytes)",
                relay.what,
                self._reactor.seconds() - relay.began,
                size_text(there + back),
                there,
                back,
            )
        self._check_closed()


def must_be_portable() -> bool:
    """Tell whether the reactor has to pass the bytes."""
    return os.environ.get("IPKERNEL_PORTABLE") == "1" or not hasattr(os, "splice")


def _keep_alive(connection: socket.socket) -> None:
    """Have the system find out that a peer is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
