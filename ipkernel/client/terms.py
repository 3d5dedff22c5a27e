"""The flags of views that few tasks need: what they may be, and what the controller is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any, Final, SupportsFloat

import msgspec

from ipkernel.errors import ImpossibleDependency, TaskAborted, TaskTimeout
from ipkernel.wire.messages import (
    MAX_AMOUNT,
    MAX_PRIORITY,
    MAX_PROPERTIES,
    MAX_RESOURCES,
    MAX_TIMEOUT,
    MAX_VALUE,
    Properties,
    Resources,
    Simple,
)

#: The longest name of a resource or property, in characters.
_LONGEST: Final = 64


def priority_of(value: object) -> int:
    """Return a priority.

    Raises:
        TypeError: ``value`` is no whole number.
        ValueError: It is out of bounds.
    """
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"priority must be a whole number, not {value!r}") from None
    if abs(number) > MAX_PRIORITY:
        raise ValueError(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {number}")
    return number


def timeout_of(value: object) -> float:
    """Return a timeout in seconds; 0 for none.

    Raises:
        TypeError: ``value`` is neither a number nor None.
        ValueError: It is out of bounds.
    """
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise TypeError(f"timeout must be a number of seconds or None, not {value!r}")
    seconds = float(value)
    if seconds < 0:
        return 0.0
    if not 0 < seconds <= MAX_TIMEOUT:  # nor is "not a number"
        raise ValueError(f"timeout must be more than 0 and at most 1e9 seconds, not {value!r}")
    return seconds


def resources_of(value: object) -> dict[str, float] | None:
    """Return amounts of resources by name; None for none.

    Raises:
        TypeError: ``value`` is neither a dict of numbers nor None.
        ValueError: A name or a number is out of bounds.
    """
    amounts: dict[str, float] = {}
    for name, amount in _named("resources", value, MAX_RESOURCES).items():
        if isinstance(amount, bool) or not isinstance(amount, SupportsFloat):
            raise TypeError(f"resources: {name!r} must be a number, not {amount!r}")
        number = float(amount)
        if not 0.0 <= number <= MAX_AMOUNT:  # nor is "not a number"
            raise ValueError(
                f"resources: {name!r} must be from 0 to {MAX_AMOUNT:g}, not {amount!r}"
            )
        if number:
            amounts[name] = number
    _convertible("resources", amounts, Resources)
    return amounts or None


def properties_of(what: str, value: object) -> dict[str, Simple] | None:
    """Return properties, with their values, by name; None for none.

    Args:
        what: What they are called in messages.
        value: What the user gave.

    Raises:
        TypeError: ``value`` is neither a dict of simple values nor None.
        ValueError: A name or a value is out of bounds.
    """
    found: dict[str, Simple] = {}
    for name, one in _named(what, value, MAX_PROPERTIES).items():
        if one is not None and not isinstance(one, (bool, int, float, str)):
            raise TypeError(
                f"{what}: {name!r} must be a text, a number, True, False or None, not {one!r}"
            )
        if isinstance(one, str) and len(one) > MAX_VALUE:
            raise ValueError(f"{what}: {name!r} may have {MAX_VALUE} characters, not {len(one)}")
        found[name] = one
    _convertible(what, found, Properties)
    return found or None


def exceptions_of(value: object) -> tuple[type[Exception], ...]:
    """Return the exceptions after which a call is run again.

    Raises:
        TypeError: ``value`` is no class of exceptions, no tuple or list of them, and not None.
        ValueError: There is one by which ipkernel ends calls.
    """
    if value is None:
        return ()
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    for one in found:
        if not isinstance(one, type) or not issubclass(one, Exception):
            raise TypeError(f"retry_on must be a class of exceptions, or several, not {one!r}")
        if issubclass(one, TaskAborted | TaskTimeout | ImpossibleDependency):
            raise ValueError(f"retry_on: after {one.__name__} no call is run again")
    return found


def _named(what: str, value: object, most: int) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a dict, not {value!r}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"{what}: a name must be a str, not {name!r}")
        if not 0 < len(name) <= _LONGEST:
            raise ValueError(f"{what}: a name has 1 to {_LONGEST} characters, not {len(name)}")
    if len(value) > most:
        raise ValueError(f"{what} may have {most} entries, not {len(value)}")
    return dict(value)


def _convertible(what: str, value: object, kind: Any) -> None:
    """Refuse what the controller would not take, such as whole numbers without end."""
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
    except (msgspec.MsgspecError, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"{what} cannot be sent: {error}") from None
