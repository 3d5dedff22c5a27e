"""The client's part in moving large values: where they are put, and how they come back.

A value of 64 KB or more becomes an object. If one of the hosts that may need it is on this machine, the
calling thread copies it into that host's store; otherwise it stays where it is until a host asks for
it. Results are mapped where their host is on this machine, and fetched in the background from any
other, directly or through the controller.

The controller counts references by session; :class:`~ipkernel.client.references.References` knows who
uses an object here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from ipkernel.client.asking import Asking
from ipkernel.client.elsewhere import Elsewhere
from ipkernel.client.engines import Engines
from ipkernel.client.fetching import ANSWER, Fetcher
from ipkernel.client.flows import Flows
from ipkernel.client.hosts import Connector, Hosts
from ipkernel.client.moving import Mover
from ipkernel.client.outbox import Outbox, Outgoing
from ipkernel.client.references import References
from ipkernel.client.sending import Sender
from ipkernel.client.stored import Stored
from ipkernel.client.waiting import wait_for
from ipkernel.errors import ConnectError, ObjectError
from ipkernel.objects.interfaces import Buffer, StoreClient
from ipkernel.objects.ref import ObjectRef, resolving
from ipkernel.objects.transfer import Transfer
from ipkernel.serialize.payload import loads
from ipkernel.wire.messages import (
    Finished,
    Free,
    HostAccess,
    HostGone,
    Message,
    Moving,
    ObjectMade,
    Provide,
    Relay,
    Source,
)

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult
    from ipkernel.client.task import TaskRecord

#: Seconds that transfers may take to end after they were cancelled.
ENDING: Final = 3.0


class Mailbox(Protocol):
    """What is asked of the session."""

    number: int
    engines: Engines

    def watch(self, records: Iterable[TaskRecord], result: AsyncResult) -> None:
        """Make tasks those of a new result."""

    @property
    def failure(self) -> BaseException | None:
        """Why nothing can be asked of the controller any more, or None."""

    def tell(self, message: Message) -> None:
        """Send a message to the controller."""

    def wake(self) -> None:
        """Have what was dropped given back now."""

    def arrived(self, message: Finished, content: memoryview | BaseException) -> None:
        """Take the bytes of a result, or why they cannot be had."""


class Objects:
    """The large values of one client.

    Args:
        session: Talks to the controller.
        connector: Makes connections to stores; without one no store can be reached.

    Attributes:
        active: Whether there ever was a large value.
        client: Leads to the client, which references keep alive.
        hosts: Whose stores can be used.
        mover: Moves bytes in other threads.
        outbox: Objects that hosts will ask for.
        references: Counts who uses an object here.
        sender: Makes objects.
        fetcher: Brings objects here.
        flows: Files and streams of items.
        elsewhere: What is moved between hosts for tasks of this client.
    """

    def __init__(self, session: Mailbox, connector: Connector | None = None) -> None:
        self._session = session
        self.active = False
        self.client: Callable[[], object] = lambda: None
        self.hosts = Hosts(connector)
        self.mover = Mover()
        self.references = References()
        self._asking = Asking(session.tell)
        self.outbox = Outbox(session.number, self.hosts, self.mover, session.tell)
        self.sender = Sender(session.number, self.hosts, self.mover, self.outbox)
        self.fetcher = Fetcher(session, self.hosts, self.mover, self.references, self._asking)
        self.flows = Flows(session, self.hosts, self._interrupt)
        self.elsewhere = Elsewhere()
        self._homes: dict[bytes, int] = {}
        self._binding: Callable[[], _Binding | None] = lambda: None

    # ------------------------------------------------- what the controller says

    def received(self, message: Message) -> None:
        """Take a message about objects; others are ignored. For the thread that receives them."""
        if isinstance(message, HostAccess):
            self._close(self.hosts.learn(message))
        elif isinstance(message, HostGone):
            self._close(self.hosts.lose(message))
            self.elsewhere.gone(message.host)
        elif isinstance(message, Moving):
            self.elsewhere.heard(message, self.hosts.name(message.host))
        elif isinstance(message, Provide):
            self.outbox.provide(message)
        elif isinstance(message, Free):
            self.outbox.free(message.objects)
        elif isinstance(message, Source):
            self._asking.answer((Source, message.object), message)
        elif isinstance(message, Relay):
            self._asking.answer((Relay, message.host), message)

    def _close(self, store: StoreClient | None) -> None:
        if store is not None:
            self.mover.providers.submit(store.close)

    def relay(self, host: int) -> bytes:
        """Ask the controller for a way to a host through itself; return the token for it.

        Raises:
            ConnectError: There is none.
        """
        answer: Relay = wait_for(self._asking.ask((Relay, host), Relay(host)), ANSWER)
        if answer.problem or not answer.token:
            why = answer.problem or "the controller offers no way to it"
            raise ConnectError(f"cannot reach host {self.hosts.name(host)}: {why}")
        return answer.token

    @property
    def unanswered(self) -> list[Message]:
        """The questions to the controller that it has not answered."""
        return self._asking.unanswered

    def _interrupt(self, engine: int) -> None:
        """Interrupt an engine, whichever task it runs. Blocking."""
        client: Any = self.client()
        if client is not None:
            client.send_signal("SIGINT", [engine])

    # ------------------------------------------------- tasks

    def stash(
        self, pieces: Sequence[Buffer], size: int, engines: Iterable[int], what: str
    ) -> tuple[ObjectMade, Outgoing | None] | None:
        """Make an object of a payload; it counts as used until it is dropped.

        Args:
            pieces: Its bytes.
            size: Their number.
            engines: Those that may need it.
            what: What it is, for people.

        Returns:
            What announces it, to be sent ahead of the task, and what is in the outbox, if it is there;
            None if there are engines, and none of their hosts has a store.

        Raises:
            StoreFull: The host on this machine has no room for it.
        """
        numbers = self._session.engines.hosts(engines)
        hosts = self.hosts.named(numbers)
        if numbers and not hosts:
            return None
        self.active = True
        sent = self.sender.stash(pieces, size, hosts, what)
        self.references.hold(sent.id)
        return ObjectMade(sent.id, size, sent.host, self._session.number), sent.outgoing

    def result(self, message: Finished, keep: bool) -> Stored | ObjectRef | None:
        """Return what stands for a result that is an object; None while it is being fetched.

        Args:
            message: How the task ended.
            keep: Whether the result is a reference.
        """
        self.active = True
        if keep:
            return self.refer(message.object, message.length, message.host)
        return self.fetcher.result(message)

    def unwanted(self, message: Finished) -> None:
        """Give back the reference to a result that nobody waits for."""
        self.references.hold(message.object)
        self.references.drop(message.object)

    def transfers_of(
        self, records: Sequence[TaskRecord], outgoing: Iterable[Outgoing]
    ) -> list[Transfer]:
        """Return the transfers that tasks wait for.

        They are those of what is sent for them, of what they result in, and what their hosts fetch;
        where it is not known yet which hosts these are, what any host fetches.
        """
        sent = [one.transfer for one in outgoing if one.transfer is not None]
        sent += self.fetcher.transfers_of(record.id for record in records)
        targets = {record.target for record in records}
        hosts = [] if -1 in targets else self._session.engines.hosts(targets)
        return sent + (self.elsewhere.now(hosts) if records else [])

    def transfers(self) -> list[Transfer]:
        """Return what is being moved from and to this client, and between hosts for its tasks."""
        return self.mover.transfers.now() + self.elsewhere.now()

    # ------------------------------------------------- references

    def put(
        self,
        pieces: Sequence[Buffer],
        size: int,
        engines: Iterable[int],
        inner: Iterable[ObjectRef] = (),
    ) -> ObjectRef:
        """Put a value where engines can use it, and return a reference; waits until it is there.

        Args:
            pieces: Its bytes.
            size: Their number.
            engines: Those that will need it.
            inner: References in the value.

        Raises:
            ObjectError: None of their hosts has a store.
            StoreFull, TransferError, ConnectError: As ``Sender.put``.
        """
        numbers = self._session.engines.hosts(engines)
        hosts = self.hosts.named(numbers)
        if numbers and not hosts:
            raise ObjectError("nothing can be put there: no host of these engines has a store")
        self.active = True
        sent = self.sender.put(pieces, size, hosts, "put")
        ref = self.refer(sent.id, size, sent.host, inner)
        self._session.tell(ObjectMade(sent.id, size, sent.host, self._session.number))
        return ref

    def refer(
        self, object_id: bytes, size: int, host: int, inner: Iterable[ObjectRef] = ()
    ) -> ObjectRef:
        """Return a reference to an object that the controller counts for this session."""
        where = self.hosts.name(host) if host else ""
        self.references.hold(object_id)
        self._homes[object_id] = host
        return ObjectRef(object_id, size, where, inner=inner).bind(self._bound())

    def _bound(self) -> _Binding:
        binding = self._binding()
        if binding is None:
            binding = _Binding(self, self.client())
            self._binding = weakref.ref(binding)
        return binding

    def settle(self, count: int) -> list[bytes]:
        """Return the objects, after the ``count`` oldest drops, to which nobody refers any more."""
        unused = self.references.settle(count)
        for object_id in unused:
            self._homes.pop(object_id, None)
        return unused

    def values_of(self, refs: Sequence[ObjectRef], timeout: float | None) -> list[Any]:
        """Return the values of objects; far ones are fetched at the same time.

        Raises:
            ControllerLost: The client is closed, or the controller is gone.
            ObjectLost, TimeoutError, SerializationError: As ``Client.fetch``.
        """
        failure = self._session.failure
        if failure is not None:
            raise failure
        ours = {ref.id: bytearray().join(p) for ref in refs if (p := self.outbox.pieces(ref.id))}
        others = [ref for ref in refs if ref.id not in ours]
        wanted = [(ref.id, self._homes.get(ref.id, 0), repr(ref), ref.size) for ref in others]
        found = iter(self.fetcher.bring_all(wanted, timeout))
        return [_load(ours[ref.id] if ref.id in ours else next(found), ref) for ref in refs]

    def free(self, ref: ObjectRef) -> None:
        """Give a reference back now."""
        self.references.drop(ref.id)
        self._session.wake()

    # ------------------------------------------------- the end

    def hand_over(self) -> None:
        """Give hosts what tasks will need of this client, which is about to end. Blocking."""
        for outgoing, host in self.sender.hand_over():
            made = ObjectMade(outgoing.id, outgoing.size, host, self._session.number)
            self._session.tell(made)

    def lost(self, failure: Callable[[], BaseException]) -> None:
        """Take note that the controller is gone: questions fail, transfers end."""
        self._asking.fail(failure)
        self.mover.transfers.cancel()
        self.elsewhere.clear()
        self.outbox.clear()

    def close(self, timeout: float = ENDING) -> None:
        """End all transfers and threads, close all connections.

        Args:
            timeout: Seconds to wait for the threads.
        """
        self.mover.transfers.cancel()
        self.flows.close(timeout)
        self.hosts.close()
        self.mover.close(timeout)

    def forked(self) -> None:
        """Begin afresh in the child of a fork: connections and threads are the parent's."""
        self.hosts.forked()
        self.mover.forked()
        self.elsewhere.forked()
        self.flows.forked()
        self.references.forked()
        self._asking.forked()
        self.outbox.forked()


def _load(data: memoryview | bytearray, ref: ObjectRef) -> Any:
    """Load a value; references in it become those that are kept with the reference to it."""
    if not ref.inner:
        return loads(data)
    with resolving({inner.id: inner for inner in ref.inner}):
        return loads(data)


class _Binding:
    """What references hold: through it they keep the client alive."""

    def __init__(self, objects: Objects, client: object) -> None:
        self.objects = objects
        self.client = client
        self.release = objects.references.drop

    def get(self, ref: ObjectRef, timeout: float | None) -> Any:
        """Return the value."""
        return self.objects.values_of([ref], timeout)[0]

    def free(self, ref: ObjectRef) -> None:
        """Let go of the object."""
        self.objects.free(ref)
