"""Run a command that is told to end (SIGTERM) as soon as the process that has started it is gone.

``python -m ipkernel.launchers.tied <its process id> <command>``; becomes the command. Where the
system has no such tie, that is all it does.
"""

from __future__ import annotations

import os
import signal
import sys

from ipkernel.engine import native


def main(arguments: list[str]) -> int:
    """Become the command.

    Args:
        arguments: The process id of whoever starts this, and the command line.

    Returns:
        The exit code when there is no such command.
    """
    parent, *command = arguments
    native.die_with_parent(int(parent), signal.SIGTERM)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
