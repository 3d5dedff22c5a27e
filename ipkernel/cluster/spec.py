"""What can be configured: every section and option, with its type, its default and its help.

The sections of the cluster itself are written here; each launcher brings its own. This is what
configuration files are checked against, and what their commented template and the reference in the
documentation are made of.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from ipkernel.cluster.checks import BadValue, default_of
from ipkernel.controller.defaults import HOST_GRACE, RESTART_GRACE, WATCHDOG
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher, launcher_names

#: In a specification: any name.
MANY: Final = "__many__"


class Option(NamedTuple):
    """One option.

    Attributes:
        check: Kind of its values; see :mod:`ipkernel.cluster.checks`.
        default: Its value if it is given nowhere; None if something else decides then.
        help: What it is for, in sentences.
    """

    check: str
    default: Any
    help: str


class Section(NamedTuple):
    """One section.

    Attributes:
        help: What it is for.
        options: Its options by name; :data:`MANY` stands for any name.
        sections: The sections in it, likewise.
    """

    help: str
    options: Mapping[str, Option]
    sections: Mapping[str, Section] = {}

    def option(self, name: str) -> Option | None:
        """Return the option called ``name``, or None if there is none."""
        return self.options.get(name) or self.options.get(MANY)

    def section(self, name: str) -> Section | None:
        """Return the section in it called ``name``, or None if there is none."""
        return self.sections.get(name) or self.sections.get(MANY)


CLUSTER: Final = Section(
    "The cluster itself: the arguments of ipkernel.Cluster.",
    {
        "n": Option("count", None, "Number of engines. By default one for each core."),
        "controller": Option("launcher", "local", "What launches the controller."),
        "engines": Option(
            "launchers",
            ["local"],
            "What launches the engines: one launcher, or several, each with the number of its "
            "engines if you like: local:2, ssh, slurm:8. If only 'hosts' is given: ssh.",
        ),
        "minimum": Option(
            "count",
            None,
            "With how many engines a start is a success, though some hosts have failed. By "
            "default with all of them.",
        ),
        "hosts": Option(
            "texts",
            [],
            "Hosts for engines that ssh launches, each with the number of its engines if you "
            "like: a.example:4, me@b.example. The same as 'hosts' in [ssh].",
        ),
        "controller_ip": Option(
            "text",
            "",
            "Address of the interface on which the controller listens. By default loopback only; "
            "all of them if engines are launched on other hosts.",
        ),
        "controller_port": Option(
            "port", 0, "TCP port of the controller. By default (0) the one it had before, or any."
        ),
        "controller_location": Option(
            "text",
            "",
            "Address under which other hosts reach the controller, if that is not its own.",
        ),
        "controller_args": Option("texts", [], "Further arguments for ipcontroller."),
        "engine_args": Option("texts", [], "Further arguments for ipdaemon."),
        "store_memory": Option(
            "share",
            None,
            "Memory of each host for large objects, such as 4GB or 50%. By default 30% of the "
            "machine's; 0 sends everything by way of the controller.",
        ),
        "spill_dir": Option(
            "path",
            "",
            "Directory for objects for which there is no memory. By default where temporary "
            "files go.",
        ),
        "spill_limit": Option(
            "size",
            None,
            "How much may be there. By default four times the memory; 0 for nothing.",
        ),
        "data_interface": Option(
            "text",
            "",
            "Address on which hosts and clients fetch large objects from a host. By default "
            "that of the interface that leads to the controller.",
        ),
        "data_port": Option("port", 0, "TCP port for that. By default (0) any."),
        "engine_timeout": Option("seconds", 60.0, "Seconds to wait for engines."),
        "stop_timeout": Option(
            "seconds", 5.0, "Seconds after which a stop becomes forcible, about."
        ),
        "log_level": Option("level", "INFO", "How much is in the cluster's logs."),
    },
)

ENVIRONMENT: Final = Section(
    "Environment variables for everything that is started: NAME = value. Others may be able to "
    "read this file and them, so passwords do not belong here.",
    {MANY: Option("text", None, "any variable")},
)

CONTROLLER: Final = Section(
    "The controller: how it shares out what there is to do, what it keeps and watches over, and what "
    "becomes of it when it fails.",
    {
        "journal": Option(
            "option('process', 'power', 'off')",
            "process",
            "What its journal outlives, and with it tasks and results: process, the end of the "
            "process, however that comes; power, a loss of power too; off, nothing.",
        ),
        "keep_results": Option(
            "seconds",
            None,
            "How long results are kept that no client has fetched. By default 7d; without a "
            "journal, 1h.",
        ),
        "keep_results_size": Option(
            "size",
            None,
            "How much they may be; the oldest go first. By default 1 GiB; without a journal, "
            "256 MiB.",
        ),
        "scheme": Option(
            "scheme",
            "leastload",
            "Which of the engines with room gets the next load-balanced task: leastload, the one "
            "that holds least; lru, the one that was given something longest ago; plainrandom, "
            "any; twobin, the less loaded of any two; weighted, likewise, but loaded engines are "
            "chosen more rarely.",
        ),
        "watchdog": Option(
            "seconds",
            WATCHDOG,
            "Seconds after which work on which nobody makes progress is shown as stuck, by "
            "'ipcluster status' and in the controller's log.",
        ),
        "host_grace": Option(
            "seconds",
            HOST_GRACE,
            "Seconds within which a host may come back whose connection is lost, before its tasks "
            "are run elsewhere.",
        ),
        "restart_grace": Option(
            "seconds",
            RESTART_GRACE,
            "The same for all hosts after the controller was started again.",
        ),
        "restart": Option(
            "boolean",
            True,
            "Whether a controller that was killed is started again: by whoever has started the "
            "cluster, or by its host daemon if the cluster outlives that.",
        ),
    },
)

SLOTS: Final = Section(
    "What each engine has: its place, its limits, its cores.",
    {
        "cwd": Option(
            "text",
            "",
            "Working directory on their host. With {slot} in it, the number of the engine on "
            "its host, each has its own. By default that of the host daemon.",
        ),
        "memory": Option("bytes", 0, "Memory that an engine may use, such as 2GB. 0: unlimited."),
        "affinity": Option(
            "cores",
            "none",
            "Cores of each engine: none for all, auto for an even share, or the cores of the "
            "engines of a host in their order: '0-3;4-7'.",
        ),
        "output_limit": Option(
            "bytes",
            0,
            "How long the file with an engine's output may become before another one is begun. "
            "0: as ipdaemon has it.",
        ),
    },
    {
        "environment": Section(
            "Environment variables of engines only. {slot} is the number of the engine on its "
            "host, from 0, and {engine} its id: CUDA_VISIBLE_DEVICES = {slot}",
            {MANY: Option("text", None, "any variable")},
        ),
        "resources": Section(
            "How much each engine has of what calls ask for by their flag 'resources': gpu = 1. The "
            "names are yours; nothing is measured.",
            {MANY: Option("amount", None, "any resource")},
        ),
        "host_resources": Section(
            "How much the engines of a host have together of other resources: memory = 64",
            {MANY: Option("amount", None, "any resource")},
        ),
    },
)

#: The sections that are not a launcher's.
CORE: Final[Mapping[str, Section]] = {
    "cluster": CLUSTER,
    "environment": ENVIRONMENT,
    "controller": CONTROLLER,
    "slots": SLOTS,
}


def section_names() -> list[str]:
    """Return the names of all sections that a file can have, launchers' included."""
    return [*CORE, *launcher_names()]


def find_section(name: str) -> Section:
    """Return what can stand in a section.

    Args:
        name: The section's: one of the core, or a launcher.

    Raises:
        ConfigurationError: There is no such section; with the nearest known name.
    """
    if name in CORE:
        return CORE[name]
    if name not in launcher_names():
        raise ConfigurationError(f"unknown section [{name}]{nearest(name, section_names())}")
    return launcher_section(name)


def launcher_section(name: str) -> Section:
    """Return the section of a launcher: what its class for the controller and for engines say.

    Raises:
        ConfigurationError: It cannot be loaded, or what it says is wrong.
    """
    options: dict[str, Option] = {}
    sections: dict[str, Section] = {}
    for kind in ("controller", "engines"):
        if name in launcher_names(kind):
            try:
                found = class_section(name, find_launcher(kind, name))
            except Exception as error:  # noqa: BLE001 - a plug-in may do anything when it is loaded
                raise ConfigurationError(f"launcher {name!r} cannot be loaded: {error}") from None
            options.update(found.options)
            sections.update(found.sections)
    return Section(f"Options of the launcher {name!r}.", options, sections)


def class_section(name: str, launcher: Any) -> Section:
    """Return the section that a launcher class describes.

    Raises:
        ConfigurationError: Its description is wrong.
    """
    text = getattr(launcher, "SPEC", "")
    if not text.strip():
        return Section("", {})
    return read_spec(name, text)


@cache
def read_spec(name: str, text: str) -> Section:
    """Return the section that lines of a ConfigObj specification describe.

    Args:
        name: The launcher's, for messages.
        text: The lines: ``option = check``, each after its help in lines that begin with ``#``;
            sections in it begin with ``[[name]]``.

    Raises:
        ConfigurationError: It is wrong.
    """
    from configobj import ConfigObj, ConfigObjError

    lines = ["[section]", *(line.strip() for line in text.splitlines())]
    try:
        spec = ConfigObj(lines, interpolation=False, raise_errors=True, _inspec=True)
        return _section(spec["section"], "")
    except (ConfigObjError, BadValue) as error:
        raise ConfigurationError(f"the options of launcher {name!r} are wrong: {error}") from None


def _section(spec: Any, help: str) -> Section:
    return Section(
        help,
        {
            name: Option(spec[name], default_of(spec[name]), _help(spec.comments[name]))
            for name in spec.scalars
        },
        {name: _section(spec[name], _help(spec.comments[name])) for name in spec.sections},
    )


def _help(comments: Iterable[str]) -> str:
    return " ".join(filter(None, (line.strip().lstrip("#").strip() for line in comments)))


def nearest(given: str, known: Iterable[str]) -> str:
    """Return what to say after the name of something that does not exist."""
    names = [name for name in known if name != MANY]
    near = difflib.get_close_matches(given.lower(), names, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(names)}" if names else "; there are none"
