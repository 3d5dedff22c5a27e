"""Objects that a client keeps itself, until a host has asked for them.

That is how large values leave a client that shares its machine with no host of the cluster: the
controller knows of the object and, when a host needs it, has the client put it there. The pieces may
be views of the user's own memory; nothing is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from ipkernel.client.hosts import Hosts
from ipkernel.client.moving import Mover
from ipkernel.client.waiting import wait_until
from ipkernel.errors import ObjectError, UnknownObject
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.transfer import Transfer
from ipkernel.wire.messages import Message, NotProvided, Provide

#: Characters of an explanation; the wire takes no more.
MAX_TEXT: Final = 4096


class Outgoing:
    """One object in the outbox.

    Attributes:
        id: Its id.
        size: Its bytes.
        what: What it is, for people.
        pieces: Its bytes, in order; empty once they are not needed any more.
        left: Whether a host has it, or nobody needs it any more.
        told: Whether the user has been told so, and may have changed the data since.
        transfer: The latest transfer, or None.
    """

    __slots__ = ("id", "left", "pieces", "size", "told", "transfer", "what")

    def __init__(self, object_id: bytes, pieces: Sequence[Buffer], size: int, what: str) -> None:
        self.id = object_id
        self.pieces = pieces
        self.size = size
        self.what = what
        self.left = self.told = False
        self.transfer: Transfer | None = None

    def __repr__(self) -> str:
        return f"<Outgoing {self.what!r}: {self.size} bytes{', left' if self.left else ''}>"


class Outbox:
    """What a client keeps for hosts to ask for.

    Args:
        owner: The number of the client's session.
        hosts: Leads to the stores.
        mover: Moves the bytes.
        tell: Sends a message to the controller.
    """

    def __init__(
        self, owner: int, hosts: Hosts, mover: Mover, tell: Callable[[Message], None]
    ) -> None:
        self._owner = owner
        self._hosts = hosts
        self._mover = mover
        self._tell = tell
        self._kept: dict[bytes, Outgoing] = {}
        #: Bytes that no host has yet.
        self.unsent = 0
        self.forked()

    def forked(self) -> None:
        """Begin afresh in the child of a fork: hosts ask the parent."""
        self._changed = threading.Condition()
        self._kept = {}

    def add(
        self, object_id: bytes, pieces: Sequence[Buffer], size: int, what: str = ""
    ) -> Outgoing:
        """Keep an object; its pieces must not change until it has left."""
        outgoing = Outgoing(object_id, pieces, size, what)
        with self._changed:
            self._kept[object_id] = outgoing
            self.unsent += size
        return outgoing

    def pieces(self, object_id: bytes) -> Sequence[Buffer] | None:
        """Return the bytes of an object that is kept here, or None."""
        outgoing = self._kept.get(object_id)
        return None if outgoing is None else outgoing.pieces

    def provide(self, message: Provide) -> Future[None]:
        """Put an object into a host's store, as the controller asks; the answer goes to it."""
        return self._mover.providers.submit(lambda: self._provide(message.object, message.host))

    def _provide(self, object_id: bytes, host: int) -> None:
        try:
            outgoing = self._kept.get(object_id)
            pieces = () if outgoing is None else outgoing.pieces
            if outgoing is None or not pieces:
                raise UnknownObject("its client does not have it any more")
            if outgoing.told:
                raise ObjectError(
                    "its client has sent it once and was told so, and may have changed it since"
                )
            self._move(outgoing, pieces, host)
        except Exception as problem:  # noqa: BLE001 - whatever it was, the controller must know
            text = str(problem) or type(problem).__name__
            self._tell(NotProvided(object_id, host, text[:MAX_TEXT]))

    def _move(self, outgoing: Outgoing, pieces: Sequence[Buffer], host: int) -> None:
        store = self._hosts.store(host)
        what = f"{outgoing.what or 'object'} to host {self._hosts.name(host)}"
        transfer = outgoing.transfer = Transfer(what, outgoing.size)
        with self._mover.transfers.moving(transfer):
            store.put(outgoing.id, pieces, outgoing.size, owner=self._owner, transfer=transfer)
        self.left(outgoing)

    def left(self, outgoing: Outgoing) -> None:
        """Take note that a host has got an object, or that nobody needs it any more."""
        with self._changed:
            if not outgoing.left:
                outgoing.left = True
                self.unsent -= outgoing.size
                self._changed.notify_all()

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Let go of objects that nobody refers to any more; unknown ones are ignored."""
        for object_id in object_ids:
            outgoing = self._kept.pop(object_id, None)
            if outgoing is not None:
                outgoing.pieces = ()
                if outgoing.transfer is not None:
                    outgoing.transfer.cancel()
                self.left(outgoing)

    def clear(self) -> None:
        """Let go of everything: nobody will ask any more."""
        self.free(list(self._kept))

    @property
    def kept(self) -> list[Outgoing]:
        """The objects that hosts may ask for, or may ask for again."""
        return list(self._kept.values())

    def waiting(self) -> list[Outgoing]:
        """Return the objects that no host has yet."""
        return [outgoing for outgoing in self.kept if not outgoing.left]

    def wait(self, outgoing: Sequence[Outgoing], timeout: float | None) -> bool:
        """Wait until objects have left, so that their data may be changed.

        Args:
            outgoing: The objects.
            timeout: Seconds; None or negative is for ever.

        Returns:
            Whether they have.
        """
        with self._changed:
            done = wait_until(self._changed, lambda: all(o.left for o in outgoing), timeout)
            if done:
                for one in outgoing:
                    one.told = True
        return done

    def __len__(self) -> int:
        return len(self._kept)
