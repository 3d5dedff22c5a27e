"""What launchers that watch a program have in common: its events, its end, the tail of its log."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers.interfaces import NONE, Share

logger = logging.getLogger(__name__)

_TAIL: Final = 65536
#: How often a wait looks whether the program lives, should nobody tell it.
_LOOK: Final = 0.25


class Launcher:
    """A program that is started somewhere and tells its events, one JSON object a line.

    A subclass starts it, passes its lines to :meth:`tell_line` or events to :meth:`tell`, and calls
    :meth:`tell_end` when it has ended.

    Args:
        directory: The cluster's directory, which exists.
        arguments: Arguments for the program.
        lifeline: Whether it ends with this process; else it outlives it.
        on_event: Called, in another thread, with each event that the program reports.
        on_stop: Called, in another thread, when the program has ended.
        environment: Further environment variables.
        options: Values of the launcher's section of the configuration.
        share: Which of the launcher's programs this is.
    """

    name: ClassVar[str] = ""
    module: ClassVar[str] = ""
    SPEC: ClassVar[str] = ""
    immediate: ClassVar[bool] = True

    def __init__(
        self,
        directory: ClusterDirectory,
        arguments: Sequence[str] = (),
        *,
        lifeline: bool = True,
        on_event: Callable[[dict[str, Any]], object] | None = None,
        on_stop: Callable[[Any], object] | None = None,
        environment: Mapping[str, str] | None = None,
        options: Mapping[str, Any] = NONE,
        share: Share = Share(0),  # noqa: B008 - it is immutable
    ) -> None:
        self.directory = directory
        self.options = options
        self.share = share
        self.arguments = tuple(arguments)
        self.lifeline = lifeline
        self.events: list[dict[str, Any]] = []
        self._on_event = on_event
        self._on_stop = on_stop
        self._environment = dict(environment or {})
        self._changed = threading.Condition()
        self._ended = False
        self._offsets: dict[Path, int] = {}

    # -- what a subclass knows ------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether it was started."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        raise NotImplementedError

    def how_ended(self) -> str:
        """Say how it ended, such as ``"exited with code 1"``."""
        raise NotImplementedError

    # -- what they have in common ---------------------------------------------------------

    @property
    def label(self) -> str:
        """Where it runs, for messages; empty on this host."""
        return self.share.label

    @property
    def error_file(self) -> Path:
        """Where its standard error goes."""
        return self.directory.log / f"{self.name}.err"

    @property
    def log_file(self) -> Path:
        """Where it keeps its log."""
        return self.directory.log / f"{self.name}.log"

    def tell_line(self, line: bytes) -> None:
        """Take a line of the program's output; what is no event is ignored."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict) and "event" in event:
            self.tell(event)

    def tell(self, event: dict[str, Any]) -> None:
        """Keep an event, and tell whoever waits for it."""
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # somebody else's fault, and this thread must go on
                logger.exception("an event of %s could not be dealt with", self.name)

    def tell_end(self) -> None:
        """Tell whoever waits that the program has ended."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._on_stop is not None:
            try:
                self._on_stop(self)
            except Exception:
                logger.exception("the end of %s could not be dealt with", self.name)

    def wait_event(self, event: str, timeout: float) -> dict[str, Any]:
        """Wait for an event; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for said in self.events:
                    if said["event"] == event:
                        return said
                    if said["event"] == "error":
                        raise LauncherError(self._why_ended())
                if self._ended or not self.running:
                    raise LauncherError(self._why_ended())
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.name} was not {event} within {timeout:g} s")
                self._changed.wait(min(left, _LOOK))

    def _why_ended(self) -> str:
        where = f" ({self.label})" if self.label else ""
        if not self.started:
            return f"{self.name} was not started"
        for said in self.events:
            if said["event"] == "error":
                return f"{self.name}{where} failed: {said.get('message')}"
        text = f"{self.name}{where} {self.how_ended()}"
        lines = self.output()
        if lines:
            shown = "\n".join(f"    {line}" for line in lines)
            return f"{text}; the last lines of its log in {self.directory.log}:\n{shown}"
        return f"{text}; it left nothing in {self.directory.log}"

    def problem(self) -> str:
        """Say why it is not running, with the last lines of its log; empty if it runs."""
        return "" if self.running else self._why_ended()

    def output(self, lines: int = 20) -> list[str]:
        """Return the last lines of its standard error and, if there are none, of its log."""
        for path in (self.error_file, self.log_file):
            found = tail(path, lines, self._offsets.get(path, 0))
            if found:
                return found
        return []


def tail(path: Path, lines: int, start: int = 0) -> list[str]:
    """Return the last lines of a text file.

    Args:
        path: The file; if it cannot be read, there are no lines.
        lines: How many at most.
        start: Ignore what stands before this offset in bytes.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            first = start if start <= size else 0  # a smaller file is a new one
            file.seek(max(first, size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:] if lines > 0 else []
