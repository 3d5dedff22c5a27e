"""``ipdaemon``: the host daemon, as launchers start it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ipkernel.host.storeoptions import add_store_options, chosen_store

_DESCRIPTION = """\
Join a controller with engines on this host; launchers start this program.

The events of its life go to the standard output, one JSON object a line: registered, ready,
error. It ends, and the engines with it, when the controller stops, when the controller has
been gone for the grace period, on SIGTERM, or with --lifeline at the end of its input.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(
        prog="ipdaemon",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--furl-file", required=True, metavar="FILE", help="the controller's engine FURL"
    )
    parser.add_argument(
        "-n", "--engines", type=count, default=os.cpu_count() or 1, metavar="N",
        help="how many engines (default: one for each core)",
    )  # fmt: skip
    parser.add_argument(
        "--cluster-dir", metavar="DIR", help="where logs and pid files go (default: nowhere)"
    )
    parser.add_argument("--cluster", default="", metavar="NAME", help="name of the cluster")
    parser.add_argument("--lifeline", action="store_true", help="end when the standard input ends")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS",
        help="how long to wait for the controller (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=float, default=10.0, metavar="SECONDS",
        help="how long to look for a lost controller (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", default="info", metavar="LEVEL",
        choices=["debug", "info", "warning", "error", "critical"],
        help="debug, info, warning, error or critical",
    )  # fmt: skip
    add_store_options(parser)
    return parser.parse_args(arguments)


def count(text: str) -> int:
    """Return a number of engines; for :mod:`argparse`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of engines (0 to 4096)")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ipdaemon``.

    Args:
        arguments: The command line; by default that of the process.

    Returns:
        The exit code: 0 when it has ended in good order, 1 otherwise.
    """
    chosen = parse(arguments)
    from ipkernel.host.main import Options, run

    return run(
        Options(
            chosen.furl_file,
            engines=chosen.engines,
            cluster=chosen.cluster,
            cluster_dir=Path(chosen.cluster_dir) if chosen.cluster_dir else None,
            wait=chosen.wait,
            grace=chosen.grace,
            lifeline=chosen.lifeline,
            log_level=chosen.log_level,
            store=chosen_store(chosen),
        ),
        report,
    )


def report(event: str, **fields: object) -> None:
    """Tell the launcher, on the standard output."""
    from ipkernel.cli.process import emit

    emit(event, **fields)


if __name__ == "__main__":
    sys.exit(main())
