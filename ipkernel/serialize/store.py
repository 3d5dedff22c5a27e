"""The engine's side of functions that are sent once and then named by their hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload
from ipkernel.serialize.fingerprint import is_importable
from ipkernel.serialize.namespace import collect_shipped

__all__ = ["FunctionStore", "LoadedFunction", "UnknownFunction", "load_function"]


class UnknownFunction(SerializationError, KeyError):
    """No function with this digest was sent to this engine, or it was forgotten.

    Attributes:
        digest: the digest that was asked for.
    """

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"there is no function {digest.hex()} on this engine")
        self.digest = digest

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.digest,)

    def __str__(self) -> str:
        return str(self.args[0])


class LoadedFunction(NamedTuple):
    """A function, ready to be called."""

    #: The callable itself.
    func: Callable[..., Any]
    #: The globals that came along with it, to be put into the namespace before each call.
    shipped: dict[str, Any]


def load_function(blob: payload.Data) -> LoadedFunction:
    """Load a pickled function, keeping the globals that came along for later.

    Args:
        blob: what :meth:`~ipkernel.serialize.cache.FunctionCache.lookup` gave.

    Raises:
        SerializationError: it cannot be loaded, for instance because a module is missing here.
    """
    with collect_shipped() as shipped:
        func = payload.loads(blob)
    return LoadedFunction(func, shipped)


class FunctionStore:
    """Functions by digest: kept as bytes until they are first needed, then loaded."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}
        self._loaded: dict[bytes, LoadedFunction] = {}
        #: Functions that are only names, looked up anew for each call: modules may be reloaded.
        self._named: dict[bytes, bytes] = {}

    def add(self, digest: bytes, blob: payload.Data) -> None:
        """Keep a function; nothing is loaded yet. Adding it again does nothing."""
        if digest not in self._loaded and digest not in self._named:
            self._blobs[bytes(digest)] = bytes(blob)

    def get(self, digest: bytes) -> LoadedFunction:
        """Return a function, loading it if this is the first time.

        Raises:
            UnknownFunction: it was not added, or was forgotten.
            SerializationError: it cannot be loaded here.
        """
        loaded = self._loaded.get(digest)
        if loaded is not None:
            return loaded
        named = self._named.get(digest)
        if named is not None:
            return LoadedFunction(payload.loads(named), {})
        blob = self._blobs.get(digest)
        if blob is None:
            raise UnknownFunction(bytes(digest))
        loaded = load_function(blob)
        del self._blobs[digest]
        if not loaded.shipped and is_importable(loaded.func):
            self._named[bytes(digest)] = blob
        else:
            self._loaded[bytes(digest)] = loaded
        return loaded

    def forget(self, digests: Iterable[bytes]) -> None:
        """Drop functions; unknown digests are ignored."""
        for digest in digests:
            self._blobs.pop(digest, None)
            self._loaded.pop(digest, None)
            self._named.pop(digest, None)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._loaded or digest in self._named or digest in self._blobs

    def __len__(self) -> int:
        return len(self._loaded) + len(self._named) + len(self._blobs)
