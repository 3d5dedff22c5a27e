"""The options of ``ipcontroller`` about its journal and what is kept in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ipkernel.arguments import size, span_or_zero

if TYPE_CHECKING:
    from ipkernel.controller.retention import Retained
    from ipkernel.controller.sqlitejournal import SqliteJournal

#: What the journal outlives.
LEVELS: Final = ("process", "power", "off")
#: Name of its file, in the directory for the state of a cluster.
FILE: Final = "journal.sqlite"


def add_journal_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the journal."""
    parser.add_argument(
        "--journal", choices=LEVELS, default=LEVELS[0],
        help="what the journal outlives: the end of the process, a loss of power too, or, with "
        "off, nothing (default: process)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-results", type=span_or_zero, default=None, metavar="TIME",
        help="how long results are kept that no client has fetched (default: 7d; without a "
        "journal, 1h)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-results-size", type=size, default=None, metavar="SIZE",
        help="how much they may be (default: 1 GiB; without a journal, 256 MiB)",
    )  # fmt: skip


def open_journal(options: argparse.Namespace, state: Path, reactor: Any) -> SqliteJournal | None:
    """Return the journal that the options ask for.

    Args:
        options: Of ``ipcontroller``.
        state: The directory for the state of the cluster.
        reactor: Twisted's reactor. The journal is closed when it has stopped.

    Returns:
        The journal, or None if it is off.

    Raises:
        JournalError: It cannot be opened.
        OSError: Its file cannot be made.
    """
    if options.journal == "off":
        return None
    from ipkernel.controller.sqlitejournal import SqliteJournal

    journal = SqliteJournal(
        state / FILE, cluster=options.cluster, reactor=reactor, power=options.journal == "power"
    )
    reactor.addSystemEventTrigger("after", "shutdown", journal.close)
    return journal


def make_retained(options: argparse.Namespace, journal: SqliteJournal | None) -> Retained:
    """Return where results are kept that no client has fetched.

    Args:
        options: Of ``ipcontroller``.
        journal: What they are read from when they are not in memory, if anything.
    """
    from ipkernel.controller import retention

    seconds, limit = retention.RETAIN_SECONDS, retention.RETAIN_BYTES
    if journal is not None:
        seconds, limit = retention.KEEP_SECONDS, retention.KEEP_BYTES
    return retention.Retained(
        seconds if options.keep_results is None else options.keep_results,
        limit if options.keep_results_size is None else options.keep_results_size,
        read=journal.read if journal is not None else None,
    )
