"""What launchers of MPI jobs say when a rank has failed: which one, and how it ended.

Only they know, as only a process's parent learns how it has ended. No two say it in the same way.
"""

from __future__ import annotations

import re
import signal
from typing import Final, NamedTuple

__all__ = ["Words", "how_it_ended", "read_words", "the_others"]


class Words(NamedTuple):
    """How a rank has ended.

    Attributes:
        rank: Which, or -1 if that was not said.
        signal: The signal that killed it, or 0.
        code: Its exit code, if no signal did.
    """

    rank: int
    signal: int
    code: int


_RULE: Final = re.MULTILINE | re.VERBOSE
_SIGNAL: Final = (
    # Open MPI 4 and PRRTE of Open MPI 5
    re.compile(
        r"""noticed\ that\ process\ rank\s+(?P<rank>\d+)\s+with\ PID\s+\d+\s+on\ node\s+\S+\s+
            exited\s+on\s+signal\s+(?P<signal>\d+)""",
        _RULE,
    ),
    # Intel MPI
    re.compile(
        r"""BAD\ TERMINATION\ OF\ ONE\ OF\ YOUR\ APPLICATION\ PROCESSES\s*$ \s*
            =\s+RANK\s+(?P<rank>\d+)\ PID\s+\d+\ RUNNING\ AT\ \S+\s*$ \s*
            =\s+KILLED\ BY\ SIGNAL:\s+(?P<signal>\d+)""",
        _RULE,
    ),
    # MPICH: the process that it names is the first of the host, whichever has failed
    re.compile(r"TERMINATED\ WITH\ THE\ EXIT\ STRING:.*\(signal\s+(?P<signal>\d+)\)", _RULE),
)
_CODE: Final = (
    re.compile(
        r"""Process\ name:\s+\[(?:\[[^]]*\]|[^],]*),(?P<rank>\d+)\]\s+
            Exit\ code:\s+(?P<code>\d+)""",
        _RULE,
    ),
    re.compile(
        r"""=\s+RANK\s+(?P<rank>\d+)\ PID\s+\d+\ RUNNING\ AT\ \S+\s*$ \s*
            =\s+EXIT\ STATUS:\s+(?P<code>\d+)""",
        _RULE,
    ),
    # Slurm
    re.compile(
        r"^srun:\ error:\ \S+:\ task\s+(?P<rank>\d+):\ Exited\ with\ exit\ code\ (?P<code>\d+)",
        _RULE,
    ),
    re.compile(r"^=\s+EXIT\ CODE:\s+(?P<code>\d+)\s*$", _RULE),
)
#: Slurm names signals as the C library does.
_SLURM: Final = re.compile(
    r"^srun:\ error:\ \S+:\ task\s+(?P<rank>\d+):\ (?P<name>[A-Z][A-Za-z ]+?)(?:\ \(core\ dumped\))?$",
    _RULE,
)
_NAMES: Final = {
    "Hangup": 1,
    "Interrupt": 2,
    "Quit": 3,
    "Illegal instruction": 4,
    "Aborted": 6,
    "Bus error": 7,
    "Floating point exception": 8,
    "Killed": 9,
    "Segmentation fault": 11,
    "Terminated": 15,
}


def read_words(text: str) -> Words | None:
    """Return how a rank has ended, by what the launcher of its job has written.

    Args:
        text: Its standard error.

    Returns:
        What it says of the first rank that it complains about; None if it complains about none.
    """
    for pattern in _SIGNAL:
        found = pattern.search(text)
        if found:
            rank = found.groupdict().get("rank")
            return Words(int(rank) if rank else -1, int(found["signal"]), 0)
    for found in _SLURM.finditer(text):
        if found["name"] in _NAMES:
            return Words(int(found["rank"]), _NAMES[found["name"]], 0)
    for pattern in _CODE:
        found = pattern.search(text)
        if found:
            rank = found.groupdict().get("rank")
            return Words(int(rank) if rank else -1, 0, int(found["code"]))
    return None


def how_it_ended(number: int, code: int) -> str:
    """Return how a rank has ended, as the end of a sentence.

    Args:
        number: The signal that killed it, or 0.
        code: Its exit code, if none did.
    """
    if not number:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(number).name} ({number})"
    except ValueError:
        return f"was killed by signal {number}"


def the_others(size: int) -> str:
    """Return the sentence about the ranks of a job that did not fail themselves; may be empty."""
    others = f"{size - 1} ranks" if size > 2 else "rank"
    return f"MPI then ended the other {others}" if size > 1 else ""
