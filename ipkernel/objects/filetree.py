"""Files and directories of this machine: where they go, and reading them as payloads of a flow."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from attrs import frozen
from xxhash import xxh3_128

from ipkernel.errors import TransferError
from ipkernel.objects.archive import (
    MAX_DEPTH,
    Entry,
    EntryKind,
    Packer,
    Part,
    leads_out,
    spell,
)
from ipkernel.objects.flow import CHUNK
from ipkernel.objects.interfaces import Buffer
from ipkernel.objects.transfer import Transfer
from ipkernel.objects.unfinished import named

__all__ = ["Source", "destination", "expand", "place_of"]

_PERMISSIONS: Final = 0o777


def expand(path: str) -> str:
    """Return an absolute path; ``~`` is the home directory."""
    return os.path.abspath(os.path.expanduser(path))


def destination(wanted: str | None, name: str) -> str:
    """Return the absolute path at which something is to be put.

    Args:
        wanted: What the user says: a new name, or a directory to put it into, which exists or ends
            with a slash; None for the current directory.
        name: The name that it has where it comes from.
    """
    if wanted is None:
        return os.path.join(os.getcwd(), name)
    path = expand(wanted)
    separators = tuple(filter(None, (os.sep, os.altsep)))
    if not wanted or wanted.endswith(separators) or os.path.isdir(path):
        return os.path.join(path, name)
    return path


def place_of(wanted: str | None, name: str) -> bytes:
    """Return what is the same for all processes of a machine that would put a thing at the same place.

    Args:
        wanted: As for :func:`destination`; whether there is such a directory is not looked at.
        name: The same.
    """
    if wanted is None:
        wanted = os.path.join("", name)
    path = os.path.realpath(expand(wanted))
    if not os.path.basename(wanted):
        path = os.path.join(path, "")
    return blake2b(os.fsencode(path), digest_size=16).digest()


@frozen
class _Place:
    """Something that is about to be read.

    Attributes:
        path: Where it is.
        names: What it is called, from the root on.
        above: The directories in which it is, by device and number, against going round in circles.
    """

    path: str
    names: tuple[bytes, ...]
    above: tuple[tuple[int, int], ...]


class Source:
    """A file or a directory with everything in it.

    Directories are read in the order of their names. Symbolic links that stay within the directory are
    sent as links; what others lead to is sent in their place.

    Args:
        path: Its path. A link is taken for what it leads to.

    Attributes:
        path: The same, absolute.
        name: What it is called.
        is_directory: Whether it is one.

    Raises:
        OSError: It does not exist or cannot be read.
        TransferError: It is neither file nor directory.
    """

    def __init__(self, path: str) -> None:
        if not path:  # which would be the current directory
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.path = path = expand(path)
        found = os.stat(path)
        self.is_directory = stat.S_ISDIR(found.st_mode)
        if not self.is_directory and not stat.S_ISREG(found.st_mode):
            raise TransferError(f"{path} is neither a file nor a directory")
        if not os.access(path, os.R_OK):
            with open(path, "rb"):  # raises what is the matter
                pass
        real = os.path.realpath(path)
        self.name = os.path.basename(path) or os.path.basename(real) or "root"
        self._real = real

    def size(self) -> int:
        """Return the number of bytes that are to be sent, as far as that can be known before."""
        if not self.is_directory:
            return os.stat(self.path).st_size
        total = 0
        for directory, _, files in os.walk(self.path):
            for name in files:
                try:
                    found = os.lstat(os.path.join(directory, name))
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode):
                    total += found.st_size
        return total

    def payloads(self, transfer: Transfer, size: int = CHUNK) -> Iterator[memoryview]:
        """Yield everything as payloads; each is valid until the next is asked for.

        Args:
            transfer: Counts the bytes of the files.
            size: Bytes of a payload at most.

        Raises:
            OSError: Something cannot be read.
            TransferError: Something cannot be sent, such as a socket.
            TransferCancelled: ``transfer`` was cancelled.
        """
        packer = Packer(size)
        root = _Place(self.path, (spell(self.name),), ())
        yield from self._read(root, os.stat(self.path), packer, transfer)
        if packer.used:
            yield packer.take()

    def _read(
        self, place: _Place, found: os.stat_result, packer: Packer, transfer: Transfer
    ) -> Iterator[memoryview]:
        if stat.S_ISREG(found.st_mode):
            yield from self._read_file(place, packer, transfer)
        elif stat.S_ISDIR(found.st_mode):
            yield from self._read_directory(place, found, packer, transfer)
        else:
            raise TransferError(f"cannot send {place.path}: it is neither a file nor a directory")

    def _read_file(self, place: _Place, packer: Packer, transfer: Transfer) -> Iterator[memoryview]:
        digest = xxh3_128()
        with open(place.path, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise TransferError(f"cannot send {place.path}: it is not a file any more")
            yield from _add(packer, Part.ENTRY, _entry(EntryKind.FILE, place, found))
            while True:
                room = packer.room()
                if room is None:
                    yield packer.take()
                    continue
                with named(place.path):
                    count = file.readinto(room)
                if not count:
                    break
                digest.update(room[:count])
                packer.wrote(count)
                transfer.advance(count)
            now = os.fstat(file.fileno()).st_size
            if now < found.st_size:
                raise TransferError(
                    f"cannot send {place.path}: it was cut from {found.st_size} to {now} bytes meanwhile"
                )
        yield from _add(packer, Part.END, digest.digest())

    def _read_directory(
        self, place: _Place, found: os.stat_result, packer: Packer, transfer: Transfer
    ) -> Iterator[memoryview]:
        this = (found.st_dev, found.st_ino)
        if this in place.above:
            raise TransferError(f"cannot send {place.path}: it leads back to where it is")
        if len(place.names) > MAX_DEPTH - 2:
            raise TransferError(f"cannot send {place.path}: it is too many directories deep")
        yield from _add(packer, Part.ENTRY, _entry(EntryKind.DIRECTORY, place, found))
        above = (*place.above, this) if found.st_ino else place.above
        for name in sorted(os.listdir(place.path)):
            path = os.path.join(place.path, name)
            inner = _Place(path, (*place.names, spell(name)), above)
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):
                yield from self._read(inner, status, packer, transfer)
                continue
            target = os.readlink(path)
            if self._stays(inner, target):
                link = _entry(EntryKind.LINK, inner, status, spell(target))
                yield from _add(packer, Part.ENTRY, link)
            else:
                yield from self._read(inner, _followed(path, target), packer, transfer)

    def _stays(self, place: _Place, target: str) -> bool:
        """Tell whether a link stays within the directory, by its text and in fact."""
        if leads_out(len(place.names) - 2, target):
            return False
        real = os.path.realpath(place.path)
        return real == self._real or real.startswith(os.path.join(self._real, ""))


def _followed(path: str, target: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise OSError(error.errno, f"the link leads to {target}: {error.strerror}", path) from error


def _entry(kind: EntryKind, place: _Place, found: os.stat_result, target: bytes = b"") -> Entry:
    return Entry(
        kind,
        list(place.names),
        stat.S_IMODE(found.st_mode) & _PERMISSIONS,
        found.st_mtime_ns,
        found.st_size if kind is EntryKind.FILE else 0,
        target,
    )


def _add(packer: Packer, part: Part, content: Buffer | Entry) -> Iterator[memoryview]:
    if not packer.add(part, content):
        yield packer.take()
        packer.add(part, content)
