"""What the installed commands call: Ctrl-C ends them quietly, also while they are loaded and when they end.

Their standard streams are made such that nothing that is printed ends them badly either.

Until the first of these functions runs, Ctrl-C shows a traceback. So hardly anything is imported before.
"""

from __future__ import annotations

import os
import sys

# What the module signal is made of, without its enumerations, which take ten times as long to load.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    default_int_handler,
    getsignal,
    signal,
)
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

#: What shells show for a program that SIGINT has ended.
_INTERRUPTED: Final = 130


def ipcluster() -> int:
    """Run ``ipcluster``; return its exit code."""
    return _run("ipcluster")


def ipcontroller() -> int:
    """Run ``ipcontroller``; return its exit code."""
    return _run("ipcontroller")


def ipengine() -> int:
    """Run ``ipengine``; return its exit code."""
    return _run("ipengine")


def ipdaemon() -> int:
    """Run ``ipdaemon``; return its exit code."""
    return _run("ipdaemon")


def _run(program: str) -> int:
    """Run a command: outside of it there is nothing to clean up, and the signal just ends the process."""
    _see_to_streams()
    if getsignal(SIGINT) == SIG_IGN:  # as for what a shell script runs in the background
        return _main(program)()
    signal(SIGINT, SIG_DFL)
    main = _main(program)
    try:
        signal(SIGINT, default_int_handler)
        return main()
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        signal(SIGINT, SIG_DFL)


def _main(program: str) -> Callable[[], int]:
    main: Callable[[], int] = import_module(f"ipkernel.cli.{program}").main
    return main


def _see_to_streams() -> None:
    """Open the standard streams that are closed, and let the others show any character somehow.

    A closed one is not only missing: the next file that is opened has its number, and gets what is
    written to that.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        elif mode == "w" and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
