"""Where a host's store has its memory: anonymous and passed on as a descriptor, or named."""

# ruff: noqa: N805 - methods of an interface have no self

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Final

from zope.interface import Attribute, Interface, implementer

from ipkernel.objects.shared import Names, create_named

__all__ = ["IMemory", "ISegment", "NamedMemory", "NativeMemory", "make_memory", "portable"]

_SHARED: Final = "/dev/shm"  # noqa: S108  (the size of this file system bounds named memory)


class ISegment(Interface):
    """A stretch of memory that other processes can map."""

    size = Attribute("Its length in bytes.")
    view = Attribute("All of it as a memoryview, writable and shared with everybody who maps it.")

    def describe() -> int | str:
        """Return what another process needs to map it: a descriptor, or a name."""

    def discard(offset: int, length: int) -> None:
        """Give the pages of a stretch back to the system; they read as zeros afterwards.

        It does nothing where :attr:`IMemory.discards` is false.
        """

    def close() -> None:
        """Give it up. Views of it that are still in use stay valid."""


class IMemory(Interface):
    """Makes segments."""

    discards = Attribute("Whether segments can give back some of their pages.")

    def make(size: int) -> ISegment:
        """Return a new segment of zeros.

        Args:
            size: Bytes, a multiple of ``mmap.ALLOCATIONGRANULARITY``.

        Raises:
            OSError: The system has no more memory or descriptors.
        """


class _Mapped:
    """What both kinds of segment have in common: a shared mapping."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self.size = len(mapped)
        self.view = memoryview(mapped)

    def discard(self, offset: int, length: int) -> None:
        """Give the pages of a stretch back to the system."""
        if hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, offset, length)

    def _unmap(self) -> None:
        # Whoever still has a view keeps the mapping; it goes with the last one.
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()


@implementer(ISegment)
class _NativeSegment(_Mapped):
    def __init__(self, fd: int, size: int) -> None:
        super().__init__(mmap.mmap(fd, size))
        self._fd = fd

    def describe(self) -> int | str:
        return self._fd

    def close(self) -> None:
        self._unmap()
        os.close(self._fd)


@implementer(IMemory)
class NativeMemory:
    """Memory of Linux without a name, which vanishes with the last process that has it."""

    discards = True

    def make(self, size: int) -> ISegment:
        """Return a new segment that nobody can make shorter or longer."""
        import fcntl

        fd = os.memfd_create("ipkernel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # Otherwise whoever gets the descriptor could cut it off, and kill all who read there.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            return _NativeSegment(fd, size)
        except BaseException:
            os.close(fd)
            raise


@implementer(ISegment)
class _NamedSegment(_Mapped):
    def __init__(self, names: Names, name: str, size: int) -> None:
        super().__init__(create_named(name, size))
        self._names = names
        self._name = name

    def describe(self) -> int | str:
        return self._name

    def close(self) -> None:
        self._unmap()
        self._names.unlink(self._name)


@implementer(IMemory)
class NamedMemory:
    """Memory with names that cannot be guessed, for every system.

    A process that is killed leaves its names behind, except on Windows. They are removed when the
    next one makes a NamedMemory.

    Args:
        ledger: See :class:`~ipkernel.objects.shared.Names`.
    """

    discards = hasattr(mmap, "MADV_REMOVE")

    def __init__(self, ledger: Path | None = None) -> None:
        self._names = Names(ledger)
        self._names.clean()

    def make(self, size: int) -> ISegment:
        """Return a new segment under a new name."""
        if sys.platform == "linux":
            # Pages that do not fit there kill the process which touches them.
            there = os.statvfs(_SHARED)
            if there.f_bavail * there.f_frsize < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _SHARED)
        name = self._names.new()
        try:
            return _NamedSegment(self._names, name, size)
        except BaseException:
            self._names.unlink(name)
            raise


def portable() -> bool:
    """Tell whether memory must have names here: no descriptors can be passed, or so it is wished."""
    if os.environ.get("IPKERNEL_PORTABLE") == "1":
        return True
    return sys.platform != "linux" or not hasattr(os, "memfd_create")


def make_memory() -> IMemory:
    """Return the memory for this system: native where it can be."""
    return NamedMemory() if portable() else NativeMemory()
