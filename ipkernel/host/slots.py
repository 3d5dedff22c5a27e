"""How the engines of a host are to be: their environment, directory, cores and limits.

Whoever starts a host daemon says so in one environment variable, as JSON; so nothing of it stands
on a command line, where everybody could read it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ipkernel.host.interfaces import Place
from ipkernel.host.options import SLOTS
from ipkernel.ranges import ranges_text
from ipkernel.wire.messages import Resources

__all__ = ["SlotOptions", "Slots", "available_cpus", "make_slots", "read_options"]

#: Cores are numbered below this.
_MAX_CPU: Final = 1 << 16

Size = Annotated[int, Meta(ge=0, lt=1 << 50)]


class SlotOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said about the slots of a host.

    Attributes:
        cwd: Directory in which engines start; empty for that of the daemon. With ``{slot}`` in it
            each engine has its own, which is made if need be.
        memory: Bytes of memory that an engine may use, 0 for no limit.
        affinity: ``"none"``; ``"auto"``, which shares the cores out evenly; or the cores of each
            slot in turn, such as ``"0-3;4-7"``.
        environment: Variables. In their values ``{slot}`` stands for the number of the slot on its
            host, from 0, and ``{engine}`` for the id of the engine.
        resources: How much of each resource an engine has, by the user's own names.
        host_resources: How much of others the engines of the host have together.
        output_limit: Bytes after which the file with an engine's output is put aside; 0 for what
            the daemon's options say.
    """

    cwd: str = ""
    memory: Size = 0
    affinity: str = "none"
    environment: dict[str, str] = {}
    output_limit: Size = 0
    resources: Resources = {}
    host_resources: Resources = {}


def read_options(text: str) -> SlotOptions:
    """Return the options in the text of the variable.

    Args:
        text: JSON, or nothing.

    Raises:
        ValueError: It is not what it should be; the text says where.
    """
    if not text:
        return SlotOptions()
    try:
        options = msgspec.json.decode(text, type=SlotOptions)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{SLOTS} cannot be understood: {error}") from None
    for name, value in options.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"slots.environment: {name!r} cannot be a variable with that value")
    parse_affinity(options.affinity)
    both = options.resources.keys() & options.host_resources.keys()
    if both:
        raise ValueError(
            f"slots.host_resources: {min(both)!r} is one of slots.resources already: an engine has "
            "it, or its host has"
        )
    return options


def parse_affinity(text: str) -> list[frozenset[int]]:
    """Return the cores of each slot; none for ``"none"`` and ``"auto"``.

    Args:
        text: Such as ``"0-3;4-7"``.

    Raises:
        ValueError: It says nothing of that kind.
    """
    if text.strip().lower() in ("", "none", "auto"):
        return []
    return [_cores(part, text) for part in text.split(";")]


def _cores(part: str, text: str) -> frozenset[int]:
    found: set[int] = set()
    for piece in part.split(","):
        first, dash, last = (word.strip() for word in piece.partition("-"))
        last = last if dash else first
        good = all(word.isascii() and word.isdecimal() and len(word) < 6 for word in (first, last))
        if not good or not int(first) <= int(last) < _MAX_CPU:
            raise ValueError(
                f"slots.affinity: {piece.strip()!r} in {text!r} are no cores: write none, auto, "
                "or the cores of each slot, such as '0-3;4-7'"
            )
        found.update(range(int(first), int(last) + 1))
    return frozenset(found)


def available_cpus() -> list[int] | None:
    """Return the numbers of the cores that this process may use; None where that is not known."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    import psutil

    process: Any = psutil.Process()
    return sorted(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else None


def shares(cpus: Sequence[int], count: int) -> list[frozenset[int]]:
    """Share cores out evenly.

    Args:
        cpus: The cores, in order: neighbours stay together.
        count: How many slots there are.

    Returns:
        The cores of each slot: all of them are used, and where there are more slots than cores,
        each has one.
    """
    if count >= len(cpus):
        return [frozenset([cpus[slot % len(cpus)]]) for slot in range(count)]
    edges = [slot * len(cpus) // count for slot in range(count + 1)]
    return [frozenset(cpus[low:high]) for low, high in pairwise(edges)]


class Slots:
    """The slots of one host.

    Args:
        options: How they are to be.
        count: How many there are at first.
        host: Name of this host, for messages.
        cpus: The cores that there are; None where the system does not tell.

    Attributes:
        options: As given.

    Raises:
        ValueError: This host cannot do that; the text says what and why.
    """

    def __init__(
        self,
        options: SlotOptions = SlotOptions(),  # noqa: B008 - it is immutable
        count: int = 0,
        *,
        host: str = "",
        cpus: Sequence[int] | None = None,
    ) -> None:
        self.options = options
        self._host = host
        self._cores = self._affinity(options.affinity, count, cpus)
        late = {name for name, value in options.environment.items() if "{engine}" in value}
        self._late = {name: options.environment[name] for name in late}
        self._early = {n: v for n, v in options.environment.items() if n not in late}
        cwd = options.cwd
        if cwd and "{slot}" not in cwd and not os.path.isdir(cwd):
            raise ValueError(f"slots.cwd: {cwd} is not a directory on {host or 'this host'}")

    def _affinity(self, text: str, count: int, cpus: Sequence[int] | None) -> list[frozenset[int]]:
        chosen = parse_affinity(text)
        auto = text.strip().lower() == "auto"
        if not chosen and not auto:
            return []
        if cpus is None:
            raise ValueError(
                f"slots.affinity: processes cannot be bound to cores on {sys.platform}: "
                "leave it at none"
            )
        if auto:
            return shares(cpus, count) if count else []
        missing = sorted(frozenset().union(*chosen) - frozenset(cpus))
        if missing:
            raise ValueError(
                f"slots.affinity: {self._host or 'this host'} has no core {missing[0]} for "
                f"engines; there are {ranges_text(cpus)}"
            )
        return chosen

    def place(self, slot: int) -> Place:
        """Return where and how the process of a slot is to be started.

        Args:
            slot: Its number on this host, from 0.

        Raises:
            OSError: Its directory cannot be made.
        """
        number = str(slot)
        environment = {name: v.replace("{slot}", number) for name, v in self._early.items()}
        cwd = self.options.cwd.replace("{slot}", number)
        if cwd != self.options.cwd:
            Path(cwd).mkdir(mode=0o700, parents=True, exist_ok=True)
        cores = self._cores[slot % len(self._cores)] if self._cores else frozenset()
        return Place(environment, cwd, tuple(sorted(cores)))

    def late(self, slot: int, engine: int) -> dict[str, str]:
        """Return the variables that cannot be set before the engine has its id."""
        return {
            name: value.replace("{slot}", str(slot)).replace("{engine}", str(engine))
            for name, value in self._late.items()
        }


def make_slots(text: str, count: int) -> Slots:
    """Return the slots of this host.

    Args:
        text: The options, as JSON; or nothing.
        count: How many engines there are at first.

    Raises:
        ValueError: The options are no options, or this host cannot do that.
    """
    options = read_options(text)
    cpus = None if options.affinity == "none" else available_cpus()
    return Slots(options, count, host=socket.gethostname(), cpus=cpus)
