"""Telling a user that a function takes a lot along with it, and what."""

from __future__ import annotations

import functools
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Final

from ipkernel.callers import users_level
from ipkernel.serialize.explain import parts

__all__ = ["warn_of_weight", "weigh"]

#: Less than this, in bytes, is not named.
_WORTH: Final = 1_000_000
#: How far to go down from function to function.
_DEPTH = 8

#: Functions that were complained of, by their code: a lambda in a loop is one.
_known: weakref.WeakSet[types.CodeType] = weakref.WeakSet()


class _Scale:
    """A file that only counts."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> None:
        """Count a piece."""
        self.size += memoryview(data).nbytes

    def buffer(self, buffer: Any) -> None:
        """Count a buffer; returning nothing leaves it out of the pickle."""
        self.size += buffer.raw().nbytes


def weigh(obj: Any) -> int:
    """Return how many bytes an object has when it is pickled, 0 if it cannot be."""
    from ipkernel.serialize.payload import new_pickler

    scale = _Scale()
    try:
        new_pickler(scale, scale.buffer).dump(obj)
    except Exception:  # noqa: BLE001 - it is only part of something that could be pickled
        return 0
    return scale.size


def warn_of_weight(func: Callable[..., Any], name: str, size: int) -> None:
    """Warn that a function is large, once for each function, naming the largest thing it refers to.

    Args:
        func: the function.
        name: what to call it.
        size: its size when pickled, in bytes.
    """
    code = _code_of(func)
    if code is not None and code in _known:
        return
    path, largest, weight = _heaviest(func)
    what = f", mainly {path} ({type(largest).__name__}, {_mega(weight)})" if path else ""
    warnings.warn(
        f"{name} takes {_mega(size)} along with it{what}; that may go with every call. Put it into"
        " the cluster once, with rc.put(), and pass the reference as an argument instead",
        stacklevel=users_level(),
    )
    if code is not None:
        _known.add(code)


def _code_of(func: Any) -> types.CodeType | None:
    while True:
        if isinstance(func, functools.partial):
            func = func.func
        elif isinstance(func, types.MethodType):
            func = func.__func__
        else:
            return getattr(func, "__code__", None)


def _heaviest(func: Any) -> tuple[str, Any, int]:
    """The heaviest object that a function refers to, directly or through other functions."""
    path, found, weight = "", func, 0
    seen = {id(func)}
    for _ in range(_DEPTH):
        if not isinstance(found, (types.FunctionType, types.MethodType, functools.partial)):
            break
        heaviest: tuple[int, str, Any] | None = None
        for suffix, part in parts(found):
            size = weigh(part) if id(part) not in seen else 0
            seen.add(id(part))
            if heaviest is None or size > heaviest[0]:
                heaviest = size, suffix, part
        if heaviest is None or heaviest[0] < _WORTH:
            break
        weight, suffix, found = heaviest
        path += suffix
    return path.lstrip(", "), found, weight


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
