"""``ipcluster stop``; it does not load Foolscap."""

from __future__ import annotations

import argparse
import sys

from ipkernel.cli import common
from ipkernel.cli.tables import number
from ipkernel.cluster.directory import ClusterDirectory, all_directories
from ipkernel.cluster.recorded import programs_of
from ipkernel.errors import ConfigurationError, KernelError


def stop_command(options: argparse.Namespace) -> int:
    """Stop one cluster or all of them; say what happened."""
    if options.all:
        if common.names_one(options):
            raise ConfigurationError("give a cluster or --all, not both")
        return _stop_all(options)
    directory = common.directory_of(options)
    if not directory.exists:
        raise common.NotRunning(
            f"there is no cluster {directory.name} ({directory.path} does not exist)"
        )
    directory.check()
    if not _stop(directory, options.quiet):
        raise common.NotRunning(f"cluster {directory.name} is not running ({directory.path})")
    return common.OK


def _stop_all(options: argparse.Namespace) -> int:
    code = common.OK
    stopped = 0
    for directory in all_directories():
        try:
            if directory.processes() or any(not one.here for one in programs_of(directory)):
                stopped += _stop(directory, options.quiet)
        except KernelError as error:
            code = common.fail("ipcluster", error, common.FAILURE)
    if not stopped and code == common.OK:
        raise common.NotRunning("none of your clusters is running on this host")
    return code


def _stop(directory: ClusterDirectory, quiet: bool) -> bool:
    """Stop one cluster; return whether there was anything to stop."""
    from ipkernel.cluster.stopping import stop_directory

    result = stop_directory(directory, say=lambda text: sys.stderr.write(f"ipcluster: {text}\n"))
    if not result.found and not result.strays and not result.jobs:
        return False
    daemonized = bool(directory.read_record().get("daemonize"))
    if directory.is_private and result.clean and daemonized:
        directory.remove()
    if not quiet:
        who = ", ".join(f"{p.role.split('-')[0]} (pid {p.pid})" for p in result.found)
        parts = [who] if who else []
        parts += [one.title for one in result.jobs]
        if result.strays:
            parts.append(number(len(result.strays), "stray process", "stray processes"))
        print(f"stopped cluster {directory.name} in {result.seconds:.1f} s: {'; '.join(parts)}")
    return True
