"""``ipcluster clean``; it does not load Foolscap."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Final

from ipkernel.cli import common
from ipkernel.cli.tables import number
from ipkernel.cluster import cleaning
from ipkernel.cluster.cleaning import Leftover
from ipkernel.cluster.directory import ClusterDirectory, all_directories
from ipkernel.errors import KernelError

#: What is said of each thing: done, and what would be done.
_DONE: Final = {cleaning.PROCESSES: ("ended", "end"), cleaning.JOB: ("ended", "end")}
_REMOVED: Final = ("removed", "remove")
#: How things are counted in the end, and whether they are named if there are none.
_COUNTED: Final = (
    (cleaning.PROCESSES, "process", "processes", False),
    (cleaning.JOB, "job", "jobs", False),
    (cleaning.TRANSFER, "interrupted transfer", "interrupted transfers", False),
    (cleaning.REMOTE, "directory of ssh launchers", "directories of ssh launchers", False),
    (cleaning.DIRECTORY, "directory of dead clusters", "directories of dead clusters", True),
    (cleaning.PID_FILE, "stale pid file", "stale pid files", True),
)


def clean_command(options: argparse.Namespace) -> int:
    """Remove what crashed clusters have left; 1 if some of it could not be removed."""
    one = _named(options)
    directories = list(all_directories()) if one is None else [one]
    run = _Run(options)
    for leftover in cleaning.find(directories, run.complain, everywhere=one is None):
        run.take(leftover)
    if not options.quiet:
        print(run.summary())
    return common.FAILURE if run.failed else common.OK


def _named(options: argparse.Namespace) -> ClusterDirectory | None:
    """Return the one cluster that the options name; None for all of them."""
    if not common.names_one(options):
        return None
    directory = common.directory_of(options)
    directory.check()
    return directory


class _Run:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._counts: Counter[str] = Counter()
        self._kept: set[ClusterDirectory] = set()
        self.failed = False

    def take(self, leftover: Leftover) -> None:
        """Remove something, or say that it would be removed."""
        if leftover.kind == cleaning.DIRECTORY and leftover.directory in self._kept:
            return  # what is left of the cluster needs it
        done, would = _DONE.get(leftover.kind, _REMOVED)
        if self._options.dry_run:
            print(f"would {would} {leftover.title}")
        elif leftover.kind == cleaning.JOB and not self._agreed(leftover):
            self._keep(leftover)
            return
        else:
            try:
                leftover.remove()
            except (KernelError, OSError) as error:
                self.failed = True
                self._keep(leftover)
                self.complain(f"{leftover.title}: {error}")
                return
            if not self._options.quiet and leftover.kind != cleaning.PID_FILE:
                print(f"{done} {leftover.title}")
        self._counts[leftover.kind] += leftover.size

    def _keep(self, leftover: Leftover) -> None:
        if leftover.directory is not None:
            self._kept.add(leftover.directory)

    def _agreed(self, leftover: Leftover) -> bool:
        if self._options.jobs:
            return True
        if not sys.stdin.isatty():
            self.complain(f"{leftover.title} is left alone: add --jobs to end it")
            return False
        try:
            return input(f"end {leftover.title}? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            print()
            return False

    def complain(self, text: str) -> None:
        """Say what is not as it should be."""
        sys.stderr.write(f"ipcluster: {text}\n")

    def summary(self) -> str:
        """Say how much there was."""
        parts = [
            number(self._counts[kind], singular, plural)
            for kind, singular, plural, always in _COUNTED
            if always or self._counts[kind]
        ]
        text = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        return f"{'would remove' if self._options.dry_run else 'removed'} {text}"
