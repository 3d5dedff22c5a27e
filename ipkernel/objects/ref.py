"""References to objects: small values that stand for large ones, wherever those are.

A client gets an :class:`ObjectRef` for what it puts into the cluster, or has kept there. In a call, a
push or a map it stands for the value: while the arguments are pickled, :class:`collecting` notes which
objects they need; while they are loaded on the engine, inside :class:`resolving`, each reference becomes
the value itself. Anywhere else it is pickled as what it is, an id, and comes back without a client.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from ipkernel.errors import ObjectError, UnknownObject
from ipkernel.sizes import size_text

__all__ = ["MAX_NEEDS", "Binding", "Loader", "ObjectRef", "collecting", "note", "resolving"]

#: The most objects that one call may need; the wire takes a few more.
MAX_NEEDS: Final = 1000
#: Bytes of an object's id.
ID_LENGTH: Final = 16

Loader: TypeAlias = Callable[[], "memoryview | bytes | bytearray"]
"""Returns the bytes of an object when they are needed; called once at most."""


class Binding(Protocol):
    """What the client that a reference belongs to does for it; called from any thread."""

    def get(self, ref: ObjectRef, timeout: float | None) -> Any:
        """Return the value; ``timeout`` is in seconds, None waits as long as it takes."""

    def free(self, ref: ObjectRef) -> None:
        """Let go of the object, because the user says so; called once at most."""

    def release(self, object_id: bytes) -> None:
        """Note that a reference was garbage collected without having been freed.

        Called by the garbage collector, in whatever thread and between any two steps of it: this
        must not wait for anything nor take a lock that is not reentrant.
        """


class _Here(threading.local):
    """What goes on in this thread."""

    #: The references that were met, by id, while something is pickled inside ``collecting``.
    found: dict[bytes, ObjectRef] | None = None
    #: What references become, while something is loaded inside ``resolving``.
    scope: _Scope | None = None


_here = _Here()


class ObjectRef:
    """Stands for an object in the store of some host.

    References are equal if they stand for the same object, and can be keys of dictionaries. A copy of
    one, deep or not, is itself. One that was unpickled outside of a call has no client: it says so
    when it is asked for the value, but stands for it as an argument as long as the object lives.

    Args:
        id: The object's id, 16 bytes. Whoever knows it may use the object.
        size: The object's size in bytes.
        where: Name of the host that has it, for people; empty if none is known.
        inner: References within the object's value; they live as long as this one.

    Raises:
        ValueError: That is no id.

    Attributes:
        id: As given.
        size: As given.
        where: As given; it may be set when the object moves.
        inner: As given.
    """

    __slots__ = ("__weakref__", "_binding", "_finalizer", "_freed", "id", "inner", "size", "where")

    def __init__(
        self, id: bytes, size: int, where: str = "", *, inner: Iterable[ObjectRef] = ()
    ) -> None:
        if len(id) != ID_LENGTH:
            raise ValueError(f"the id of an object has {ID_LENGTH} bytes, not {len(id)}")
        self.id = id
        self.size = size
        self.where = where
        self.inner = tuple(inner)
        self._binding: Binding | None = None
        self._finalizer: weakref.finalize[[bytes], ObjectRef] | None = None
        self._freed = False

    def bind(self, binding: Binding) -> ObjectRef:
        """Give the reference to a client, once, which is told when it is not used any more.

        ``binding.release(id)`` is called when the reference is garbage collected, unless
        ``binding.free(ref)`` was called before. At the end of the process neither is called.

        Returns:
            The reference itself.

        Raises:
            RuntimeError: It has a client already.
        """
        if self._binding is not None:
            raise RuntimeError(f"{self!r} belongs to a client already")
        self._binding = binding
        self._finalizer = finalizer = weakref.finalize(self, binding.release, self.id)
        finalizer.atexit = False
        return self

    @property
    def bound(self) -> bool:
        """Whether it belongs to a client and was not freed."""
        return self._binding is not None and not self._freed

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, fetching it if it is not here.

        Args:
            timeout: How many seconds to wait at most; None waits as long as it takes.

        Raises:
            ObjectError: The reference has no client.
            UnknownObject: It was freed.
            ObjectLost: Nobody has the object any more.
            StoreFull: It is on disk, and its host has no room to bring it back.
            TimeoutError: The object was not here in time.
            SerializationError: The value cannot be loaded here.
        """
        return self._client().get(self, timeout)

    def free(self) -> None:
        """Let go of the object; the cluster forgets it when nothing else uses it.

        Freeing it again does nothing.

        Raises:
            ObjectError: The reference has no client.
        """
        if self._freed:
            return
        binding = self._client()
        if self._finalizer is None or self._finalizer.detach() is None:
            return  # another thread was faster
        self._freed = True
        binding.free(self)

    def check(self) -> None:
        """Refuse to go on if it was freed.

        Raises:
            UnknownObject: It was.
        """
        if self._freed:
            raise UnknownObject(f"{self!r}: it was freed, so its value cannot be had any more")

    def _client(self) -> Binding:
        self.check()
        if self._binding is None:
            raise ObjectError(
                f"{self!r} belongs to no client, as it was unpickled outside of a call; "
                "pass it as an argument to have the value on an engine"
            )
        return self._binding

    def __repr__(self) -> str:
        # Not the whole id: who knows that may use the object.
        where = f" on {self.where}" if self.where else ""
        state = ", freed" if self._freed else ", unbound" if self._binding is None else ""
        return f"<ObjectRef {self.id[:4].hex()}: {size_text(self.size)}{where}{state}>"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, ObjectRef) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> ObjectRef:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if _here.found is not None:
            note((self,))
            return restore, (self.id, self.size, self.where)
        inner = (self.inner,) if self.inner else ()
        return restore, (self.id, self.size, self.where, *inner)


# ---------------------------------------------------------------- pickling


class collecting:  # noqa: N801 - reads as a verb where it is used
    """Context in which references are noted while they are pickled, in this thread.

    ``with collecting() as refs:`` gives a dictionary of them, id to reference, in the order in which
    they were met, those within the values of others included.
    """

    __slots__ = ("_outer",)

    def __enter__(self) -> dict[bytes, ObjectRef]:
        self._outer = _here.found
        found: dict[bytes, ObjectRef] = {}
        _here.found = found
        return found

    def __exit__(self, *exc_info: object) -> None:
        _here.found = self._outer


def note(refs: Iterable[ObjectRef]) -> None:
    """Note references as met, if something is being pickled inside :class:`collecting`.

    Raises:
        UnknownObject: One of them was freed.
    """
    found = _here.found
    if found is None:
        return
    for ref in refs:
        if ref.id not in found:
            if ref._freed:
                raise UnknownObject(f"{ref!r}: it was freed, so it cannot be sent any more")
            found[ref.id] = ref
            try:
                note(ref.inner)
            except UnknownObject:
                del found[ref.id]  # whoever tries again is to hear of it again
                raise


# ---------------------------------------------------------------- loading


class _Scope:
    """The objects of one call, each loaded when it is first needed."""

    __slots__ = ("busy", "loaded", "values")

    def __init__(self, values: Mapping[bytes, memoryview | Loader | ObjectRef]) -> None:
        self.values = values
        self.loaded: dict[bytes, Any] = {}
        self.busy: set[bytes] = set()

    def value(self, object_id: bytes, shown: ObjectRef) -> Any:
        loaded = self.loaded
        if object_id in loaded:
            return loaded[object_id]
        if object_id in self.busy:
            raise ObjectError(f"{shown!r} refers to itself")
        try:
            data = self.values[object_id]
        except KeyError:
            raise UnknownObject(f"{shown!r} was not brought along with the call") from None
        if isinstance(data, ObjectRef):
            return data
        from ipkernel.serialize.payload import loads

        self.busy.add(object_id)
        try:
            value = loaded[object_id] = loads(data() if callable(data) else data)
        finally:
            self.busy.discard(object_id)
        return value


class resolving:  # noqa: N801 - reads as a verb where it is used
    """Context in which an ObjectRef that is loaded in this thread becomes the value it stands for.

    Each object is loaded once, when it is first met, so that the same reference twice is the same
    value. Loading raises UnknownObject, as a SerializationError, for an object that is not there.

    Args:
        values: The objects by id: the bytes of each, a function that returns them, or a
            reference to be put in place of the one that is loaded.
    """

    __slots__ = ("_outer", "_values")

    def __init__(self, values: Mapping[bytes, memoryview | Loader | ObjectRef]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._outer = _here.scope
        _here.scope = _Scope(self._values)

    def __exit__(self, *exc_info: object) -> None:
        _here.scope = self._outer


def restore(object_id: bytes, size: int, where: str, inner: tuple[ObjectRef, ...] = ()) -> Any:
    """Make what a pickled ObjectRef stands for here: its value, or a reference; called by pickle."""
    ref = ObjectRef(object_id, size, where, inner=inner)
    scope = _here.scope
    return ref if scope is None else scope.value(object_id, ref)
