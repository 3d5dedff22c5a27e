"""``sys.stdout`` and ``sys.stderr`` of an engine: text on descriptors 1 and 2, tagged with its task.

The first text that a task writes to a stream goes out behind a marker, ``ESC ] ipk ; <task in
hex> BEL``, and the task's end is marked by one without a number. Whoever reads the pipes
(:mod:`ipkernel.host.output`) takes the markers out again, and attributes what stands outside of
them, such as the output of C code and of subprocesses, to the task that runs.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from ipkernel.engine.current import state

__all__ = ["END", "MARKER", "Streams", "TaskStream"]

MARKER = "\x1b]ipk;%x\x07"
END = "\x1b]ipk;\x07"
_END_BYTES = END.encode()


class TaskStream(io.TextIOWrapper):
    """A text stream that marks what it writes with the task that runs.

    It flushes at each line, so that a crash loses nothing that was printed.

    Args:
        descriptor: Where to write; stays open when the stream is closed.
        name: ``"<stdout>"`` or ``"<stderr>"``.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(
            io.BufferedWriter(raw, 1 << 16),
            encoding="utf-8",
            errors="backslashreplace",
            newline="\n",
            line_buffering=True,
        )
        self.__dict__["mode"] = "w"
        self._label = name
        #: The task whose marker was written last, 0 when none is open.
        self.marked = 0

    @property
    def name(self) -> str:
        """The stream's conventional name."""
        return self._label

    def write(self, text: str) -> int:
        """Write text, behind a marker if it is the first that the running task writes."""
        task = state.task
        if task != self.marked:
            if type(text) is not str and not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            self.marked = task
            super().write(MARKER % task if task else END)
        written = super().write(text)
        if not task:  # a thread that prints between tasks: no task's end will flush it
            self.flush()
        return written

    def close(self) -> None:
        """Flush only: the descriptor is the engine's, and the next task needs the stream."""
        try:
            self.flush()
        except (OSError, ValueError):
            pass


class Streams:
    """Both streams, and the ends of tasks.

    Args:
        synchronised: Mark the end of every task on both streams, also when it wrote nothing;
            for readers that cannot tell otherwise that they have it all.
        descriptors: Of the standard output and the standard error.
    """

    def __init__(
        self, *, synchronised: bool = False, descriptors: tuple[int, int] = (1, 2)
    ) -> None:
        self.out = TaskStream(descriptors[0], "<stdout>")
        self.err = TaskStream(descriptors[1], "<stderr>")
        self.synchronised = synchronised
        # A user's dup2() on 1 or 2 must not cut the marks off.
        self._marks = tuple(os.dup(d) for d in descriptors) if synchronised else ()

    def install(self) -> None:
        """Make them this process's ``sys.stdout`` and ``sys.stderr``."""
        sys.stdout = sys.__stdout__ = self.out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self.err  # type: ignore[misc]

    @property
    def dirty(self) -> bool:
        """True when the task that runs has written something through them."""
        return bool(self.out.marked or self.err.marked)

    def finish(self) -> None:
        """End the output of a task: all of it is in the pipes when this returns."""
        for stream in (self.out, self.err):
            if not stream.marked:
                continue
            stream.marked = 0
            try:
                if not self.synchronised:
                    io.TextIOWrapper.write(stream, END)
                stream.flush()
            except (OSError, ValueError):
                pass  # user code has closed the descriptor; its own choice
        for mark in self._marks:
            try:
                os.write(mark, _END_BYTES)
            except OSError:
                pass

    def flush(self) -> None:
        """Flush both, whatever state they are in, and what user code put in their place."""
        streams: list[Any] = [sys.stdout, sys.stderr, self.out, self.err]
        for stream in streams:
            try:
                stream.flush()
            except Exception:  # noqa: BLE001, S110 - a user's stream may do anything
                pass

    def close(self) -> None:
        """Close the private descriptors; the streams themselves stay usable."""
        for mark in self._marks:
            os.close(mark)
        self._marks = ()
