"""What every long-lived process of a cluster does about itself: log, title, parent.

Nothing here imports Twisted: a host daemon uses it before it has decided to load a reactor.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from ipkernel.host.options import LOG_BACKUPS, LOG_SIZE

#: Whether files cannot be renamed while somebody reads them.
_HELD: Final = os.name == "nt"
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class LogFile(RotatingFileHandler):
    """A rotating log file that gives up, and says so once, when it cannot be written.

    A full disk must cost the log and nothing else.

    Args:
        path: The file; created with mode 0600 when it is missing.
        size: Bytes after which it is put aside.
        backups: How many old files are kept.
    """

    def __init__(self, path: Path, size: int = LOG_SIZE, backups: int = LOG_BACKUPS) -> None:
        self.given_up = False
        # Without any old file the standard library would never begin a new one.
        self._begin_anew = not backups
        super().__init__(path, maxBytes=size, backupCount=max(1, backups), encoding="utf-8")

    def doRollover(self) -> None:
        """Put the file aside, or throw it away if none is to be kept."""
        try:
            super().doRollover()
        except PermissionError:
            if not _HELD:
                raise
            return  # it grows until nobody reads it any more
        if self._begin_anew:
            Path(f"{self.baseFilename}.1").unlink(missing_ok=True)

    def _open(self):  # type: ignore[no-untyped-def]
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or nothing after the file has failed."""
        if not self.given_up:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing when the file system refuses; ignore records that cannot be formatted."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or self.given_up:
            return
        self.given_up = True
        _say(f"the log file {self.baseFilename} cannot be written any more ({error.strerror})\n")

    def close(self) -> None:
        """Close the file; what a full disk did not take is lost."""
        try:
            super().close()
        except OSError:
            pass


def start_logging(
    name: str,
    directory: str | os.PathLike[str] | None,
    level: str = "INFO",
    *,
    size: int = LOG_SIZE,
    backups: int = LOG_BACKUPS,
) -> Path | None:
    """Send everything that is logged to ``directory/<name>.log``.

    Args:
        name: Name of the program, which names the file.
        directory: The log directory, created if need be; None logs to the standard error.
        level: A level of :mod:`logging` by name, in any case.
        size: Bytes after which the file is put aside.
        backups: How many old files are kept.

    Returns:
        The log file, or None when there is none.

    Raises:
        ValueError: There is no such level.
        OSError: The file cannot be opened.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(
            f"unknown log level {level!r}: use debug, info, warning, error or critical"
        )
    logging.raiseExceptions = False
    path: Path | None = None
    handler: logging.Handler
    if directory is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = Path(directory) / f"{name}.log"
        handler = LogFile(path, size, backups)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(number)
    return path


def stop_logging() -> None:
    """Close and remove the handlers of :func:`start_logging`."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogFile) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            handler.close()


class Lifeline:
    """Watches the standard input, whose end means that the parent process is gone.

    A thread that blocks in a read works on every system and costs nothing while it waits.

    Args:
        on_eof: Called once, in the watching thread, at the end of the input.
        descriptor: What to read.
    """

    def __init__(self, on_eof: Callable[[], object], descriptor: int = 0) -> None:
        self._on_eof = on_eof
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def _watch(self) -> None:
        try:
            while os.read(self._descriptor, 4096):
                pass
        except OSError:
            pass  # a closed input is as good as an ended one
        self._on_eof()


def emit(event: str, **fields: object) -> None:
    """Tell the parent process something: one line of JSON on the standard output.

    A parent that no longer reads is not an error.

    Args:
        event: What happened, such as ``"ready"``.
        fields: Whatever JSON can carry.
    """
    data = json.dumps({"event": event, **fields}).encode() + b"\n"
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


def set_title(text: str) -> None:
    """Show ``text`` as this process's name in ``ps`` and ``top``."""
    from setproctitle import setproctitle

    setproctitle(text)


def _say(text: str) -> None:
    try:
        os.write(2, text.encode())
    except OSError:
        pass
