"""What one connection to a host's store may do, and what happens when it ends; without its socket."""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from ipkernel.errors import ConnectError, KernelError, ObjectError
from ipkernel.objects.interfaces import Placement
from ipkernel.objects.localwire import (
    PROTOCOL,
    Abandon,
    AlreadyThere,
    Attach,
    Create,
    Free,
    Get,
    Hello,
    Hold,
    Kept,
    Ok,
    Region,
    Release,
    Reply,
    Request,
    Seal,
    Segment,
    WaitFreed,
    Welcome,
    WireError,
    problem_of,
    proof,
)
from ipkernel.objects.store import HostStore, ObjectExists
from ipkernel.objects.tickets import make_ticket

__all__ = ["LocalSession", "Subjects"]

logger = logging.getLogger(__name__)

Answer: TypeAlias = Reply | tuple[Reply, int]
"""What is sent; with the descriptor that goes along with it."""


class Subjects:
    """Who is connected, and how often.

    Args:
        store: The host's.
        left: Is called with a subject whose last connection has ended; by default the store
            drops all leases of it then.
    """

    def __init__(self, store: HostStore, left: Callable[[str], None] | None = None) -> None:
        self._left = store.drop if left is None else left
        self._connections: Counter[str] = Counter()
        self._held = 0

    def join(self, subject: str) -> None:
        """Count one more connection."""
        self._connections[subject] += 1

    def leave(self, subject: str) -> None:
        """Count one less; with the last one, the subject has left."""
        self._connections[subject] -= 1
        if not self._connections[subject]:
            del self._connections[subject]
            self._left(subject)

    def child_of(self, subject: str) -> str:
        """Return a name for a process that ``subject`` has forked."""
        self._held += 1
        return f"{subject}/{self._held}"


class LocalSession:
    """One connection's rights and duties.

    Args:
        store: The host's.
        key: The secret that tickets are made with.
        subjects: Of all connections.
        answer: Sends an answer.

    Attributes:
        subject: Who it is; empty before a ticket was shown.
        busy: While a question is not answered yet; no other may be asked.
    """

    def __init__(
        self,
        store: HostStore,
        key: bytes,
        subjects: Subjects,
        answer: Callable[[Answer], None],
    ) -> None:
        self.subject = ""
        self.busy = False
        self._store = store
        self._key = key
        self._subjects = subjects
        self._answer = answer
        self._over = False
        self._parent = ""
        self._waiting: Deferred[Any] | None = None
        self._writing: set[bytes] = set()
        #: The object of a lease that may not have arrived.
        self._granted = b""

    def ask(self, message: Request) -> None:
        """Take in a message; what it asks for is answered now or later.

        Raises:
            WireError: It must not be sent, or not now; the connection is to be closed.
        """
        if isinstance(message, Hello) or not self.subject:
            self._greet(message)
        elif isinstance(message, Release):
            for object_id in message.objects:
                self._store.release(object_id, self.subject)
        elif isinstance(message, Kept):
            if message.object == self._granted:
                self._granted = b""
        else:
            self.busy = True
            self._waiting = maybeDeferred(_QUESTIONS[type(message)], self, message)
            self._waiting.addErrback(self._problem).addCallback(self._answered)

    def _answered(self, answer: Answer) -> None:
        self.busy = False
        if not self._over:
            self._answer(answer)

    def _problem(self, failure: Failure) -> Reply:
        error = failure.value or ObjectError("for no known reason")
        if not (self._over or isinstance(error, KernelError | TimeoutError)):
            logger.error("the store failed for %s: %s", self.subject, failure.getTraceback())
        return problem_of(error)

    # ------------------------------------------------------------ questions

    def _greet(self, hello: Request) -> None:
        if not isinstance(hello, Hello) or self.subject:
            raise WireError(f"a {type(hello).__name__} that is not due")
        ticket = make_ticket(self._key, hello.subject)
        if not hmac.compare_digest(proof(ticket, hello.nonce, "client"), hello.proof):
            self._refuse("the ticket is not good for this store, or not any more")
        if hello.protocol != PROTOCOL:
            self._refuse(f"the store speaks version {PROTOCOL}, not {hello.protocol}; update both")
        self.subject = hello.subject
        self._subjects.join(hello.subject)
        self._answer(Welcome(proof(ticket, hello.nonce, "store")))

    def _refuse(self, why: str) -> NoReturn:
        self._answer(problem_of(ConnectError(why)))
        raise WireError(why)

    def _create(self, message: Create) -> Deferred[Answer]:
        made = maybeDeferred(
            self._store.create,
            message.object,
            message.size,
            owner=message.owner,
            writer=self.subject,
        )
        return made.addCallbacks(
            self._created,
            self._not_created,
            callbackArgs=(message.object,),
            errbackArgs=(message,),
        )

    def _created(self, placement: Placement, object_id: bytes) -> Answer:
        self._writing.add(object_id)
        return Region(placement.segment, placement.offset, placement.size)

    def _not_created(self, failure: Failure, message: Create) -> Any:
        """Wait for another writer: whose put returns may rely on the object's being there."""
        failure.trap(ObjectExists)
        info = self._store.info(message.object)
        if info is None or info.sealed:
            raise AlreadyThere(f"the store has object {message.object.hex()} already")
        written = maybeDeferred(self._store.lease, message.object, self.subject)
        return written.addCallbacks(
            self._written, self._not_written, callbackArgs=(message,), errbackArgs=(message,)
        )

    def _written(self, placement: Placement, message: Create) -> NoReturn:
        self._store.release(message.object, self.subject)
        raise AlreadyThere(f"the store has object {message.object.hex()} by now")

    def _not_written(self, failure: Failure, message: Create) -> Any:
        failure.trap(ObjectError)
        return self._create(message)

    def _seal(self, message: Seal) -> Answer:
        self._written_here(message.object)
        self._store.seal(message.object)
        return Ok()

    def _abandon(self, message: Abandon) -> Answer:
        self._written_here(message.object)
        self._store.abandon(message.object)
        return Ok()

    def _written_here(self, object_id: bytes) -> None:
        try:
            self._writing.remove(object_id)
        except KeyError:
            raise ObjectError(
                f"object {object_id.hex()} is not being written on this connection"
            ) from None

    def _get(self, message: Get) -> Deferred[Answer]:
        leased = maybeDeferred(
            self._store.lease,
            message.object,
            self.subject,
            bringer=message.bringer,
            timeout=message.timeout,
        )
        return leased.addCallback(self._leased, message.object)

    def _leased(self, placement: Placement, object_id: bytes) -> Answer:
        self._granted = object_id
        return Region(placement.segment, placement.offset, placement.size)

    def _attach(self, message: Attach) -> Answer:
        try:
            segment = self._store.segment(message.segment)
        except KeyError:
            raise ObjectError(f"the store has no segment {message.segment}") from None
        return Segment(segment) if isinstance(segment, str) else (Segment(), segment)

    def _free(self, message: Free) -> Answer:
        self._store.free(message.objects)
        return Ok()

    def _wait_freed(self, message: WaitFreed) -> Deferred[Answer]:
        freed = maybeDeferred(self._store.wait_freed, message.object, message.timeout)
        return freed.addCallback(Ok)

    def _hold(self, message: Hold) -> Answer:
        if not self._parent:
            self._parent, self.subject = self.subject, self._subjects.child_of(self.subject)
            self._subjects.join(self.subject)
            self._subjects.leave(self._parent)
        self._store.share(message.objects, self._parent, self.subject)
        return Ok()

    # --------------------------------------------------------------- ending

    def end(self) -> None:
        """The connection has ended; what it was in the middle of is undone."""
        if self._over:
            return
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()  # so that nothing is granted any more
        for object_id in self._writing:
            self._store.abandon(object_id)
        if self._granted:
            self._store.release(self._granted, self.subject)
        if self.subject:
            self._subjects.leave(self.subject)


_QUESTIONS: Final[dict[type[Request], Callable[[LocalSession, Any], Any]]] = {
    Create: LocalSession._create,
    Seal: LocalSession._seal,
    Abandon: LocalSession._abandon,
    Get: LocalSession._get,
    Attach: LocalSession._attach,
    Free: LocalSession._free,
    WaitFreed: LocalSession._wait_freed,
    Hold: LocalSession._hold,
}
