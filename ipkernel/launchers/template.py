"""Templates of batch scripts: text with placeholders such as ``@{queue}``.

The form is chosen for what else stands in a script: ``$HOME`` and ``${HOME}`` are the shell's,
``%j`` is Slurm's, and an address such as ``me@example.org`` has no brace.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from ipkernel.errors import ConfigurationError

#: Placeholders for several lines, in the order that they must have.
_BLOCKS: Final = ("directives", "environment", "command")
_PLACEHOLDER: Final = re.compile(r"@(?P<escaped>@\{)|@\{(?P<name>[^}\n]*)(?P<end>\}?)")


@frozen
class Template:
    """A text with placeholders; ``@@{`` stands for ``@{`` itself.

    Attributes:
        text: The text.
        origin: Where it comes from, for messages: a file, or the name of a built-in one.
    """

    text: str
    origin: str

    @classmethod
    def find(cls, file: Path, built_in: str, name: str) -> Template:
        """Return the user's template if there is one, else ipkernel's own.

        Args:
            file: Where the user's would be.
            built_in: Text of ipkernel's own.
            name: What that is called in messages.

        Raises:
            ConfigurationError: There is a file, and it cannot be read.
        """
        try:
            return cls(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            return cls(built_in, f"the built-in template of {name}")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"cannot read the template {file}: {reason}") from None

    def render(self, values: Mapping[str, str], required: Iterable[str] = ()) -> str:
        """Return the text with values in place of placeholders.

        Args:
            values: By name.
            required: Names that must occur.

        Raises:
            ConfigurationError: A placeholder is unknown or not closed, or one is missing, or stands
                where it cannot.
        """
        used: list[str] = []

        def value(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "@{"
            name = match["name"].strip()
            if not match["end"]:
                raise self._wrong(match, f"'@{{{name}' is not closed: write '}}' after the name")
            if name not in values:
                raise self._wrong(match, f"unknown placeholder @{{{name}}}; {_hint(name, values)}")
            if name in _BLOCKS:
                self._check_place(match, name, used)
            used.append(name)
            return values[name]

        rendered = _PLACEHOLDER.sub(value, self.text)
        for name in required:
            if name not in used:
                raise ConfigurationError(
                    f"{self.origin} has no @{{{name}}}: write it on a line of its own where the "
                    f"{name} shall be"
                )
        return rendered

    def _check_place(self, match: re.Match[str], name: str, before: Iterable[str]) -> None:
        """Refuse a placeholder for several lines that has no line of its own, or comes too late."""
        begin = self.text.rfind("\n", 0, match.start()) + 1
        line = self.text[begin:].partition("\n")[0]
        if line.strip() != match[0]:
            why = "stands for several lines: write nothing else on its line"
            raise self._wrong(match, f"@{{{name}}} {why}")
        for other in before:
            if other in _BLOCKS and _BLOCKS.index(other) >= _BLOCKS.index(name):
                why = "stands there twice" if other == name else f"must stand before @{{{other}}}"
                raise self._wrong(match, f"@{{{name}}} {why}")

    def _wrong(self, match: re.Match[str], what: str) -> ConfigurationError:
        line = self.text.count("\n", 0, match.start()) + 1
        return ConfigurationError(f"{self.origin}, line {line}: {what}")


def _hint(name: str, values: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, values, 1)
    if near:
        return f"did you mean @{{{near[0]}}}?"
    return f"there are: {', '.join(sorted(values))}"
