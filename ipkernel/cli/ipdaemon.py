"""``ipdaemon``: the host daemon, as launchers start it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ipkernel.cli.parser import Parser, add_version
from ipkernel.host.options import Options, add_options, chosen_options

_DESCRIPTION = """\
Join a controller with engines on this host; launchers start this program.

The events of its life go to the standard output, one JSON object a line: registered, ready,
draining, error. It ends, and the engines with it, when the controller stops, when the
controller has been gone for the grace period, on SIGTERM, when its walltime is over, or with
--lifeline at the end of its input. How engines are to be (their environment, cores, limits)
is in the variable IPKERNEL_SLOTS, as JSON.
"""


def parser() -> Parser:
    """Return the parser of the command line."""
    made = Parser(
        prog="ipdaemon",
        description=_DESCRIPTION,
    )
    made.add_argument(
        "--furl-file", required=True, metavar="FILE", help="the controller's engine FURL"
    )
    made.add_argument(
        "--cluster-dir", metavar="DIR", help="where logs and pid files go (default: nowhere)"
    )
    made.add_argument("--lifeline", action="store_true", help="end when the standard input ends")
    add_options(made, wait=60.0, grace=60.0, log_level="info")
    add_version(made)
    return made


def parse(arguments: Sequence[str] | None) -> Options:
    """Return the options.

    Args:
        arguments: The command line, without the program's name.
    """
    made = parser()
    chosen = made.parse(arguments)
    return chosen_options(
        made,
        chosen,
        chosen.furl_file,
        cluster_dir=Path(chosen.cluster_dir) if chosen.cluster_dir else None,
        lifeline=chosen.lifeline,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ipdaemon``.

    Args:
        arguments: The command line; by default that of the process.

    Returns:
        The exit code: 0 when it has ended in good order, 1 otherwise.
    """
    options = parse(arguments)
    from ipkernel.host.main import run

    return run(options, report)


def report(event: str, **fields: object) -> None:
    """Tell the launcher, on the standard output."""
    from ipkernel.cli.process import emit

    emit(event, **fields)


if __name__ == "__main__":
    sys.exit(main())
