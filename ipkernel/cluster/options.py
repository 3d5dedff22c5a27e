"""What a :class:`~ipkernel.cluster.cluster.Cluster` can be told, checked."""

from __future__ import annotations

import difflib
import operator
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ipkernel.callers import users_level
from ipkernel.errors import ConfigurationError
from ipkernel.sizes import parse_size

#: Arguments that users of this field may still pass and that mean nothing here.
IGNORED: Final = (
    "config",
    "delay",
    "load_profile",
    "log",
    "parent",
    "send_engines_connection_env",
)
_LEVELS: Final = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
MAX_ENGINES: Final = 4096
_MAX_ID: Final = 1 << 31


def check_count(n: Any, *, least: int = 0) -> int:
    """Return a number of engines.

    Raises:
        ConfigurationError: It is not a whole number from ``least`` to 4096.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not least <= n <= MAX_ENGINES:
        raise ConfigurationError(
            f"the number of engines must be a whole number from {least} to {MAX_ENGINES}, not {n!r}"
        )
    return n


def check_seconds(name: str, value: Any) -> float:
    """Return a span of time.

    Raises:
        ConfigurationError: It is not a positive number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {value!r}")
    return float(value)


def check_limit(limit: Any) -> float:
    """Return how many seconds something may take, 0 for any number.

    Raises:
        ConfigurationError: It is not a number from 0.
    """
    number = isinstance(limit, int | float) and not isinstance(limit, bool)
    if not number or not 0.0 <= limit < float("inf"):
        raise ConfigurationError(f"limit must be a number of seconds from 0, not {limit!r}")
    return float(limit)


def check_ids(engines: Any) -> list[int]:
    """Return ids of engines.

    Raises:
        ConfigurationError: They are none.
    """
    if isinstance(engines, str | bytes) or not isinstance(engines, Iterable):
        raise ConfigurationError(f"give ids of engines as a list such as [0, 1], not {engines!r}")
    found = list(engines)
    for one in found:
        whole = hasattr(one, "__index__") and not isinstance(one, bool)
        if not whole or not 0 <= operator.index(one) < _MAX_ID:
            raise ConfigurationError(f"ids of engines are whole numbers from 0, not {one!r}")
    return [operator.index(one) for one in found]


def store_arguments(
    memory: int | str | None,
    spill_dir: str | os.PathLike[str] | None,
    spill_limit: int | str | None,
    interface: str,
) -> tuple[str, ...]:
    """Return the arguments for host daemons that say how their stores are to be.

    Args:
        memory: Bytes, or a share of a machine's memory; None for the default.
        spill_dir: Where objects go for which there is no memory; None for the default.
        spill_limit: How many bytes of them; None for the default.
        interface: On which other hosts fetch objects; empty for the default.

    Raises:
        ConfigurationError: A size is none.
    """
    for name, size, whole in (("store_memory", memory, 1), ("spill_limit", spill_limit, 0)):
        try:
            parse_size(0 if size is None else size, whole)
        except ValueError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    arguments = (
        ("--store-memory", memory),
        ("--spill-dir", os.path.abspath(spill_dir) if spill_dir else None),
        ("--spill-limit", spill_limit),
        ("--data-interface", interface or None),
    )
    return tuple(f"{name}={value}" for name, value in arguments if value is not None)


def check_level(level: int | str) -> str:
    """Return a log level by name.

    Raises:
        ConfigurationError: There is no such level.
    """
    name = _LEVELS.get(level) if isinstance(level, int) else str(level).upper()
    if name is None or name not in _LEVELS.values():
        raise ConfigurationError(
            f"unknown log level {level!r}: use debug, info, warning, error or critical"
        )
    return name


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Warn of arguments that are ignored; refuse those that nobody knows.

    Raises:
        TypeError: With the nearest known name.
    """
    for name in given:
        if name in IGNORED:
            warnings.warn(
                f"Cluster({name}=...) has no meaning in ipkernel and is ignored",
                stacklevel=users_level(),
            )
            continue
        near = difflib.get_close_matches(name, list(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"Cluster() got an unexpected argument {name!r}{hint}")
