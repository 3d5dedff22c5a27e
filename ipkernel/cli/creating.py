"""``ipcluster create``, ``show`` and ``delete``: cluster directories."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ipkernel.cli import common
from ipkernel.cli.settings import chosen_settings
from ipkernel.cli.tables import size, table
from ipkernel.cluster.configuration import FILE, load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.making import create_cluster, delete_cluster
from ipkernel.errors import ClusterError


def create_command(options: argparse.Namespace) -> int:
    """Make a cluster's directory with its configuration file."""
    directory = common.directory_of(options)
    path = create_cluster(directory, chosen_settings(options))
    if not options.quiet:
        print(f"created cluster {directory.name}; its options are in {path}")
    return common.OK


def show_command(options: argparse.Namespace) -> int:
    """Show a cluster's directory, whether it runs or not."""
    directory = _existing(options)
    directory.check()
    found = _description(directory)
    if options.output == "json":
        print(json.dumps(found, indent=1))
    else:
        print(_text(found))
    return common.OK


def delete_command(options: argparse.Namespace) -> int:
    """Remove a cluster's directory, after a question."""
    directory = _existing(options)
    if not options.yes and not _agreed(directory):
        return common.FAILURE
    left = delete_cluster(directory)
    if not options.quiet:
        print(f"deleted cluster {directory.name} ({directory.path})")
    if left:
        print(f"left in {directory.path}, as it is not ipkernel's: {', '.join(left)}")
    return common.OK


def _existing(options: argparse.Namespace) -> ClusterDirectory:
    directory = common.directory_of(options)
    if not directory.exists:
        raise ClusterError(
            f"there is no cluster {directory.name} ({directory.path} does not exist)"
        )
    return directory


def _agreed(directory: ClusterDirectory) -> bool:
    if not sys.stdin.isatty():
        raise ClusterError(
            f"cluster {directory.name} is not deleted without a question: add --yes if "
            f"{directory.path} with its logs and state shall go"
        )
    question = f"delete cluster {directory.name}: {directory.path} with its logs and state? [y/N] "
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _description(directory: ClusterDirectory) -> dict[str, Any]:
    processes = directory.processes()
    controller = next((p for p in processes if p.role == "ipcontroller"), None)
    configuration = load(directory)
    options = {
        f"{row.section}.{row.option}": {"value": row.value, "origin": row.origin}
        for row in configuration.rows()
        if row.origin != "default"
    }
    return {
        "cluster": directory.name,
        "directory": str(directory.path),
        "configuration": str(directory.path / FILE) if _has_file(directory) else None,
        "running": controller is not None or common.runs_elsewhere(directory),
        "processes": [{"role": p.role, "pid": p.pid, "host": p.host} for p in processes],
        "size": _size(directory),
        "options": options,
    }


def _has_file(directory: ClusterDirectory) -> bool:
    return (directory.path / FILE).exists()


def _size(directory: ClusterDirectory) -> int:
    total = 0
    for path in directory.path.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total


def _text(found: dict[str, Any]) -> str:
    processes = [f"{p['role']} (pid {p['pid']} on {p['host']})" for p in found["processes"]]
    parts = [
        f"cluster {found['cluster']}: {'running' if found['running'] else 'not running'}",
        f"  directory      {found['directory']}, {size(found['size'])}",
        f"  configuration  {found['configuration'] or 'none of its own'}",
    ]
    if processes:
        parts.append(f"  processes      {', '.join(processes)}")
    rows = [(name, one["value"], one["origin"]) for name, one in found["options"].items()]
    if rows:
        parts += ["", table(("OPTION", "VALUE", "FROM"), rows)]
    return "\n".join(parts)
