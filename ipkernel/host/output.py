"""Output of engines: markers out, tasks found, files written, last lines kept.

No I/O but that of the log file; the pipes are in :mod:`ipkernel.host.pipes`.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from ipkernel.host.options import LOG_BACKUPS, LOG_SIZE

__all__ = ["LOG_BOUNDS", "EngineLog", "LastLines", "LogBounds", "Markers"]

logger = logging.getLogger(__name__)

#: Whether files cannot be renamed while somebody reads them.
_HELD: Final = os.name == "nt"
_START: Final = b"\x1b]ipk;"
_STOP: Final = b"\x07"
#: The longest marker: a task id of 62 bits has 16 hexadecimal digits.
_LONGEST: Final = len(_START) + 16 + len(_STOP)
_DIGITS: Final = frozenset(b"0123456789abcdef")


class Markers:
    """Takes the markers of :mod:`ipkernel.engine.streams` out of a stream of bytes.

    Attributes:
        task: The task whose marker was seen last, 0 outside of tasks.
        ends: How many ends of tasks were seen.
    """

    __slots__ = ("_tail", "ends", "task")

    def __init__(self) -> None:
        self.task = 0
        self.ends = 0
        self._tail = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take in bytes, cut anywhere.

        Returns:
            Pieces of output with the task that marked them, 0 for none; without markers.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if b"\x1b" not in data:
            return [(self.task, data)] if data else []
        found: list[tuple[int, bytes]] = []
        offset = 0
        search = 0
        while True:
            at = data.find(b"\x1b", search)
            if at < 0:
                break
            kind, end = self._look(data, at)
            if kind == "other":
                search = at + 1
                continue
            if at > offset:
                found.append((self.task, data[offset:at]))
            if kind == "partial":
                self._tail = data[at:]
                return found
            digits = data[at + len(_START) : end - 1]
            self.task = int(digits, 16) if digits else 0
            self.ends += not digits
            offset = search = end
        if offset < len(data):
            found.append((self.task, data[offset:]))
        return found

    @staticmethod
    def _look(data: bytes, at: int) -> tuple[str, int]:
        """Tell whether a marker, the beginning of one, or something else is at ``at``."""
        candidate = data[at : at + _LONGEST]
        head = candidate[: len(_START)]
        if head != _START[: len(head)]:
            return "other", 0
        stop = candidate.find(_STOP)
        digits = candidate[len(_START) : stop if stop >= 0 else None]
        if not _DIGITS.issuperset(digits):
            return "other", 0
        if stop >= 0:
            return "marker", at + stop + 1
        return ("partial", 0) if len(candidate) < _LONGEST else ("other", 0)

    def flush(self) -> list[tuple[int, bytes]]:
        """Return what was held back as the possible beginning of a marker."""
        tail, self._tail = self._tail, b""
        return [(self.task, tail)] if tail else []


class LastLines:
    """The last lines that were written, within bounds.

    Args:
        count: How many.
        width: Characters of a line that are kept.
    """

    def __init__(self, count: int = 40, width: int = 500) -> None:
        self._lines: deque[bytes] = deque(maxlen=count)
        self._partial = b""
        self._width = width

    def add(self, data: bytes) -> None:
        """Take in output."""
        if len(data) > 65536:
            data = data[-65536:]
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-4 * self._width :]
        self._lines.extend(line[-4 * self._width :] for line in lines[-self._lines.maxlen :])  # type: ignore[operator]

    def lines(self) -> list[str]:
        """Return the lines as text, oldest first."""
        found = [*self._lines, self._partial] if self._partial else list(self._lines)
        assert self._lines.maxlen is not None
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in found]
        return [text[-self._width :] for text in texts[-self._lines.maxlen :]]


class LogBounds(NamedTuple):
    """How much of a log is kept.

    Attributes:
        size: Bytes after which its file is put aside.
        backups: How many old files there may be.
    """

    size: int = LOG_SIZE
    backups: int = LOG_BACKUPS


#: How much is kept unless somebody has chosen.
LOG_BOUNDS: Final = LogBounds()


class EngineLog:
    """The log file of an engine's output: rotated, and given up when it cannot be written.

    Args:
        path: The file.
        size: Bytes after which it is put aside.
        backups: How many old ones are kept.
        complain: Is told once, in a sentence, when writing fails.
    """

    def __init__(
        self,
        path: Path,
        size: int = LOG_SIZE,
        backups: int = LOG_BACKUPS,
        *,
        complain: Callable[[str], None] = logger.warning,
    ) -> None:
        self._path = path
        self._size = size
        self._backups = backups
        self._complain = complain
        self._file: int | None = None
        self._written = 0
        self._given_up = False

    def write(self, data: bytes) -> None:
        """Append output; does nothing once the file has failed."""
        if self._given_up:
            return
        try:
            if self._file is None:
                self._open()
            elif self._written >= self._size:
                self._rotate()
            assert self._file is not None
            while data:
                count = os.write(self._file, data)
                self._written += count
                data = data[count:]
        except OSError as error:
            self._given_up = True
            self.close()
            self._complain(f"{self._path} cannot be written any more: {error.strerror}")

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self._path, flags, 0o600)
        self._written = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        self.close()
        try:
            self._put_aside()
        except PermissionError:
            if not _HELD:
                raise
            self._open()  # it grows until nobody reads it any more
            self._written = 0
        else:
            self._open()

    def _put_aside(self) -> None:
        if not self._backups:
            self._path.unlink(missing_ok=True)
        for number in range(self._backups, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = (
                self._path.with_name(f"{self._path.name}.{number - 1}")
                if number > 1
                else self._path
            )
            if newer.exists():
                os.replace(newer, older)

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._file is not None:
            try:
                os.close(self._file)
            except OSError:
                pass
            self._file = None
