"""Values on command lines, for :mod:`argparse`: each function converts one, or says how it is written."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

from ipkernel.sizes import parse_size
from ipkernel.spans import parse_span

_T = TypeVar("_T")


def natural(text: str) -> int:
    """Return a number that may be 0.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text) <= 1_000_000):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def port(text: str) -> int:
    """Return a TCP port, 0 for any.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text) < 1 << 16):
        raise ArgumentTypeError(f"{text!r} is not a port: use 1 to 65535, or 0 for any")
    return int(text)


def span(text: str) -> float:
    """Return a span of time above 0, in seconds.

    Raises:
        ArgumentTypeError: It is none.
    """
    return _said(lambda: parse_span(text))


def span_or_zero(text: str) -> float:
    """Return a span of time that may be 0, in seconds.

    Raises:
        ArgumentTypeError: It is none.
    """
    return _said(lambda: parse_span(text, zero=True))


def size(text: str) -> int:
    """Return a number of bytes.

    Raises:
        ArgumentTypeError: It is none.
    """
    return _said(lambda: parse_size(text))


def size_text(text: str) -> str:
    """Return a number of bytes as it is written, which was checked.

    Raises:
        ArgumentTypeError: It is none.
    """
    _said(lambda: parse_size(text))
    return text


def share_text(text: str) -> str:
    """Return a number of bytes or a share in percent, as it is written, which was checked.

    Raises:
        ArgumentTypeError: It is neither.
    """
    _said(lambda: parse_size(text, 1))
    return text


def _said(convert: Callable[[], _T]) -> _T:
    """Return a value; what is wrong with it is told by argparse, which drops other errors' texts."""
    try:
        return convert()
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def command_words(text: str) -> list[str]:
    """Return the words of a command line that somebody has written down.

    On Windows a backslash is part of a path, and a word with blanks stands in double quotes.

    Raises:
        ValueError: Quotes do not match.
    """
    if os.name != "nt":
        return shlex.split(text)
    return [word.strip('"') for word in shlex.split(text, posix=False)]
