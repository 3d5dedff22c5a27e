"""The parser of all commands: what is not known is an error with the nearest known name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from ipkernel._version import __version__

#: The exit code for wrong usage.
USAGE: Final = 2
#: What the help says of values of these kinds, where there are any.
_KINDS: Final = {
    "TIME": "A TIME is a number of seconds, or such as 90s, 30m, 12h or 7d.",
    "SIZE": "A SIZE is a number of bytes, or such as 512M, 4GB or 4GiB.",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that says what may have been meant.

    Its options cannot be abbreviated: what is not known is an error with the nearest known name.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._subcommands: dict[str, argparse.ArgumentParser] = {}
        self._given: Sequence[str] = ()

    def commands(self, **kwargs: str) -> argparse._SubParsersAction[Parser]:
        """Add subcommands; what they accept is also known when a suggestion is made."""
        action = self.add_subparsers(parser_class=Parser, **kwargs)  # type: ignore[call-overload]
        self._subcommands = action.choices
        return action  # type: ignore[no-any-return]

    def format_help(self) -> str:
        """Return the help; it ends with how times and sizes are written, if there are any."""
        metavars = {action.metavar for action in self._actions if action.help != argparse.SUPPRESS}
        notes = "".join(f"{text}\n" for name, text in _KINDS.items() if name in metavars)
        return super().format_help() + (f"\n{notes}" if notes else "")

    def parse(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse; unknown arguments end the program with code 2 and a suggestion."""
        found, unknown = self.parse_known_args(args)
        if unknown:
            parser: argparse.ArgumentParser = self
            for chosen in (getattr(found, "command", None), getattr(found, "action", None)):
                if isinstance(parser, Parser) and chosen:
                    parser = parser._subcommands.get(chosen, parser)
            parser.error(f"unknown argument {unknown[0]!r}{self._suggest(parser, unknown[0])}")
        return found  # type: ignore[no-any-return]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; see :class:`argparse.ArgumentParser`, by which it is called for subcommands too."""
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with code 2 and one line that says what was wrong."""
        if "arguments are required" in message and (unknown := self._mistyped()):
            message = f"unknown argument {unknown!r}{self._suggest(self, unknown)}"
        match = re.match(
            r"argument (\S+): invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message
        )
        if match:
            what, given, choices = match.groups()
            known = [choice.strip("' ") for choice in choices.split(",")]
            kind = "command" if what == "COMMAND" else what
            message = f"unknown {kind} {given!r}{_nearest(given, known)}"
        self.exit(USAGE, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")

    def _mistyped(self) -> str:
        """Return the first option that is not known; it is perhaps the one that is missed."""
        for word in self._given:
            if word == "--":
                break
            if word.startswith("--") and word.split("=")[0] not in self._option_string_actions:
                return word
        return ""

    @staticmethod
    def _suggest(parser: argparse.ArgumentParser, unknown: str) -> str:
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        options = [option for action in shown for option in action.option_strings]
        if unknown.startswith("-"):
            return _nearest(unknown.split("=")[0], options)
        return ""


def _nearest(given: str, known: Sequence[str]) -> str:
    import difflib

    begins = [name for name in known if given.strip("-") and name.startswith(given)]
    near = begins or difflib.get_close_matches(given, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if len(known) < 20 else ""


def add_version(parser: argparse._ActionsContainer) -> None:
    """Add the option that shows which release this is."""
    parser.add_argument("--version", action="version", version=f"ipkernel {__version__}")
