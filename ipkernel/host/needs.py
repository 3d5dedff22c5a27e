"""Tasks that need objects: held in their lane until these are in the store of this host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from ipkernel.errors import KernelError, ObjectError, StoreFull
from ipkernel.wire.messages import (
    Assign,
    Done,
    Message,
    Outcome,
    Placed,
    Reason,
    encode_reason,
)

if TYPE_CHECKING:
    from ipkernel.host.engine import Engine

__all__ = ["Needs", "NoObjects", "Objects", "Uplink"]

logger = logging.getLogger(__name__)


class Uplink(Protocol):
    """The way to the controller."""

    def send(self, message: Message, payload: Any = b"") -> None:
        """Send a message, now or when there is a connection again."""

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""


class Objects(Protocol):
    """What brings objects to this host; see :class:`~ipkernel.host.storage.Storage`."""

    def admit(self, subject: str) -> tuple[str, bytes]:
        """Return the store's address and the ticket of an engine; empty if there is no store."""

    def lease_now(self, ids: Sequence[bytes], holder: str) -> list[Placed] | None:
        """Lease objects if all of them are here; otherwise return None, and lease none."""

    def require(self, ids: Sequence[bytes], holder: str, owner: int) -> Deferred[list[Placed]]:
        """Have objects here, and leased; fails with a KernelError. May be cancelled."""

    def give_back(self, objects: Iterable[bytes], holder: str) -> None:
        """End leases that :meth:`lease_now` or :meth:`require` has taken."""

    def drop(self, holder: str, tasks: Iterable[int]) -> None:
        """End all leases of an engine that is gone, and forget results of tasks it has not done."""

    def handle(self, message: Message) -> None:
        """Deal with a message of the controller; those that are not about objects are ignored."""


class NoObjects:
    """Takes the place of a store on a host that has none."""

    def admit(self, subject: str) -> tuple[str, bytes]:
        """Return that there is no store."""
        return "", b""

    def lease_now(self, ids: Sequence[bytes], holder: str) -> None:
        """Return that nothing is here."""

    def require(self, ids: Sequence[bytes], holder: str, owner: int) -> Deferred[list[Placed]]:
        """Fail: no object can be brought here."""
        return fail(ObjectError("this host has no store for objects (store_memory is 0)"))

    def give_back(self, objects: Iterable[bytes], holder: str) -> None:
        """There are no leases."""

    def drop(self, holder: str, tasks: Iterable[int]) -> None:
        """There are no leases."""

    def handle(self, message: Message) -> None:
        """Ignore what the controller says about objects."""


class Needs:
    """Holds tasks until their objects are there.

    Args:
        uplink: The way to the controller.
        objects: Brings objects here.
        feed: Is called with an engine for which something may go on.
    """

    def __init__(self, uplink: Uplink, objects: Objects, feed: Callable[[Engine], None]) -> None:
        self._uplink = uplink
        self._objects = objects
        self._feed = feed

    def hold(self, engine: Engine, message: Assign, payload: Any) -> None:
        """Queue a task that needs objects, and have them brought; the caller feeds the engine."""
        if engine.exit is not None:
            return  # its process is gone, and the controller takes the task back when it hears that
        task = message.task
        placed = self._objects.lease_now(message.needs, engine.subject)
        if placed is not None:
            engine.leases[task] = placed
            engine.lane.add(msgspec.structs.replace(message, placed=placed), payload)
            return
        engine.lane.hold(message, payload)
        waiting = self._objects.require(message.needs, engine.subject, task >> 40)
        engine.waits[task] = waiting
        waiting.addCallbacks(
            self._placed,
            self._missing,
            callbackArgs=(engine, message),
            errbackArgs=(engine, message),
        )
        waiting.addErrback(lambda failure: logger.error("%s", failure.getTraceback()))

    def _placed(self, placed: list[Placed], engine: Engine, message: Assign) -> None:
        del engine.waits[message.task]
        engine.leases[message.task] = placed
        engine.lane.place(msgspec.structs.replace(message, placed=placed))
        self._feed(engine)

    def _missing(self, failure: Failure, engine: Engine, message: Assign) -> None:
        if engine.waits.pop(message.task, None) is None:
            failure.trap(CancelledError)  # whoever let go of the task has cancelled this
            return
        if not failure.check(KernelError):
            logger.error("objects could not be brought: %s", failure.getTraceback())
        text = failure.getErrorMessage()[:4000]
        engine.lane.reclaim([message.task])
        kind = "store-full" if failure.check(StoreFull) else "object"
        reason = Reason(kind, text, engine=engine.id)
        payload = encode_reason(reason)
        done = Done(message.task, engine.id, Outcome.LOST, 0.0, 0.0, len(payload))
        self._uplink.send(done, payload)
        self._feed(engine)

    def sent(self, engine: Engine, task: int) -> None:
        """A task has gone to its engine, which ends the leases by itself."""
        engine.leases.pop(task, None)

    def let_go(self, engine: Engine, tasks: Iterable[int]) -> None:
        """Bring nothing more for tasks that are taken out of the lane, and end their leases."""
        for task in tasks:
            waiting = engine.waits.pop(task, None)
            if waiting is not None:
                waiting.cancel()
            placed = engine.leases.pop(task, None)
            if placed is not None:
                self._objects.give_back([one.object for one in placed], engine.subject)

    def lost(self, engine: Engine) -> None:
        """An engine's process is gone, and with it all that it had leased."""
        self.let_go(engine, [*engine.waits, *engine.leases])
        self._objects.drop(engine.subject, [message.task for message, _ in engine.lane.flight])
