"""Writing files and directories that arrive: beside their place first, and into it when all is well.

A file is written without a name where the system can do that, else under a hidden name in the directory
in which it is to be, and gets its name at the end. A directory is written under a hidden name and
renamed; if there is one of its name already, its contents are moved there one by one, and what else is in
it stays.
"""

from __future__ import annotations

import contextlib
import os

from ipkernel.objects.archive import Entry, EntryKind, Part, Unpacker, name_of
from ipkernel.objects.filetree import destination
from ipkernel.objects.transfer import Transfer
from ipkernel.objects.unfinished import PartFile, PartTree, can_be_nameless, check, hidden

__all__ = ["TreeWriter"]


class TreeWriter:
    """Writes what comes as payloads.

    To be used as a context: what was not finished by then is removed.

    Args:
        wanted: Where to, as :func:`~ipkernel.objects.filetree.destination` has it.
        overwrite: Whether what is there may be replaced.
        transfer: Counts the bytes.
        nameless: Whether to write files without a name where that can be done.

    Attributes:
        path: Where it goes, once the first payload is there.
    """

    def __init__(
        self,
        wanted: str | None,
        overwrite: bool,
        transfer: Transfer,
        *,
        nameless: bool | None = None,
    ) -> None:
        self.path = ""
        self._wanted = wanted
        self._overwrite = overwrite
        self._transfer = transfer
        self._nameless = can_be_nameless() if nameless is None else nameless
        self._unpacker = Unpacker()
        self._made: list[str] = []
        self._file: PartFile | None = None
        self._tree: PartTree | None = None
        self._whole: PartFile | None = None

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.abort()

    def feed(self, payload: memoryview) -> None:
        """Write what is in a payload.

        Raises:
            OSError: It cannot be written; the text names the file.
            FileExistsError: It is there already, and may not be replaced.
            TransferError: What comes is damaged, or is not accepted.
            TransferCancelled: The transfer was cancelled.
        """
        for kind, content in self._unpacker.feed(payload):
            if isinstance(content, Entry):
                self._begin(content)
            elif self._file is not None:
                if kind is Part.DATA:
                    self._file.write(content)
                    self._transfer.advance(len(content))
                else:
                    self._file.end(bytes(content))
                    self._file = None

    def finish(self) -> str:
        """Put everything where it belongs; return the path.

        Raises:
            OSError, FileExistsError, TransferError: As for :meth:`feed`.
        """
        self._unpacker.finish()
        if self._tree is not None:
            self._tree.finish(self.path, self._overwrite)
            self._tree = None
        elif self._whole is not None:
            self._whole.place(self.path, self._overwrite)
            self._whole = None
        self._made.clear()
        return self.path

    def abort(self) -> None:
        """Remove what was not finished. Nothing happens after :meth:`finish`."""
        if self._file is not None:
            self._file.abort()
            self._file = None
        if self._whole is not None:
            self._whole.abort()
            self._whole = None
        if self._tree is not None:
            self._tree.abort()
            self._tree = None
        while self._made:
            with contextlib.suppress(OSError):
                os.rmdir(self._made.pop())

    # ------------------------------------------------- how it works

    def _begin(self, entry: Entry) -> None:
        if self.path and self._tree is not None:
            self._file = self._tree.add(entry)
            return
        name = name_of(entry.path[0])
        self.path = destination(self._wanted, name)
        is_directory = entry.kind is EntryKind.DIRECTORY
        check(self.path, is_directory, self._overwrite)
        self._make_parents()
        if is_directory:
            self._tree = PartTree(hidden(self.path), entry)
        else:
            self._file = self._whole = PartFile(self.path, entry, self._nameless)

    def _make_parents(self) -> None:
        missing = []
        directory = os.path.dirname(self.path)
        while not os.path.lexists(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:  # somebody else has just made it
                continue
            self._made.append(directory)
