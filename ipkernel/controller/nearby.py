# mypy: allow-untyped-calls, disable-error-code="misc"
"""The monitor door for the controller's own machine and user: a socket in the cluster's directory.

See :mod:`ipkernel.wire.nearby` for who asks there, and why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver

from ipkernel.decoding import decode
from ipkernel.errors import KernelError
from ipkernel.wire.nearby import QUESTION_LIMIT, Answer, Question, framed, short_path, supported
from ipkernel.wire.peers import peer_user

if TYPE_CHECKING:
    from ipkernel.controller.nearport import NearPort

__all__ = ["Inquirer", "NearDoor"]

logger = logging.getLogger(__name__)

_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)

#: Seconds in which a connection must have asked, been answered, and gone.
PATIENCE: Final = 10.0
#: Connections at a time; one more costs the oldest of them its life.
CONNECTIONS: Final = 32
#: Connections that wait to be accepted, at most; further ones are refused at once, and use the door.
BACKLOG: Final = 128


class Inquirer(Int32StringReceiver):
    """One connection: a question, its answer, and the end.

    Args:
        door: Whose connection it is.
        reactor: Twisted's reactor.
    """

    MAX_LENGTH = QUESTION_LIMIT
    transport: Any

    def __init__(self, door: NearDoor, reactor: Any) -> None:
        self._door = door
        self._reactor = reactor
        self._over = False
        self._patience: Any = None

    def connectionMade(self) -> None:
        """Somebody has connected."""
        self._patience = self._reactor.callLater(PATIENCE, self.transport.abortConnection)
        self._door.opened(self)
        if (user := peer_user(self.transport.getHandle())) != os.geteuid():
            logger.warning("user %s may not ask the controller of another one", user)
            self._over = True
            self.transport.abortConnection()

    def stringReceived(self, string: bytes) -> None:
        """A question has arrived."""
        if self._over:
            self.transport.abortConnection()
            return
        self._over = True
        try:
            question = decode(_questions, string)
        except msgspec.MsgspecError as error:
            self._say(Answer(f"this is not a question: {error}"[:4000]))
            return
        answer: Deferred[Any] = maybeDeferred(self._door.answer, question)
        answer.addCallbacks(lambda data: self._say(Answer("", data)), self._failed)

    def _failed(self, failure: Any) -> None:
        if not failure.check(KernelError):
            logger.error("a question cannot be answered: %s", failure.getTraceback())
        self._say(Answer(failure.getErrorMessage()[:4000] or failure.type.__name__))

    def _say(self, answer: Answer) -> None:
        if self.transport.connected:
            self.transport.write(framed(answer))
            self.transport.loseConnection()

    def lengthLimitExceeded(self, length: int) -> None:
        """It wants to say more than anybody needs to."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """The connection is over."""
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._door.closed(self)


class NearDoor:
    """Listens, and answers the controller's own user.

    Args:
        reactor: Twisted's reactor.
        methods: What may be asked: by name, what answers a request with bytes or a Deferred.
    """

    def __init__(
        self, reactor: Any, methods: Mapping[str, Callable[[bytes], bytes | Deferred[bytes]]]
    ) -> None:
        self._reactor = reactor
        self._methods = methods
        self._port: NearPort | None = None
        #: All connections, oldest first.
        self._open: dict[Inquirer, None] = {}

    def listen(self, path: Path) -> bool:
        """Listen, in place of a controller of this cluster that is gone.

        Args:
            path: Of the socket, in a directory that is private. It is removed at the end.

        Returns:
            Whether that is possible here. If not, the doors do what this one does.
        """
        if not supported():
            return False
        factory = Factory.forProtocol(lambda: Inquirer(self, self._reactor))
        factory.noisy = False
        from ipkernel.controller.nearport import NearPort  # here, as Windows cannot import it

        try:
            path.unlink(missing_ok=True)
            with short_path(path) as name:
                port = NearPort(os.fsencode(name), factory, BACKLOG, 0o600, self._reactor)
                port.path = path
                port.startListening()
        except (OSError, CannotListenError) as error:
            logger.info("no local socket for questions at %s: %s", path, error)
            return False
        self._port = port
        return True

    def answer(self, question: Question) -> Any:
        """Return the answer to a question, or a Deferred that fires with it.

        Raises:
            KernelError: There is no such question, or no answer.
        """
        method = self._methods.get(question.method)
        if method is None:
            raise KernelError(f"the controller does not know the question {question.method!r}")
        return method(question.request)

    def opened(self, inquirer: Inquirer) -> None:
        """Somebody has connected."""
        if len(self._open) >= CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]  # many may come in one turn, and its end takes until the next
            oldest.transport.abortConnection()
        self._open[inquirer] = None

    def closed(self, inquirer: Inquirer) -> None:
        """A connection is over."""
        self._open.pop(inquirer, None)

    def close(self) -> Deferred[None] | None:
        """Listen no more, and cut all connections.

        Returns:
            Fires when the socket is gone; None if it is.
        """
        for inquirer in list(self._open):
            inquirer.transport.abortConnection()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None
