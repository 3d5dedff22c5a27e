"""The serialization functions that users of this field know, on top of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload

__all__ = [
    "Canned",
    "can",
    "can_map",
    "deserialize_object",
    "pack_apply_message",
    "serialize_object",
    "uncan",
    "uncan_map",
    "unpack_apply_message",
]


class Canned:
    """An object in its pickled form, which any pickler can send on.

    Args:
        obj: the object.
    """

    __slots__ = ("data",)

    def __init__(self, obj: Any) -> None:
        self.data = payload.dumps_bytes(obj)

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """Return the object; ``g`` is accepted for compatibility and not used."""
        return payload.loads(self.data)


def can(obj: Any) -> Any:
    """Prepare an object for a plain pickler: simple values stay, everything else becomes Canned."""
    return obj if isinstance(obj, Canned) or payload.is_simple(obj) else Canned(obj)


def uncan(obj: Any, g: dict[str, Any] | None = None) -> Any:
    """Turn what :func:`can` returned into the object."""
    return obj.get_object(g) if isinstance(obj, Canned) else obj


def can_map(obj: Mapping[Any, Any]) -> dict[Any, Any]:
    """Apply :func:`can` to the values of a mapping."""
    return {key: can(value) for key, value in obj.items()}


def uncan_map(obj: Mapping[Any, Any], g: dict[str, Any] | None = None) -> dict[Any, Any]:
    """Apply :func:`uncan` to the values of a mapping."""
    return {key: uncan(value, g) for key, value in obj.items()}


def serialize_object(
    obj: Any, buffer_threshold: int | None = None, item_threshold: int | None = None
) -> list[bytes]:
    """Turn an object into a list of buffers (one, in fact).

    Args:
        obj: the object.
        buffer_threshold: accepted for compatibility and not used.
        item_threshold: accepted for compatibility and not used.

    Raises:
        SerializationError: it cannot be pickled.
    """
    return [payload.dumps_bytes(obj)]


def deserialize_object(
    buffers: Sequence[payload.Data], g: dict[str, Any] | None = None
) -> tuple[Any, list[payload.Data]]:
    """Turn the first of a list of buffers into an object.

    Returns:
        The object and the buffers that are left.

    Raises:
        SerializationError: there is none, or it is damaged.
    """
    if not buffers:
        raise SerializationError("cannot load the value: there are no buffers")
    return payload.loads(buffers[0]), list(buffers[1:])


def pack_apply_message(
    f: Callable[..., Any],
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    buffer_threshold: int | None = None,
    item_threshold: int | None = None,
) -> list[bytes]:
    """Turn a call into a list of buffers: the function, and its arguments.

    Raises:
        SerializationError: something cannot be pickled.
    """
    return [payload.dumps_bytes(f), payload.dumps_bytes((tuple(args), dict(kwargs)))]


def unpack_apply_message(
    bufs: Sequence[payload.Data], g: dict[str, Any] | None = None, copy: bool = True
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Turn what :func:`pack_apply_message` returned into ``(f, args, kwargs)``.

    Args:
        bufs: the two buffers.
        g: a namespace in which references among the arguments are replaced; None to leave them.
        copy: accepted for compatibility and not used.

    Raises:
        SerializationError: the buffers are not two, or damaged.
    """
    if len(bufs) != 2:
        raise SerializationError(f"cannot load the call: 2 buffers expected, {len(bufs)} received")
    func = payload.loads(bufs[0])
    args, kwargs = payload.loads(bufs[1])
    if g is not None:
        from ipkernel.serialize.reference import Reference, resolve

        args, kwargs = resolve(args, kwargs, g)
        func = func.evaluate(g) if isinstance(func, Reference) else func
    return func, args, kwargs
