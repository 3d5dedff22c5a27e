"""Errors as data: what an engine says about an exception, and what a client makes of it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import CodeType, TracebackType
from typing import Any

import msgspec

from ipkernel import decoding
from ipkernel.errors import RemoteError, SerializationError, remote_error
from ipkernel.serialize import payload, rebuild

__all__ = [
    "ErrorInfo",
    "ItemFailure",
    "decode",
    "describe",
    "encode",
    "to_exception",
    "unwrap_exception",
    "wrap_exception",
]

#: Characters of the text of an exception, and of one line of a traceback.
MAX_TEXT = 64 * 1024
#: Frames of one traceback; more are left out in the middle.
MAX_FRAMES = 100
#: Lines of the whole rendered traceback.
MAX_LINES = 2000
#: Bytes of the pickled exception.
MAX_PICKLE = 1024 * 1024

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_GAP = "\N{HORIZONTAL ELLIPSIS}"


class ErrorInfo(msgspec.Struct, frozen=True):
    """An exception of an engine as data."""

    #: Name of its type.
    ename: str
    #: Its text.
    evalue: str
    #: The rendered traceback, with causes and contexts, line by line, without colours.
    traceback: list[str]
    #: (file name, line number, function name, source line) of each frame, outermost first.
    frames: list[tuple[str, int, str, str]] = []
    #: The exception itself, for clients to rebuild; None if it cannot be pickled or is too large.
    pickled: bytes | None = None
    #: Where it happened: ``engine``, ``host``, ``pid``, ``method``.
    engine_info: dict[str, Any] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ErrorInfo)


def encode(info: ErrorInfo) -> bytes:
    """Turn an ErrorInfo into bytes."""
    return _encoder.encode(info)


def decode(data: payload.Data) -> ErrorInfo:
    """Turn bytes into an ErrorInfo.

    Raises:
        SerializationError: the bytes are damaged.
    """
    try:
        return decoding.decode(_decoder, data)
    except msgspec.MsgspecError as exc:
        raise SerializationError(f"cannot load the error: {exc}", reason=str(exc)) from exc


def to_exception(info: ErrorInfo) -> RemoteError:
    """Make the exception that a client raises; see :func:`ipkernel.errors.remote_error`."""
    return remote_error(info)


def describe(
    exc: BaseException,
    *,
    engine_info: Mapping[str, Any] | None = None,
    hide_until: str | CodeType | None = None,
) -> ErrorInfo:
    """Describe an exception, within bounds. Never raises, whatever the exception does.

    Args:
        exc: the exception, with its traceback.
        engine_info: where it happened.
        hide_until: the outermost frames up to and including the first ones of this file or code object are
            left out: those of the machinery that called the user's code. If there are none, all are shown.

    Returns:
        The description, with the exception pickled in it if that is possible within 1 MB: without the
        attributes that cannot be pickled or are larger than that.
    """
    ename = type(exc).__name__
    evalue = _text_of(exc)
    try:
        rendered, frames = _render(exc, hide_until)
    except BaseException:  # noqa: BLE001 - the exception may be hostile; its name is what is left
        rendered, frames = [f"{ename}: {evalue}"], []
    return ErrorInfo(
        ename=ename,
        evalue=evalue,
        traceback=rendered,
        frames=frames,
        pickled=_pickle(exc),
        engine_info=dict(engine_info or {}),
    )


def _text_of(exc: BaseException) -> str:
    try:
        return _clean(str(exc))
    except BaseException:  # noqa: BLE001 - a __str__ of the user's
        return f"<the text of this {type(exc).__name__} cannot be had>"


def _clean(text: str) -> str:
    """Cut a text, and make sure that it can be encoded."""
    if len(text) > MAX_TEXT:
        half = MAX_TEXT // 2 - 50
        text = f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _visible(tb: TracebackType | None, hide_until: str | CodeType | None) -> TracebackType | None:
    """The traceback without the frames of the machinery."""

    def hides(frame: TracebackType) -> bool:
        code = frame.tb_frame.f_code
        return code is hide_until or code.co_filename == hide_until

    start = tb
    while start is not None and not hides(start):
        start = start.tb_next
    while start is not None and hides(start):
        start = start.tb_next
    return start if start is not None else tb


_Frames = list[tuple[str, int, str, str]]


def _render(exc: BaseException, hide_until: str | CodeType | None) -> tuple[list[str], _Frames]:
    tb = exc.__traceback__
    if hide_until is not None:
        tb = _visible(tb, hide_until)
    summary = traceback.TracebackException(type(exc), exc, tb, lookup_lines=False, compact=True)
    for part in _chain(summary):
        part.stack = _shorten(part.stack)
    lines = [
        _clean(_ANSI.sub("", line)) for chunk in summary.format() for line in chunk.splitlines()
    ]
    frames = [(f.filename, f.lineno or 0, f.name, f.line or "") for f in summary.stack]
    return _cut(_name_gaps(lines)), [_clean_frame(frame) for frame in frames]


def _clean_frame(frame: tuple[str, int, str, str]) -> tuple[str, int, str, str]:
    filename, lineno, name, line = frame
    return _clean(filename), lineno, _clean(name), _clean(line)


def _chain(
    summary: traceback.TracebackException,
) -> Iterator[traceback.TracebackException]:
    """An exception, its causes, contexts and members."""
    todo = [summary]
    seen: set[int] = set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        members = getattr(part, "exceptions", None) or []
        todo += [p for p in (part.__cause__, part.__context__, *members) if p is not None]


def _shorten(stack: traceback.StackSummary) -> traceback.StackSummary:
    left_out = len(stack) - MAX_FRAMES
    if left_out <= 0:
        return stack
    half = MAX_FRAMES // 2
    gap = traceback.FrameSummary(_GAP, 0, f"{left_out} frames left out", line="")
    return traceback.StackSummary.from_list([*stack[:half], gap, *stack[-half:]])


def _name_gaps(lines: list[str]) -> list[str]:
    start = f'File "{_GAP}", line 0, in '
    return [line.replace(start, "... ") if start in line else line for line in lines]


def _cut(lines: list[str]) -> list[str]:
    left_out = len(lines) - MAX_LINES
    if left_out <= 0:
        return lines
    half = MAX_LINES // 2
    return [*lines[:half], f"  ... {left_out} lines left out ...", *lines[-half:]]


class _TooLarge(Exception):
    pass


class _Bounded:
    """A file that accepts so many bytes and no more."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [bytes([payload.PLAIN])]
        self.size = 0

    def write(self, data: Any) -> None:
        self.size += memoryview(data).nbytes  # large buffers come as they are
        if self.size > MAX_PICKLE:
            raise _TooLarge
        self.pieces.append(bytes(data))


def _dump(obj: Any) -> bytes:
    from ipkernel.serialize.pickler import ErrorPickler

    file = _Bounded()
    ErrorPickler(file, protocol=5).dump(obj)
    return b"".join(file.pieces)


def _pickle(exc: BaseException) -> bytes | None:
    """Pickle an exception, without the attributes that cannot be or are too large; None if it is not possible."""
    try:
        try:
            return _dump(exc)
        except Exception:  # noqa: BLE001 - most likely an attribute
            return _dump_partly(exc)
    except BaseException:  # noqa: BLE001 - whatever the user's methods raise
        return None


def _dump_partly(exc: BaseException) -> bytes:
    args, attributes, members = rebuild.state_of(exc)
    args = tuple(arg if _can_be_pickled(arg) else _shown(arg) for arg in args)
    kept = {name: value for name, value in attributes.items() if _can_be_pickled(value)}
    held = {name: value for name, value in members.items() if _can_be_pickled(value)}
    return _dump(_Rebuilt(type(exc), args, kept, held))


def _shown(arg: Any) -> str:
    return _clean(arg if isinstance(arg, str) else repr(arg))


class ItemFailure:
    """Stands for the result of an item that failed, among results that did not.

    Args:
        encoded: what :func:`encode` returned.
    """

    __slots__ = ("encoded",)

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded

    def load(self) -> RemoteError:
        """Make the exception to show to the user.

        Raises:
            SerializationError: the bytes are no :class:`ErrorInfo`.
        """
        return to_exception(decode(self.encoded))


class _Rebuilt:
    """Pickles as the exception that is made of these parts."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild.rebuild, self.parts


def _can_be_pickled(obj: Any) -> bool:
    try:
        _dump(obj)
    except Exception:  # noqa: BLE001 - the answer is no
        return False
    return True


def wrap_exception(engine_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe the exception that is being handled, as a dictionary of plain values.

    Args:
        engine_info: where it happened.

    Raises:
        RuntimeError: no exception is being handled.
    """
    exc = sys.exception()
    if exc is None:
        raise RuntimeError("wrap_exception() needs an exception that is being handled")
    content: dict[str, Any] = msgspec.structs.asdict(describe(exc, engine_info=engine_info))
    return {"status": "error", **content}


def unwrap_exception(content: Mapping[str, Any]) -> RemoteError:
    """Make the exception of what :func:`wrap_exception` returned."""
    fields = {name: content[name] for name in ErrorInfo.__struct_fields__ if name in content}
    return remote_error(ErrorInfo(**fields))
