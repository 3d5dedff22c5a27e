"""Calls as bytes: a function, named by its digest or inline, and its arguments.

A call is the payload of ``(args, kwargs)`` (see :mod:`ipkernel.serialize.payload`) with bit 0x10 of the
first byte set if there is a Reference among the arguments. A function that goes with the call stands before
it::

    u8 0x20 | 3 zero bytes | u32 length | function | zeros up to a multiple of 64 | payload of the arguments
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ipkernel.errors import SerializationError
from ipkernel.objects.ref import ObjectRef, collecting
from ipkernel.serialize import payload
from ipkernel.serialize.cache import FunctionCache
from ipkernel.serialize.namespace import current_namespace
from ipkernel.serialize.reference import Reference, resolve
from ipkernel.serialize.store import FunctionStore, LoadedFunction, load_function

__all__ = ["Call", "CallPayload", "dump_call", "inlined", "load_call"]

INLINE = 0x20
_INLINE = struct.Struct("<BxxxI")
_is_simple = payload.is_simple
_only_atoms = payload.ATOMS.issuperset
_only_atoms_and_refs = (payload.ATOMS | {ObjectRef}).issuperset
_pickle = pickle.dumps

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class CallPayload(NamedTuple):
    """A call, ready to be sent."""

    #: Names the function; empty if it is in ``pieces``.
    digest: bytes
    #: The function, to be sent ahead once to where its digest is not known yet; empty if it is inline.
    blob: bytes
    #: The call itself.
    pieces: payload.Pieces
    #: The objects that function and arguments refer to, to be given to ``resolving`` on the engine.
    needs: tuple[bytes, ...] = ()


def dump_call(
    func: Callable[..., Any] | Reference,
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    cache: FunctionCache,
) -> CallPayload:
    """Turn a call into bytes.

    Args:
        func: what to call: any callable, or a Reference to one.
        args: its positional arguments.
        kwargs: its keyword arguments.
        cache: the functions that were pickled before.

    Raises:
        SerializationError: something cannot be pickled; the text names it, counting arguments from 1, as in
            ``cannot send argument 1['lock'].x: TypeError: cannot pickle '_thread.lock' object``.
    """
    refs: dict[bytes, ObjectRef] | None = None
    answer = cache.recall(func)  # type: ignore[arg-type]
    if answer is None:
        answer, refs = cache.renew(func)  # type: ignore[arg-type]
    arguments = (args if type(args) is tuple else tuple(args), kwargs or {})
    # The short form of is_simple() for what most calls look like.
    if (not kwargs and _only_atoms(map(type, arguments[0]))) or _is_simple(arguments):
        pieces = payload.plain(_pickle(arguments, 5))
    else:
        with collecting() as more:
            if not kwargs and _only_atoms_and_refs(map(type, arguments[0])):
                pieces = _dump_plain(arguments)
            else:
                pieces = _dump_arguments(arguments)
        refs = {**refs, **more} if refs else more
    needs = payload.needs_of(refs) if refs else ()
    digest, blob = answer
    if digest:
        return CallPayload(digest, blob, pieces, needs)
    return CallPayload(b"", b"", [_inline(blob), *pieces], needs)


def inlined(call: CallPayload) -> CallPayload:
    """Return a call that names its function as one that has it with it."""
    return CallPayload(b"", b"", [_inline(call.blob), *call.pieces], call.needs)


def _inline(blob: bytes) -> bytes:
    padding = -(_INLINE.size + len(blob)) % payload.ALIGNMENT
    return b"".join((_INLINE.pack(INLINE, len(blob)), blob, bytes(padding)))


def _dump_plain(arguments: tuple[tuple[Any, ...], Mapping[str, Any]]) -> payload.Pieces:
    """Pickle arguments that any pickler treats alike."""
    try:
        return payload.plain(_pickle(arguments, 5))
    except Exception:  # noqa: BLE001 - a reference that was freed, say; this tells which one it is
        return _dump_arguments(arguments)


def _dump_arguments(arguments: tuple[tuple[Any, ...], Mapping[str, Any]]) -> payload.Pieces:
    args, kwargs = arguments
    try:
        return payload.dump_value((args, dict(kwargs)), mark_references=True)
    except Exception as exc:
        named = [(f"argument {i}", value) for i, value in enumerate(args, 1)]
        named += [(f"argument {key!r}", value) for key, value in kwargs.items()]
        for what, value in named:
            try:
                payload.dump_value(value)
            except Exception as own:
                raise payload.blame(value, own, what) from own
        raise payload.blame(arguments, exc, "the arguments") from exc


def load_call(data: payload.Data, store: FunctionStore, digest: bytes = b"") -> Call:
    """Turn a call that :func:`dump_call` made into what to call with what.

    On an engine, the globals that came along with the function are put into the namespace (weakly) and
    references are replaced by what they stand for; so do this right before the call.

    Args:
        data: the joined pieces.
        store: where functions are kept by digest.
        digest: names the function; empty if it is in ``data``.

    Returns:
        ``(callable, args, kwargs)``.

    Raises:
        UnknownFunction: ``store`` has no function of that digest.
        SerializationError: the bytes are damaged, or need what cannot be imported here.
        NameError: a Reference names what is not in the namespace.
        Exception: whatever evaluating a Reference raises.
    """
    view = memoryview(data)
    if digest:
        function = store.get(digest)
    else:
        function, view = _load_inline(view)
    args, kwargs, referring = _load_arguments(view)
    func: Any = function.func
    space = current_namespace()
    if space is not None and function.shipped:
        space.inject(function.shipped)
    if referring or type(func) is Reference:
        names = space.ns if space is not None else {}
        args, kwargs = resolve(args, kwargs, names)
        if type(func) is Reference:
            func = func.evaluate(names)
    return func, args, kwargs


def _load_inline(view: memoryview) -> tuple[LoadedFunction, memoryview]:
    if view.nbytes < _INLINE.size or view[0] != INLINE:
        raise SerializationError("cannot load the call: there is no function in it")
    _, length = _INLINE.unpack_from(view)
    end = _INLINE.size + length
    start = end + -end % payload.ALIGNMENT
    if start >= view.nbytes:
        raise SerializationError(f"cannot load the call: it is cut off after {view.nbytes} bytes")
    return load_function(view[_INLINE.size : end]), view[start:]


def _load_arguments(view: memoryview) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
    try:
        flags = view[0]
        args, kwargs = payload.load_flagged(flags & ~payload.REFERENCES, view)
    except SerializationError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise SerializationError(f"cannot load the arguments: {reason}", reason=reason) from exc
    if type(args) is not tuple or type(kwargs) is not dict:
        raise SerializationError("cannot load the arguments: they are not a tuple and a dict")
    return args, kwargs, bool(flags & payload.REFERENCES)
