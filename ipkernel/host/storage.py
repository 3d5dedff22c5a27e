"""The store of a host as the daemon has it from its start: addresses, and nothing behind them yet.

Most clusters never move a large object. So all that exists at first are sockets that listen; the
store itself, and the modules that it is made of, come with the first process that connects to
one of them or with the first task that needs an object.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.host.listening import Trigger, listen_tcp
from ipkernel.host.needs import Uplink
from ipkernel.host.storeoptions import StoreOptions
from ipkernel.objects.tickets import make_key, make_ticket, result_id
from ipkernel.sizes import parse_size
from ipkernel.wire.accepting import Acceptor
from ipkernel.wire.addresses import listen, machine_id
from ipkernel.wire.furl import local_location
from ipkernel.wire.messages import HostAccess, HostGone, Message, Placed, Relay
from ipkernel.wire.records import StoreAccess

if TYPE_CHECKING:
    from ipkernel.host.objectplane import ObjectPlane
    from ipkernel.wire.identity import Identity

__all__ = ["Storage", "make_storage"]

logger = logging.getLogger(__name__)

#: Addresses that are told at most.
MAX_HINTS: Final = 32


class Storage:
    """This host's store, made when it is first needed.

    Args:
        reactor: Twisted's reactor.
        identity: Of this process, whose certificate the data port shows.
        uplink: The way to the controller.
        options: How it is to be.

    Raises:
        OSError: It cannot listen for processes of this machine.
    """

    def __init__(
        self, reactor: Any, identity: Identity, uplink: Uplink, options: StoreOptions
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._uplink = uplink
        self._options = options
        self._key = make_key()
        self._plane: ObjectPlane | None = None
        #: What the controller has said, for a store that is not there yet.
        self._hosts: dict[int, HostAccess] = {}
        self._number = 0
        self._controller = ""
        self._local = listen()
        self._address = str(self._local[1])
        self._first = Trigger(reactor, self._local[0], self._connected)
        self._interface = ""
        self._port: Acceptor | None = None
        #: Why there can be no store, or empty.
        self._problem = ""

    # --------------------------------------------------------- who reaches it

    def admit(self, subject: str) -> tuple[str, bytes]:
        """Return the address for a process of this machine, and its ticket."""
        if self._problem:
            return "", b""
        return self._address, make_ticket(self._key, subject)

    def access(self, interface: str) -> StoreAccess:
        """Return how others reach the store, having the data port listen.

        Args:
            interface: The address of this host that leads to the controller. That is where it
                listens, unless the options name another one.
        """
        return StoreAccess(
            pin=self._identity.pin,
            key=self._key,
            hints=self._listen(self._options.interface or interface),
            local=self._address,
            machine=machine_id(),
        )

    def _listen(self, interface: str) -> list[str]:
        if self._port is not None and interface != self._interface:
            self._port.close()
            self._port = None
        if self._port is None:
            try:
                sock = listen_tcp(interface, self._options.port)
            except ConnectError as error:
                logger.warning(
                    "objects of this host go by way of the controller, as there is no data port: %s",
                    error,
                )
                return []
            self._interface = interface
            self._port = Acceptor(self._reactor, sock, self._accepted, "data port")
        return local_location(interface, self._port.sockname[1])[:MAX_HINTS]

    def _connected(self) -> None:
        """A process of this machine connects for the first time."""
        if self._open() is None:
            self._local[0].close()

    def _accepted(self, sock: socket.socket) -> None:
        plane = self._open()
        if plane is None:
            sock.close()
        else:
            plane.serve(sock)

    def _open(self) -> ObjectPlane | None:
        """Return the store, making it if there is none; None if that is not possible."""
        if self._plane is None and not self._problem:
            self._first.stop()
            try:
                self._plane = self._make()
            except Exception as error:
                logger.exception("there is no store on this host")
                self._problem = f"the store of this host could not be made: {error}"
        return self._plane

    def _make(self) -> ObjectPlane:
        from ipkernel.host.objectplane import ObjectPlane

        plane = ObjectPlane(
            self._reactor, self._identity, self._uplink, self._options, self._key, self._local
        )
        if self._number:
            plane.joined(self._number, self._controller)
        for access in self._hosts.values():
            plane.handle(access)
        self._hosts.clear()
        return plane

    # --------------------------------------------------------- what tasks need

    def lease_now(self, ids: Sequence[bytes], holder: str) -> list[Placed] | None:
        """Lease objects if all of them are here; see :meth:`HostObjects.lease_now`."""
        return self._plane.objects.lease_now(ids, holder) if self._plane is not None else None

    def require(self, ids: Sequence[bytes], holder: str, owner: int) -> Deferred[list[Placed]]:
        """Have objects here; see :meth:`HostObjects.require`."""
        plane = self._open()
        if plane is None:
            return fail(ObjectError(self._problem))
        return plane.objects.require(ids, holder, owner)

    def give_back(self, objects: Iterable[bytes], holder: str) -> None:
        """End leases; see :meth:`HostObjects.give_back`."""
        if self._plane is not None:
            self._plane.objects.give_back(objects, holder)

    def drop(self, holder: str, tasks: Iterable[int]) -> None:
        """Forget an engine that is gone.

        Args:
            holder: As given to :meth:`admit`.
            tasks: Those that it had and has not done; their results are forgotten as well.
        """
        if self._plane is not None:
            ticket = make_ticket(self._key, holder)
            self._plane.objects.drop(holder, [result_id(ticket, task) for task in tasks])

    # --------------------------------------------------------- the controller

    def handle(self, message: Message) -> None:
        """Deal with a message of the controller."""
        if self._plane is not None:
            self._plane.handle(message)
        elif isinstance(message, HostAccess):
            self._hosts[message.host] = message
        elif isinstance(message, HostGone):
            self._hosts.pop(message.host, None)
        elif isinstance(message, Relay) and message.token and self._open() is not None:
            self.handle(message)

    def joined(self, number: int, host: str, port: int) -> None:
        """A controller was joined, which knows of no object here.

        Args:
            number: This host's number there.
            host: Address of the controller, by which it was reached.
            port: Its port.
        """
        self._number, self._controller = number, _location(host, port)
        if self._plane is not None:
            self._plane.joined(number, self._controller)

    def restarted(self, host: str, port: int) -> list[tuple[bytes, int]]:
        """The controller was started again, and knows this host, but not what it has.

        Args:
            host: Address of the controller, by which it was reached.
            port: Its port.

        Returns:
            The ids and lengths of all objects that are here.
        """
        self._controller = _location(host, port)
        return self._plane.restarted(self._controller) if self._plane is not None else []

    def ask_again(self) -> None:
        """Ask a controller that was started again for all that is looked for."""
        if self._plane is not None:
            self._plane.objects.searches.ask_again()

    def disconnected(self) -> None:
        """The controller is gone."""
        self._number = 0
        self._hosts.clear()
        if self._plane is not None:
            self._plane.disconnected()

    async def close(self) -> None:
        """Give everything back; no thread is at work any more when this returns."""
        self._first.stop()
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._plane is None:
            self._local[0].close()
        else:
            await self._plane.close()


def _location(host: str, port: int) -> str:
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def make_storage(
    reactor: Any, identity: Identity, uplink: Uplink, options: StoreOptions
) -> Storage | None:
    """Return a host's store, or None if it shall have none; see :class:`Storage`.

    Raises:
        ValueError: Objects cannot be kept where the options say.
        OSError: It cannot listen for processes of this machine.
    """
    if options.memory is not None and not parse_size(options.memory, 100):
        return None
    directory = options.spill_dir
    if directory and not (os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)):
        raise ValueError(f"objects cannot go to {directory}: it is not a directory to write to")
    return Storage(reactor, identity, uplink, options)
