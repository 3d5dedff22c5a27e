"""Options that all launchers for batch systems have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from attrs import frozen

from ipkernel.arguments import command_words
from ipkernel.errors import ConfigurationError
from ipkernel.launchers.interfaces import Share
from ipkernel.spans import clock_text, parse_span, parse_walltime


class Option(NamedTuple):
    """One option of a launcher.

    Attributes:
        name: Its name.
        check: Its type, as the ``validate`` module has it, without the default.
        default: Its default, in Python.
        help: One sentence.
    """

    name: str
    check: str
    default: Any
    help: str

    def spec(self) -> str:
        """Return its lines in a ConfigObj specification."""
        kind, _, limits = self.check.partition("(")
        if isinstance(self.default, list | tuple):
            default = f"default=list({', '.join(map(_quoted, self.default))})"
        elif isinstance(self.default, str):
            default = f"default={_quoted(self.default)}"
        else:
            default = f"default={self.default}"
        given = limits.removesuffix(")")
        return f"# {self.help}\n{self.name} = {kind}({', '.join(filter(None, (given, default)))})\n"


def _quoted(text: str) -> str:
    return f'"{text}"'


_COMMON: Final = (
    Option("queue", "string", "", "Queue or partition of the jobs; empty: the system's default."),
    Option("account", "string", "", "Account or project that the jobs are charged to."),
    Option(
        "walltime", "walltime", "",
        "How long a job may take: HH:MM:SS, or such as 90m or 12h; empty: the system's default.",
    ),
    Option(
        "drain_margin", "seconds_or_zero", 60.0,
        "Seconds before the end of the walltime from which a job gets no more tasks.",
    ),
    Option(
        "engines_per_job", "integer(min=0)", 0,
        "How many engines a job has at most; 0: all of them are in one job.",
    ),
    Option("cpus_per_engine", "integer(min=1)", 1, "How many cores are asked for per engine."),
    Option("job_name", "string", "", "Name of the jobs; empty: that of the program in them."),
    Option(
        "extra", "force_list", (),
        "Further lines of options for the batch system, as you would write them in a script.",
    ),
    Option("setup", "force_list", (), "Lines of shell that run in the job before the program."),
    Option("python", "string", "", "Python interpreter on the nodes; empty: this one."),
    Option(
        "poll", "seconds", 10.0,
        "Seconds between two looks at the queue when nothing happens.",
    ),
)  # fmt: skip

_NODES: Final = Option(
    "nodes", "integer(min=0)", 0,
    "How many whole nodes each job has, with the engines shared out; 0: a part of one node.",
)  # fmt: skip


def common_options(
    submit: str, query: str, cancel: str, *, nodes: bool = False
) -> tuple[Option, ...]:
    """Return the options that every batch system has.

    Args:
        submit: The system's command that submits a job.
        query: The one that shows the queue.
        cancel: The one that ends a job.
        nodes: Whether its launcher can use several nodes for one job.
    """
    return (
        *_COMMON,
        *((_NODES,) if nodes else ()),
        Option("submit", "string", submit, "The command that submits a job."),
        Option("query", "string", query, "The command that shows the states of jobs."),
        Option("cancel", "string", cancel, "The command that ends jobs."),
    )


def specification(options: Sequence[Option]) -> str:
    """Return the ConfigObj specification of a launcher's options."""
    return "".join(option.spec() for option in options)


@frozen
class BatchOptions:
    """The values of the common options, checked.

    Attributes:
        section: Name of the section that they stand in.
        values: All values by name, those of the system's own options among them.
        walltime: In seconds; 0 if none is given.
        submit: The command and its first arguments; so ``query`` and ``cancel``.
    """

    section: str
    values: Mapping[str, Any]
    walltime: int
    submit: tuple[str, ...]
    query: tuple[str, ...]
    cancel: tuple[str, ...]

    @classmethod
    def read(
        cls, section: str, options: Sequence[Option], given: Mapping[str, Any]
    ) -> BatchOptions:
        """Check the values of a section.

        Args:
            section: Its name.
            options: What it may have.
            given: Values; what is missing has its default.

        Raises:
            ConfigurationError: A value is not acceptable.
        """
        values = {option.name: given.get(option.name, option.default) for option in options}
        for name, value in values.items():
            if isinstance(value, str) and name not in ("setup", "extra"):
                _refuse_lines(section, name, value)
        values["extra"] = _lines(values["extra"])
        values["setup"] = _lines(values["setup"])
        values["python"] = values["python"] or sys.executable
        values["drain_margin"] = _span(section, "drain_margin", values, zero=True)
        values["poll"] = _span(section, "poll", values)
        walltime = _walltime(section, values["walltime"])
        values["walltime"] = clock_text(walltime) if walltime else ""
        commands = [_command(section, name, values[name]) for name in ("submit", "query", "cancel")]
        return cls(section, values, walltime, *commands)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def nodes(self) -> int:
        """Whole nodes of each job; 0 for a part of one."""
        return int(self.values.get("nodes", 0))

    def wrong(self, name: str, why: str) -> ConfigurationError:
        """Return the error that says what is wrong with an option."""
        return wrong(self.section, name, self.values.get(name), why)

    def plan(self, n: int | None) -> list[Share]:
        """Split engines over jobs; see :class:`~ipkernel.launchers.interfaces.ILauncherClass`.

        Raises:
            ConfigurationError: Nothing says how many engines there shall be.
        """
        limit = int(self.values["engines_per_job"])
        if n is None and not limit:
            raise ConfigurationError(
                f"say how many engines the jobs shall have: give n, or write for instance "
                f"'engines_per_job = 16' in section [{self.section}]"
            )
        left = limit if n is None else n
        shares = []
        while left > 0:
            shares.append(Share(min(left, limit or left)))
            left -= shares[-1].n
        return shares


def wrong(section: str, name: str, value: Any, why: str) -> ConfigurationError:
    """Return the error for an option: where it stands, its value, and what to write."""
    return ConfigurationError(f"option {name!r} in section [{section}] is {value!r}: {why}")


def _refuse_lines(section: str, name: str, value: str) -> None:
    if not value.isprintable():
        raise wrong(section, name, value, "write it on one line, without control characters")


def _lines(value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    lines = [line.strip("\r") for text in given for line in str(text).split("\n")]
    return tuple(line for line in lines if line.strip())


def _command(section: str, name: str, value: Any) -> tuple[str, ...]:
    try:
        words = tuple(command_words(str(value)))
    except ValueError as error:
        raise wrong(section, name, value, f"it is no command line ({error})") from None
    if not words:
        raise wrong(section, name, value, "write the name of the command, or leave the option out")
    return words


def _span(section: str, name: str, values: Mapping[str, Any], *, zero: bool = False) -> float:
    try:
        return parse_span(values[name], zero=zero)
    except ValueError:
        why = (
            f"write a number of seconds {'from' if zero else 'above'} 0, or such as 90s, 30m or 12h"
        )
        raise wrong(section, name, values[name], why) from None


def _walltime(section: str, value: Any) -> int:
    if value == "":
        return 0
    try:
        return parse_walltime(value)
    except ValueError:
        why = "write hours, minutes and seconds such as '01:30:00', or such as 90m, 12h or 7d"
        raise wrong(section, "walltime", value, why) from None
