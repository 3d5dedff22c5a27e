"""Taking exceptions apart and building them again without running their ``__init__``.

The usual way of pickling an exception calls ``cls(*args)``, which fails for every exception type whose
``__init__`` has a signature of its own. Here the state is carried instead: ``args``, the instance
dictionary, and what C types and ``__slots__`` keep outside of it.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any, TypeVar

__all__ = ["load_exception", "rebuild", "reduces_by_default", "retype", "state_of"]

_E = TypeVar("_E", bound=BaseException)

#: AttributeError keeps the whole object that lacks the attribute; it stays where it is.
_LEFT_OUT = frozenset({"obj"})
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_HEAP_TYPE = 1 << 9
#: Reads and writes ``args`` even where a type defines an attribute of that name.
_ARGS: Any = BaseException.__dict__["args"]


def _native_base(cls: type[BaseException]) -> type[BaseException]:
    """The first class of the MRO that is written in C and an exception: it fixes the layout."""
    for base in cls.__mro__:
        if not base.__flags__ & _HEAP_TYPE and issubclass(base, BaseException):
            return base
    return BaseException


def _descriptors(cls: type[BaseException]) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        if base in (BaseException, object):
            continue
        for name, descriptor in base.__dict__.items():
            if isinstance(descriptor, _DESCRIPTORS) and not name.startswith("__"):
                yield name, descriptor


def state_of(exc: BaseException) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return ``(args, attributes, members)``: all that makes up an exception, but its traceback."""
    members: dict[str, Any] = {}
    for name, descriptor in _descriptors(type(exc)):
        if name in members or name in _LEFT_OUT:
            continue
        try:
            members[name] = descriptor.__get__(exc)
        except AttributeError:
            continue
    return _ARGS.__get__(exc), dict(exc.__dict__), members


def rebuild(
    cls: type[_E], args: tuple[Any, ...], attributes: dict[str, Any], members: dict[str, Any]
) -> _E:
    """Build an exception from what :func:`state_of` returned.

    Args:
        cls: its type, or one with the same layout.
        args: its ``args``.
        attributes: its instance dictionary.
        members: what C types and slots hold.

    Raises:
        TypeError: the C type below ``cls`` does not accept ``args``.
    """
    native = _native_base(cls)
    exc: _E = native.__new__(cls, *args)
    with contextlib.suppress(Exception):  # the members below say the same, and more exactly
        native.__init__(exc, *args)
    _ARGS.__set__(exc, args)
    exc.__dict__.update(attributes)
    for name, descriptor in _descriptors(cls):
        if name in members:
            try:
                descriptor.__set__(exc, members[name])
            except (AttributeError, TypeError):
                continue
    return exc


_DEFAULT_REDUCERS = {
    name: {getattr(base, name) for base in (BaseException, OSError, ImportError, AttributeError)}
    for name in ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__")
    if hasattr(BaseException, name)
}


def reduces_by_default(cls: type[BaseException]) -> bool:
    """Whether the type leaves pickling to Python, so that :func:`rebuild` may replace it."""
    return all(getattr(cls, name, None) in defaults for name, defaults in _DEFAULT_REDUCERS.items())


@functools.lru_cache(maxsize=256)
def _combined(first: type[BaseException], second: type[BaseException]) -> type[BaseException]:
    name = f"Remote{second.__name__}"
    body = {"__module__": first.__module__, "__qualname__": name, "__doc__": second.__doc__}
    return types.new_class(name, (first, second), exec_body=lambda ns: ns.update(body))


def retype(original: BaseException, first: type[_E]) -> _E:
    """Copy an exception into an instance of both ``first`` and the original's type.

    Args:
        original: the exception to copy.
        first: an exception class whose behaviour wins over that of the original's type.

    Raises:
        TypeError: the two types cannot be combined.
    """
    combined: Any = _combined  # mypy takes exception types for unhashable
    exc: Any = rebuild(combined(first, type(original)), *state_of(original))
    if not isinstance(exc, first):
        raise TypeError(f"{type(original).__name__} cannot be combined with {first.__name__}")
    return exc


def load_exception(data: bytes) -> BaseException | None:
    """Unpickle an exception.

    Returns:
        The exception, or None if it cannot be loaded here for whatever reason.
    """
    from ipkernel.serialize.payload import loads

    try:
        exc = loads(data)
    except Exception:  # noqa: BLE001 - a client without the type gets the plain form
        return None
    return exc if isinstance(exc, BaseException) else None
