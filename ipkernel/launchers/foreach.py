"""Asks a batch system about several jobs whose command knows one at a time.

``python -m ipkernel.launchers.foreach <job> <job> -- <command>`` runs the command for each job,
with the job's id in place of ``@{job}``, and writes a line ``job <id> <exit code>`` before what it
has said.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ipkernel.launchers.jobrunner import JOB

_MARK: Final = "\x1djob "


def command(jobs: Sequence[str], one: Sequence[str]) -> list[str]:
    """Return the command line that asks about jobs.

    Args:
        jobs: Their ids.
        one: The command for one of them.
    """
    return [sys.executable, "-P", "-m", "ipkernel.launchers.foreach", *jobs, "--", *one]


def answers(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield, from what :func:`main` has written, each job's id, exit code and answer."""
    for part in text.split(_MARK)[1:]:
        head, _, said = part.partition("\n")
        job, _, code = head.partition(" ")
        yield job, int(code), said


def main(arguments: Sequence[str]) -> int:
    """Run the command for each job.

    Args:
        arguments: The jobs, ``--``, and the command.

    Returns:
        0, or 127 when there is no such command.
    """
    split = list(arguments).index("--")
    jobs, one = arguments[:split], arguments[split + 1 :]
    for job in jobs:
        words = [word.replace(JOB, job) for word in one]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except OSError as error:
            sys.stderr.write(f"cannot run {words[0]}: {error.strerror}\n")
            return 127
        sys.stdout.write(f"{_MARK}{job} {done.returncode}\n{done.stdout}{done.stderr}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
