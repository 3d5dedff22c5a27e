"""Write configuration files: a commented template, with some options set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ipkernel.cluster import spec
from ipkernel.cluster.checks import expected, is_list
from ipkernel.cluster.inifile import Place, WrongLine, parse
from ipkernel.cluster.spec import MANY, Option, Section
from ipkernel.errors import ConfigurationError

_WIDTH: Final = 88
_HEAD: Final = """\
Options of {what}. Every one is shown as a comment, with what it is by default; remove the '#' in \
front of one to change it. A line that begins with '# ' is an explanation.

What is given in a program or on the command line comes first, then the environment \
(IPKERNEL_<OPTION> for [cluster], else IPKERNEL_<SECTION>_<OPTION>), then the cluster's file, then \
the user's file. 'ipcluster config show --origin' tells where each value comes from, 'ipcluster \
config check' whether this file is right.

A comma makes a list; a text that has commas, '#' or quotes in it, or blanks around it, stands in \
quotes. %(name)s stands for another option of its section or of [DEFAULT], or for one of: cluster, \
cluster_dir, home, user. A literal '%(' is written '%(%)s('. An option with nothing behind its '=' \
has its default, unless it is a text.

Passwords and other secrets do not belong here."""


def template(what: str, values: Mapping[Place, Any] | None = None) -> str:
    """Return a configuration file in which only the given options are set.

    Args:
        what: Whose options these are, for its head, such as ``"cluster 'x'"``.
        values: What is set, by section and name.

    Raises:
        ConfigurationError: A value cannot be written, or there is no such section.
    """
    left = dict(values or {})
    lines = _comment(_HEAD.format(what=what))
    for name in spec.section_names():
        try:
            section = spec.find_section(name)
        except ConfigurationError as error:  # of a plug-in that is broken: no reason to fail here
            lines += ["", *_comment(f"[{name}]: {error}")]
            continue
        if section.options or section.sections:
            lines += _section((name,), section, left)
    if left:
        raise ConfigurationError(f"unknown section [{next(iter(left))[0]}]")
    return "\n".join(lines) + "\n"


def setting(name: str, value: Any) -> str:
    """Return the line, or the lines, that give an option a value.

    Args:
        name: The option's.
        value: A text, number or truth value, or a list of them.

    Raises:
        ConfigurationError: An INI file cannot have this value, or this name.
    """
    from configobj import ConfigObj, ConfigObjError

    wanted = [_text(item) for item in value] if isinstance(value, list | tuple) else _text(value)
    if isinstance(wanted, list) and len(wanted) == 1 and wanted[0]:
        wanted = wanted[0]  # a list of one needs no comma
    escaped = [_escaped(item) for item in wanted] if isinstance(wanted, list) else _escaped(wanted)
    config = ConfigObj({name: escaped}, interpolation=False)
    try:
        text = "\n".join(config.write())
        found = parse(text.encode(), {}).entries
    except (ConfigObjError, WrongLine, UnicodeEncodeError):
        found = {}
    if [(place, entry.value) for place, entry in found.items()] != [((name,), wanted)]:
        raise ConfigurationError(
            f"{name} = {value!r} cannot be written in an INI file: avoid quotes of both kinds, "
            f"control characters, and items of lists with line breaks"
        )
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def _escaped(text: str) -> str:
    return text.replace("%(", "%(%)s(")


def _section(place: Place, section: Section, left: dict[Place, Any]) -> list[str]:
    marks = len(place)
    lines = ["", *(_comment(section.help) if marks > 1 else [])]
    lines.append(f"{'[' * marks}{place[-1]}{']' * marks}")
    lines += _comment(section.help) if marks == 1 else []
    for name, option in section.options.items():
        lines += ["", *_option(name, option, left.pop((*place, name), None))]
    for where in [one for one in left if one[:-1] == place]:
        lines += ["", setting(where[-1], left.pop(where))]
    inner = dict(section.sections)
    many = inner.pop(MANY, None)
    if many is not None:
        names = [one[len(place)] for one in left if one[: len(place)] == place]
        inner |= {name: many for name in names if name not in inner}
        lines += ["", *_comment(f"Sections [[name]]: {many.help}")]
    for name, found in inner.items():
        lines += _section((*place, name), found, left)
    return lines


def _option(name: str, option: Option, value: Any) -> Iterator[str]:
    if name == MANY:
        yield from _comment(f"NAME = value: {option.help} ({expected(option.check)})")
        return
    yield from _comment(f"{option.help} ({expected(option.check)})".strip())
    if value is not None:
        yield setting(name, value)
    else:
        yield f"#{shown(name, option)}"


def shown(name: str, option: Option) -> str:
    """Return the line that gives an option its default."""
    if option.default is None or (option.default == [] and is_list(option.check)):
        return f"{name} ="
    return setting(name, option.default)


def _comment(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if lines:
            lines.append("#")
        lines += textwrap.wrap(
            paragraph, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
    return lines
