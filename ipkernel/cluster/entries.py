"""Which launchers start a cluster's engines, and how many each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ipkernel.cluster.options import check_count
from ipkernel.cluster.processes import cpu_count
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.interfaces import NONE, Share

#: What launches engines when nothing else is said.
DEFAULT: Final = "local"
_EXAMPLE: Final = "write a launcher's name, or several such as 'local:2, ssh, slurm:8'"


class Entry(NamedTuple):
    """One launcher of engines.

    Attributes:
        name: Under which it can be found again; also the section of its options.
        launcher: The class.
        n: How many engines; None for what its options, or it by itself, say.
        options: The values of its section of the configuration.
    """

    name: str
    launcher: Any
    n: int | None = None
    options: Mapping[str, Any] = NONE

    @property
    def immediate(self) -> bool:
        """Whether its programs run at once, and do not wait in a queue first."""
        return bool(getattr(self.launcher, "immediate", True))

    def plan(self) -> list[Share]:
        """Return what each of its programs is to have, those without engines left out.

        Raises:
            ConfigurationError: The options do not allow it.
        """
        if hasattr(self.launcher, "plan"):
            return [share for share in self.launcher.plan(self.n, self.options) if share.n]
        n = cpu_count() if self.n is None else self.n
        return [Share(n)] if n else []

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"launcher": self.name, "n": self.n, "options": dict(self.options)}

    def arguments(self, share: Share = Share(0)) -> dict[str, Any]:  # noqa: B008 - it is immutable
        """Return the arguments that its class takes if it has options, for one program."""
        return {"options": self.options, "share": share} if hasattr(self.launcher, "SPEC") else {}


def read_entries(
    kind: str,
    given: Any,
    n: int | None,
    options: Callable[[str, Any], Mapping[str, Any]],
) -> list[Entry]:
    """Return the launchers that an argument or an option means.

    Args:
        kind: ``"controller"`` or ``"engines"``.
        given: A launcher's name or class, a text such as ``"local:2, ssh"``, or a list of names,
            classes and pairs of one with a number of engines.
        n: How many engines all of them together are to have; None for what each has.
        options: Returns the options of a launcher, by name and class.

    Raises:
        ConfigurationError: It is none of that, or the numbers do not fit.
    """
    found = []
    for name, count in _parts(given):
        launcher = find_launcher(kind, name)
        if not callable(launcher):
            raise ConfigurationError(f"{launcher!r} is no launcher: {_EXAMPLE}")
        known = launcher_name(name)
        found.append(Entry(known, launcher, count, options(known, launcher)))
    return _with_total(found, n)


def one_entry(kind: str, given: Any, options: Callable[[str, Any], Mapping[str, Any]]) -> Entry:
    """Return the one launcher that an argument means; see :func:`read_entries`."""
    launcher = find_launcher(kind, given)
    if not callable(launcher):
        raise ConfigurationError(f"{launcher!r} is no launcher of a {kind}")
    name = launcher_name(given)
    return Entry(name, launcher, 1, options(name, launcher))


def starts_elsewhere(launcher: Any) -> bool:
    """Tell whether what a launcher starts may be on another host, and so must reach this one.

    A class can say so by its attribute ``elsewhere``; those that start child processes of this
    one do not, all others do.
    """
    from ipkernel.launchers.local import LocalLauncher

    local = isinstance(launcher, type) and issubclass(launcher, LocalLauncher)
    return bool(getattr(launcher, "elsewhere", not local))


def launcher_name(launcher: Any) -> str:
    """Return the name under which :func:`recorded_launcher` finds a launcher again."""
    if isinstance(launcher, str):
        return launcher.lower()
    return f"{launcher.__module__}:{launcher.__qualname__}"


def recorded_launcher(kind: str, name: str) -> Any:
    """Return the launcher class that :func:`launcher_name` has named.

    Raises:
        ConfigurationError: It is not there any more.
    """
    module, colon, qualified = name.partition(":")
    if not colon:
        return find_launcher(kind, name)
    from functools import reduce
    from importlib import import_module

    try:
        return reduce(getattr, qualified.split("."), import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"there is no launcher {name!r} any more ({error})") from None


def _parts(given: Any) -> list[tuple[Any, int | None]]:
    if isinstance(given, str):
        given = [part for part in given.split(",") if part.strip()]
    elif not isinstance(given, Sequence):
        given = [given]
    parts: list[tuple[Any, int | None]] = []
    for one in given:
        if isinstance(one, str):
            parts.append(_named(one.strip()))
        elif isinstance(one, Sequence):
            parts.append(_pair(one))
        else:
            parts.append((one, None))
    if not parts:
        raise ConfigurationError(f"no launcher for engines was named: {_EXAMPLE}")
    return parts


def _named(text: str) -> tuple[str, int | None]:
    name, colon, count = text.partition(":")
    name = name.strip()
    if not name or (colon and not count.strip().isdecimal()):
        raise ConfigurationError(f"{text!r} does not name a launcher: {_EXAMPLE}")
    return name, check_count(int(count)) if colon else None


def _pair(pair: Sequence[Any]) -> tuple[Any, int | None]:
    if len(pair) != 2:
        raise ConfigurationError(f"{pair!r} is no launcher with a number of engines: {_EXAMPLE}")
    launcher, count = pair
    return launcher, None if count is None else check_count(count)


def _with_total(entries: list[Entry], n: int | None) -> list[Entry]:
    """Give what is left of a total to the launcher without a number of its own."""
    if n is None:
        return entries
    fixed = sum(entry.n or 0 for entry in entries)
    open_ones = [entry for entry in entries if entry.n is None]
    if len(open_ones) > 1:
        names = ", ".join(entry.name for entry in open_ones)
        raise ConfigurationError(
            f"n={n} does not say how the engines are divided among {names}: "
            f"write '{open_ones[0].name}:<number>', or leave out n"
        )
    if fixed > n or (fixed < n and not open_ones):
        raise ConfigurationError(
            f"n={n}, but the launchers are to start {fixed} engines: leave out one of both"
        )
    return [entry if entry.n is not None else entry._replace(n=n - fixed) for entry in entries]
