"""Runs a program in a job of a batch system that knows no shell scripts.

``python -m ipkernel.launchers.jobrunner <options> -- <program>``: sets the environment that a file
has, sends the program's output to files, and tells there how it has ended. In the program's command
line ``@{job}`` stands for the job's id, as the batch system tells it in a variable.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: What stands for the job's id.
JOB: Final = "@{job}"


def read_environment(text: str) -> dict[str, str]:
    """Return the variables that :meth:`ipkernel.launchers.jobfiles.JobFiles.write` has written."""
    words = shlex.split(text)
    return dict(word.split("=", 1) for word in words if "=" in word)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ipkernel.launchers.jobrunner", allow_abbrev=False
    )
    parser.add_argument("--environment", required=True, type=Path, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--error", required=True, type=Path, metavar="FILE")
    parser.add_argument("--job-variable", default="", metavar="NAME", help="has the job's id")
    parser.add_argument("program", nargs="+", help="the program's command line, after --")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program until it has ended.

    Args:
        arguments: The command line; by default that of the process.

    Returns:
        Its exit code, as shells have it.
    """
    chosen = parse(arguments)
    job = os.environ.get(chosen.job_variable, "")
    words = [word.replace(JOB, job) for word in chosen.program]
    environment = read_environment(chosen.environment.read_text("utf-8", "surrogateescape"))
    with chosen.output.open("ab", 0) as out, chosen.error.open("ab", 0) as err:
        try:
            code = _run(words, {**os.environ, **environment}, out.fileno(), err.fileno())
        except OSError as error:
            err.write(f"cannot run {words[0]}: {error.strerror}\n".encode())
            code = 127
        out.write(json.dumps({"event": "exited", "code": code}).encode() + b"\n")
    return code


def _run(words: list[str], environment: dict[str, str], out: int, err: int) -> int:
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment
    )
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None:  # the program decides what that means
            signal.signal(number, lambda *_: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
