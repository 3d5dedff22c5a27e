"""The client's side of functions that are sent once and then named by their hash."""

from __future__ import annotations

import reprlib
import types
import weakref
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from ipkernel.objects.ref import ObjectRef, collecting, note
from ipkernel.serialize import payload
from ipkernel.serialize.dependent import dependent
from ipkernel.serialize.fingerprint import Fingerprint, fingerprint, is_importable
from ipkernel.serialize.reference import Reference
from ipkernel.serialize.retrying import Retrying

__all__ = ["FunctionCache"]

DIGEST_SIZE = 16
#: A pickled function of so many bytes is worth a warning.
LARGE = 10_000_000
#: How many functions, and how many digests, are remembered.
MAX_ENTRIES = 1024

#: What engines replace by what it stands for, which may be a function.
_STANDING_IN = (ObjectRef, Reference, payload.PrePickled)
_NAMED = (types.FunctionType, types.BuiltinFunctionType, type)


class _Entry:
    """What is known of one function object."""

    __slots__ = ("answer", "ref", "watch")

    def __init__(
        self, func: Callable[..., Any], answer: tuple[bytes, bytes], watch: Fingerprint | None
    ) -> None:
        self.ref = weakref.ref(func)
        self.answer = answer
        self.watch = watch


class FunctionCache:
    """Pickles functions once, as long as they and what they refer to stay the same.

    A function is sent with its first call; when it is used again, it has a digest by which an engine can
    keep it. One that can be imported is only a name, which the engine looks up for every call: the module
    may have been loaded anew. Functions that refer to mutable objects are pickled every time, since those
    may have changed.

    It may be used from any thread.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        #: Digests that were sent once, oldest first.
        self._seen: dict[bytes, None] = {}

    def recall(self, func: Callable[..., Any]) -> tuple[bytes, bytes] | None:
        """Find a function pickled; None if it has to be pickled (again), see :meth:`lookup`."""
        entry = self._entries.get(id(func))
        if entry is not None and entry.ref() is func:
            watch = entry.watch
            if watch is None or watch.holds(func):  # type: ignore[arg-type]
                return entry.answer
        return None

    def lookup(self, func: Callable[..., Any]) -> tuple[bytes, bytes]:
        """Pickle a function, or find it pickled.

        Args:
            func: any callable.

        Returns:
            ``(digest, blob)``. If ``digest`` is empty, ``blob`` has to go with the call. Otherwise the blob
            needs to be sent only once to where it is kept by its digest (16 bytes, BLAKE2b). A function
            that refers to objects of the cluster always goes with its call, which brings them.

        Raises:
            SerializationError: the function cannot be pickled; the text names what is to blame.
        """
        answer = self.recall(func)
        if answer is None:
            answer, refs = self.renew(func)
            note(refs.values())
        return answer

    def renew(self, func: Callable[..., Any]) -> tuple[tuple[bytes, bytes], dict[bytes, ObjectRef]]:
        """Pickle a function that :meth:`recall` does not find.

        Returns:
            What :meth:`lookup` does, and the references that were met, by id.

        Raises:
            SerializationError: as :meth:`lookup` does.
            TypeError: it is not a function.
        """
        if not callable(func) and not isinstance(func, _STANDING_IN):
            raise TypeError(f"{type(func).__name__!r} object is not callable: {reprlib.repr(func)}")
        if isinstance(func, _NAMED) and (func.__module__ == "builtins" or is_importable(func)):
            answer, promoted = self._by_digest(_dump(func))
            self._remember(func, promoted, None)
            return answer, {}
        watch = fingerprint(func) if type(func) is types.FunctionType else None
        with collecting() as refs:
            blob = _dump(func)
        if len(blob) >= LARGE:
            from ipkernel.serialize.weight import warn_of_weight

            warn_of_weight(func, describe_function(func), len(blob))
        if refs:
            return (b"", blob), refs
        answer, promoted = self._by_digest(blob)
        if watch is not None and watch.stable:
            self._remember(func, promoted, watch)
        return answer, refs

    def _by_digest(self, blob: bytes) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
        """What to answer now, and what to answer from the second time on."""
        digest = blake2b(blob, digest_size=DIGEST_SIZE).digest()
        promoted = (digest, blob)
        if digest in self._seen:
            return promoted, promoted
        self._seen[digest] = None
        _shrink(self._seen)
        return (b"", blob), promoted

    def _remember(
        self, func: Callable[..., Any], answer: tuple[bytes, bytes], watch: Fingerprint | None
    ) -> None:
        self._entries.pop(id(func), None)
        self._entries[id(func)] = _Entry(func, answer, watch)
        _shrink(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._seen.clear()


def _shrink(table: dict[Any, Any]) -> None:
    while len(table) > MAX_ENTRIES:
        try:
            del table[next(iter(table))]
        except (KeyError, RuntimeError, StopIteration):  # another thread did it
            return


def _dump(func: Callable[..., Any]) -> bytes:
    try:
        return payload.join(payload.dump_value(func))
    except Exception as exc:
        if isinstance(func, dependent | Retrying):
            _dump(func.f)  # the user's own function is most likely to blame, by its name
        raise payload.blame(func, exc, describe_function(func)) from exc


def describe_function(func: Any) -> str:
    """What to call a function in an error message."""
    name = getattr(func, "__qualname__", None) or type(func).__name__
    return f"the function {name!r}"
