"""Shared memory with names, for systems where no descriptor can be passed to another process.

It is what :mod:`multiprocessing.shared_memory` is made of. Its class is not used: before Python 3.13 that
starts a process which watches names, and removes those that others still need.

A name holds the number of the process that made it and when that process began, so that the next one
can remove what a killed one has left. The rest is random: who does not know it cannot find it.
"""

from __future__ import annotations

import base64
import contextlib
import mmap
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

__all__ = ["Names", "create_named", "unlink_named"]

_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  (where Linux shows the names)
_NAME: Final = re.compile(r"ipk([0-9a-f]{1,8})\.([0-9a-f]{8})\.[A-Za-z0-9_-]{6,}")
_TOLERANCE: Final = 3  # seconds: how exactly the system tells when a process began


def create_named(name: str, size: int) -> mmap.mmap:
    """Make shared memory of ``size`` bytes under a name that does not exist yet, and map it.

    Raises:
        OSError: The name exists, or there is no room.
    """
    if sys.platform == "win32":
        return mmap.mmap(-1, size, tagname=name)
    import _posixshmem  # type: ignore[import-not-found,unused-ignore]

    fd = _posixshmem.shm_open("/" + name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        os.ftruncate(fd, size)
        return mmap.mmap(fd, size)
    except BaseException:
        unlink_named(name)
        raise
    finally:
        os.close(fd)


def unlink_named(name: str) -> None:
    """Take a name away; the memory goes when nobody has it mapped. A name may be gone already."""
    if sys.platform != "win32":
        import _posixshmem  # type: ignore[import-not-found,unused-ignore]

        with contextlib.suppress(FileNotFoundError):
            _posixshmem.shm_unlink("/" + name)


class Names:
    """The names that this process gives, and those that killed ones have left behind.

    Where the system does not list its names, as macOS does not, they are written to a file for as
    long as they exist.

    Args:
        ledger: Directory for that file. None takes the default: none on Linux, which lists names,
            and on Windows, where memory goes with the last process that has it; else the
            directory for temporary files.
    """

    def __init__(self, ledger: Path | None = None) -> None:
        if ledger is None and os.name == "posix" and not _DIRECTORY.is_dir():
            ledger = Path(tempfile.gettempdir())
        pid = os.getpid()
        self._prefix = f"ipk{pid:x}.{int(psutil.Process(pid).create_time()) & 0xFFFFFFFF:08x}."
        self._ledger = ledger
        self._file = ledger / (self._prefix + "segments") if ledger else None
        self._live: set[str] = set()

    def new(self) -> str:
        """Return a name for a new segment."""
        # macOS takes no more than 30 characters.
        name = self._prefix + base64.urlsafe_b64encode(os.urandom(8)).decode().rstrip("=")
        self._live.add(name)
        self._write()
        return name

    def unlink(self, name: str) -> None:
        """Take a name away."""
        unlink_named(name)
        self._live.discard(name)
        self._write()

    def clean(self) -> list[str]:
        """Remove what processes of this user that do not live any more have left; return it."""
        cleaned = []
        for name in list(self._leftovers()):
            with contextlib.suppress(OSError):
                unlink_named(name)
                cleaned.append(name)
        return cleaned

    def _write(self) -> None:
        if self._file is None:
            return
        if self._live:
            fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.write("\n".join(sorted(self._live)))
        else:
            self._file.unlink(missing_ok=True)

    def _leftovers(self) -> Iterator[str]:
        if self._ledger is not None:
            for file in self._ledger.glob("ipk*.*.segments"):
                if _is_dead(file.name) and _is_mine(file):
                    yield from filter(_is_dead, file.read_text("ascii", "replace").splitlines())
                    file.unlink(missing_ok=True)
        elif _DIRECTORY.is_dir():
            for file in _DIRECTORY.glob("ipk*.*.*"):
                if _is_dead(file.name) and _is_mine(file):
                    yield file.name


def _is_dead(name: str) -> bool:
    """Tell whether this is one of our names and the process that made it has ended."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    pid, began = int(match[1], 16), int(match[2], 16)
    try:
        now = int(psutil.Process(pid).create_time()) & 0xFFFFFFFF
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False
    return abs(now - began) > _TOLERANCE


def _is_mine(file: Path) -> bool:
    try:
        return file.lstat().st_uid == os.getuid()
    except OSError:
        return False
