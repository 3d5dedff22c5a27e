"""Jobs of batch systems that cannot be run here: what would be sent, and fake commands."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipkernel.launchers.batchsystem import BatchSystem, Job

OUTPUT = Path("/c/log/ipdaemon-1.out")
ERROR = Path("/c/log/ipdaemon-1.err")


def job_of(system: BatchSystem, n: int = 4, nodes: int = 1) -> Job:
    """Return a job with a host daemon."""
    return Job("ipdaemon", n, nodes, OUTPUT, ERROR, system.options)


def fake_command(directory: Path, name: str, script: str) -> str:
    """Write a program that records how it was called, then does what ``script`` says.

    Its arguments go to ``<name>.args``, one a line; each call adds to what is there.

    Returns:
        Its path.
    """
    path = directory / name
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{directory}/{name}.args'\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def arguments(directory: Path, name: str) -> list[str]:
    """Return all arguments that a fake command was called with."""
    return (directory / f"{name}.args").read_text().splitlines()


def run_here(command: list[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run what a batch system has been told to run."""
    from ipkernel.launchers.jobqueue import run_command

    return run_command(command, {**os.environ, **(environment or {})})
