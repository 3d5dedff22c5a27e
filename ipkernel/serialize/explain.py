"""Finding the object that cannot be pickled, to name it to the user.

Runs only after pickling failed: pickles the parts of the value one by one and goes down where it fails,
within limits of depth and time, so the answer may be a container of the culprit in a very large value.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import types
from collections.abc import Iterator
from typing import Any

from ipkernel.objects.ref import ObjectRef

__all__ = ["locate", "parts"]

MAX_DEPTH = 32
MAX_CHILDREN = 10_000
#: Seconds after which the search stops with what it has found.
TIME_LIMIT = 2.0

_STREAMS = (
    "; the items of a generator are sent with ipkernel.stream(generator) as an argument of apply(), "
    "and fetched with view.stream(function)"
)
_ATOMS = (type(None), bool, int, float, complex, str, bytes)


class _Discard:
    """A file that keeps nothing."""

    def write(self, data: Any) -> None:
        """Forget the data."""


def _failure(obj: Any) -> str | None:
    """Try to pickle an object; return the text of the error, or None."""
    from ipkernel.serialize.payload import new_pickler

    try:
        new_pickler(_Discard(), lambda buffer: False).dump(obj)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the answer
        return _reason(exc)
    return None


def _reason(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def _function_parts(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    from ipkernel.serialize.fingerprint import global_names

    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield f", free variable {name!r}", cell.cell_contents
        except ValueError:
            continue
    for name in global_names(func.__code__):
        if name in func.__globals__:
            yield f", global {name!r}", func.__globals__[name]
    for value in func.__defaults__ or ():
        yield ", default value", value
    for name, value in (func.__kwdefaults__ or {}).items():
        yield f", default of {name!r}", value
    for name, value in func.__dict__.items():
        yield f".{name}", value


def _slots(obj: Any) -> Iterator[tuple[str, Any]]:
    for cls in type(obj).__mro__:
        for name, member in cls.__dict__.items():
            if isinstance(member, types.MemberDescriptorType) and not name.startswith("__"):
                try:
                    yield f".{name}", member.__get__(obj)
                except AttributeError:
                    continue


def _class_parts(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in cls.__dict__.items():
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if not isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            yield f".{name}", value


def parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that an object is made of, each after how to write the way to it."""
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"[{_short(key)}]", value
            yield f", key {_short(key)}", key
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield f"[{i}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f", element {_short(value)}", value
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
        return
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
        yield ".__func__", obj.__func__
        return
    elif isinstance(obj, functools.partial):
        yield ".func", obj.func
        yield ".args", obj.args
        yield ".keywords", obj.keywords
    elif isinstance(obj, type):
        yield from _class_parts(obj)
        return
    if isinstance(obj, (types.ModuleType, ObjectRef)):  # a reference leads to its client
        return
    yield from _state(obj)


def _state(obj: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(obj, "__dict__", None)
    if isinstance(attributes, dict):
        for name, value in attributes.items():
            yield f".{name}", value
    yield from _slots(obj)
    if isinstance(attributes, dict) or dataclasses.is_dataclass(obj):
        # The class of an instance may be what travels by value.
        yield f", class {type(obj).__name__}", type(obj)


def _short(obj: Any) -> str:
    try:
        text = repr(obj)
    except Exception:  # noqa: BLE001 - a repr of the user's may do anything
        text = f"<{type(obj).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def locate(obj: Any, exc: BaseException, what: str) -> tuple[str, str]:
    """Find what made pickling a value fail.

    Args:
        obj: the value.
        exc: what pickling it raised.
        what: what to call the value.

    Returns:
        ``(path, reason)``: where the offending object is, and the text of the error that it causes, or
        what its type has as ``_stays_here``.
    """
    deadline = time.monotonic() + TIME_LIMIT
    path, reason = what, _reason(exc)
    seen = {id(obj)}
    for _ in range(MAX_DEPTH):
        stays = getattr(type(obj), "_stays_here", None)
        if isinstance(stays, str):
            return path, stays
        step = _step(obj, seen, deadline)
        if step is None:
            break
        suffix, obj, reason = step
        path += suffix
    if isinstance(obj, types.GeneratorType):
        reason += _STREAMS
    return path, reason


def _step(obj: Any, seen: set[int], deadline: float) -> tuple[str, Any, str] | None:
    try:
        for i, (suffix, part) in enumerate(parts(obj)):
            if i >= MAX_CHILDREN or time.monotonic() > deadline:
                return None
            if type(part) in _ATOMS or id(part) in seen:
                continue
            seen.add(id(part))
            reason = _failure(part)
            if reason is not None:
                return suffix, part, reason
    except Exception:  # noqa: BLE001 - objects may do anything when looked at; the way ends here
        return None
    return None
