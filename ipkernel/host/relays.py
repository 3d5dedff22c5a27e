"""Connections to other hosts that lead through the controller, asked for and served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from ipkernel.errors import ConnectError
from ipkernel.host.needs import Uplink
from ipkernel.wire.messages import Relay

__all__ = ["Relays"]

#: Seconds in which the controller answers.
PATIENCE: Final = 10.0


class Relays:
    """Asks the controller for tokens, and serves those that it sends.

    Args:
        reactor: Twisted's reactor.
        uplink: The way to the controller.
        serve: Is called with a token when somebody waits at the controller to be connected with
            this host.

    Attributes:
        connected: Whether there is a controller to be asked.
    """

    def __init__(self, reactor: Any, uplink: Uplink, serve: Callable[[bytes], None]) -> None:
        self.connected = False
        self._reactor = reactor
        self._uplink = uplink
        self._serve = serve
        self._waiting: dict[int, deque[Deferred[bytes]]] = {}

    def ask(self, host: int) -> Deferred[bytes]:
        """Ask for a connection to a host.

        Args:
            host: Its number.

        Returns:
            Fires with the token that is to be sent ahead; fails with
            :class:`~ipkernel.errors.ConnectError`.
        """
        if not self.connected:
            return fail(ConnectError("there is no controller to go by way of"))
        answer: Deferred[bytes] = Deferred()
        self._waiting.setdefault(host, deque()).append(answer)
        self._uplink.send(Relay(host))
        answer.addTimeout(PATIENCE, self._reactor, self._too_late)
        return answer

    def _too_late(self, result: Any, seconds: float) -> Any:
        if isinstance(result, Failure) and result.check(CancelledError):
            raise ConnectError(f"the controller offers no connection within {seconds:g} s")
        return result

    def handle(self, message: Relay) -> None:
        """Deal with an answer of the controller, or with a call to serve somebody."""
        if not message.host:
            if message.token:
                self._serve(message.token)
            return
        waiting = self._waiting.get(message.host)
        if not waiting:
            return
        answer = waiting.popleft()
        if not waiting:
            del self._waiting[message.host]
        if answer.called:
            return  # it came too late
        if message.token:
            answer.callback(message.token)
        else:
            why = message.problem or "the controller has given no reason"
            answer.errback(ConnectError(f"no connection by way of the controller: {why}"))

    def disconnected(self) -> None:
        """The controller is gone, and answers nothing any more."""
        self.connected = False
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            for answer in answers:
                if not answer.called:
                    answer.errback(ConnectError("the connection to the controller was lost"))
