"""Files and directories while they are being written, beside the place where they are to be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from typing import Final

from xxhash import xxh3_128

from ipkernel.errors import TransferError
from ipkernel.objects.archive import Entry, EntryKind, name_of

__all__ = ["PartFile", "PartTree", "can_be_nameless", "check", "hidden", "named"]

#: Errors that say that a file without a name cannot be made here.
_NAMELESS_REFUSED: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def check(path: str, is_directory: bool, overwrite: bool) -> None:
    """Refuse to put a file or a directory at a path where it cannot be.

    Raises:
        FileExistsError: There is something, and it may not be replaced.
        IsADirectoryError: A file is to replace a directory.
        NotADirectoryError: A directory is to replace a file.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if is_directory and not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if not is_directory and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def hidden(path: str) -> str:
    """Return a name that nobody has, in the directory of ``path``, for what is to be put there."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name[:40]}.{os.urandom(4).hex()}.part")


def can_be_nameless() -> bool:
    """Tell whether this system has files without a name, which are gone with who writes them."""
    return (
        os.environ.get("IPKERNEL_PORTABLE") != "1"
        and hasattr(os, "O_TMPFILE")
        and os.path.isdir("/proc/self/fd")
    )


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Name the file in errors that are about a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), path) from None
        raise


class PartFile:
    """A file that is being written, under another name than it is to have, or under none.

    Args:
        path: What it is to be called.
        entry: What is known of it.
        nameless: Whether to give it no name before all of it is there.
        within: Whether it is part of a tree that has a hidden name: then it needs none of its own.
    """

    def __init__(self, path: str, entry: Entry, nameless: bool, within: bool = False) -> None:
        self._path = path
        self._entry = entry
        self._digest = xxh3_128()
        self._temporary = path if within else ""
        self._fd = -1
        if nameless:
            self._fd = self._open_nameless(os.path.dirname(path))
        if self._fd < 0:
            self._temporary = self._temporary or hidden(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            self._fd = os.open(self._temporary, flags | getattr(os, "O_BINARY", 0), 0o600)

    @staticmethod
    def _open_nameless(directory: str) -> int:
        try:
            return os.open(directory, os.O_WRONLY | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno in _NAMELESS_REFUSED:
                return -1
            raise

    def write(self, content: memoryview) -> None:
        """Append a stretch of it."""
        self._digest.update(content)
        with named(self._path):
            while content:
                content = content[os.write(self._fd, content) :]

    def end(self, digest: bytes) -> None:
        """Close it, when all of it is there and right; one without a name is still to be placed."""
        if self._digest.digest() != digest:
            raise TransferError(f"{self._path} has arrived damaged: its digest is wrong")
        with named(self._path):
            if hasattr(os, "fchmod"):
                os.fchmod(self._fd, self._entry.mode)
            if os.utime in os.supports_fd:
                os.utime(self._fd, ns=(self._entry.mtime, self._entry.mtime))
            if self._temporary:
                self._close()
                if os.utime not in os.supports_fd:
                    os.utime(self._temporary, ns=(self._entry.mtime, self._entry.mtime))

    def place(self, path: str, overwrite: bool) -> None:
        """Give it its name."""
        if not self._temporary:
            self._temporary = self._link(path, overwrite)
            self._close()
        if self._temporary == path:
            return
        if overwrite:
            os.replace(self._temporary, path)
        else:
            _rename_new(self._temporary, path)
        self._temporary = ""

    def _link(self, path: str, overwrite: bool) -> str:
        """Give a file without a name its own at once, or one from which it can replace another."""
        name = hidden(path) if overwrite and os.path.lexists(path) else path
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            # With a descriptor of a directory, or Python does not have the link followed.
            os.link(f"/proc/self/fd/{self._fd}", name, src_dir_fd=directory, follow_symlinks=True)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        finally:
            os.close(directory)
        return name

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def abort(self) -> None:
        """Remove what there is of it."""
        with contextlib.suppress(OSError):
            self._close()
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


def _rename_new(before: str, after: str) -> None:
    """Rename what must not replace anything."""
    if os.name == "nt" or os.path.isdir(before):
        if os.path.lexists(after):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), after)
        os.rename(before, after)
        return
    try:
        os.link(before, after)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), after) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(after):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), after) from None
        os.rename(before, after)
        return
    os.unlink(before)


class PartTree:
    """A directory that is being written, under a hidden name."""

    def __init__(self, hidden: str, root: Entry) -> None:
        self._hidden = hidden
        self._directories = [root]
        self._links: list[Entry] = []
        os.mkdir(hidden, 0o700)

    def _path(self, entry: Entry, top: str) -> str:
        return os.path.join(top, *map(name_of, entry.path[1:]))

    def add(self, entry: Entry) -> PartFile | None:
        """Take the next entry; return the file to be written, if it is one."""
        path = self._path(entry, self._hidden)
        if entry.kind is EntryKind.FILE:
            return PartFile(path, entry, nameless=False, within=True)
        if entry.kind is EntryKind.DIRECTORY:
            os.mkdir(path, 0o700)
            self._directories.append(entry)
        else:
            self._links.append(entry)  # made at the end: nothing is ever written through a link
        return None

    def finish(self, path: str, overwrite: bool) -> None:
        """Put everything where it belongs."""
        for entry in self._links:
            self._make_link(entry)
        for entry in self._links:
            self._check_link(entry)
        check(path, True, overwrite)
        try:
            if os.path.lexists(path):
                self._merge(path)
                shutil.rmtree(self._hidden, ignore_errors=True)
            else:
                os.rename(self._hidden, path)
            self._set_modes(path)
        except BaseException:
            self.abort()
            raise

    def _make_link(self, entry: Entry) -> None:
        target = entry.target.decode("utf-8", "surrogateescape")
        path = self._path(entry, self._hidden)
        os.symlink(target, path, target_is_directory=os.path.isdir(
            os.path.join(os.path.dirname(path), target)
        ))  # fmt: skip
        if os.utime in os.supports_follow_symlinks:
            os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

    def _check_link(self, entry: Entry) -> None:
        """Links may lead out of the tree together, though none does so alone."""
        top = os.path.realpath(self._hidden)
        real = os.path.realpath(self._path(entry, self._hidden))
        if real != top and not real.startswith(os.path.join(top, "")):
            shown = "/".join(map(name_of, entry.path))
            raise TransferError(f"the link {shown!r} leads out of the tree")

    def _merge(self, path: str) -> None:
        """Move everything into a directory that is there already, and keep what else is in it."""
        moves = []
        for entry in self._directories:
            before, after = self._path(entry, self._hidden), self._path(entry, path)
            check(after, True, True)
            with os.scandir(before) as found:
                names = [one.name for one in found if not one.is_dir(follow_symlinks=False)]
            for name in names:
                check(os.path.join(after, name), False, True)
            moves += [(os.path.join(before, name), os.path.join(after, name)) for name in names]
        # Nothing is touched before it is known that all can be.
        for entry in self._directories[1:]:
            inner = self._path(entry, path)
            if not os.path.lexists(inner):
                os.mkdir(inner, 0o700)
        for old, new in moves:
            os.replace(old, new)

    def _set_modes(self, path: str) -> None:
        # The innermost first: what is in a directory that may not be written to cannot be changed.
        for entry in reversed(self._directories):
            inner = self._path(entry, path)
            os.chmod(inner, entry.mode)
            os.utime(inner, ns=(entry.mtime, entry.mtime))

    def abort(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._hidden, ignore_errors=True)
