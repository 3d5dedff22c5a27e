"""What the commands of ``ipcluster`` share: their options, how they fail."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ipkernel.cli import parser as parsing
from ipkernel.cli.tables import harmless
from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory, find_directory
from ipkernel.cluster.options import check_level
from ipkernel.errors import ClusterError, ConfigurationError, KernelError

#: Exit codes.
OK: Final = 0
FAILURE: Final = 1
USAGE: Final = parsing.USAGE
NOT_RUNNING: Final = 3
INTERRUPTED: Final = 130
#: Seconds for which a controller is waited for that is being started again.
BACK: Final = 10.0
#: The options that say which cluster is meant.
_WHICH: Final = ("cluster", "cluster_dir", "cluster_id", "profile")


class NotRunning(ClusterError):
    """The cluster that a command is about does not run."""


def count(text: str, least: int = 1) -> int:
    """Convert the number of engines on a command line; at least ``least``.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number <= 4096:
        what = f"a number of engines from {least} to 4096"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def positive(text: str) -> float:
    """Convert a number above 0 on a command line.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def engine_ids(text: str) -> tuple[int, ...]:
    """Convert ids of engines on a command line, such as ``0-3,7``.

    Raises:
        argparse.ArgumentTypeError: They are none.
    """
    from ipkernel.host.options import engine_ids as convert

    found = convert(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} are not ids of engines, such as 0-3,7")
    return found


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which cluster is meant, with their older names."""
    group = parser.add_argument_group("which cluster")
    group.add_argument("--cluster", metavar="NAME", help="name of the cluster (default: default)")
    group.add_argument(
        "--cluster-dir", metavar="DIR", help="its directory (default: $IPYTHONDIR/cluster_NAME)"
    )
    group.add_argument("--profile", metavar="NAME", help=argparse.SUPPRESS)
    group.add_argument("--cluster-id", metavar="NAME", help=argparse.SUPPRESS)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    group = parser.add_argument_group("general")
    group.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    group.add_argument("--debug", action="store_true", help="log everything; show tracebacks")
    group.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=level,
        help="of the cluster's logs: debug, info (default), warning, error",
    )
    parsing.add_version(group)


def level(text: str) -> str:
    """Convert the name or the number of a log level.

    Raises:
        argparse.ArgumentTypeError: There is no such level.
    """
    try:
        return check_level(int(text) if text.isdecimal() else text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def directory_of(options: argparse.Namespace) -> ClusterDirectory:
    """Return the cluster directory that the options mean.

    Raises:
        ConfigurationError: They contradict each other, one is empty, or a name is not one.
    """
    for name in _WHICH:
        refuse_empty(options, name)
    return find_directory(
        options.cluster,
        cluster_dir=options.cluster_dir,
        cluster_id=options.cluster_id,
        profile=options.profile,
    )


def names_one(options: argparse.Namespace) -> bool:
    """Tell whether the options name a cluster."""
    return any(getattr(options, name) is not None for name in _WHICH)


def refuse_empty(options: argparse.Namespace, name: str) -> None:
    """Refuse an option that was given as an empty text: most likely a variable that is not set.

    Raises:
        ConfigurationError: It was; another cluster would be meant than the user thinks.
    """
    if getattr(options, name, None) == "":
        shown = name.replace("_", "-")
        raise ConfigurationError(f"--{shown} is empty: give it a value, or leave it out")


def running_directory(options: argparse.Namespace) -> ClusterDirectory:
    """Return the directory of a cluster that runs.

    Raises:
        NotRunning: It does not.
        SecurityError: Its directory belongs to somebody else, or is not private.
    """
    directory = directory_of(options)
    if not directory.exists:
        raise NotRunning(f"there is no cluster {directory.name} ({directory.path} does not exist)")
    directory.check()
    if restarting.wait_back(directory, BACK):
        return directory
    from ipkernel.cluster.recorded import controller_elsewhere

    away = controller_elsewhere(directory)
    if away is None:
        raise NotRunning(f"cluster {directory.name} is not running ({directory.path})")
    if not directory.furl_file("monitor").exists():
        raise NotRunning(
            f"the controller of cluster {directory.name} ({away[0].title}) is not ready: {away[1]}"
        )
    return directory


def runs_elsewhere(directory: ClusterDirectory) -> bool:
    """Tell whether a cluster's controller was launched on another host and is known to be there."""
    from ipkernel.cluster.recorded import controller_elsewhere

    try:
        return controller_elsewhere(directory) is not None
    except ClusterError:
        return False


@contextmanager
def end_like_ctrl_c() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end this program as Ctrl-C does."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def run(program: str, command: Callable[[], int], *, debug: bool = False) -> int:
    """Run a command and turn what users can cause into one line and an exit code.

    Args:
        program: Name for the line.
        command: Returns the exit code.
        debug: Let exceptions through.

    Returns:
        The exit code.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except NotRunning as error:
        return fail(program, error, NOT_RUNNING)
    except (KernelError, TimeoutError, OSError, ValueError) as error:
        if debug:
            raise
        return fail(program, said(error), FAILURE)


def said(error: BaseException) -> str:
    """Return what an exception says to people: one of the system's names its file and the cause."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def fail(program: str, error: BaseException | str, code: int) -> int:
    """Print what went wrong and return ``code``."""
    sys.stderr.write(harmless(f"{program}: {error}\n"))
    return code
