"""Room on disk for objects that do not fit into memory.

The files have no name, so that nothing is left of them however the daemon ends. All methods but
:meth:`Spill.remove` and :meth:`Spill.close` are called in threads.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from io import FileIO
from pathlib import Path
from typing import Final

__all__ = ["Spill", "default_directory", "default_spill_limit"]

_PIECE: Final = 4 << 20
_RESERVE: Final = 256 << 20


class Spill:
    """Files of bytes by number, made when they are first written to.

    Args:
        limit: Bytes of disk that may be used.
        directory: Where the files are; None takes :func:`default_directory`.
        reserve: Bytes of the disk that stay free for others.

    Attributes:
        limit: As given.
        directory: Where the files are.
    """

    def __init__(
        self, limit: int, directory: str | Path | None = None, *, reserve: int = _RESERVE
    ) -> None:
        self.limit = limit
        self.directory = Path(directory or default_directory())
        self._reserve = reserve
        self._files: dict[int, _File] = {}
        self._lock = threading.Lock()
        self._closed = False

    def write(self, file: int, offset: int, data: memoryview) -> None:
        """Write bytes.

        Raises:
            OSError: The disk is full, or broken; its text says which directory it is.
        """
        try:
            self._check_free(len(data))
            self._file(file).write(offset, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.directory)) from error

    def read(self, file: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` with bytes that were written.

        Raises:
            OSError: The disk is broken.
        """
        self._file(file).read(offset, target)

    def remove(self, file: int) -> None:
        """Give a file's room back. Nobody may be reading it or writing to it."""
        with self._lock:
            found = self._files.pop(file, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Give everything back. Calls that are at work in threads fail soon."""
        with self._lock:
            self._closed = True
            files = list(self._files.values())
            self._files.clear()
        for file in files:
            file.close()

    def _check_free(self, size: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < size + self._reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _file(self, number: int) -> _File:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the store is closed")
            if number not in self._files:
                self._files[number] = _File(self.directory)
            return self._files[number]


class _File:
    """One file without a name; pieces are read and written one after the other."""

    def __init__(self, directory: Path) -> None:
        self._file: FileIO = tempfile.TemporaryFile(  # noqa: SIM115  (it outlives this call)
            dir=directory, prefix="ipkernel-", buffering=0
        )
        self._lock = threading.Lock()

    def write(self, offset: int, data: memoryview) -> None:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            with self._lock:
                self._seek(offset + start)
                while piece:
                    piece = piece[self._file.write(piece) :]

    def read(self, offset: int, target: memoryview) -> None:
        for start in range(0, len(target), _PIECE):
            piece = target[start : start + _PIECE]
            with self._lock:
                self._seek(offset + start)
                while piece:
                    count = self._file.readinto(piece)
                    if not count:
                        raise OSError(errno.EIO, "the file is shorter than what was written")
                    piece = piece[count:]

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _seek(self, offset: int) -> None:
        if self._file.closed:
            raise OSError(errno.EBADF, "the store is closed")
        self._file.seek(offset)


def default_directory() -> Path:
    """Return where temporary files may be large: ``TMPDIR`` if it is set, else ``/var/tmp``.

    Where ``/tmp`` is in memory, it is not a place for what does not fit into memory.
    """
    large = Path("/var/tmp")  # noqa: S108  (the files have no names)
    if not os.environ.get("TMPDIR") and os.access(large, os.W_OK):
        return large
    return Path(tempfile.gettempdir())


def default_spill_limit(limit: int, directory: str | Path | None = None) -> int:
    """Return how much disk a store may use: four times its memory, at most half of what is free.

    Args:
        limit: Bytes of memory that the store may use.
        directory: See :class:`Spill`.
    """
    return min(4 * limit, shutil.disk_usage(directory or default_directory()).free // 2)
