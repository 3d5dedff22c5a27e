"""Read an INI file as ConfigObj has it: safely, and with the line of every value.

ConfigObj does the reading. What it lacks is done here beforehand: it cannot tell where a value
stands, and its patterns need exponential time for a list of quoted items that lacks a quote, or
take a comment with quotes in it for a list. So every line is checked, in linear time, and freed of
its comment before ConfigObj sees it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipkernel.errors import ConfigurationError, SecurityError

#: Bytes that a file may have.
MAX_SIZE: Final = 1_000_000
_ITEM: Final = r"""(?:"[^"]*+"|'[^']*+'|[^'",#\s][^,#]*+)"""
_VALUE: Final = re.compile(rf"\s*+(?:{_ITEM}\s*+(?:,\s*+{_ITEM}\s*+)*+(?:,\s*+)?|,\s*+)?(?=#|\Z)")
_SECTION: Final = re.compile(r"""\s*+(\[++)\s*+([^\[\]#'"]*+)(\]++)\s*+(?:#.*)?""")
_OPTION: Final = re.compile(r"""\s*+("[^"]++"|'[^']++'|[^\s='"#\[][^=]*+)\s*+=(.*)""")
_TRIPLE: Final = re.compile(r"""\s*+('''|\"\"\")(.*)""")
_DEPTH: Final = 4
#: Values that every file can refer to as ``%(name)s``, beside its own.
_ESCAPE: Final = "%"

#: Where a value is: the names of its sections, then its own.
Place = tuple[str, ...]


class Entry(NamedTuple):
    """A value of a file.

    Attributes:
        value: Text, or a list of texts.
        line: Number of its line, from 1.
    """

    value: str | list[str]
    line: int


class Content(NamedTuple):
    """What a file says.

    Attributes:
        entries: Its values, by place.
        sections: The lines of its sections, by place.
    """

    entries: dict[Place, Entry]
    sections: dict[Place, int]


class WrongLine(ValueError):
    """A line is wrong.

    Args:
        line: Its number, from 1.
        text: What is wrong with it.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def read_file(path: Path, names: Mapping[str, str]) -> Content | None:
    """Return what a configuration file says.

    Args:
        path: The file.
        names: Values that ``%(name)s`` can refer to, beside those of the file.

    Returns:
        Its content; None if there is no such file.

    Raises:
        ConfigurationError: It cannot be read, or is wrong; the text has file and line.
        SecurityError: It belongs to somebody else, or others can write to it.
    """
    data = read_safely(path)
    if data is None:
        return None
    try:
        return parse(data, names)
    except WrongLine as error:
        raise ConfigurationError(f"{path}, line {error.line}: {error}") from None


def parse(data: bytes, names: Mapping[str, str]) -> Content:
    """Return what a file with this content says; see :func:`read_file`.

    Raises:
        WrongLine: A line is wrong.
    """
    lines = [line.removesuffix("\r") for line in _decoded(data).split("\n")]
    scan = _Scan(lines)
    return Content(dict(_values(scan, names)), scan.sections)


def read_value(text: str) -> str | list[str]:
    """Return the value that a text would be in a file.

    Raises:
        ValueError: It would be wrong there.
    """
    content = parse(f"x = {text}".encode("utf-8", "surrogateescape"), {})
    if len(content.entries) != 1:
        raise ValueError("it is more than one line")
    return content.entries[("x",)].value


def read_safely(path: Path) -> bytes | None:
    """Return the content of a file that nobody else can write to; None if there is no such file.

    Raises:
        ConfigurationError: It cannot be read, or is too long.
        SecurityError: It belongs to somebody else, or others can write to it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())  # of what was opened, whatever the name means by now
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is no file")
            _check_owner(path, status)
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        if os.path.islink(path):  # to a file system that is not mounted, perhaps
            raise ConfigurationError(f"{path} is a link to something that is not there") from None
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"cannot read {path}: {why}") from None
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{path} has more than {MAX_SIZE} bytes: is it the right file?")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, and do not wait if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_owner(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    if status.st_uid != os.geteuid():
        raise SecurityError(
            f"{path} belongs to user {status.st_uid}, not to you (user {os.geteuid()}), and says "
            f"what is run in your name: use a file of your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise SecurityError(
            f"others can write to {path} (mode {mode:04o}), which says what is run in your name: "
            f"run 'chmod go-w {path}'"
        )


def _decoded(data: bytes) -> str:
    for mark, name in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            raise WrongLine(1, f"the file is in {name}: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WrongLine(
            line, f"byte {data[error.start]:#04x} is not UTF-8: save it as UTF-8"
        ) from None
    if "\0" in text:
        raise WrongLine(text.count("\n", 0, text.index("\0")) + 1, "there is a null character")
    return text


class _Scan:
    """The lines of a file without comments, and where its sections and values are."""

    def __init__(self, lines: list[str]) -> None:
        self.cleaned: list[str] = []
        self.sections: dict[Place, int] = {}
        self.places: dict[Place, int] = {}
        self._section: Place = ()
        number = 0
        while number < len(lines):
            line = lines[number]
            number += 1
            bare = line.strip()
            if not bare or bare.startswith("#"):
                self.cleaned.append("")
            elif bare.startswith("["):
                self.cleaned.append(self._begin(number, line))
            else:
                number = self._option(number, line, lines)

    def _begin(self, number: int, line: str) -> str:
        match = _SECTION.fullmatch(line)
        if match is None or not match[2].strip():
            raise WrongLine(number, f"{line.strip()!r} is no section: write '[name]'")
        depth, name = len(match[1]), match[2].strip()
        if depth != len(match[3]):
            raise WrongLine(number, f"{line.strip()!r} has more '[' than ']', or fewer")
        if depth > min(len(self._section) + 1, _DEPTH):
            raise WrongLine(
                number, f"section {name!r} is nested too deeply: give it fewer brackets"
            )
        self._section = (*self._section[: depth - 1], name)
        before = self.sections.get(self._section) or self.places.get(self._section)
        if before:
            raise WrongLine(number, f"section {name!r} is there twice, first in line {before}")
        self.sections[self._section] = number
        return f"{match[1]}{name}{match[3]}"

    def _option(self, number: int, line: str, lines: list[str]) -> int:
        match = _OPTION.fullmatch(line)
        if match is None:
            raise WrongLine(number, f"{_short(line)} is neither 'name = value' nor '[section]'")
        written = match[1].strip()
        quoted = len(written) > 1 and written[0] in "'\"" and written[0] == written[-1]
        name = written[1:-1] if quoted else written
        place = (*self._section, name)
        before = self.places.get(place) or self.sections.get(place)
        if before:
            raise WrongLine(number, f"{name!r} is there twice, first in line {before}")
        self.places[place] = number
        head = f'"{name}"' if '"' not in name else f"'{name}'"
        triple = _TRIPLE.fullmatch(match[2])
        if triple is not None:
            return self._several_lines(number, head, triple[1], triple[2], lines)
        value = _VALUE.match(match[2])
        if value is None:
            raise WrongLine(
                number, f"the value of {name!r} has quotes that do not match, or an empty item"
            )
        self.cleaned.append(f"{head} = {value[0].strip()}")
        return number

    def _several_lines(
        self, number: int, head: str, quotes: str, text: str, lines: list[str]
    ) -> int:
        """Take a value in triple quotes, which may go over several lines."""
        first, head = number, f"{head} = {quotes}"
        while quotes not in text:
            if number >= len(lines):
                raise WrongLine(first, f"a value begins with {quotes} and does not end")
            self.cleaned.append(head + text)
            head, text = "", lines[number]
            number += 1
        inside, _, rest = text.partition(quotes)
        if rest.strip() and not rest.lstrip().startswith("#"):
            raise WrongLine(number, f"there is something behind the closing {quotes}")
        self.cleaned.append(f"{head}{inside}{quotes}")
        return number


def _short(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) < 60 else f"{line[:57]}...")


def _values(scan: _Scan, names: Mapping[str, str]) -> Iterator[tuple[Place, Entry]]:
    """Yield the values that ConfigObj finds, with what they refer to put in."""
    from configobj import ConfigObj, ConfigObjError

    try:
        config = ConfigObj(scan.cleaned, interpolation="configparser", raise_errors=True)
    except ConfigObjError as error:
        raise WrongLine(error.line_number or 1, str(error)) from None
    if not isinstance(config.get("DEFAULT", {}), dict):
        raise WrongLine(scan.places["DEFAULT",], "'DEFAULT' is the name of a section")
    own = config.setdefault("DEFAULT", {})
    for name, value in names.items():
        if name not in own:  # a path is itself, whatever is in it
            own[name] = value.replace("%(", "%(%)s(")
    own[_ESCAPE] = "%"
    for place, line in scan.places.items():
        if place[0] != "DEFAULT":
            yield place, Entry(_value(config, place, line), line)


def _value(config: Any, place: Place, line: int) -> str | list[str]:
    """Return one value; whatever goes wrong with what it refers to is told of its line."""
    from configobj import InterpolationLoopError, MissingInterpolationOption

    section = config
    for name in place[:-1]:
        section = section[name]
    try:
        value = section[place[-1]]
    except MissingInterpolationOption as error:
        wanted = str(error).split('"')[1]
        raise WrongLine(
            line,
            f"{place[-1]!r} refers to %({wanted})s, which is neither in this section nor in "
            f"[DEFAULT]; a literal '%(' is written '%(%)s('",
        ) from None
    except (InterpolationLoopError, RecursionError):
        raise WrongLine(
            line, f"{place[-1]!r} refers to itself, or by way of too many others"
        ) from None
    except TypeError:
        raise WrongLine(line, f"{place[-1]!r} refers to a list: only texts can be put in") from None
    finally:
        config.main.interpolation = "configparser"  # an error in the midst of it leaves it off
    return list(value) if isinstance(value, list) else str(value)
