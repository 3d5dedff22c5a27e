"""The options of ``ipcluster`` that configure a cluster: the same ones as its arguments in Python.

What is not given stays out, so that the environment and the configuration files decide.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Final

from ipkernel.arguments import port, span
from ipkernel.cli import common

#: Options whose name is not that of the argument.
_NAMES: Final[Mapping[str, str]] = {
    "ip": "controller_ip",
    "port": "controller_port",
    "location": "controller_location",
    "timeout": "engine_timeout",
}
_SAME: Final = (
    "n",
    "controller",
    "engines",
    "hosts",
    "minimum",
    "store_memory",
    "spill_dir",
    "spill_limit",
    "data_interface",
    "data_port",
    "log_level",
)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that configure a cluster."""
    group = parser.add_argument_group(
        "settings", "What is not given here comes from the environment and ipcluster.ini."
    )
    group.add_argument(
        "-n",
        "--n",
        type=common.count,
        metavar="N",
        help="number of engines (default: one for each core)",
    )
    group.add_argument(
        "--engines",
        metavar="LAUNCHERS",
        help="what launches engines: local, or several such as local:2,ssh,slurm:8 (default: "
        "local)",
    )
    group.add_argument(
        "--controller", metavar="LAUNCHER", help="the same for the controller (default: local)"
    )
    group.add_argument("--hosts", metavar="HOSTS", help="hosts for ssh, such as a:4,me@b")
    group.add_argument(
        "--minimum",
        type=common.count,
        metavar="N",
        help="go on with so many engines if some hosts fail (default: fail as well)",
    )
    group.add_argument("--ip", metavar="ADDRESS", help="interface to listen on")
    group.add_argument(
        "--port", type=port, help="TCP port of the controller (default: the last one, or any)"
    )
    group.add_argument("--location", metavar="HOST", help="address under which others reach it")
    group.add_argument(
        "--timeout",
        metavar="TIME",
        type=span,
        help="wait so long for engines, such as 90s or 5m (default: 60s)",
    )
    group.add_argument(
        "--store-memory",
        metavar="SIZE",
        help="memory of each host for large objects, such as 4GB (default: 30%% of the machine's)",
    )
    group.add_argument(
        "--spill-dir",
        metavar="DIR",
        help="where objects go for which there is no memory (default: with temporary files)",
    )
    group.add_argument(
        "--spill-limit", metavar="SIZE", help="how much may go there (default: 4 times the memory)"
    )
    group.add_argument(
        "--data-interface",
        metavar="ADDRESS",
        help="address on which other hosts fetch objects (default: that of the controller's side)",
    )
    group.add_argument(
        "--data-port",
        metavar="PORT",
        type=port,
        help="TCP port on which they do (default: any)",
    )
    group.add_argument(
        "--set",
        metavar="SECTION.OPTION=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="any option of ipcluster.ini, such as slots.memory=2GB; may be repeated",
    )


def chosen_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was given of the options that :func:`add_settings` has added.

    Returns:
        Arguments for :class:`~ipkernel.cluster.cluster.Cluster`.

    Raises:
        ConfigurationError: Something set by ``--set`` is unknown or not acceptable, or a value
            is empty.
    """
    given: dict[str, Any] = {}
    if options.settings:
        from ipkernel.cluster.sources import read_settings

        given = read_settings(options.settings)
    for name in ("hosts", "engines"):
        common.refuse_empty(options, name)
    for name in (*_SAME, *_NAMES):
        value = getattr(options, name, None)
        if value is not None:
            given[_NAMES.get(name, name)] = value
    return given
