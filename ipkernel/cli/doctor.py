"""``ipcluster doctor``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from ipkernel.cli import common
from ipkernel.cli.tables import number
from ipkernel.cluster import doctor
from ipkernel.errors import ConfigurationError

_MARKS: Final = {doctor.OK: "ok  ", doctor.WARNING: "warn", doctor.PROBLEM: "FAIL"}


def doctor_command(options: argparse.Namespace) -> int:
    """Look for what can keep a cluster from working; 1 if there is a problem."""
    directory = common.directory_of(options)
    found = []
    for finding in doctor.examine(directory, hosts=_hosts(options)):
        found.append(finding)
        if options.output != "json" and not (options.quiet and finding.level == doctor.OK):
            _show(finding)
    problems = sum(one.level == doctor.PROBLEM for one in found)
    if options.output == "json":
        print(json.dumps([one._asdict() for one in found], indent=1))
    elif not options.quiet:
        warnings = sum(one.level == doctor.WARNING for one in found)
        print(f"{number(problems, 'problem')}, {number(warnings, 'warning')}")
    return common.FAILURE if problems else common.OK


def _hosts(options: argparse.Namespace) -> list[str] | None:
    """Return the hosts to look at; None for those of the configuration."""
    if options.no_hosts:
        return []
    if options.hosts is None:
        return None
    found = [one.strip() for one in options.hosts.split(",") if one.strip()]
    if not found:
        raise ConfigurationError("--hosts names no hosts: write --hosts a.example,me@b.example")
    return found


def _show(finding: doctor.Finding) -> None:
    print(f"{_MARKS[finding.level]}  {finding.check:<14}  {finding.text}")
    if finding.advice:
        print(f"      {'':<14}  -> {finding.advice}")
    sys.stdout.flush()
