"""Showing what tasks print, in the format that users of this field know."""

from __future__ import annotations

import codecs
import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ipkernel.client import metadata as meta
from ipkernel.client.task import Payload, TaskRecord
from ipkernel.client.waiting import wait_until
from ipkernel.wire.messages import Kind, Stream

if TYPE_CHECKING:
    from ipkernel.client.result import AsyncResult

_DECODER = codecs.getincrementaldecoder("utf-8")
_NAMES = {Stream.STDOUT: "stdout", Stream.STDERR: "stderr"}


def print_text(text: str, prefix: str, error: bool = False) -> None:
    """Print text behind a prefix; more than one line starts below it."""
    if not text:
        return
    file = sys.stderr if error else sys.stdout
    if "\n" in text.rstrip("\n") and not text.startswith("\n"):
        prefix += "\n"
    print(f"{prefix}{text}", end="" if text.endswith("\n") else "\n", file=file, flush=True)


def show(data: dict[str, Any], metadata: dict[str, Any], prefix: str) -> None:
    """Show a value that is given by MIME type: richly in IPython, else as text."""
    shell = None
    if "IPython" in sys.modules:
        from IPython import get_ipython

        shell = get_ipython()
    if shell is not None and set(data) - {"text/plain"}:
        from IPython.display import display

        print(prefix.rstrip())
        display(data, metadata=metadata, raw=True)
    elif "text/plain" in data:
        print_text(str(data["text/plain"]), prefix)
    elif data:
        print_text(f"<{', '.join(sorted(data))}>", prefix)


def _stream_of(record: TaskRecord, stream: Stream) -> None:
    if record.output is not None:
        name = _NAMES[stream]
        error = stream is Stream.STDERR
        print_text(record.output.text(stream), f"[{name}:{_engine(record)}] ", error)


def _engine(record: TaskRecord) -> str:
    return str(record.engine) if record.engine >= 0 else "?"


def _displays_of(record: TaskRecord) -> None:
    described = meta.describe(record)
    for output in described.outputs:
        show(output.get("data") or {}, output.get("metadata") or {}, f"[output:{_engine(record)}] ")


def _result_of(record: TaskRecord) -> None:
    if record.kind is not Kind.EXECUTE or not record.succeeded:
        return
    reply = record.load()[1]
    result = reply.get("result")
    if result:
        prefix = f"Out[{_engine(record)}:{reply.get('execution_count')}]: "
        show(result.get("data") or {}, result.get("metadata") or {}, prefix)


def _all_of(record: TaskRecord, result_only: bool) -> None:
    if not result_only:
        _stream_of(record, Stream.STDOUT)
        _stream_of(record, Stream.STDERR)
        _displays_of(record)
    _result_of(record)


def display_outputs(result: AsyncResult, groupby: str = "type", result_only: bool = False) -> None:
    """Wait for a result and show its output; see ``AsyncResult.display_outputs``."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"groupby={groupby!r} is not known: use 'type', 'engine' or 'order'")
    result.wait()
    records: Iterable[TaskRecord] = result._records
    if groupby == "engine":
        records = sorted(records, key=lambda record: record.engine)
    if groupby != "type":
        for record in records:
            _all_of(record, result_only)
        return
    records = list(records)
    if not result_only:
        for stream in _NAMES:
            for record in records:
                _stream_of(record, stream)
        for record in records:
            _displays_of(record)
    for record in records:
        _result_of(record)


class _Printer:
    """Prints the output of a result's tasks as it comes, from a thread of its own."""

    def __init__(self, result: AsyncResult) -> None:
        self._result = result
        self._seen: dict[int, int] = {}
        #: A character may be cut into two pieces of output.
        self._decoders: dict[tuple[int, Stream], codecs.IncrementalDecoder] = {}
        #: The task and stream whose line, on our own output or error, has not ended.
        self._unfinished: dict[bool, tuple[int, Stream] | None] = {}
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="ipkernel-output", daemon=True)
        self._thread.start()

    def _fresh(self) -> list[tuple[TaskRecord, Stream, Payload]]:
        found = []
        for record in self._result._records:
            pieces = record.output.pieces if record.output is not None else []
            start = self._seen.get(record.id, 0)
            if len(pieces) > start:
                self._seen[record.id] = len(pieces)
                found += [(record, stream, data) for stream, data in pieces[start:]]
        return found

    def _has_fresh(self) -> bool:
        return any(
            record.output is not None and len(record.output.pieces) > self._seen.get(record.id, 0)
            for record in self._result._records
        )

    def _run(self) -> None:
        result = self._result
        while True:
            with result._condition:
                wait_until(
                    result._condition, lambda: self._stop or result.done() or self._has_fresh()
                )
                over = self._stop or result.done()
            for record, stream, data in self._fresh():
                if stream in _NAMES:
                    self._print(record, stream, bytes(data))
                elif stream is Stream.DISPLAY:
                    self._end_line(False)
                    self._show(record, data)
            if over and not self._has_fresh():
                self._finish()
                return

    def _print(self, record: TaskRecord, stream: Stream, data: bytes, final: bool = False) -> None:
        source = record.id, stream
        decoder = self._decoders.get(source)
        if decoder is None:
            decoder = self._decoders[source] = _DECODER("replace")
        text = decoder.decode(data, final)
        if not text:
            return
        error = stream is Stream.STDERR
        prefix = ""
        if self._unfinished.get(error) != source:  # else its line goes on
            self._end_line(error)
            prefix = f"[{_NAMES[stream]}:{_engine(record)}] "
            if "\n" in text.rstrip("\n") and not text.startswith("\n"):
                prefix += "\n"
        file = sys.stderr if error else sys.stdout
        print(f"{prefix}{text}", end="", file=file, flush=True)
        self._unfinished[error] = None if text.endswith("\n") else source

    def _end_line(self, error: bool) -> None:
        """Begin a new line on our own output or error, if there is an unfinished one."""
        if self._unfinished.get(error) is not None:
            self._unfinished[error] = None
            print(file=sys.stderr if error else sys.stdout, flush=True)

    def _finish(self) -> None:
        """Print what was the beginning of a character, and end lines."""
        for record in self._result._records:
            for stream in _NAMES:
                if (record.id, stream) in self._decoders:
                    self._print(record, stream, b"", True)
        self._end_line(False)
        self._end_line(True)

    def _show(self, record: TaskRecord, data: Payload) -> None:
        import msgspec

        from ipkernel.decoding import decode

        with contextlib.suppress(msgspec.MsgspecError):
            content = decode(msgspec.msgpack.Decoder(dict[str, Any]), data)
            prefix = f"[output:{_engine(record)}] "
            show(content.get("data") or {}, content.get("metadata") or {}, prefix)

    def stop(self) -> None:
        """Print what is there and end."""
        with self._result._condition:
            self._stop = True
            self._result._condition.notify_all()
        self._thread.join()


@contextlib.contextmanager
def stream_output(result: AsyncResult) -> Iterator[None]:
    """Print the output of a result's tasks while the context lasts, what came before included."""
    printer = _Printer(result)
    try:
        yield
    finally:
        printer.stop()
