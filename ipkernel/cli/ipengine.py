"""``ipengine``: engines of this machine for a controller elsewhere, by hand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipkernel.cli.parser import Parser, add_version
from ipkernel.host.options import Options, add_options, chosen_options

_DESCRIPTION = """\
Join a running controller with engines on this host, until Ctrl-C.
"""
_EXAMPLES = """\
examples:
  ipengine                                 one engine for the cluster 'default' of this account
  ipengine -n 4 --furl-file ipcontroller-engine.furl
                                           four engines, with a FURL file copied from the
                                           controller's host
"""


def parser() -> Parser:
    """Return the parser of the command line."""
    made = Parser(
        prog="ipengine",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    made.add_argument(
        "--furl-file", "--file", metavar="FILE",
        help="the controller's engine FURL (default: that of --cluster)",
    )  # fmt: skip
    made.add_argument("--cluster-dir", metavar="DIR", help="the cluster to join, by its directory")
    add_options(made, engines=1, cluster="default", wait=10.0, grace=60.0, log_level="warning")
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
        furl_file(chosen),
        cluster="" if chosen.furl_file else chosen.cluster,
        title="ipengine host",
    )


def furl_file(chosen: argparse.Namespace) -> str:
    """Return the FURL file that the options name."""
    if chosen.furl_file:
        return str(chosen.furl_file)
    if chosen.cluster_dir:
        directory = Path(chosen.cluster_dir)
    else:
        base = os.environ.get("IPYTHONDIR") or os.path.join("~", ".ipython")
        directory = Path(base).expanduser() / f"cluster_{chosen.cluster}"
    return str(directory / "security" / "ipcontroller-engine.furl")


class Speaker:
    """Turns events into sentences."""

    def __init__(self) -> None:
        self._engines: list[int] = []

    def __call__(self, event: str, **fields: Any) -> None:
        """Say what has happened.

        Args:
            event: Its name.
            fields: What belongs to it.
        """
        if event == "engines":
            for engine, pid in zip(fields["engines"], fields["pids"], strict=True):
                say(f"engine {engine} (pid {pid}) ready")
        elif event == "waiting":
            say(f"waiting for the controller: {fields['message']}")
        elif event == "lost":
            say(f"lost the controller ({fields['message']}); looking for it")
        elif event == "draining":
            say(f"nothing new is begun here: {fields['message']}")
        elif event == "stopping":
            say(f"stopping: {fields['message']}")
        elif event == "error":
            complain(f"ipengine: {fields['message']}")


def say(text: str) -> None:
    """Print a line, whatever has become of the terminal."""
    try:
        print(text, flush=True)
    except OSError:
        pass


def complain(text: str) -> None:
    """Print a line to the standard error."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ipengine``.

    Args:
        arguments: The command line; by default that of the process.

    Returns:
        The exit code: 0 when it has ended in good order, 1 otherwise.
    """
    options = parse(arguments)
    from ipkernel.host.main import run

    return run(options, Speaker())


if __name__ == "__main__":
    sys.exit(main())
