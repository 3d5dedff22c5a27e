# mypy: allow-untyped-calls
"""From a FURL to a reference, a call, a channel; and what went wrong, in one line each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from foolscap.ipb import DeadReferenceError
from foolscap.referenceable import SturdyRef
from foolscap.tokens import (
    NegotiationError,
    NoLocationHintsError,
    RemoteException,
    RemoteNegotiationError,
    Violation,
)
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectError as TwistedConnectError,
)
from twisted.internet.error import (
    ConnectionClosed,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ipkernel import errors
from ipkernel.errors import ConnectError, KernelError, SecurityError
from ipkernel.wire.channel import READ_SIZE, Channel, describe_loss
from ipkernel.wire.furl import Furl
from ipkernel.wire.localport import LocalTransport, dial
from ipkernel.wire.negotiation import STALE, tls_factory
from ipkernel.wire.security import peer_certificate

if TYPE_CHECKING:
    from ipkernel.wire.tub import SecureTub

#: The secret part of a FURL, and what Foolscap says of a method that a door does not have.
_SECRET = re.compile(r"(pb://[^/\s]*/)[^\s\])>'\"]+")
_WRONG_DOOR = re.compile(r"RI(\w+)Door\.ipkernel.* does not offer ")


def connect(tub: SecureTub, furl: Furl | str, timeout: float = 10.0) -> Deferred[Any]:
    """Connect to the server of a FURL and look its door up.

    Args:
        tub: This process's Tub.
        furl: Whom to connect to.
        timeout: Seconds for all of it.

    Returns:
        Fires with Foolscap's RemoteReference; fails with
        :class:`~ipkernel.errors.ConnectError`, whose text says why.
    """
    try:
        target = Furl.parse(furl) if isinstance(furl, str) else furl
    except ConnectError as error:
        return fail(error)
    tub.pins[target.tub_id] = target.pin
    found: Deferred[Any] = tub.getReference(target.plain)
    late = False

    def too_late() -> None:
        nonlocal late
        late = True
        _give_up(tub, target)
        found.cancel()

    timer = tub.reactor.callLater(timeout, too_late)

    def ended(result: Any) -> Any:
        if timer.active():
            timer.cancel()
        return result

    def check_pin(reference: Any) -> Any:
        certificate = peer_certificate(_broker(reference).transport)
        if certificate is None or certificate.pin != target.pin:
            raise ConnectError(_stale(target))
        return reference

    def explain(failure: Failure) -> Any:
        if failure.check(ConnectError):
            return failure
        if late:
            raise ConnectError(f"no answer from {target.location} within {timeout:g} s")
        raise ConnectError(_why(failure, target)) from None

    found.addBoth(ended)
    found.addCallback(check_pin)
    found.addErrback(explain)
    return found


def _give_up(tub: SecureTub, target: Furl) -> None:
    reference = SturdyRef(target.plain).getTubRef()
    connector = tub.tubConnectors.get(reference)
    if connector is not None:
        connector.stopConnectionTimer()
        connector.connectionTimedOut()
        return
    broker = tub.brokers.get(reference)
    if broker is not None:  # it is connected, and does not answer
        broker.shutdown(Failure(DeadReferenceError("no answer")))


def _stale(target: Furl) -> str:
    return (
        f"the FURL is stale: another controller answers at {target.location}; "
        "use the FURL file that the running one has written"
    )


def _why(failure: Failure, target: Furl) -> str:
    where = target.location
    text = _discreet(str(failure.value))
    if failure.check(ConnectionRefusedError):
        return f"nobody listens at {where}: the controller is not running, or the FURL is stale"
    if failure.check(NoLocationHintsError):
        return "the FURL has no address that can be used"
    if failure.check(DNSLookupError):
        return f"the host name in {where} is not known here"
    if failure.check(TimeoutError, TCPTimedOutError) or "within client timeout" in text:
        return f"no answer from {where}"
    if failure.check(RemoteException):
        remote = _copied(failure)
        if _remote_name(remote) == "builtins.KeyError":
            return f"unknown or revoked FURL: the controller at {where} has no such door"
        return f"the controller at {where} refused: {_remote_text(remote)}"
    if STALE in text or "unknown TubID" in text or "wrong Tub" in text or "TubID mis" in text:
        return _stale(target)
    if failure.check(RemoteNegotiationError, NegotiationError):
        if "not on the list" in text:
            return f"the controller at {where} does not know this client: {text}"
        return f"no agreement with {where}: {text}"
    if failure.check(ConnectionClosed, DeadReferenceError):
        return f"{where} closed the connection: it is no ipkernel controller, or does not let us in"
    if failure.check(TwistedConnectError):
        return f"cannot reach {where}: {text}"
    if failure.check(CancelledError):
        return f"connecting to {where} was cancelled"
    return f"cannot connect to {where}: {text or type(failure.value).__name__}"


def is_connected(reference: Any) -> bool:
    """Tell whether the connection of a reference is not known to be lost."""
    return not _broker(reference).disconnected


def ends_of(reference: Any) -> tuple[Any, Any]:
    """Return the addresses of a reference's connection: of this side, and of the other.

    Both have ``host`` and ``port``.

    Raises:
        ConnectError: The connection is lost.
    """
    broker = _broker(reference)
    if broker.disconnected:
        raise ConnectError("the connection to the controller was lost")
    return broker.transport.getHost(), broker.transport.getPeer()


# -------------------------------------------------------------------------- calls


def _copied(failure: Failure) -> Any:
    error: Any = failure.value
    return error.failure


def _broker(reference: Any) -> Any:
    return reference.tracker.broker


def peer_tub_id(reference: Any) -> str:
    """Return the TubID of the process that a RemoteReference leads to."""
    return str(_broker(reference).remote_tubref.getTubID())


def call(reference: Any, method: str, *args: Any) -> Deferred[Any]:
    """Call a method of a remote object.

    Args:
        reference: Foolscap's RemoteReference.
        method: The method's name.
        args: Its arguments.

    Returns:
        Fires with the answer. It fails with :class:`~ipkernel.errors.ConnectError` when the
        connection is or gets lost; with the exception that the other side raised if it is
        one of :mod:`ipkernel.errors`; else with :class:`~ipkernel.errors.KernelError`.
    """
    answer: Deferred[Any] = reference.callRemote(method, *args)
    answer.addErrback(_explain_call, method)
    return answer


def _explain_call(failure: Failure, method: str) -> Any:
    if failure.check(DeadReferenceError, ConnectionClosed):
        raise ConnectError(f"the connection was lost while {method!r} was called") from None
    if failure.check(RemoteException):
        remote = _copied(failure)
        raise _remote_class(_remote_name(remote))(_remote_text(remote)) from None
    if failure.check(Violation):
        text = _discreet(str(failure.value))
        wrong = _WRONG_DOOR.search(text)
        if wrong is not None:
            role = wrong.group(1).lower()
            raise SecurityError(
                f"this FURL is the {role} FURL, and gives no right to {method!r}: "
                "use the FURL file of the role that does"
            ) from None
        raise KernelError(f"{method!r} cannot be called like this: {text}") from None
    return failure


def _discreet(text: str) -> str:
    """Return a text of Foolscap's in one line, and without the secret part of any FURL in it."""
    return _SECRET.sub(r"\1...", " ".join(text.split()))


def _remote_class(name: str) -> type[KernelError]:
    # Only errors of our own keep their class; the peer's word is not used for anything else.
    module, _, short = name.rpartition(".")
    if module == errors.__name__ and short in errors.__all__:
        found = getattr(errors, short)
        if isinstance(found, type) and issubclass(found, KernelError):
            return found
    return KernelError


def _remote_name(remote: Any) -> str:
    # Foolscap makes a class up that has the name of the remote one.
    return f"{remote.type.__module__}.{remote.type.__name__}"


def _remote_text(remote: Any) -> str:
    text = _discreet(str(remote.value))
    module, _, short = _remote_name(remote).rpartition(".")
    return text if module == errors.__name__ else f"{short}: {text}"


# ----------------------------------------------------------------------- channels


def open_channel(
    tub: SecureTub,
    reference: Any,
    ticket: bytes,
    make_channel: Callable[[], Channel],
    timeout: float = 10.0,
    local: str = "",
) -> Deferred[Channel]:
    """Open a channel to the process behind a reference.

    Args:
        tub: This process's Tub.
        reference: Got by :func:`connect`; the channel goes to the same address.
        ticket: From one of that process's doors.
        make_channel: Makes this end of the channel.
        timeout: Seconds for all of it.
        local: The process's port for channels of its own machine and user, if it has one; where
            that cannot be had, the channel goes over TLS.

    Returns:
        Fires when it is known who is at the other side and the ticket is sent; data
        may follow at once. Fails with :class:`~ipkernel.errors.ConnectError`. If the other
        side refuses the ticket, the channel is lost soon afterwards.
    """
    broker = _broker(reference)
    if broker.disconnected:
        return fail(ConnectError("the connection to the controller was lost"))
    certificate = peer_certificate(broker.transport)
    if certificate is None:
        return fail(ConnectError("the connection to the controller was lost"))
    sock = dial(local)
    if sock is not None:
        channel = make_channel()
        transport = LocalTransport(tub.reactor, sock, channel)
        tub.adopt(channel, certificate.tub_id)
        transport.write(ticket)
        transport.start()
        return succeed(channel)
    address = broker.transport.getPeer()
    opening = _Opening(tub, certificate.tub_id, certificate.pin, ticket, make_channel)
    opening.start(address.host, address.port, timeout)
    return opening.done


class _Opening(ClientFactory):
    """One attempt to open a channel."""

    noisy = False

    def __init__(
        self,
        tub: SecureTub,
        tub_id: str,
        pin: str,
        ticket: bytes,
        make_channel: Callable[[], Channel],
    ) -> None:
        self.tub = tub
        self.tub_id = tub_id
        self.pin = pin
        self.ticket = ticket
        self.make_channel = make_channel
        self.done: Deferred[Channel] = Deferred(lambda _: self.disconnect())
        self._connector: Any = None
        self._timer: Any = None

    def start(self, host: str, port: int, timeout: float) -> None:
        self.tub._opening.add(self)
        self._timer = self.tub.reactor.callLater(timeout, self._too_late)
        self._connector = self.tub.reactor.connectTCP(
            host, port, tls_factory(self.tub, True, self), timeout
        )

    def buildProtocol(self, address: object) -> Protocol:
        return _TicketSender(self)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.failed(f"the channel could not be opened: {reason.getErrorMessage()}")

    def disconnect(self) -> None:
        self.failed("the channel was given up before it was open")
        if self._connector is not None:
            self._connector.disconnect()

    def _too_late(self) -> None:
        self.failed("the channel could not be opened in time")
        self._connector.disconnect()

    def _over(self) -> bool:
        self.tub._opening.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        return bool(self.done.called)

    def failed(self, why: str) -> None:
        if not self._over():
            self.done.errback(ConnectError(why))

    def opened(self, channel: Channel) -> None:
        if not self._over():
            self.done.callback(channel)


@implementer(IHandshakeListener)
class _TicketSender(Protocol):
    """The client's side of a channel until the ticket is sent."""

    transport: Any

    def __init__(self, opening: _Opening) -> None:
        self._opening = opening

    def connectionMade(self) -> None:
        raw = self.transport.transport
        raw.setTcpNoDelay(True)
        raw.bufferSize = READ_SIZE

    def handshakeCompleted(self) -> None:
        opening = self._opening
        tls: Any = self.transport
        certificate = peer_certificate(tls)
        if opening.done.called:
            tls.abortConnection()
            return
        if certificate is None or certificate.pin != opening.pin:
            tls.abortConnection()
            opening.failed("the channel leads to another process than the FURL does")
            return
        tls.write(opening.ticket)
        channel = opening.make_channel()
        tls.wrappedProtocol = channel
        opening.tub.adopt(channel, opening.tub_id)
        channel.makeConnection(tls)
        opening.opened(channel)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._opening.failed(f"the channel could not be opened: {describe_loss(reason)}")
