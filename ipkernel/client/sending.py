"""Large values on their way out: into the store of a host on this machine, or into the outbox."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ipkernel.client.hosts import Hosts
from ipkernel.client.moving import Mover
from ipkernel.client.outbox import Outbox, Outgoing
from ipkernel.client.progress import SelfShown
from ipkernel.client.waiting import reactor_threads
from ipkernel.errors import ConnectError, ObjectError, StoreFull, TransferError
from ipkernel.objects import new_object_id
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.transfer import Transfer, TransferCancelled

logger = logging.getLogger(__name__)

#: Bytes that may wait in the outbox; who submits more sends it himself, at the network's pace.
OUTBOX: Final = 256 << 20
#: Hosts that are tried before an object counts as one that cannot be sent.
TRIES: Final = 3
#: Payloads below this many bytes are copied into the outbox.
COPY_LIMIT: Final = 1 << 20


class Sent(NamedTuple):
    """A new object.

    Attributes:
        id: Its id.
        host: The host that has it; 0 if it is in the outbox.
        outgoing: What is in the outbox, or None.
    """

    id: bytes
    host: int
    outgoing: Outgoing | None = None


class Sender:
    """Makes objects of payloads.

    Args:
        owner: The number of the client's session.
        hosts: Leads to the stores.
        mover: Moves bytes to other machines.
        outbox: Keeps what hosts will ask for.
    """

    def __init__(self, owner: int, hosts: Hosts, mover: Mover, outbox: Outbox) -> None:
        self._owner = owner
        self._hosts = hosts
        self._mover = mover
        self._outbox = outbox
        self._turn = itertools.count()

    def stash(self, pieces: Sequence[Buffer], size: int, hosts: Sequence[int], what: str) -> Sent:
        """Make an object of a payload that is about to be submitted.

        It is copied into the store of the first host that is on this machine; else it is kept for
        them to ask for, and read when they do. Only if too much waits there already, it is sent here
        and now.

        Args:
            pieces: Its bytes.
            size: Their number.
            hosts: Those that may need it.
            what: What it is, for people.

        Raises:
            StoreFull: The host on this machine has no room for it.
        """
        object_id = new_object_id()
        host = self._near(object_id, pieces, size, hosts, what)
        if not host and hosts and self._crowded(size):
            host = self._far_if_possible(object_id, pieces, size, hosts, what)
        if host:
            return Sent(object_id, host)
        if size < COPY_LIMIT:
            pieces = [b"".join(pieces)]
        return Sent(object_id, 0, self._outbox.add(object_id, pieces, size, what))

    def put(self, pieces: Sequence[Buffer], size: int, hosts: Sequence[int], what: str) -> Sent:
        """Make an object of a payload, of which nothing is needed any more when this returns.

        Args:
            pieces: Its bytes.
            size: Their number.
            hosts: Those of which one is to have it; without any it is copied into the outbox.
            what: What it is, for people.

        Raises:
            StoreFull: The host has no room for it.
            TransferError: It could not be sent.
            ConnectError: The host cannot be reached.
        """
        object_id = new_object_id()
        host = self._near(object_id, pieces, size, hosts, what)
        if not host and hosts:
            host = self._far(object_id, pieces, size, hosts, what)
        if host:
            return Sent(object_id, host)
        return Sent(object_id, 0, self._outbox.add(object_id, [b"".join(pieces)], size, what))

    def hand_over(self) -> Iterator[tuple[Outgoing, int]]:
        """Send what is in the outbox and no host has yet, for this client is about to end.

        What cannot be sent is left where it is.

        Yields:
            Each object that was sent, and the host that has it.
        """
        for outgoing in self._outbox.waiting():
            pieces, hosts = outgoing.pieces, self._hosts.known
            if pieces and hosts:
                arguments = (outgoing.id, pieces, outgoing.size, hosts, outgoing.what)
                host = self._near(*arguments) or self._far_if_possible(*arguments)
                if host:
                    self._outbox.left(outgoing)
                    yield outgoing, host

    def _crowded(self, size: int) -> bool:
        unsent = self._outbox.unsent
        in_reactor = threading.get_ident() in reactor_threads
        return bool(unsent) and unsent + size > OUTBOX and not in_reactor

    def _near(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        hosts: Sequence[int],
        what: str,
    ) -> int:
        """Copy an object into the store of a host on this machine; return the host, or 0."""
        found = self._hosts.near(hosts)
        if found is None:
            return 0
        host, store = found
        transfer = SelfShown(what, size, shown=self._mover.visible)
        try:
            with transfer, self._mover.transfers.moving(transfer):
                store.put(object_id, pieces, size, owner=self._owner, transfer=transfer)
        except (TransferCancelled, StoreFull):
            raise
        except (ConnectError, TransferError, OSError) as problem:
            self._hosts.distrust(host, problem)  # it has to go through the network then
            return 0
        except BaseException:  # Ctrl-C, perhaps when all of it was there
            self._forget(host, object_id)
            raise
        return host

    def _far_if_possible(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        hosts: Sequence[int],
        what: str,
    ) -> int:
        try:
            return self._far(object_id, pieces, size, hosts, what)
        except TransferCancelled:
            raise
        except (ConnectError, ObjectError) as problem:
            logger.info("an object of %d bytes stays in the outbox: %s", size, problem)
            return 0

    def _far(
        self,
        object_id: bytes,
        pieces: Sequence[Buffer],
        size: int,
        hosts: Sequence[int],
        what: str,
    ) -> int:
        """Send an object to one of the hosts, in turn, or to another if that fails; return it."""
        first = next(self._turn)
        for number in range(first, first + min(len(hosts), TRIES)):
            host = hosts[number % len(hosts)]
            try:
                self._far_to(host, object_id, pieces, size, what)
            except TransferCancelled:
                raise
            except (ConnectError, ObjectError) as error:
                problem = error
            else:
                return host
        raise problem

    def _far_to(
        self, host: int, object_id: bytes, pieces: Sequence[Buffer], size: int, what: str
    ) -> None:
        transfer = Transfer(f"{what} to host {self._hosts.name(host)}", size)

        def send() -> None:
            store = self._hosts.store(host)
            store.put(object_id, pieces, size, owner=self._owner, transfer=transfer)

        try:
            self._mover.run([(send, transfer)])
        except (ConnectError, ObjectError):
            raise
        except BaseException:  # Ctrl-C, perhaps when all of it was there
            self._forget(host, object_id)
            raise

    def _forget(self, host: int, object_id: bytes) -> None:
        """Have a store forget what nobody was told of."""

        def free() -> None:
            try:
                self._hosts.store(host).free([object_id])
            except Exception:  # the store will free it when this client is gone
                logger.debug("an object was not freed", exc_info=True)

        self._mover.providers.submit(free)
