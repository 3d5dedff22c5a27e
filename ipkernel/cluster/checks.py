"""Kinds of values that options have, and how each of them is checked.

The kinds in :data:`KINDS` are ipkernel's own. A launcher's specification may use them beside those
of the ``validate`` module, which is loaded only when one of its own is met.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from ipkernel.cluster import options
from ipkernel.controller.defaults import SCHEMES
from ipkernel.errors import ConfigurationError
from ipkernel.sizes import parse_size
from ipkernel.spans import clock_text, parse_span, parse_walltime

#: Kinds of the ``validate`` module whose values are lists.
_LISTS: Final = frozenset(
    (
        "list",
        "tuple",
        "force_list",
        "int_list",
        "float_list",
        "bool_list",
        "string_list",
        "ip_addr_list",
        "mixed_list",
    )
)


_RANGES: Final = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
_CORES: Final = rf"none|auto|{_RANGES}(?:;{_RANGES})*"


class Kind(NamedTuple):
    """A kind of values.

    Attributes:
        convert: Returns the value as it is used; raises ValueError or TypeError if it is none.
        expected: What it must be, for messages.
        is_list: Whether it is a list.
    """

    convert: Callable[[Any], Any]
    expected: str
    is_list: bool = False


class BadValue(ValueError):
    """A value is not what its option must be.

    Args:
        expected: What it must be.
        reason: What is wrong, if that says more; else empty.
    """

    def __init__(self, expected: str, reason: str = "") -> None:
        super().__init__(reason or f"it must be {expected}")
        self.expected = expected
        self.reason = reason


class _Unknown(ValueError):
    """There is no such thing; the text says what there is."""


def kind_of(check: str) -> str:
    """Return the name of a check: ``"integer"`` of ``"integer(0, 9, default=1)"``."""
    return check.partition("(")[0].strip()


def is_list(check: str) -> bool:
    """Tell whether the values that a check accepts are lists."""
    name = kind_of(check)
    return KINDS[name].is_list if name in KINDS else name in _LISTS


def checked(check: str, value: Any) -> Any:
    """Return a value as it is used.

    Args:
        check: The kind of value, with its arguments if it has any.
        value: Text, or a value of the right type. A list's text may be a single item.

    Raises:
        BadValue: It is not acceptable; the text says what is.
    """
    name = kind_of(check)
    try:
        if is_list(check):
            value = split(value) if isinstance(value, str) else _items(value)
        if name in KINDS:
            return KINDS[name].convert(value)
        return _validate(check, value)
    except _Unknown as error:
        raise BadValue(KINDS[name].expected, str(error)) from None
    except (ValueError, TypeError, ConfigurationError):
        raise BadValue(expected(check)) from None


def default_of(check: str) -> Any:
    """Return the value that a check has for an option that is not given; None if it has none.

    Raises:
        BadValue: The check itself is wrong.
    """
    if kind_of(check) not in _validator().functions:
        raise BadValue("", f"there is no check {kind_of(check)!r}")
    try:
        return _validator().get_default_value(check)
    except KeyError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever another package's wrong text leads to
        raise BadValue("", f"{check!r} is no check: {error}") from None


def expected(check: str) -> str:
    """Say what a check accepts, such as ``"a whole number from 0 to 9"``."""
    name = kind_of(check)
    if name in KINDS:
        return KINDS[name].expected
    try:
        return str(_describer().check(check, ""))
    except Exception:  # noqa: BLE001 - a check that has its arguments wrong is still one
        return f"of the kind {check}"


def split(text: str) -> list[str]:
    """Return the items of a list that stands in one line, as in the configuration file.

    Raises:
        ValueError: Quotes do not match.
    """
    if not re.search(r"""[,'"#]""", text):
        return [text.strip()] if text.strip() else []
    from ipkernel.cluster.inifile import read_value

    value = read_value(text)
    return value if isinstance(value, list) else [value]


def _validate(check: str, value: Any) -> Any:
    from configobj.validate import ValidateError

    if isinstance(value, bool) and kind_of(check) in ("integer", "float"):
        raise TypeError
    try:
        return _validator().check(check, value)
    except ValidateError as error:
        raise ValueError(str(error)) from None


@cache
def _validator() -> Any:
    from configobj.validate import Validator

    return Validator({name: kind.convert for name, kind in KINDS.items()})


# -- ipkernel's kinds -------------------------------------------------------------------------


def _count(value: Any) -> int:
    return options.check_count(_number(value))


def _port(value: Any) -> int:
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 65535:
        raise ValueError
    return number


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _seconds_or_zero(value: Any) -> float:
    return parse_span(value, zero=True)


def _walltime(value: Any) -> str:
    return clock_text(parse_walltime(value)) if value != "" else ""


def _amount(value: Any) -> float:
    if isinstance(value, bool) or not 0.0 < float(value) <= 1e15:
        raise ValueError
    return float(value)


def _scheme(value: Any) -> str:
    name = _text(value).strip().lower()
    if name not in SCHEMES:
        raise ValueError
    return name


def _level(value: Any) -> str:
    return options.check_level(_number(value))


def _size(value: Any) -> int | str:
    parse_size(value)
    return value  # type: ignore[no-any-return]


def _share(value: Any) -> int | str:
    parse_size(value, 1)
    return value  # type: ignore[no-any-return]


def _cores(value: Any) -> str:
    text = "".join(_text(value).split()).lower()
    if not re.fullmatch(_CORES, text):
        raise ValueError
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _path(value: Any) -> str:
    return os.path.expanduser(_text(os.fspath(value)))


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in value]


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping | bytes):
        raise TypeError
    return list(value)


def _launcher(value: Any) -> Any:
    return _known("controller", value) if isinstance(value, str) else value


def _launchers(value: Any) -> list[Any]:
    return [_known("engines", one) if isinstance(one, str) else one for one in value]


def _known(kind: str, text: str) -> str:
    """Return a launcher's name as it is known; whether it can be loaded is seen later."""
    from ipkernel.launchers import check_name

    name, colon, count = text.partition(":")
    if colon:
        options.check_count(_number(count) if kind == "engines" else None)
    try:
        return check_name(kind, name.strip()) + colon + count.strip()
    except ConfigurationError as error:
        raise _Unknown(str(error)) from None


#: ipkernel's own kinds of values, by name.
KINDS: Final[dict[str, Kind]] = {
    "count": Kind(_count, f"a whole number from 0 to {options.MAX_ENGINES}"),
    "port": Kind(_port, "a port: a whole number from 0 to 65535"),
    "seconds": Kind(parse_span, "a number of seconds above 0, or such as 90s, 30m, 12h or 7d"),
    "seconds_or_zero": Kind(
        _seconds_or_zero, "a number of seconds from 0, or such as 90s, 30m, 12h or 7d"
    ),
    "walltime": Kind(
        _walltime, "hours, minutes and seconds such as 01:30:00, or such as 90m, 12h or 7d"
    ),
    "amount": Kind(_amount, "an amount: a number above 0"),
    "scheme": Kind(_scheme, "leastload, lru, plainrandom, twobin or weighted"),
    "level": Kind(_level, "debug, info, warning, error or critical"),
    "bytes": Kind(parse_size, "a size: a number of bytes, 512M or 4GB"),
    "cores": Kind(_cores, "none, auto, or numbers of cores such as '0-3;4-7'"),
    "size": Kind(_size, "a size: a number of bytes, 512M or 4GB"),
    "share": Kind(_share, "a size: a number of bytes, 512M, 4GB, or a share such as 25%"),
    "text": Kind(_text, "a text"),
    "path": Kind(_path, "a path"),
    "texts": Kind(_texts, "a list of texts, separated by commas", is_list=True),
    "launcher": Kind(_launcher, "the name of a launcher"),
    "launchers": Kind(
        _launchers, "names of launchers, such as 'local:2, ssh, slurm:8'", is_list=True
    ),
}


# -- the kinds of the validate module, in words -----------------------------------------------

_Bound = str | None


def _span(what: str, low: _Bound, high: _Bound, unit: str = "") -> str:
    if low is not None and high is not None:
        return f"{what} from {low} to {high}{unit}"
    if low is not None:
        return f"{what} from {low}{unit}" if not unit else f"{what} of at least {low}{unit}"
    return f"{what} of at most {high}{unit}" if high is not None else what


def _several(item: str) -> Callable[..., str]:
    def describe(value: str, min: _Bound = None, max: _Bound = None) -> str:
        return _span(f"a list of {item}", min, max, " items")

    return describe


def _words(value: str, *choices: str) -> str:
    *first, last = choices or ("",)
    return f"{', '.join(first)} or {last}" if first else last


def _whole(value: str, min: _Bound = None, max: _Bound = None) -> str:
    return _span("a whole number", min, max)


def _real(value: str, min: _Bound = None, max: _Bound = None) -> str:
    return _span("a number", min, max)


def _string(value: str, min: _Bound = None, max: _Bound = None) -> str:
    return _span("a text", min, max, " characters")


@cache
def _describer() -> Any:
    """Return a validator whose checks say what they would accept."""
    from configobj.validate import Validator

    return Validator(
        {
            "integer": _whole,
            "float": _real,
            "boolean": lambda value: "yes or no",
            "string": _string,
            "ip_addr": lambda value: "an IP address such as 192.0.2.1",
            "option": _words,
            "list": _several("values"),
            "tuple": _several("values"),
            "force_list": _several("values"),
            "int_list": _several("whole numbers"),
            "float_list": _several("numbers"),
            "bool_list": _several("yes or no"),
            "string_list": _several("texts"),
            "ip_addr_list": _several("IP addresses"),
            "mixed_list": lambda value, *kinds: f"a list of {len(kinds)}: {', '.join(kinds)}",
            "pass": lambda value: "anything",
        }
    )
