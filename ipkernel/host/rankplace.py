"""What a host daemon of MPI ranks finds: where they come to, how they have ended, and why."""

from __future__ import annotations

import json
import socket
from collections.abc import MutableMapping
from pathlib import Path

import msgspec

from ipkernel.host.processes import Exit
from ipkernel.host.starters import RANKS

__all__ = ["Ranks", "exit_of", "listen", "read_verdict", "take_ranks"]


class Ranks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the first rank of a host tells the host daemon, in the environment.

    Attributes:
        socket: Where ranks come to.
        token: The job's secret.
        verdict: The file that tells, in JSON, why the job has failed: ``{"text": ...}``.
        here: How many ranks there are on this host.
        size: How many there are in all.
    """

    socket: str
    token: str
    verdict: str
    here: int
    size: int


def take_ranks(environment: MutableMapping[str, str]) -> Ranks:
    """Return what is known of the ranks of this host, and take it out of the environment.

    Raises:
        ValueError: It is garbled.
    """
    return msgspec.json.decode(environment.pop(RANKS), type=Ranks)


def listen(path: Path) -> socket.socket:
    """Listen on a UNIX socket in a new directory that is ours only.

    Raises:
        OSError: There is such a directory already, or it cannot be made.
    """
    path.parent.mkdir(mode=0o700)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        listening.listen(1024)
    except OSError:
        listening.close()
        path.parent.rmdir()
        raise
    return listening


def exit_of(pid: int) -> Exit | None:
    """Return how a process has ended, None if that cannot be told any more.

    It can from when the process has closed its files until its parent takes notice of its end.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        status = int(fields[-1])
        return Exit.of_status(status) if status or fields[0] == "Z" else None
    except (OSError, ValueError, IndexError):
        return None


def read_verdict(path: Path) -> str:
    """Return why the job has failed, if that was written already."""
    try:
        text = json.loads(path.read_bytes())["text"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return text if isinstance(text, str) else ""
