"""What a client does with large values: put them into the cluster once, fetch and free them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipkernel.client.waiting import may_block
from ipkernel.objects.ref import ObjectRef, collecting
from ipkernel.serialize.payload import dumps, size_of

if TYPE_CHECKING:
    from ipkernel.client.session import Session
    from ipkernel.objects.transfer import Transfer


class Values:
    """The part of :class:`~ipkernel.client.client.Client` that deals with large values."""

    _session: Session

    def _build_targets(self, targets: Any) -> tuple[list[int], list[int]]:
        """Return engine ids, twice, for compatibility."""
        raise RuntimeError("there are no engines here")

    def put(self, value: Any, targets: Any = None) -> ObjectRef:
        """Put a value into the cluster once, to be used in many calls.

        The value is copied: later changes to it are not seen by anybody. It lives in the store of a
        host until the reference is freed or garbage collected, and no task needs it any more.

        Args:
            value: Anything that can be sent.
            targets: The engines that will use it; the value is put on a host of theirs. None for any.
                Other hosts get a copy when a task of theirs needs it.

        Returns:
            A reference. In arguments of calls, at any depth, it stands for the value; engines get the
            value itself.

        Raises:
            SerializationError: The value cannot be sent; the text names what is to blame.
            StoreFull: There is no room for it.
            ObjectError: None of the engines' hosts has a store.
            TransferError: It could not be sent.
            ControllerLost: The connection to the controller is gone.
            KeyboardInterrupt: Ctrl-C was pressed; nothing of it is kept.
        """
        session = self._session
        session._check()
        engines = self._build_targets("all" if targets is None else targets)[1]
        with collecting() as inner:
            pieces = dumps(value)
        return session.objects.put(pieces, size_of(pieces), engines, inner.values())

    def fetch(self, refs: ObjectRef | Iterable[ObjectRef], timeout: float | None = None) -> Any:
        """Return the values that references stand for, fetching several at a time.

        Args:
            refs: One reference or several.
            timeout: Seconds for all of them; None or negative is for ever.

        Returns:
            For one reference its value, for several a list.

        Raises:
            TypeError: One of them is no reference.
            UnknownObject: One of them was freed.
            ObjectLost: Nobody has one of them any more; the text says why.
            StoreFull: One of them is on disk, and its host has no room to bring it back.
            TimeoutError: They are not here in time.
            SerializationError: A value cannot be loaded here.
        """
        may_block("fetching values")
        listed = _listed(refs)
        for ref in listed:
            ref.check()
        found = self._session.objects.values_of(listed, timeout)
        return found[0] if isinstance(refs, ObjectRef) else found

    def free(self, refs: ObjectRef | Iterable[ObjectRef]) -> None:
        """Free references at once, instead of when they are garbage collected.

        Their objects are forgotten when no task needs them any more. Freeing one again does nothing.

        Args:
            refs: One reference or several.

        Raises:
            TypeError: One of them is no reference.
            ObjectError: A reference belongs to no client.
        """
        for ref in _listed(refs):
            ref.free()

    def transfers(self) -> list[Transfer]:
        """Return what is being moved from and to this client now, oldest first.

        Each has ``what``, ``size`` and ``done`` (bytes), ``rate`` (bytes per second) and ``route``, and
        can be ended with ``cancel()``. Behind these is what hosts fetch from each other for tasks of this
        client, if it takes longer than a second; that ends when these tasks are cancelled.
        """
        return self._session.objects.transfers()

    @property
    def progress(self) -> bool | None:
        """Whether transfers that take longer than a second are shown while somebody waits for them.

        None, which it is at first, shows them on a terminal and in notebooks, unless the environment
        variable ``IPP_NONINTERACTIVE`` is set.
        """
        return self._session.objects.mover.interactive

    @progress.setter
    def progress(self, shown: bool | None) -> None:
        self._session.objects.mover.interactive = shown


def _listed(refs: ObjectRef | Iterable[ObjectRef]) -> list[ObjectRef]:
    listed = [refs] if isinstance(refs, ObjectRef) else list(refs)
    for ref in listed:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"a reference is needed, as put() and apply_ref() make it, not {ref!r}")
    return listed
