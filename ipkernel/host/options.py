"""How a host daemon is to run, and the options of command lines that say so."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from ipkernel.arguments import natural, size, span, span_or_zero
from ipkernel.host.storeoptions import DEFAULTS, StoreOptions, add_store_options, chosen_store
from ipkernel.host.walltime import time_left

__all__ = ["Options", "add_options", "chosen_options"]

#: Bytes after which a log file is put aside, and how many old ones are kept.
LOG_SIZE: Final = 5_000_000
LOG_BACKUPS: Final = 3
#: Seconds before the end of the walltime from which on nothing is begun; at most half of it.
DRAIN_MARGIN: Final = 60.0
#: The largest amount of a resource, and how many resources there may be; the controller takes no more.
_MAX_AMOUNT: Final = 1e15
_MAX_RESOURCES: Final = 16
#: The variable with the options of slots, as JSON; see :mod:`ipkernel.host.slots`.
SLOTS: Final = "IPKERNEL_SLOTS"


class Options:
    """How a host daemon is to run.

    Attributes:
        furl_file: The file with the engine FURL.
        engines: How many engines.
        cluster: Name of the cluster, for titles.
        cluster_dir: Its directory, or None for a daemon that leaves no files.
        wait: Seconds in which the controller must be reached.
        grace: Seconds for which a lost controller is looked for.
        lifeline: Whether the end of the standard input is the end of the daemon.
        log_level: A level by name.
        log_size: Bytes after which its log file, and each engine's, is put aside.
        log_backups: How many old ones are kept.
        title: The process's title, without the cluster.
        store: How its store is to be.
        walltime: Seconds that it may live, 0 for any number.
        drain_margin: Seconds before their end from which on its engines begin nothing new: at most
            half of them, by default 60.
        launcher: Name of the launcher that has started it.
        label: Where that launcher says that it runs.
        restarts: How often it has been started again.
        engine_ids: The ids that its engines are to have if they are free.
        resources: How much of each resource an engine has, beside what is said about slots.
        host_resources: How much of others the engines have together, likewise.
    """

    def __init__(
        self,
        furl_file: str,
        *,
        engines: int = 1,
        cluster: str = "",
        cluster_dir: Path | None = None,
        wait: float = 60.0,
        grace: float = 60.0,
        lifeline: bool = False,
        log_level: str = "info",
        log_size: int = LOG_SIZE,
        log_backups: int = LOG_BACKUPS,
        title: str = "ipdaemon",
        store: StoreOptions = DEFAULTS,
        walltime: float = 0.0,
        drain_margin: float | None = None,
        launcher: str = "",
        label: str = "",
        restarts: int = 0,
        engine_ids: tuple[int, ...] = (),
        resources: Mapping[str, float] | None = None,
        host_resources: Mapping[str, float] | None = None,
    ) -> None:
        self.furl_file = furl_file
        self.engines = engines
        self.cluster = cluster
        self.cluster_dir = cluster_dir
        self.wait = wait
        self.grace = grace
        self.lifeline = lifeline
        self.log_level = log_level
        self.log_size = log_size
        self.log_backups = log_backups
        self.title = title
        self.store = store
        self.walltime = walltime
        self.drain_margin = min(
            DRAIN_MARGIN if drain_margin is None else drain_margin, walltime / 2
        )
        self.launcher = launcher
        self.label = label
        self.restarts = restarts
        self.engine_ids = engine_ids
        self.resources = dict(resources or {})
        self.host_resources = dict(host_resources or {})


def add_options(
    parser: argparse.ArgumentParser,
    *,
    engines: int | None = None,
    cluster: str = "",
    wait: float,
    grace: float,
    log_level: str,
) -> None:
    """Add the options that every host daemon has, whoever starts it.

    Args:
        parser: To this.
        engines: How many engines by default; None for one for each core.
        cluster: Name of the cluster by default.
        wait: Seconds in which the controller must be reached, by default.
        grace: Seconds for which a lost controller is looked for, by default.
        log_level: The level by default.
    """
    many = "one for each core" if engines is None else str(engines)
    parser.add_argument(
        "-n", "--engines", type=count, metavar="N",
        default=os.cpu_count() or 1 if engines is None else engines,
        help=f"how many engines (default: {many})",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", default=cluster, metavar="NAME",
        help=f"name of the cluster (default: {cluster or 'not shown'})",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=span_or_zero, default=wait, metavar="TIME",
        help=f"how long to wait for the controller (default: {wait:g}s)",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=span_or_zero, default=grace, metavar="TIME",
        help=f"how long to look for a lost controller (default: {grace:g}s)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", default=log_level, metavar="LEVEL",
        choices=["debug", "info", "warning", "error", "critical"],
        help=f"debug, info, warning, error or critical (default: {log_level})",
    )  # fmt: skip
    parser.add_argument(
        "--resources", type=amounts, default={}, metavar="NAME=AMOUNT,...",
        help="what each engine has for calls that ask for it, such as gpu=1",
    )  # fmt: skip
    parser.add_argument(
        "--host-resources", type=amounts, default={}, metavar="NAME=AMOUNT,...",
        help="what the engines have together, such as memory=60,licence=2",
    )  # fmt: skip
    add_log_options(parser)
    _add_batch_options(parser)
    add_store_options(parser)


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that bound log files, of host daemons and of the controller."""
    parser.add_argument(
        "--log-size", type=_log_size, default=LOG_SIZE, metavar="SIZE",
        help="when a log file has become so large it is put aside (default: 5 MB)",
    )  # fmt: skip
    parser.add_argument(
        "--log-backups", type=natural, default=LOG_BACKUPS, metavar="N",
        help=f"how many old files of each log are kept (default: {LOG_BACKUPS})",
    )  # fmt: skip


def add_restarts_option(parser: argparse._ActionsContainer) -> None:
    """Add the option with which whoever starts a program again says how often that was."""
    parser.add_argument(
        "--restarts", type=natural, default=0, metavar="N",
        help="how often it has been started again, for status",
    )  # fmt: skip


def _add_batch_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("for launchers")
    group.add_argument(
        "--walltime", type=span, default=0.0, metavar="TIME",
        help="end after this time, as the batch job does (default: never)",
    )  # fmt: skip
    group.add_argument(
        "--time-left", type=time_left, default=None, metavar="TEXT",
        help="what the batch system says is left, such as 1-02:03:04; if that is less than the "
        "walltime, it counts; what is no time is ignored",
    )  # fmt: skip
    group.add_argument(
        "--drain-margin", type=span_or_zero, default=None, metavar="TIME",
        help="begin nothing new when so much of the walltime is left "
        f"(default: {DRAIN_MARGIN:g}s; at most half of it)",
    )  # fmt: skip
    group.add_argument(
        "--launcher", default="", metavar="NAME", type=_text(64), help="what has started it"
    )
    group.add_argument(
        "--label", default="", metavar="TEXT", type=_text(256),
        help="where that says that it runs, such as 'slurm job 17'",
    )  # fmt: skip
    group.add_argument(
        "--engine-ids", type=engine_ids, default=(), metavar="IDS",
        help="such as 0-3,7: ids for its engines, if they are free (default: the lowest)",
    )  # fmt: skip
    add_restarts_option(group)


def chosen_options(
    parser: argparse.ArgumentParser, chosen: argparse.Namespace, furl_file: str, **more: Any
) -> Options:
    """Return what was chosen of the options that :func:`add_options` has added.

    Args:
        parser: Ends the program if two options do not go together.
        chosen: What it has parsed.
        furl_file: The file with the engine FURL.
        more: What this program has besides.
    """
    margin = chosen.drain_margin
    if margin is not None and not chosen.walltime and chosen.time_left is None:
        parser.error("--drain-margin means nothing without --walltime or --time-left")
    taken = {
        "engines": chosen.engines,
        "cluster": chosen.cluster,
        "wait": chosen.wait,
        "grace": chosen.grace,
        "log_level": chosen.log_level,
        "log_size": chosen.log_size,
        "log_backups": chosen.log_backups,
        "store": chosen_store(chosen),
        "walltime": min(filter(None, (chosen.walltime, chosen.time_left)), default=0.0),
        "drain_margin": margin,
        "launcher": chosen.launcher,
        "label": chosen.label,
        "restarts": chosen.restarts,
        "engine_ids": chosen.engine_ids,
        "resources": dict(chosen.resources),
        "host_resources": dict(chosen.host_resources),
    }
    return Options(furl_file, **{**taken, **more})


def take_slots(environ: MutableMapping[str, str]) -> str:
    """Return what an environment says about slots, and take it out.

    Clusters that user code starts on an engine are not to inherit it.
    """
    return environ.pop(SLOTS, "")


# ------------------------------------------------------------------ values, for argparse


def count(text: str) -> int:
    """Return a number of engines; for :mod:`argparse`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of engines (0 to 4096)")
    return number


def engine_ids(text: str) -> tuple[int, ...]:
    """Return ids of engines, such as ``"0-3,7"``; for :mod:`argparse`.

    Raises:
        argparse.ArgumentTypeError: They are none, or far too many.
    """
    found: dict[int, None] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first, first]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise argparse.ArgumentTypeError(f"{text!r} are not ids of engines, such as 0-3,7")
        low, high = map(int, numbers)
        if not low <= high < 1 << 20 or high - low >= 4096 or len(found) > 4096:
            raise argparse.ArgumentTypeError(f"{part!r} in {text!r} is not a range of engine ids")
        found.update(dict.fromkeys(range(low, high + 1)))
    return tuple(found)


def amounts(text: str) -> dict[str, float]:
    """Return amounts of resources, such as ``"gpu=1,memory=2.5"``; for :mod:`argparse`.

    Raises:
        argparse.ArgumentTypeError: They are none.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            amount = float(number)
        except ValueError:
            amount = 0.0
        if not 0 < len(name) <= 64 or not 0.0 < amount <= _MAX_AMOUNT or name in found:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not a resource with its amount, such as gpu=1 or memory=2.5"
            )
        found[name] = amount
    if len(found) > _MAX_RESOURCES:
        raise argparse.ArgumentTypeError(f"there may be {_MAX_RESOURCES} resources")
    return found


def _log_size(text: str) -> int:
    found = size(text)
    if found < 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is too small for a log file: 4096 or more")
    return found


def _text(limit: int) -> Any:
    def convert(text: str) -> str:
        if len(text) > limit or not text.isprintable():
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not a text of one line and at most {limit} characters"
            )
        return text

    return convert
